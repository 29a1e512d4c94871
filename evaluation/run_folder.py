"""The folder of a run. It grows line by line, and another run goes on with it after one was killed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.errors import ConfigError
from antiphon.evaluation.answer import Answer
from antiphon.evaluation.cases import Case, fingerprint
from antiphon.evaluation.options import Options
from antiphon.files.results_file import ResultsFile
from antiphon.files.writing import write_whole
from antiphon.sound.writing import write_audio

__all__ = ["ANSWERS", "HEARD", "JUDGED", "RECORDINGS", "TIMES", "RunFolder"]

HEADER = "run.json"
ANSWERS, HEARD, JUDGED, TIMES = "answers.jsonl", "heard.jsonl", "judged.jsonl", "times.jsonl"
RECORDINGS = "recordings"
"""Cases that were made for the run lie here, before it begins."""
PREFIX = b'{"id": '
SLUG = re.compile(r"[^A-Za-z0-9]+")


class RunFolder:
    """`run.json` says what was asked of what; each other file has a line for a case, in any order:
    `answers.jsonl`, what the model answered; `heard.jsonl`, what a listener understood of spoken answers;
    `judged.jsonl`, what a judge said of them; `times.jsonl`, how long recordings took one by one. `audio/`
    holds spoken answers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, cases: Sequence[Case], options: Options, settings: Mapping[str, Any]) -> None:
        """Begin a run, or go on with it. settings: of the model, as plain values.

        Raises ConfigError if the folder holds a run of other cases, options or settings.
        """
        header = {
            "options": asdict(options),
            "settings": dict(settings),
            "num_cases": len(cases),
            "fingerprint": fingerprint(cases),
        }
        header = json.loads(json.dumps(header))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if (self.path / HEADER).exists():
                self._check(header)
            elif {entry.name for entry in self.path.iterdir()} - {RECORDINGS}:
                raise ConfigError(f"{self.path}: expected an empty folder or one of a run, found other files")
            else:
                write_whole(self.path / HEADER, json.dumps(header, indent=1).encode() + b"\n")
            (self.path / "audio").mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from error

    def header(self) -> dict[str, Any]:
        """What `open` was given. Raises ConfigError if the folder holds no run."""
        try:
            found = json.loads((self.path / HEADER).read_text(encoding="utf-8"))
            return {name: found[name] for name in ("options", "settings", "num_cases", "fingerprint")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path}: expected the folder of a run, with {HEADER}: {error}") from error

    def lines(self, name: str) -> dict[str, dict[str, Any]]:
        """The lines of a file by the ids of their cases; a torn last line is left out."""
        path = self.path / name
        found: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_bytes().split(b"\n")[:-1]:
                fields = json.loads(line)
                found[fields["id"]] = fields
        return found

    @contextmanager
    def appending(self, name: str) -> Iterator[_Lines]:
        """The file, locked. Raises ConfigError if another run writes to it."""
        try:
            with ResultsFile(self.path / name) as file:
                file.resume(_is_line, PREFIX)
                yield _Lines(file)
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from error

    def answer_line(self, number: int, case: Case, answer: Answer) -> dict[str, Any]:
        """A line of `answers.jsonl`; the sound is written to its own file first."""
        line: dict[str, Any] = {
            "text": answer.text,
            "transcript": answer.transcript,
            "error": answer.error,
            "finish": answer.finish,
            "audio": None,
        }
        if answer.samples is not None and len(answer.samples):
            slug = SLUG.sub("-", case.case_id).strip("-")[:60] or "case"
            line["audio"] = f"audio/{number:05d}-{slug}.wav"
            write_audio(self.path / line["audio"], np.asarray(answer.samples), answer.rate_hz)
        if answer.ends_s:
            line["ends_s"] = list(answer.ends_s)
        return line

    def _check(self, header: Mapping[str, Any]) -> None:
        there = self.header()
        for name in ("options", "settings"):
            for key in sorted({*there[name], *header[name]}):
                found, given = there[name].get(key), header[name].get(key)
                if found != given:
                    raise ConfigError(
                        f"{self.path}: holds a run with {key} {found!r}, and {given!r} is asked for: give "
                        f"another --out, or remove the folder"
                    )
        if there["fingerprint"] != header["fingerprint"]:
            raise ConfigError(
                f"{self.path}: holds a run over {there['num_cases']} other cases: give another --out, or "
                f"remove the folder"
            )


class _Lines:
    def __init__(self, file: ResultsFile) -> None:
        self._file = file

    def write(self, case_id: str, fields: Mapping[str, Any]) -> None:
        line = {"id": case_id, **fields}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _is_line(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line)["id"], str)
    except (ValueError, KeyError, TypeError):
        return False

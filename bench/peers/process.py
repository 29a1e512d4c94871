"""Another engine's process, and what else the processor did while it worked."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from antiphon.errors import AntiphonError

__all__ = ["WORKER", "WorkerProcess"]

WORKER = Path(__file__).with_name("worker.py")
LOAD_S = 300.0
END_S = 20.0
MAX_SHOWN = 300
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


class WorkerProcess:
    """`worker.py` under some Python, with the weights of all rows of one program. Ends with its block."""

    def __init__(self, program: str, python: str, threads: int, **to_load: Any) -> None:
        """to_load: the arguments of the program. Raises AntiphonError if it does not load."""
        self.program = program
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        try:
            self._process = subprocess.Popen(
                [python, "-u", str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=os.environ | QUIET | variables,
                cwd=to_load["llm"],  # in a clone, folders would pass for packages of the same names
            )
        except OSError as error:
            raise AntiphonError(f"{program}: {python}: {error.strerror}") from error
        try:
            self.about: str = self._asked(program=program, threads=threads, **to_load)["about"]
        except BaseException:
            self.close()
            raise

    def prompt_ids(self, text: str) -> list[int]:
        """Of Antiphon alone: the prompt that a question becomes."""
        ids: list[int] = self._asked(text=text)["ids"]
        return ids

    def generate(self, row: str, prompts: list[list[int]], new: int) -> dict[str, Any]:
        """What the worker found, and `others`: the share of the machine that other processes took."""
        before = _busy_s()
        found = self._asked(row=row, prompts=prompts, new=new)
        others = max(0.0, _busy_s() - before - found["cpu_s"])
        return found | {"others": others / (found["total_s"] * (os.cpu_count() or 1))}

    def _asked(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AntiphonError(f"{self.program}: {self._last_line()}") from None
        if not select.select([self._process.stdout], [], [], LOAD_S)[0]:
            raise AntiphonError(f"{self.program}: no answer within {LOAD_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise AntiphonError(f"{self.program}: {self._last_line()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise AntiphonError(f"{self.program}: {answer['error'][:MAX_SHOWN]}")
        return answer

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it has ended")[:MAX_SHOWN]

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(END_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _busy_s() -> float:
    """Processor time that all processes of the machine have taken, stolen time included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[place]) for place in (0, 1, 2, 5, 6, 7)) / os.sysconf("SC_CLK_TCK")

"""The files of each task, read into cases. Nothing is fetched: errors say what is expected where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from antiphon.errors import ConfigError
from antiphon.evaluation.cases import Case
from antiphon.evaluation.fields import ANSWERS, AUDIO, case_id, image_of, rule_of, turns_of
from antiphon.evaluation.rows import read_rows
from antiphon.evaluation.vision_layouts import llava_bench, vision_questions

__all__ = ["LAYOUTS", "read_cases"]

LAYOUTS: Mapping[str, str] = {
    "asr": "LibriSpeech as it is unpacked (https://www.openslr.org/12: SPLIT/SPEAKER/CHAPTER/*.flac, each "
    "CHAPTER with its *.trans.txt), or a .jsonl, .json or .tsv file with the fields audio and text",
    "spoken-qa": "a .jsonl, .json or .tsv file with the fields audio, answers (one or several) and question; "
    "the sets are TwinkStart/llama-questions and TwinkStart/speech-web-questions on Hugging Face, whose own "
    "field names are understood, with each recording as a file",
    "visit": "SpokenVisIT's folder (ICTNLP/SpokenVisIT on Hugging Face): VisIT_speech.jsonl with the fields "
    "id, image, speech, instruction and, for the judge, instruction_conditioned_caption or caption; pictures "
    "in images/, recordings in speech/",
    "vqa": "a question file in LLaVA's format, .jsonl or .json, with the fields question_id, image and text, "
    "pictures beside it, in images/ or in --image-folder; right answers in a field answer, answers or label, "
    "there, or in --answers: a file by question_id, or a folder with a file for each category, in the "
    "questions' order (POPE), or MME's own; of MM-Vet mm-vet.json, and of LLaVA-Bench in the wild its folder "
    "(questions.jsonl, answers_gpt4.jsonl, context.jsonl, images/)",
    "tts": "a .txt file with one text a line, or a .jsonl, .json or .tsv file with the field text",
    "duplex": "a .jsonl, .json or .tsv file with the fields audio and speech_end_s, where its last word ends",
}
"""By task: what it reads, and where that is to be had"""
FOLDERS = frozenset({"asr", "visit"})
"""Tasks whose data may be a folder"""
QUESTIONS = "VisIT_speech.jsonl"


def read_cases(
    task: str,
    data: Path,
    *,
    image_folder: Path | None = None,
    answers: Path | None = None,
    set_name: str | None = None,
    rule: str = "exact",
    limit: int | None = None,
) -> list[Case]:
    """The cases of a task in the order of its files.

    image_folder, answers: of "vqa", where they lie apart. set_name: of data that does not say which set it
    is; None: the file's name. rule: of "vqa", see `Options`: some benchmarks have layouts and groups of their
    own. limit: the first so many. Raises ConfigError, which names file and line, and what is expected there.
    """
    if not data.exists():
        raise ConfigError(f"{data}: no such file or folder; `{task}` needs {LAYOUTS[task]}")
    is_folder = task in FOLDERS or (task == "vqa" and rule == "llava-bench")
    if data.is_dir() and not is_folder:
        raise ConfigError(f"{data}: expected a file, found a folder; `{task}` needs {LAYOUTS[task]}")
    if task == "vqa" and rule == "llava-bench":
        found = list(llava_bench(data))
    elif task == "vqa":
        found = list(vision_questions(data, image_folder, answers, rule=rule))
    else:
        found = list(READERS[task](data))
    if not found:
        raise ConfigError(f"{data}: found nothing to evaluate; `{task}` needs {LAYOUTS[task]}")
    if set_name is not None:
        found = [replace(case, group=set_name) for case in found]
    seen: set[str] = set()
    for case in found:
        if case.case_id in seen:
            raise ConfigError(f"{data}: expected each id once, found {case.case_id!r} twice")
        seen.add(case.case_id)
    return found[:limit]


def _asr(data: Path) -> Iterator[Case]:
    if data.is_file():
        for number, row in enumerate(read_rows(data)):
            text = row.text("text", "transcription", "sentence", "transcript")
            audio = row.file(*AUDIO, beside=("wavs", "clips"))
            yield Case(case_id(row, number), row.text("set", default=data.stem), audio, references=(text,))
        return
    for transcripts in sorted(data.rglob("*.trans.txt")):
        split = transcripts.parents[2].name if len(transcripts.parents) > 2 else data.name
        for number, line in enumerate(transcripts.read_text(encoding="utf-8").splitlines(), 1):
            name, _, text = line.partition(" ")
            recording = _recording(transcripts.parent / name)
            if recording is None or not text:
                raise ConfigError(
                    f"{transcripts}:{number}: expected an id and its words, and {name}.flac or {name}.wav "
                    f"beside it"
                )
            yield Case(name, split, recording, references=(text,))


def _recording(stem: Path) -> Path | None:
    paths = (stem.with_name(stem.name + ending) for ending in (".flac", ".wav"))
    return next((path for path in paths if path.is_file()), None)


def _spoken_qa(data: Path) -> Iterator[Case]:
    for number, row in enumerate(read_rows(data)):
        answers = row.texts(*ANSWERS)
        if not answers:
            raise row.error(f"expected a field {' or '.join(map(repr, ANSWERS[:3]))}")
        question = row.text("question", "QuestionText", "text", default="")
        yield Case(
            case_id(row, number),
            row.text("set", default=data.stem),
            row.file(*AUDIO, beside=("audio", "wavs")),
            image_of(row, row.folder),
            question,
            answers,
            rule=rule_of(row),
            turns=turns_of(row, row.folder),
        )


def _visit(data: Path) -> Iterator[Case]:
    questions = data / QUESTIONS if data.is_dir() else data
    if not questions.is_file():
        raise ConfigError(f"{questions}: no such file; `visit` needs {LAYOUTS['visit']}")
    for number, row in enumerate(read_rows(questions)):
        yield Case(
            case_id(row, number),
            row.text("set", default="SpokenVisIT"),
            row.file("speech", "audio", beside=("speech",)),
            row.file("image", beside=("images",)),
            row.text("instruction", "question"),
            row.texts("reference_output", "reference"),
            row.text("instruction_conditioned_caption", "caption", default=""),
        )


def _tts(data: Path) -> Iterator[Case]:
    if data.suffix == ".txt":
        lines = [line.strip() for line in data.read_text(encoding="utf-8").splitlines()]
        for number, line in enumerate(filter(None, lines), 1):
            yield Case(str(number), data.stem, text=line)
        return
    for number, row in enumerate(read_rows(data)):
        yield Case(case_id(row, number), row.text("set", default=data.stem), text=row.text("text"))


def _duplex(data: Path) -> Iterator[Case]:
    for number, row in enumerate(read_rows(data)):
        end_s = row.number("speech_end_s")
        group = row.text("set", default=data.stem)
        yield Case(case_id(row, number), group, row.file(*AUDIO, beside=("wavs",)), speech_end_s=end_s)


READERS: Mapping[str, Callable[[Path], Iterator[Case]]] = {
    "asr": _asr,
    "spoken-qa": _spoken_qa,
    "visit": _visit,
    "tts": _tts,
    "duplex": _duplex,
}

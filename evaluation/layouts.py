"""The files of each task, read into cases. Nothing is fetched: errors say what is expected where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from antiphon.errors import ConfigError
from antiphon.evaluation.cases import Case
from antiphon.evaluation.rows import Row, read_rows

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
    "questions' order (POPE)",
    "tts": "a .txt file with one text a line, or a .jsonl, .json or .tsv file with the field text",
    "duplex": "a .jsonl, .json or .tsv file with the fields audio and speech_end_s, where its last word ends",
}
"""By task: what it reads, and where that is to be had"""
QUESTIONS = "VisIT_speech.jsonl"
AUDIO = ("audio", "wav", "path", "WavPath", "Wav Filename", "audio_filepath")
ANSWERS = ("answers", "answer", "Answer", "label", "gt_answer")


def read_cases(
    task: str,
    data: Path,
    *,
    image_folder: Path | None = None,
    answers: Path | None = None,
    set_name: str | None = None,
    by_category: bool = False,
    limit: int | None = None,
) -> list[Case]:
    """The cases of a task in the order of its files.

    image_folder, answers: of "vqa", where they lie apart. set_name: of data that does not say which set it
    is; None: the file's name. by_category: of "vqa", its categories are the sets. limit: the first so many.
    Raises ConfigError, which names file and line, and what is expected there.
    """
    if not data.exists():
        raise ConfigError(f"{data}: no such file or folder; `{task}` needs {LAYOUTS[task]}")
    if task == "vqa":
        found = list(_vqa(data, image_folder, answers, by_category=by_category))
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
        for number, row in enumerate(_rows(data, "asr")):
            text = row.text("text", "transcription", "sentence", "transcript")
            audio = row.file(*AUDIO, beside=("wavs", "clips"))
            yield Case(_id(row, number), row.text("set", default=data.stem), audio, references=(text,))
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
    for number, row in enumerate(_rows(data, "spoken-qa")):
        answers = row.texts(*ANSWERS)
        if not answers:
            raise row.error(f"expected a field {' or '.join(map(repr, ANSWERS[:3]))}")
        question = row.text("question", "QuestionText", "text", default="")
        audio = row.file(*AUDIO, beside=("audio", "wavs"))
        group = row.text("set", default=data.stem)
        yield Case(_id(row, number), group, audio, text=question, references=answers)


def _visit(data: Path) -> Iterator[Case]:
    questions = data / QUESTIONS if data.is_dir() else data
    if not questions.is_file():
        raise ConfigError(f"{questions}: no such file; `visit` needs {LAYOUTS['visit']}")
    for number, row in enumerate(read_rows(questions)):
        yield Case(
            _id(row, number),
            row.text("set", default="SpokenVisIT"),
            row.file("speech", "audio", beside=("speech",)),
            row.file("image", beside=("images",)),
            row.text("instruction", "question"),
            row.texts("reference_output", "reference"),
            row.text("instruction_conditioned_caption", "caption", default=""),
        )


def _vqa(data: Path, image_folder: Path | None, answers: Path | None, *, by_category: bool) -> Iterator[Case]:
    rows = list(_rows(data, "vqa"))
    ids = [_id(row, number) for number, row in enumerate(rows)]
    right = {} if answers is None else _answers_apart(answers, rows, ids)
    seen: Counter[str] = Counter()
    for question_id, row in zip(ids, rows, strict=True):
        seen[question_id] += 1
        references = right.get(question_id) or row.texts(*ANSWERS)
        if not references:
            raise row.error(
                f"expected an answer to question {question_id!r}, here as "
                f"{', '.join(map(repr, ANSWERS[:2]))} or 'label', or in --answers"
            )
        image = None
        if row.fields.get("image") is not None:
            folder = row.folder if image_folder is None else image_folder
            image = Row(row.place, row.fields, folder).file("image", beside=("images",))
        group = row.text("set", default=data.stem)
        if by_category:
            group = row.text("category", default=question_id.partition("/")[0])
        # MME asks twice about a picture, under one id.
        case_id = question_id if seen[question_id] == 1 else f"{question_id}#{seen[question_id]}"
        yield Case(case_id, group, image=image, text=_question(row), references=references)


def _question(row: Row) -> str:
    """LLaVA's field, or the first message of a conversation, as ScienceQA has it."""
    told = row.fields.get("conversations")
    if "text" not in row.fields and isinstance(told, list) and told and isinstance(told[0], dict):
        return str(told[0].get("value", "")).replace("<image>", "").strip()
    return row.text("text", "question")


def _answers_apart(answers: Path, rows: Sequence[Row], ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By question."""
    if not answers.is_dir():
        return {_id(row, number): row.texts(*ANSWERS) for number, row in enumerate(_rows(answers, "vqa"))}
    found: dict[str, tuple[str, ...]] = {}
    for category in dict.fromkeys(row.text("category", default="") for row in rows):
        files = [path for path in sorted(answers.iterdir()) if category and category in path.stem]
        if len(files) != 1:
            raise ConfigError(
                f"{answers}: expected one file for the category {category!r}, found {len(files)}"
            )
        of_category = [row.text("category", default="") == category for row in rows]
        own = [name for name, is_own in zip(ids, of_category, strict=True) if is_own]
        told = [row.texts(*ANSWERS) for row in read_rows(files[0])]
        if len(own) != len(told):
            raise ConfigError(f"{files[0]}: expected {len(own)} answers, found {len(told)}")
        found |= dict(zip(own, told, strict=True))
    return found


def _tts(data: Path) -> Iterator[Case]:
    if data.suffix == ".txt":
        lines = [line.strip() for line in data.read_text(encoding="utf-8").splitlines()]
        for number, line in enumerate(filter(None, lines), 1):
            yield Case(str(number), data.stem, text=line)
        return
    for number, row in enumerate(_rows(data, "tts")):
        yield Case(_id(row, number), row.text("set", default=data.stem), text=row.text("text"))


def _duplex(data: Path) -> Iterator[Case]:
    for number, row in enumerate(_rows(data, "duplex")):
        end_s = row.number("speech_end_s")
        group = row.text("set", default=data.stem)
        yield Case(_id(row, number), group, row.file(*AUDIO, beside=("wavs",)), speech_end_s=end_s)


READERS: Mapping[str, Callable[[Path], Iterator[Case]]] = {
    "asr": _asr,
    "spoken-qa": _spoken_qa,
    "visit": _visit,
    "tts": _tts,
    "duplex": _duplex,
}


def _rows(data: Path, task: str) -> Iterator[Row]:
    if data.is_dir():
        raise ConfigError(f"{data}: expected a file, found a folder; `{task}` needs {LAYOUTS[task]}")
    return read_rows(data)


def _id(row: Row, number: int) -> str:
    return row.text("question_id", "id", default=str(number))

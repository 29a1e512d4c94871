"""The files of vision benchmarks: LLaVA's questions with answers there or apart, MM-Vet, LLaVA-Bench."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from antiphon.errors import ConfigError
from antiphon.evaluation.cases import Case
from antiphon.evaluation.fields import ANSWERS, case_id, image_of, rule_of, turns_of
from antiphon.evaluation.rows import Row, read_rows

__all__ = ["llava_bench", "vision_questions"]


def vision_questions(
    data: Path, image_folder: Path | None, answers: Path | None, *, rule: str
) -> Iterator[Case]:
    """See `layouts.read_cases`."""
    rows = list(read_rows(data))
    ids = [case_id(row, number) for number, row in enumerate(rows)]
    apart: list[tuple[str, ...]] = [()] * len(rows)
    if answers is not None:
        apart = _answers_apart(answers, rows, ids)
    seen: Counter[str] = Counter()
    for question_id, row, right in zip(ids, rows, apart, strict=True):
        seen[question_id] += 1
        references = right or row.texts(*ANSWERS)
        if not references:
            raise row.error(
                f"expected an answer to question {question_id!r}, here as "
                f"{', '.join(map(repr, ANSWERS[:2]))} or 'label', or in --answers"
            )
        folder = row.folder if image_folder is None else image_folder
        group = row.text("set", default=data.stem)
        if rule == "mme":
            group = row.text("category", default=question_id.partition("/")[0])
        elif rule == "mm-vet":
            group = ", ".join(sorted(row.texts("capability"))) or group
        # MME asks twice about a picture, under one id.
        name = question_id if seen[question_id] == 1 else f"{question_id}#{seen[question_id]}"
        yield Case(
            name,
            group,
            image=image_of(row, folder),
            text=_question(row),
            references=references,
            rule=rule_of(row),
            turns=turns_of(row, folder),
        )


def llava_bench(data: Path) -> Iterator[Case]:
    """data: the folder of LLaVA-Bench in the wild."""
    if not data.is_dir():
        raise ConfigError(
            f"{data}: expected the folder of LLaVA-Bench, with questions.jsonl, answers_gpt4.jsonl, "
            f"context.jsonl and images/, found a file"
        )
    captions = {row.text("image"): row.texts("caption") for row in read_rows(data / "context.jsonl")}
    right = {case_id(row, number): row for number, row in enumerate(read_rows(data / "answers_gpt4.jsonl"))}
    for number, row in enumerate(read_rows(data / "questions.jsonl")):
        question_id, image = case_id(row, number), row.text("image")
        if question_id not in right:
            raise row.error(f"expected an answer to question {question_id!r} in answers_gpt4.jsonl")
        if image not in captions:
            raise row.error(f"expected a caption of {image!r} in context.jsonl")
        yield Case(
            question_id,
            row.text("category", default=data.name),
            image=row.file("image", beside=("images",)),
            text=row.text("text"),
            references=(right[question_id].text("text"),),
            caption="\n".join(captions[image]),
        )


def _question(row: Row) -> str:
    """LLaVA's field, or the first message of a conversation, as ScienceQA has it."""
    told = row.fields.get("conversations")
    if "text" not in row.fields and isinstance(told, list) and told and isinstance(told[0], dict):
        return str(told[0].get("value", "")).replace("<image>", "").strip()
    return row.text("text", "question")


def _answers_apart(answers: Path, rows: Sequence[Row], ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Of each row; empty: there is none."""
    if not answers.is_dir():
        told = {case_id(row, number): row.texts(*ANSWERS) for number, row in enumerate(read_rows(answers))}
        return [told.get(question_id, ()) for question_id in ids]
    categories = [
        row.text("category", default=question_id.partition("/")[0])
        for question_id, row in zip(ids, rows, strict=True)
    ]
    if any(category and (answers / category).is_dir() for category in categories):
        asked = zip(ids, rows, categories, strict=True)
        return [_mme_answer(answers / category, question_id, row) for question_id, row, category in asked]
    files: dict[str, Iterator[tuple[str, ...]]] = {}
    for category in dict.fromkeys(categories):
        found = [path for path in sorted(answers.iterdir()) if category and category in path.stem]
        if len(found) != 1:
            raise ConfigError(
                f"{answers}: expected one file for the category {category!r}, found {len(found)}"
            )
        right = [row.texts(*ANSWERS) for row in read_rows(found[0])]
        if len(right) != categories.count(category):
            raise ConfigError(
                f"{found[0]}: expected {categories.count(category)} answers, found {len(right)}"
            )
        files[category] = iter(right)
    return [next(files[category]) for category in categories]


def _mme_answer(folder: Path, question_id: str, row: Row) -> tuple[str, ...]:
    """folder: of the category, with a text file for each picture: a question a line, a tab, and its answer.
    What LLaVA adds to questions is not compared."""
    name = Path(question_id).with_suffix(".txt").name
    paths = [folder / name, folder / "questions_answers_YN" / name]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise row.error(f"no such file: {paths[0]}, nor {paths[1]}")
    wanted = _core(_question(row))
    for line in path.read_text(encoding="utf-8").splitlines():
        question, _, answer = line.rpartition("\t")
        if _core(question) == wanted:
            return (answer.strip(),)
    raise row.error(f"expected its question in {path}")


def _core(question: str) -> str:
    """Without what tells how to answer."""
    for said in ("Answer the question using a single word or phrase.", "Please answer yes or no."):
        question = question.replace(said, " ")
    return " ".join(question.split())

"""Counts for each case, from what a run has written down. No model and no sound is needed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from antiphon.evaluation.cases import Case
from antiphon.evaluation.normalising import english, has_normaliser, plain
from antiphon.evaluation.options import Options
from antiphon.evaluation.rubrics import JUDGED_RULES
from antiphon.evaluation.rules import RULES, Counts, contains_answer
from antiphon.evaluation.word_errors import errors, released_errors

__all__ = ["METRICS", "TIMES", "Metric", "Records", "Scored", "loss", "score_all"]


@dataclass(frozen=True)
class Metric:
    """A figure: the sum of what counts over the sum of how much there was, over all cases."""

    key: str
    label: str
    unit: str = "%"
    """Of shares, which are told in hundredths; others are told as they are."""
    less_is_better: bool = False

    @property
    def scale(self) -> float:
        return 100.0 if self.unit in ("%", "points") else 1.0


REPLY_TIMES = (
    Metric("first_sound_ms", "first sound, alone", "ms", less_is_better=True),
    Metric("gap_ms", "silence in a reply that plays as it comes, alone", "ms", less_is_better=True),
    Metric("rtf", "seconds of computing for each of speech, alone", "", less_is_better=True),
    Metric("reply_ms", "whole reply, alone", "ms", less_is_better=True),
)
QUALITY = (Metric("dnsmos", "DNSMOS", "1–5"), Metric("utmos", "UTMOS", "1–5"))
UNFINISHED = Metric("unfinished", "replies that a limit cut", less_is_better=True)
TIMES = frozenset({"time_ms", "tokenizer_ms", *(metric.key for metric in REPLY_TIMES)})
"""Keys of figures that differ from run to run"""
NO_LOSSES = TIMES | {"precision", "recall", "f1", "yes", "mme", "dnsmos", "utmos", "delay_ms"}
"""Keys of figures that say of a single case nothing worse or better"""
METRICS: Mapping[str, tuple[Metric, ...]] = {
    "asr": (
        Metric("wer", "word error", less_is_better=True),
        Metric("wer_released", "word error, released code's rule", less_is_better=True),
        Metric("cer", "character error", less_is_better=True),
        Metric("time_ms", "time per utterance", "ms", less_is_better=True),
        Metric("tokenizer_ms", "speech tokenizer, apart", "ms", less_is_better=True),
    ),
    "spoken-qa": (
        Metric("text", "right answers, S→T"),
        Metric("speech", "right answers, S→S"),
        Metric("heard_wer", "transcript of the question: word error", less_is_better=True),
        Metric("said_wer", "speech against its text: word error", less_is_better=True),
        *QUALITY,
        UNFINISHED,
        *REPLY_TIMES,
    ),
    "visit": (
        Metric("text", "score of the text", "1–5"),
        Metric("speech", "score of the speech", "1–5"),
        Metric("heard_wer", "transcript of the question: word error", less_is_better=True),
        Metric("said_wer", "speech against its text: word error", less_is_better=True),
        *QUALITY,
        UNFINISHED,
        *REPLY_TIMES,
    ),
    "vqa": (
        Metric("accuracy", "accuracy"),
        Metric("mm_vet", "MM-Vet score"),
        Metric("llava_bench", "score, of that of GPT-4's answers"),
        Metric("precision", "precision"),
        Metric("recall", "recall"),
        Metric("f1", "F1"),
        Metric("yes", "answered yes"),
        Metric("mme", "MME score", "points"),
        UNFINISHED,
        *REPLY_TIMES,
    ),
    "tts": (
        Metric("said_wer", "word error", less_is_better=True),
        Metric("said_cer", "character error", less_is_better=True),
        *QUALITY,
        UNFINISHED,
        *REPLY_TIMES,
    ),
    "duplex": (
        Metric("cut", "turns cut", less_is_better=True),
        Metric("missed", "turns missed", less_is_better=True),
        Metric("delay_ms", "delay after the last word", "ms", less_is_better=True),
    ),
}


@dataclass(frozen=True)
class Records:
    """The lines of a run's files, by the ids of their cases."""

    answers: Mapping[str, Mapping[str, Any]]
    heard: Mapping[str, Mapping[str, Any]]
    judged: Mapping[str, Mapping[str, Any]]
    times: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Scored:
    case: Case
    counts: Counts
    text: str
    """What the answer says, and `heard`, what was heard of it or for it"""
    heard: str
    transcript: str
    """What the model heard of the case"""
    error: str | None
    audio: str | None
    """The spoken answer's file in the run's folder"""


def score_all(cases: Sequence[Case], options: Options, records: Records) -> list[Scored]:
    """In the order of the cases. A case without an answer counts as one that is all wrong."""
    scorer = SCORERS[options.task]
    scored = []
    for case in cases:
        answer = records.answers[case.case_id]
        heard = records.heard.get(case.case_id, {})
        counts = scorer(case, answer, heard, records.judged.get(case.case_id, {}), options)
        counts |= {metric.key: (heard[metric.key], 1.0) for metric in QUALITY if metric.key in heard}
        if answer.get("finish") is not None:
            counts["unfinished"] = (float(answer["finish"] != "stop"), 1.0)
        times = records.times.get(case.case_id, {})
        counts |= {key: (times[key], 1.0) for key in TIMES & set(times)}
        told = answer["transcript"] if options.task == "asr" else answer["text"]
        if options.task == "duplex":
            told = ", ".join(f"{end_s:.2f} s" for end_s in answer.get("ends_s", ()))
        scored.append(
            Scored(
                case,
                counts,
                told,
                heard.get("heard", ""),
                answer["transcript"],
                answer["error"],
                answer["audio"],
            )
        )
    if options.task == "vqa" and options.rule == "mme":
        _add_pairs(scored)
    return scored


def _add_pairs(scored: Sequence[Scored]) -> None:
    """MME's score of a category: 100 for the share of right answers, and 100 for that of pictures about which
    both answers are right."""
    by_picture: dict[tuple[str, object], list[Scored]] = {}
    for each in scored:
        by_picture.setdefault((each.case.group, each.case.image), []).append(each)
    for pair in by_picture.values():
        both = float(all(each.counts["accuracy"][0] == 1 for each in pair))
        for each in pair:
            each.counts["mme"] = (each.counts["accuracy"][0] + both, 1.0)


def loss(scored: Scored, task: str) -> float:
    """How much a case lacks, on the mean of its figures: 0 for one that is all right, 1 for one that is all
    wrong."""
    losses = []
    for metric in METRICS[task]:
        if metric.key in scored.counts and metric.key not in NO_LOSSES:
            part, whole = scored.counts[metric.key]
            value = part / whole if whole else part
            if metric.unit == "1–5":
                value = (value - 1) / 4
            losses.append(value if metric.less_is_better else 1 - value)
    return sum(losses) / len(losses) if losses else 0.0


def _asr(case: Case, answer: Any, _heard: Any, _judged: Any, options: Options) -> Counts:
    [said], heard = case.references[:1], answer["transcript"]
    if options.language == "zh":
        return {"cer": errors(said, heard, "zh")}
    return {"wer": errors(said, heard, "en"), "wer_released": released_errors(said, heard)}


def _spoken_qa(case: Case, answer: Any, heard: Any, _judged: Any, options: Options) -> Counts:
    counts: Counts = {"text": _right(answer["text"], case, options)}
    if options.speaks:
        counts["speech"] = _right(heard.get("heard", ""), case, options)
    return counts | _words(case, answer, heard, options)


def _right(reply: str, case: Case, options: Options) -> tuple[float, float]:
    if case.rule:
        return RULES[case.rule](reply, case.references)["accuracy"]
    return float(contains_answer(reply, case.references, _normaliser(options.language))), 1.0


def _visit(case: Case, answer: Any, heard: Any, judged: Any, options: Options) -> Counts:
    counts: Counts = {}
    for name in ("text", "speech"):
        if (score := _score(judged.get(name))) is not None:
            counts[name] = score
    return counts | _words(case, answer, heard, options)


def _score(judgement: Any) -> tuple[float, float] | None:
    if judgement is None or judgement["score"] is None:
        return None
    return judgement["score"], judgement.get("whole", 1.0)


def _vqa(case: Case, answer: Any, _heard: Any, judged: Any, options: Options) -> Counts:
    if options.rule in JUDGED_RULES:
        score = _score(judged.get("text"))
        return {} if score is None else {options.rule.replace("-", "_"): score}
    if answer["error"] is not None:  # which by some rules would say yes
        return {"accuracy": (0.0, 1.0)}
    return RULES[case.rule or options.rule](answer["text"], case.references)


def _tts(case: Case, answer: Any, heard: Any, _judged: Any, options: Options) -> Counts:
    counted = errors(case.text, heard.get("heard", ""), options.language)
    return {"said_cer" if options.language == "zh" else "said_wer": counted}


def _duplex(case: Case, answer: Any, _heard: Any, _judged: Any, options: Options) -> Counts:
    assert case.speech_end_s is not None
    ends_s: Sequence[float] = answer.get("ends_s", ())
    missed = not ends_s or ends_s[-1] < case.speech_end_s
    cut = not missed and len(ends_s) > 1
    counts: Counts = {"cut": (float(cut), 1.0), "missed": (float(missed), 1.0)}
    if not missed and not cut:
        counts["delay_ms"] = (1000 * (ends_s[0] - case.speech_end_s), 1.0)
    return counts


SCORERS: Mapping[str, Callable[[Case, Any, Any, Any, Options], Counts]] = {
    "asr": _asr,
    "spoken-qa": _spoken_qa,
    "visit": _visit,
    "vqa": _vqa,
    "tts": _tts,
    "duplex": _duplex,
}


def _words(case: Case, answer: Any, heard: Any, options: Options) -> Counts:
    """Word errors of what was heard and of what was said, where they can be counted."""
    counts: Counts = {}
    if options.language != "en" or not has_normaliser() or find_spec("jiwer") is None:
        return counts
    if case.text and case.audio is not None and options.ask == "speech" and answer["error"] is None:
        counts["heard_wer"] = errors(case.text, answer["transcript"], "en")
    if "heard" in heard and answer["text"]:
        counts["said_wer"] = errors(answer["text"], heard["heard"], "en")
    return counts


def _normaliser(language: str) -> Callable[[str], str]:
    """Whisper's where it is installed."""
    return english() if language == "en" and has_normaliser() else plain

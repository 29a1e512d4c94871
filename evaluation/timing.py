"""How long a case takes alone. Recognition is counted as the paper counts it: from a recording's units to its
words, through the bottom layers, the CTC head and the collapse; the speech tokenizer is timed apart, and
reading the file is not counted. Of replies, it is the time to the first sound and to the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from antiphon.engine.engine import Engine
from antiphon.errors import AntiphonError, EngineDead
from antiphon.evaluation.cases import Case
from antiphon.evaluation.engine_answers import EngineAnswers
from antiphon.evaluation.options import Options
from antiphon.sound.reading import read_audio
from antiphon.types import Request, Units

__all__ = ["case_times"]


def case_times(
    engine: Engine, options: Options, cases: Sequence[Case]
) -> Iterator[tuple[Case, dict[str, float]]]:
    """Times of each case by their metrics' keys, one case after another; empty for one that fails. The first
    is computed once before, for what is made at first use."""
    if cases:
        _times(engine, options, cases[0])
    for case in cases:
        yield case, _times(engine, options, case)


def _times(engine: Engine, options: Options, case: Case) -> dict[str, float]:
    try:
        if options.task == "asr":
            return _recognised(engine, *read_audio(case.audio))
        engine.reset_prefix_cache()
        [(_, answer)] = EngineAnswers(engine, options).answers([case])
        return dict(answer.times)
    except EngineDead:
        raise
    except AntiphonError:
        return {}


def _recognised(engine: Engine, samples: object, rate_hz: int) -> dict[str, float]:
    assert engine.codec is not None
    begun = time.perf_counter()
    units = [int(unit) for unit in engine.codec.tokenize(samples, rate_hz)]
    tokenizer_s = time.perf_counter() - begun
    engine.reset_prefix_cache()
    [done] = engine.generate(Request(Units(units), ("transcript",)))
    if done.finish_reason == "error" or done.metrics.prefill_s is None:
        raise AntiphonError(done.error or "no transcript")
    return {"time_ms": 1000 * done.metrics.prefill_s, "tokenizer_ms": 1000 * tokenizer_s}

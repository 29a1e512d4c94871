"""`text_backend="vllm"`: the same text and speech as by our own LLM, from a stand-in and from a real vLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from checkpoints import RANDOM_MODEL
from golden_cases import cases
from vllm_engines import VARIABLE, fake_python, real_python, vllm_engine, with_wider_heads

from antiphon import Completion, Engine, Message, Request, SamplingParams, Units

QUESTIONS = (
    Request("What is two plus three?"),
    Request("What is two plus three?", ("text", "units")),
    Request(Units(range(40)), ("text", "units")),
    Request(Units(range(30, 60))),
    Request(Units(range(50)), ("transcript",)),
    Request("Hello.", ("text", "units"), say="Good evening to you."),
    Request(
        messages=[Message("user", "Hello."), Message("assistant", "Hi."), Message("user", "Who are you?")]
    ),
)
PARAMS = SamplingParams(max_tokens=60, max_units=120)

real = pytest.param(
    "real",
    marks=[
        pytest.mark.slow,
        pytest.mark.long,
        pytest.mark.skipif(real_python() is None, reason=f"{VARIABLE} names no Python"),
    ],
)


@pytest.fixture(scope="module", params=["fake", real])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "real":
        found = real_python()
        assert found is not None
        return found
    return fake_python(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def golden(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    llm = with_wider_heads(RANDOM_MODEL, tmp_path_factory.mktemp("llm") / "llm")
    arguments = {"model": str(llm)}
    with vllm_engine(python, RANDOM_MODEL, text_backend_args=arguments, max_model_len=4096) as engine:
        yield engine
        engine.check_integrity()


def test_golden(golden: Engine, python: str) -> None:
    """By a real vLLM all of them, by the stand-in every other one."""
    chosen = cases() if python == real_python() else cases()[::2]
    done = golden.generate([case.request() for case in chosen])
    assert {c.name: c.differences(d) for c, d in zip(chosen, done, strict=True)} == {
        c.name: [] for c in chosen
    }
    assert golden.scheduler.pool.num_free == golden.scheduler.pool.num_blocks


def test_the_packaged_model_says_the_same(python: str) -> None:
    with Engine(device="cpu", progress=False, kv_cache_bytes=32 << 20, max_model_len=2048) as engine:
        expected = engine.generate(QUESTIONS, PARAMS)
    found: list[Completion] = []
    with vllm_engine(python) as engine:
        for _ in range(2):
            found = engine.generate(QUESTIONS, PARAMS)
            assert [known(done) for done in found] == [known(done) for done in expected]
        engine.check_integrity()
    assert all(done.finish_reason == "stop" for done in expected), "they end by themselves"
    assert all(done.metrics.ttft_s for done in found if done.text_ids)


def known(done: Completion) -> tuple[object, ...]:
    return (
        done.finish_reason,
        done.error,
        done.transcript,
        done.text,
        done.text_ids,
        done.fusion_ids,
        done.unit_ids,
        done.metrics.num_prompt_tokens,
    )

"""vLLM's process: what it is asked, and what becomes of requests and engine when something fails there."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from checkpoints import RANDOM_MODEL
from golden_cases import cases
from serving import assert_nothing_held, check_events, collect, run, serving
from vllm_engines import fake_python, notes_in, vllm_engine

from antiphon import (
    CheckpointError,
    Completion,
    ConfigError,
    Engine,
    EngineDead,
    Finished,
    Request,
    SamplingParams,
    Units,
)
from antiphon.assets.embedded import EMBEDDED_MODEL
from antiphon.model.checkpoint.llm_folder import export_llm
from antiphon.model.vllm import worker
from antiphon.model.vllm.settings import VllmSettings

LONG = SamplingParams(max_tokens=40, ignore_eos=True)


@pytest.fixture
def python(tmp_path: Path) -> str:
    return fake_python(tmp_path)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def begin(python: str, notes: Path) -> Callable[..., Engine]:
    """Makes an engine with the small random model; fault: see the stand-in."""

    def make(fault: str = "", **settings: Any) -> Engine:
        env = {"FAKE_VLLM_NOTES": str(notes), "FAKE_VLLM_FAULT": fault}
        return vllm_engine(python, RANDOM_MODEL, env=env, **settings)

    return make


def process_of(engine: Engine) -> Any:
    assert engine._text is not None
    return engine._text._process._process


def answer(engine: Engine, text: str = "abc", params: SamplingParams | None = LONG) -> Completion:
    return engine.generate(Request(text), params)[0]


# --- what it is asked -----------------------------------------------------------------------------


def test_what_vllm_is_told(begin: Callable[..., Engine], notes: Path) -> None:
    arguments = {"tensor_parallel_size": 2, "max_num_seqs": 5}
    with begin(text_backend_args=arguments, seed=7, max_model_len=300) as engine:
        config = engine.model_config
        sampled = SamplingParams(temperature=0.5, top_k=3, top_p=0.75, seed=2**63 + 5, max_tokens=4)
        engine.generate(
            [Request("a"), Request("b"), Request("c", ("text", "units")), Request(Units([1, 2]))],
            [sampled, LONG, SamplingParams(temperature=0.5, max_tokens=3, max_units=2), sampled],
        )
    [told] = notes_in(notes, "args")
    assert told["max_model_len"] == 300 and told["dtype"] == "float32" and told["seed"] == 7
    assert told["tensor_parallel_size"] == 2 and told["max_num_seqs"] == 5
    asked = notes_in(notes, "ask")
    assert [one["embeds"] for one in asked] == [False, False, False, True]
    first, second, spoken, _ = (one["params"] for one in asked)
    assert [first[name] for name in ("temperature", "top_k", "top_p", "seed")] == [0.5, 3, 0.75, 5]
    assert first["stop_token_ids"] == sorted(config.stop_token_ids) and first["max_tokens"] == 4
    assert second["stop_token_ids"] == [] and second["max_tokens"] == 40
    assert spoken["temperature"] == 0 and spoken["stop_token_ids"] == [config.eot_token_id]


def test_it_hears_of_replies_that_end(begin: Callable[..., Engine], notes: Path) -> None:
    """By an abort, by a stop string, and because speech has ended before its text."""
    with begin() as engine:
        whole = answer(engine)
        stopped = answer(engine, params=SamplingParams(max_tokens=40, ignore_eos=True, stop=whole.text[6:9]))
        assert (
            stopped.finish_reason == "stop"
            and stopped.text == whole.text[: whole.text.index(whole.text[6:9])]
        )
        engine.add_request(
            Request("abc", request_id="gone"), SamplingParams(max_tokens=1000, ignore_eos=True)
        )
        engine.step()
        assert engine.abort("gone")
        brief = SamplingParams(max_tokens=1000, max_units=1)
        [spoken] = engine.generate(Request("abcd", ("text", "units")), brief)
        assert spoken.finish_reason == "length" and len(spoken.text_ids) < 10
        assert answer(engine).text == whole.text  # what was said before it has been carried out
        assert len(notes_in(notes, "abort")) >= 2
        assert_nothing_held(engine)


def test_its_prefix_cache_is_used_and_forgotten(begin: Callable[..., Engine]) -> None:
    with begin() as engine:
        first, second = answer(engine), answer(engine)
        engine.reset_prefix_cache()
        third = answer(engine)
    assert first.text == second.text == third.text
    cached = [done.metrics.num_cached_tokens for done in (first, second, third)]
    assert cached[0] == cached[2] == 0 < cached[1] < first.metrics.num_prompt_tokens


def test_a_request_that_is_refused_fails_alone(begin: Callable[..., Engine]) -> None:
    with begin(text_backend_args={"max_model_len": 45}) as engine:
        short, long = engine.generate([Request("a", system=""), Request("a" * 200, system="")], LONG)
        assert long.finish_reason == "error"
        assert long.error is not None and "vLLM refused it: ValueError: the prompt has" in long.error
        assert short.finish_reason == "length"
        # its own limit comes earlier than ours
        assert short.metrics.num_prompt_tokens + len(short.text_ids) == 45 and len(short.text_ids) > 3
        assert_nothing_held(engine)


def test_growing_requests_are_sent_at_the_commit(begin: Callable[..., Engine], notes: Path) -> None:
    case = next(case for case in cases() if case.name.startswith("s2") and not case.data["images"])
    request = case.request()
    assert isinstance(request.content, list) and isinstance(request.content[-1], Units)
    units = list(request.content[-1].units)
    opened = Request([Units([])], request.modalities, sampling_params=case.params())
    with begin() as engine:
        name = engine.open_request(opened)
        for count in (len(units) // 3, len(units) // 2, len(units)):
            engine.update_speech(name, units[:count])
            while engine.has_unfinished():
                engine.step()
        assert not notes_in(notes, "ask")
        engine.commit(name)
        events = []
        while engine.has_unfinished():
            events += engine.step()
        assert isinstance(events[-1], Finished)
        assert case.differences(events[-1].completion) == []
        assert len(notes_in(notes, "ask")) == 1
        assert_nothing_held(engine)


def test_behind_asyncio(begin: Callable[..., Engine]) -> None:
    async def main() -> None:
        async with serving(begin()) as served:
            done = check_events(
                await collect(served.stream(Request("abc", ("text", "units")), SamplingParams(max_units=5)))
            )
            assert done.error is None and done.text_ids
            async for event in served.stream(
                Request("abc"), SamplingParams(max_tokens=1000, ignore_eos=True)
            ):
                assert event.request_id
                break  # which aborts it
            again = check_events(await collect(served.stream(Request("abc"), LONG)))
            assert len(again.text_ids) == 40

    run(main())


# --- failures -------------------------------------------------------------------------------------


def test_requests_end_with_an_error_if_it_dies_and_later_ones_are_served(
    begin: Callable[..., Engine],
) -> None:
    with begin() as engine:
        expected = answer(engine)
        process = process_of(engine)
        for name in ("one", "two"):
            engine.add_request(
                Request("abc", request_id=name), SamplingParams(max_tokens=1500, ignore_eos=True)
            )
        engine.step()
        process.send_signal(signal.SIGKILL)
        ended: dict[str, Completion] = {}
        while engine.has_unfinished():
            ended |= {e.request_id: e.completion for e in engine.step() if isinstance(e, Finished)}
        for name in ("one", "two"):
            assert ended[name].finish_reason == "error"
            assert "vLLM has ended: its process has ended with status -9" in str(ended[name].error)
        assert answer(engine).text == expected.text
        assert process_of(engine) is not process
        assert_nothing_held(engine)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("exit 3", "vLLM has ended: its process has ended with status 7: a kernel has failed"),
        ("step 3", "vLLM has ended: RuntimeError: out of memory"),
    ],
)
def test_the_engine_has_failed_if_it_dies_before_it_has_finished_one(
    begin: Callable[..., Engine], fault: str, why: str
) -> None:
    with begin(fault) as engine:
        done = answer(engine)
        assert done.finish_reason == "error" and done.error is not None and why in done.error
        assert engine.has_unfinished()
        with pytest.raises(EngineDead, match=why):
            engine.step()
        with pytest.raises(EngineDead, match=why):
            engine.add_request(Request("abc"))


def test_a_fault_of_ours_ends_only_its_own_request(
    begin: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with begin() as engine:
        text_inputs = engine.runner._inputs.text

        def faulty(chunks: Any) -> Any:
            if any(chunk.request.request_id == "bad" for chunk in chunks):
                raise RuntimeError("out of memory")
            return text_inputs(chunks)

        monkeypatch.setattr(engine.runner._inputs, "text", faulty)
        asked = [Request(Units([1, 2, 3]), request_id=name) for name in ("a", "bad", "b")]
        first, bad, last = engine.generate(asked, LONG)
        assert bad.finish_reason == "error" and bad.error == "RuntimeError: out of memory"
        assert first.text_ids == last.text_ids and len(last.text_ids) == 40
        assert_nothing_held(engine)


def test_nothing_is_left_behind(begin: Callable[..., Engine]) -> None:
    engine = begin()
    process, folder = process_of(engine), engine._text._folder.passing  # type: ignore[union-attr]
    assert (folder / "llm" / "config.json").exists() and process.poll() is None
    engine.close()
    assert not folder.exists() and process.poll() is not None
    engine = begin()
    process = process_of(engine)
    del engine
    assert ends(process)


def test_one_that_ends_while_it_has_nothing_to_do_costs_nobody_anything(begin: Callable[..., Engine]) -> None:
    with begin() as engine:
        expected = answer(engine)
        process = process_of(engine)
        process.kill()
        process.wait()
        assert answer(engine).text_ids == expected.text_ids
        process = process_of(engine)
        process.kill()
        process.wait()
        assert answer(engine).error is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_child_leaves_it_to_its_parent(begin: Callable[..., Engine]) -> None:
    with begin() as engine:
        assert engine._text is not None
        folder = engine._text._folder
        child = os.fork()
        if not child:
            with suppress(BaseException):
                engine._text.stop()
                engine._text.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert process_of(engine).poll() is None and folder.passing.is_dir()
        assert answer(engine).error is None


def ends(process: Any) -> bool:
    deadline_s = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return process.poll() is not None


# --- at load --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "arguments", "message"),
    [
        ("load", {}, "text_backend: vLLM has not started: RuntimeError: no such accelerator"),
        (
            "",
            {"max_seqs": 3},
            "text_backend: vLLM has not started: TypeError: EngineArgs of vLLM .* no 'max_seqs'",
        ),
    ],
)
def test_a_vllm_that_does_not_start(
    begin: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str,
    arguments: dict[str, Any], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        begin(fault, text_backend_args=arguments)
    assert not list(tmp_path.glob("antiphon-llm-*"))


def test_the_folder_must_be_the_llm_of_the_checkpoint(python: str, tmp_path: Path) -> None:
    export_llm(EMBEDDED_MODEL, tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"other/config\.json: vocab_size: expected 512, as the LLM of"):
        vllm_engine(python, RANDOM_MODEL, text_backend_args={"model": tmp_path / "other"})
    export_llm(RANDOM_MODEL, tmp_path / "own")
    content = bytearray((tmp_path / "own" / "model.safetensors").read_bytes())
    content[-40_000:] = bytes(40_000)
    (tmp_path / "own" / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"norm\.weight: expected that of .*, found other numbers"):
        vllm_engine(python, RANDOM_MODEL, text_backend_args={"model": str(tmp_path / "own")})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "text_backend: 'vllm' needs the package vllm, which is not installed: pip install"),
        ([1], "text_backend_args: expected a dict, got list"),
        ({1: 2}, "text_backend_args: expected names that are str, got 1"),
        ({"python": 3}, r"text_backend_args\['python'\]: expected the path of a Python, got int"),
        ({"python": "/no/such"}, r"text_backend_args\['python'\]: .* found no program '/no/such'"),
        ({"python": "sh", "model": "/no/such"}, r"text_backend_args\['model'\]: expected a folder"),
        ({"python": "sh", "env": {"A": 1}}, r"text_backend_args\['env'\]: expected names and strings, got"),
        ({"python": "sh", "tokenizer": "x"}, "text_backend_args: tokenizer is set by the text backend"),
        (
            {"python": "sh", "seed": object()},
            r"text_backend_args: expected values that JSON has, got \['seed'\]",
        ),
        ({"python": "sh", "seed": float("nan")}, "text_backend_args: expected values that JSON has"),
    ],
)
def test_wrong_arguments(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        VllmSettings.parse(value)


def test_arguments_without_vllm() -> None:
    with pytest.raises(ConfigError, match="text_backend_args: expected None with 'native', got dict"):
        Engine(RANDOM_MODEL, device="cpu", text_backend_args={})
    with pytest.raises(
        ConfigError, match="load_format: expected 'auto' with text_backend 'vllm', got 'dummy'"
    ):
        Engine(RANDOM_MODEL, device="cpu", load_format="dummy", text_backend="vllm")


def test_another_pythons_packages_are_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/kept")
    other = VllmSettings(python="/other/python", env={"A": "b"}).environment(tmp_path)
    assert "PYTHONPATH" not in other and other["A"] == "b"
    assert other["VLLM_CACHE_ROOT"] == "/kept" and other["VLLM_NO_USAGE_STATS"] == "1"
    own = VllmSettings(python=sys.executable).environment(tmp_path)
    assert own["PYTHONPATH"] == "/ours" and own["VLLM_CONFIG_ROOT"].startswith(str(tmp_path))
    assert own["PATH"] == os.environ["PATH"]


# --- frames ---------------------------------------------------------------------------------------


def test_frames_go_there_and_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            worker.write_frame(ours, {"a": "ü"}, b"\0\1")
            worker.write_frame(ours, {})
            ours.sendall(worker.LENGTHS.pack(9, 0) + b'{"cut')
        assert worker.read_frame(theirs) == ({"a": "ü"}, bytearray(b"\0\1"))
        assert worker.read_frame(theirs) == ({}, bytearray())
        assert worker.read_frame(theirs) is None


@pytest.mark.parametrize(
    "head", [worker.LENGTHS.pack(2**40, 0), worker.LENGTHS.pack(2, 2**62), worker.LENGTHS.pack(2, 0) + b"[]"]
)
def test_what_is_no_frame_is_refused_before_memory_is_taken(head: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(head)
        with pytest.raises(ValueError, match=r"^expected a"):
            worker.read_frame(theirs)

"""Settings: numbers of any plain kind are taken, wrong ones named, and absurd ones refused before they take
memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checkpoints import RANDOM_MODEL
from poison import Poison

from antiphon import ConfigError, Engine, InputLimits, StreamSchedule
from antiphon.config import EngineConfig

LIMITS: dict[str, list[Any]] = {
    "max_images": [-1, 1.5, True, None, "16", np.float32(3), 10**5000],
    "max_image_bytes": [0, -1, 1e6, None],
    "max_image_pixels": [0, "64", float("inf")],
    "max_audio_bytes": [0, [1]],
    "max_audio_s": [-1, float("nan"), float("inf"), "300", None, True, 3j],
    "max_transcribed_s": [-1, float("nan"), float("inf"), "3600", None],
    "max_text_chars": [-1, 2.0],
    "max_messages": [0, None],
    "max_parts": [0, np.zeros(2)],
}
SCHEDULES: dict[str, list[Any]] = {
    "first_units": [0, 3, 15.0, None, 10**9],
    "growth": [0.5, float("inf"), float("nan"), "2", None, True, 1j],
    "max_units": [0, -1, 1.0, True, 10**9],
    "context_units": [-1, 10**12],
    "lookahead_units": [-1, True, "3"],
}
SETTINGS: dict[str, list[Any]] = {
    "max_num_seqs": [0, -1, 1.0, True, None, "64", 10**12, 10**5000],
    "max_num_batched_tokens": [0, 2**40, np.float64(3)],
    "max_num_waiting": [0, None],
    "block_size": [0, 10**9],
    "text_lookahead": [-1, 0.5],
    "enable_prefix_caching": [0, 1, "no", None, np.zeros(3)],
    "enforce_eager": [1, "yes"],
    "max_model_len": [1, 0, 10**30, None],
    "gpu_memory_utilization": [0, 1.1, float("nan"), "0.9", None, True, 1j],
    "kv_cache_bytes": [-1, 1e9, "1GB", 10**30],
    "stream_schedule": [None, 3, {}],
    "seed": [1.0, None, 1 << 70],
    "limits": [None, {}, InputLimits],
    "no_speech": [None, "", "Answer", 1],
    "unit_head": [None, "", "Answer", 1],
    "kv_cache_dtype": [None, "", "float32", 8],
}
KINDS: list[tuple[Callable[..., Any], str, dict[str, list[Any]]]] = [
    (InputLimits, "InputLimits.", LIMITS),
    (StreamSchedule, "StreamSchedule.", SCHEDULES),
    (EngineConfig, "", SETTINGS),
]


@pytest.mark.parametrize(
    ("make", "where", "name", "values"),
    [(make, where, name, values) for make, where, wrong in KINDS for name, values in wrong.items()],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_settings_are_named(make: Callable[..., Any], where: str, name: str, values: list[Any]) -> None:
    for value in (*values, Poison()):
        with pytest.raises(ConfigError, match=rf"^{where}{name}: expected ") as caught:
            make(**{name: value})
        assert len(str(caught.value)) < 200


def test_every_setting_is_checked() -> None:
    for make, _, wrong in KINDS:
        assert set(wrong) == set(make.__dataclass_fields__)  # type: ignore[attr-defined]


def test_settings_take_scalars_of_numpy() -> None:
    limits = InputLimits(max_images=np.int32(3), max_audio_s=np.float32(1.5), max_text_chars=np.uint16(9))  # type: ignore[arg-type]
    assert limits == InputLimits(max_images=3, max_audio_s=1.5, max_text_chars=9)
    schedule = StreamSchedule(first_units=np.int64(20), growth=np.float32(1.5))  # type: ignore[arg-type]
    assert schedule == StreamSchedule(first_units=20, growth=1.5)
    config = EngineConfig(
        max_num_seqs=np.int64(4),  # type: ignore[arg-type]
        gpu_memory_utilization=np.float32(0.5),  # type: ignore[arg-type]
        enforce_eager=np.True_,  # type: ignore[arg-type]
        kv_cache_bytes=np.int64(1 << 30),  # type: ignore[arg-type]
        seed=np.random.default_rng(0).integers(9),  # type: ignore[arg-type]
    )
    assert [type(v) for v in (config.max_num_seqs, config.kv_cache_bytes, config.seed)] == [int] * 3
    assert [type(v) for v in (limits.max_audio_s, schedule.growth, config.gpu_memory_utilization)] == [
        float
    ] * 3
    assert config.enforce_eager is True
    assert StreamSchedule(growth=2) == StreamSchedule()


def test_an_unknown_setting_is_told_its_likely_name() -> None:
    near = {"max_num_seq": "max_num_seqs", "kv_cache_byte": "kv_cache_bytes", "limit": "limits"}
    for wrong, right in near.items():
        settings: dict[str, Any] = {wrong: 3}
        with pytest.raises(ConfigError, match=f"it has no setting '{wrong}'; did you mean {right}\\?"):
            Engine(RANDOM_MODEL, **settings)
    with pytest.raises(
        ConfigError,
        match=r"it has no setting 'colour'; its settings are block_size, .*text_lookahead, unit_head$",
    ):
        Engine(RANDOM_MODEL, colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", 3, "model: expected the path of a checkpoint's folder, got 3"),
        ("model", Poison, "model: expected the path"),
        ("model", b"/tmp", "model: expected the path"),
        ("codec", 3, "codec: expected the path of a codec's folder, or a Codec, got 3"),
        ("device", 3, "device: expected auto, cpu or cuda, got 3"),
        ("device", None, "device: expected auto, cpu or cuda, got None"),
        ("device", "tpu" * 1000, "device: expected"),
        ("device", "meta", "device: expected a device of this machine"),
        ("dtype", "int8", "dtype: expected 'auto' or one of .* got 'int8'"),
        ("dtype", 3, "dtype: expected 'auto' or one of .* got 3"),
        ("load_format", "pt", "load_format: expected 'auto' or 'dummy', got 'pt'"),
        (
            "quantization",
            "int4",
            "quantization: expected None or one of 'int8', 'int8-weight-only', 'bitsandbytes', ",
        ),
        ("quantization_keep", "lm_head", "quantization_keep: expected a list of patterns, got str"),
        ("quantization_keep", [3], "quantization_keep: expected patterns that are str, got int"),
        (
            "quantization_keep",
            [""],
            "quantization_keep: expected a pattern of 1 to 200 characters and at most 8",
        ),
        ("quantization_keep", ["*" * 9], "quantization_keep: expected a pattern of 1 to 200 characters"),
        ("quantization_keep", ["lm_head"], "quantization_keep: expected a quantization to leave modules out"),
        ("text_backend", None, "text_backend: expected one of 'native', 'vllm', got None"),
        ("vocoder_backend", Poison, "vocoder_backend: expected 'torch'"),
        *(
            ("vocoder_workers", wrong, "vocoder_workers: expected an integer >= 0 and <= 64, got")
            for wrong in (-1, 65, "two", 1.5)
        ),
        ("vocoder_workers", 2, "vocoder_workers: expected a codec given as a folder with 2, got no codec"),
        ("vocoder_device", "cpu", "vocoder_device: expected a codec given as a folder with 'cpu', got no co"),
        ("speech_prompt", np.zeros(3), "speech_prompt: expected 'soft'"),
        ("max_num_seqs", 10**12, "max_num_seqs: expected an integer >= 1 and <= 65536"),
        ("kv_cache_bytes", 1000, "kv_cache_bytes: expected room for at least 2 blocks"),
    ],
)
def test_wrong_arguments_of_an_engine(name: str, value: Any, message: str) -> None:
    arguments: dict[str, Any] = {"model": RANDOM_MODEL, "device": "cpu"}
    value = value() if value is Poison else value
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        Engine(**arguments | {name: value})
    assert len(str(caught.value)) < 300


def test_a_cache_larger_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by its size, before a block of it is made."""
    monkeypatch.setattr("antiphon.model.cache.memory_bytes", lambda: 1 << 20)
    with pytest.raises(
        ConfigError, match="kv_cache_bytes: expected at most the 1048576 bytes of this machine"
    ):
        Engine(RANDOM_MODEL, device="cpu", kv_cache_bytes=1 << 60)

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_fixtures import flow_input
from tiny_speaker import embedding_of, save_speaker_network

from antiphon.codec import Codec
from antiphon.codec.analysis.fbank import fbank
from antiphon.codec.analysis.prompt_mel import prompt_mel
from antiphon.codec.voices import Voice, clone_voice
from antiphon.errors import CheckpointError, InvalidRequest
from antiphon.sound.resample import resample

Array = np.ndarray[Any, Any]


def clip(seconds: float, rate_hz: int = 16000, seed: int = 0) -> Array:
    """A voice of sorts: a few harmonics and noise."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    rng = np.random.default_rng(seed)
    tones = sum(np.sin(2 * np.pi * 150 * h * t) / h for h in range(1, 8))
    return (0.1 * tones + 0.02 * rng.normal(size=len(t))).astype(np.float32)


@pytest.fixture(scope="module")
def speaker_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(folder, tmp_path_factory.mktemp("speaker") / "codec"))
    save_speaker_network(path / "campplus.onnx")
    return path


@pytest.fixture
def cloner(speaker_folder: Path) -> Codec:
    """With one cloned voice, "me"."""
    codec = Codec.from_pretrained(speaker_folder, device="cpu")
    codec.add_voice("me", clip(1.3), 16000)
    return codec


def test_cloned_voice_is_listed_until_it_is_removed(cloner: Codec) -> None:
    assert cloner.voices == ["英文女", "中文男", "me"]
    assert cloner.default_voice == "英文女"
    cloner.remove_voice("me")
    assert cloner.voices == ["英文女", "中文男"]
    with pytest.raises(InvalidRequest, match="voice: expected one of 英文女, 中文男, got 'me'"):
        cloner.mel([1], "me")


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 48000])
def test_what_a_voice_is_made_of(cloner: Codec, rate_hz: int) -> None:
    samples = clip(1.5, rate_hz)
    cloner.add_voice("other", samples, rate_hz)
    row = flow_input(cloner, [1, 2], "other")
    assert row.prompt_units is not None and row.prompt_mel is not None
    embedding = embedding_of(fbank(resample(samples, rate_hz, 16000)))
    np.testing.assert_allclose(row.embedding.numpy(), embedding, rtol=1e-4, atol=1e-6)
    # 150 frames of the tokenizer make 38 units, which would last 130 mel frames; the clip has 129.
    assert row.prompt_units.tolist() == cloner.tokenize(samples, rate_hz)[:37]
    mel = prompt_mel(resample(samples, rate_hz, 22050))
    assert mel.shape == (80, 129)
    assert np.array_equal(row.prompt_mel.numpy(), mel[:, :127])
    assert (row.prompt_units.dtype, row.prompt_mel.dtype) == (torch.int64, torch.float32)
    assert row.noise.shape == (80, 127 + 6)


@pytest.mark.parametrize(
    ("milliseconds", "units", "frames"),
    [
        (1000, 25, 86),
        (1001, 25, 86),
        (1010, 25, 86),  # 26 units of the tokenizer, 86 frames of the mel, where 26 units need 89
        (1039, 26, 89),
        (1040, 26, 89),
        (1041, 26, 89),
        (1600, 40, 137),
        (3333, 83, 285),
    ],
)
def test_units_and_mel_end_together(cloner: Codec, milliseconds: int, units: int, frames: int) -> None:
    cloner.add_voice("other", clip(milliseconds / 1000), 16000)
    row = flow_input(cloner, [1], "other")
    assert row.prompt_units is not None and row.prompt_mel is not None
    assert (len(row.prompt_units), row.prompt_mel.shape[1]) == (units, frames)
    assert cloner.params.flow.mel_frames(units) == frames


def test_cloned_voice_is_its_prompt_given_explicitly(cloner: Codec) -> None:
    row = flow_input(cloner, [1], "me")
    other = Codec(
        cloner.params,
        cloner.decoder.flow.model,
        cloner.decoder.hift,
        {"v": Voice(row.embedding)},
        cloner.device,
    )
    units = [3, 1, 4, 1, 5]
    expected = other.mel(units, prompt_units=row.prompt_units, prompt_mel=row.prompt_mel, seed=2)
    assert expected.shape == (80, 17)
    assert np.array_equal(cloner.mel(units, "me", seed=2), expected)
    assert np.array_equal(cloner.decode([units], "me", [2])[0], other.vocode(expected, seed=2))
    assert not np.array_equal(other.mel(units, seed=2), expected)


def test_prompt_of_the_caller_goes_before_the_voice_s_own(cloner: Codec) -> None:
    row = flow_input(cloner, [1], "me")
    other = Codec(
        cloner.params,
        cloner.decoder.flow.model,
        cloner.decoder.hift,
        {"v": Voice(row.embedding)},
        cloner.device,
    )
    prompt: dict[str, Any] = {"prompt_units": [7, 8], "prompt_mel": np.zeros((80, 9), np.float32)}
    assert np.array_equal(cloner.mel([1, 2], "me", **prompt), other.mel([1, 2], **prompt))


@pytest.mark.slow
def test_cloned_voice_in_a_batch_equals_alone(cloner: Codec) -> None:
    """Each utterance of `decode` is alone in its batch here, so the flow's own batch is looked at too, with
    prompts of several lengths and rows without one."""
    cloner.add_voice("long", clip(3.1, seed=1), 16000)
    names = ["me", None, "long", "me", "中文男"]
    each_units = [list(range(n)) for n in (1, 50, 12, 41, 3)]
    rows = [flow_input(cloner, units, name) for units, name in zip(each_units, names, strict=True)]
    for row, mel in zip(rows, cloner.decoder.flow.generate(rows), strict=True):
        alone = cloner.decoder.flow.generate([row])[0]
        torch.testing.assert_close(mel, alone, rtol=0, atol=1e-5 * float(alone.abs().max()))
    together = cloner.decode(each_units, names)
    for units, name, speech in zip(each_units, names, together, strict=True):
        assert np.array_equal(speech, cloner.decode([units], name)[0])


def test_what_runs_goes_on_when_its_voice_is_removed(cloner: Codec) -> None:
    expected = cloner.mel([1, 2, 3], "me")
    row = flow_input(cloner, [1, 2, 3], "me")
    cloner.remove_voice("me")
    cloner.add_voice("me", clip(1.3, seed=5), 16000)
    assert np.array_equal(cloner.decoder.flow.generate([row])[0].numpy(), expected)
    assert not np.array_equal(cloner.mel([1, 2, 3], "me"), expected)


@pytest.mark.slow
def test_clip_in_every_form(cloner: Codec) -> None:
    samples = (clip(1.2) * 32767).astype(np.int16)
    floats = samples / np.float32(32768)
    forms = (samples, floats, floats.astype(np.float64), np.stack([floats] * 2, axis=1), floats.tolist())
    mels = []
    for i, form in enumerate((*forms, torch.from_numpy(floats))):
        cloner.add_voice(f"form {i}", form, 16000)
        mels.append(cloner.mel([1, 2], f"form {i}"))
    assert all(np.array_equal(mels[0], mel) for mel in mels)


@pytest.mark.parametrize("seconds", [1, 30])
def test_shortest_and_longest(cloner: Codec, seconds: int) -> None:
    cloner.add_voice("other", clip(seconds, 8000), 8000)
    row = flow_input(cloner, [1], "other")
    assert row.prompt_units is not None
    assert len(row.prompt_units) == seconds * 25


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "samples", "rate_hz", "message"),
    [
        ("", clip(2), 16000, "voice: expected a name that is not empty, got ''"),
        (" ", clip(2), 16000, "voice: expected a name that is not empty"),
        (None, clip(2), 16000, "voice: expected a name that is not empty, got None"),
        (5, clip(2), 16000, "voice: expected a name that is not empty, got 5"),
        ("me", clip(2), 16000, "voice: expected a new name, got 'me', which is taken"),
        ("中文男", clip(2), 16000, "voice: expected a new name, got '中文男', which is taken"),
        ("new", clip(0.99), 16000, r"audio: expected a clip of 1 to 30 s, got 0\.99 s"),
        ("new", clip(30.01), 16000, r"audio: expected a clip of 1 to 30 s, got 30\.01 s"),
        ("new", clip(2), 96000, r"audio: expected a clip of 1 to 30 s, got 0\.33 s"),
        ("new", np.zeros(32000, np.float32), 16000, "audio: expected a clip of speech, got silence"),
        ("new", np.zeros(0, np.float32), 16000, "audio: expected at least one sample"),
        ("new", np.full(32000, np.nan), 16000, "audio: expected finite samples"),
        ("new", np.ones((32000, 33), np.float32), 16000, "audio: expected samples of shape"),
        ("new", np.ones((2, 3, 4), np.float32), 16000, "audio: expected samples of shape"),
        ("new", "speech.wav", 16000, "audio: expected samples"),
        ("new", None, 16000, "audio: expected samples"),
        ("new", clip(2), 0, "audio: expected a rate"),
        ("new", clip(2), 16000.0, "audio: expected a rate"),
        ("new", clip(2), None, "audio: expected a rate"),
    ],
)
def test_bad_clips_and_names_are_refused(
    cloner: Codec, name: Any, samples: Any, rate_hz: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        cloner.add_voice(name, samples, rate_hz)
    assert cloner.voices == ["英文女", "中文男", "me"]


@pytest.mark.parametrize("name", ["英文女", "nobody", None, 5])
def test_only_cloned_voices_can_be_removed(cloner: Codec, name: Any) -> None:
    with pytest.raises(InvalidRequest, match="voice: expected a cloned one of me, got"):
        cloner.remove_voice(name)
    assert cloner.voices == ["英文女", "中文男", "me"]


def test_folder_without_speaker_encoder_says_so(codec: Codec) -> None:
    with pytest.raises(InvalidRequest, match=r"this codec folder has no campplus\.onnx"):
        codec.add_voice("new", clip(2), 16000)
    assert codec.voices == ["英文女", "中文男"]


def test_folder_without_tokenizer_says_so(folder_copy: Path) -> None:
    save_speaker_network(folder_copy / "campplus.onnx")
    (folder_copy / "speech_tokenizer_v1.onnx").unlink()
    codec = Codec.from_pretrained(folder_copy, device="cpu")
    with pytest.raises(InvalidRequest, match=r"this codec folder has no speech_tokenizer_v1\.onnx"):
        codec.add_voice("new", clip(2), 16000)


def test_broken_speaker_encoder_is_found_at_once(folder_copy: Path) -> None:
    (folder_copy / "campplus.onnx").write_bytes(b"not a network")
    with pytest.raises(CheckpointError, match=r"campplus\.onnx: expected an ONNX network"):
        Codec.from_pretrained(folder_copy, device="cpu")


def test_tokenizer_that_hears_nothing_is_refused(cloner: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, tokenizer = cloner.speaker_encoder, cloner.tokenizer
    assert encoder is not None and tokenizer is not None
    monkeypatch.setattr(tokenizer, "tokenize", lambda samples: [])
    with pytest.raises(CheckpointError, match=r"speech_tokenizer_v1\.onnx: expected units of 2\.00 s"):
        clone_voice(clip(2), 16000, encoder, tokenizer, cloner.params.flow)

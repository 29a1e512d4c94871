"""The speech of the embedded model: what its training computes is what the runtime computes."""

from __future__ import annotations

import random
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.codec.analysis.logmel import log_mel, slaney_filters
from antiphon.codec.analysis.prompt_mel import PADDING, prompt_mel
from antiphon.codec.checkpoint.hyperparams import read_hyperparams
from antiphon.codec.flow.flow import Flow, FlowInput, UnitSpan
from antiphon.codec.flow.unet import ResNet, UNet
from antiphon_tiny.speech import (
    augment,
    codec_params,
    ears,
    flow_batches,
    phones,
    retouch,
    shards,
    train_flow,
    train_vocoder,
    unit_batches,
    vocoder_batches,
    whisper,
)
from antiphon_tiny.speech import unit_encoder as encoding


def noise(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 0.1, length).astype(np.float32)


def test_sounds_of_hibari() -> None:
    names = [phones.PHONES[number] if number >= 0 else "" for number in phones.from_misaki("kˈʌləɹ, ɹˈɛd.")]
    assert [name for name in names if name] == ["k", "ah", "l", "er", "pau", "r", "eh", "d", "pau"]


def test_sounds_of_festival() -> None:
    assert phones.from_festival("ax") == phones.from_festival("ah")
    with pytest.raises(KeyError):
        phones.from_festival("zz")


def test_units_are_the_points_of_the_grid() -> None:
    points = encoding.unit_coordinates()
    assert points.shape == (encoding.NUM_UNITS, 4)
    assert encoding.unit_numbers(points).tolist() == list(range(encoding.NUM_UNITS))
    torch.testing.assert_close(encoding.quantize(points), points)
    near = (points + 0.1).clamp(-1, 1)
    assert encoding.unit_numbers(near).tolist() == list(range(encoding.NUM_UNITS))


def test_rounding_lets_gradients_through() -> None:
    points = torch.rand(3, 5, 4) * 2 - 1
    points.requires_grad_()
    encoding.quantize(points).sum().backward()
    assert points.grad is not None
    torch.testing.assert_close(points.grad, torch.ones(3, 5, 4))


@pytest.mark.parametrize("kind", [encoding.UnitEncoder, ears.Ears])
def test_padding_changes_no_unit(kind: Any) -> None:
    torch.manual_seed(0)
    encoder = kind().eval()
    rows = [torch.rand(128, frames) for frames in (37, 120)]
    padded = torch.stack([torch.nn.functional.pad(row, (0, 120 - row.shape[1]), value=3.0) for row in rows])
    together = encoder(padded, torch.tensor([37, 120]))
    for row, points in zip(rows, together, strict=True):
        alone = encoder(row[None], torch.tensor([row.shape[1]]))[0]
        assert len(alone) == -(-row.shape[1] // 4)
        torch.testing.assert_close(points[: len(alone)], alone, rtol=0, atol=2e-6)


def test_a_model_of_ctranslate2_is_read(tmp_path: Path) -> None:
    def named(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    matrix, vector = np.arange(6, dtype=np.float16).reshape(2, 3), np.array([-7], np.int8)
    data = struct.pack("<I", 6) + named("WhisperSpec") + struct.pack("<II", 3, 2)
    data += named("a/weight") + struct.pack("<BIIBI", 2, 2, 3, 4, 12) + matrix.tobytes()
    data += named("b") + struct.pack("<BIBI", 1, 1, 1, 1) + vector.tobytes()
    (tmp_path / "model.bin").write_bytes(data)
    found = whisper.read_model(tmp_path / "model.bin")
    assert list(found) == ["a/weight", "b"]
    np.testing.assert_array_equal(found["a/weight"], matrix)
    np.testing.assert_array_equal(found["b"], vector)


def test_level_and_colour_do_not_matter() -> None:
    features = torch.rand(1, 128, 60) * 0.2
    colour = torch.linspace(-0.3, 0.3, 128)[None, :, None]
    valid = torch.ones(1, 1, 60)
    plain, changed = (encoding.levelled(x, valid) for x in (features, features + 0.5 + colour))
    torch.testing.assert_close(plain, changed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [100, 4000, 16037])
def test_log_mel_is_the_runtimes(length: int) -> None:
    samples = noise(length)
    ours = augment.log_mel(samples, slaney_filters(16000, 400, 128))
    np.testing.assert_allclose(ours, log_mel(torch.from_numpy(samples)).numpy(), atol=2e-4)


def test_mel_of_a_batch_is_the_runtimes() -> None:
    samples = noise(256 * 40)
    padded = np.pad(samples, PADDING, mode="reflect")
    ours = vocoder_batches.log_mel(torch.from_numpy(padded)[None])[0].numpy()
    np.testing.assert_allclose(ours, prompt_mel(samples), atol=1e-3)


def test_sounds_keep_their_place_when_a_clip_is_moved() -> None:
    samples = np.zeros(16000, np.float32)
    samples[8000:] = 0.5
    for seed in range(8):
        clip = augment.Clip(samples, np.array([0.5, 1.0]))
        moved, plain = augment.moved_in_time(clip, samples, np.random.default_rng(seed))
        assert moved.ends_s is not None
        begins = np.flatnonzero(moved.samples > 0.4)[0] / 16000
        assert abs(begins - moved.ends_s[0]) < 1e-3
        np.testing.assert_array_equal(moved.samples, plain)


def test_rooms_are_heard_at_any_length() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        heard = augment.through_a_room(noise(3001 + seed, seed), [noise(500)], rng)
        assert heard.shape == (3001 + seed,)
        assert np.isfinite(heard).all() and np.abs(heard).max() <= 1


def test_shards_come_back(tmp_path: Path) -> None:
    parts = [shards.to_int16(noise(length)) for length in (400, 900)]
    infos = [{"text": "one"}, {"text": "two"}]
    assert not shards.has_shard(tmp_path, "a", 0)
    shards.write_shard(tmp_path, "a", 0, infos, {"heard": parts})
    assert shards.has_shard(tmp_path, "a", 0)
    found = shards.read_sets(tmp_path, ["a", "b"])
    assert [utterance.info["text"] for utterance in found] == ["one", "two"]
    np.testing.assert_array_equal(found[1].tracks["heard"], parts[1])
    assert np.abs(found[0].samples() - noise(400)).max() < 1e-4


def test_batches_pair_a_disguise_with_its_voice() -> None:
    info = {"text": "a", "phones": [0, 3, 4, 0], "ends_s": [0.1, 0.4, 0.8, 1.0]}
    members = [
        shards.Utterance(name, info, {track: shards.to_int16(noise(16000 + 100 * i)) for track in tracks})
        for name, tracks in (("heart", ["heard"]), ("disguised", ["heard", "plain"]), ("espeak", ["heard"]))
        for i in range(6)
    ]
    batches = unit_batches.UnitBatches(members)
    batch, again = (batches.draw(random.Random(3)) for _ in range(2))
    torch.testing.assert_close(batch.features, again.features)
    assert len(batch.pairs) == len(batch.plain) > 0
    assert batch.frame_phones.shape == (len(batch.features), 2 * -(-batch.features.shape[2] // 4))
    assert batch.num_phones.tolist() == [2] * len(batch.features)
    # In order: silence, the two sounds, silence.
    row = [phone for phone in batch.frame_phones[0].tolist() if phone >= 0]
    assert sorted(set(row), key=row.index) == [0, 3, 4]


def test_recipe_says_what_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "cosyvoice.yaml"
    path.write_text(codec_params.recipe_text())
    params = read_hyperparams(path)
    assert params.flow == codec_params.FLOW
    assert params.hift == codec_params.HIFT


def piece(num_units: int, first: int, num_context: int) -> Any:
    params = codec_params.FLOW
    frames = params.mel_frames(first + num_units) - params.mel_frames(first)
    return flow_batches.Piece(
        torch.randint(0, 1000, (num_units,)), first, num_context, torch.randn(80, frames) - 5
    )


def test_condition_is_the_runtimes() -> None:
    """Of a stream's first chunk and of one that goes on, in one batch."""
    torch.manual_seed(0)
    model = train_flow.new_flow().eval()
    pieces = [piece(15, 0, 0), piece(40, 12, 25)]
    batch = flow_batches.collate(pieces)
    with torch.no_grad():
        mu, speaker = train_flow.condition(model, batch)
    flow = Flow(model, codec_params.FLOW, torch.device("cpu"))
    for row, one in enumerate(pieces):
        context, border = one.num_context, one.context_frames
        wanted = flow.condition(
            [
                FlowInput(
                    units=one.units[context:],
                    embedding=train_flow.speaker_embedding(),
                    noise=torch.zeros_like(one.mel),
                    prompt_units=one.units[:context] if context else None,
                    prompt_mel=one.mel[:, :border] if context else None,
                    span=UnitSpan(one.first, context),
                )
            ]
        )
        frames = one.mel.shape[1]
        torch.testing.assert_close(mu[row, :, :frames], wanted.mu[0], rtol=0, atol=2e-4)
        torch.testing.assert_close(speaker[row], wanted.speaker[0])
        torch.testing.assert_close(batch.prompt[row, :, :frames], wanted.prompt[0])


def test_mel_from_noise_is_the_runtimes() -> None:
    torch.manual_seed(0)
    model = train_flow.new_flow().eval()
    batch = flow_batches.collate([piece(20, 0, 0), piece(12, 0, 0)])
    torch.manual_seed(1)
    made = retouch.retouched(model, batch, 0)
    torch.manual_seed(1)
    noise = torch.randn_like(batch.mel)
    flow = Flow(model, codec_params.FLOW, torch.device("cpu"))
    for row, one in enumerate(batch.pieces):
        frames = one.mel.shape[1]
        wanted = flow.generate(
            [
                FlowInput(
                    units=one.units,
                    embedding=train_flow.speaker_embedding(),
                    noise=noise[row, :, :frames],
                    span=UnitSpan(0, 0),
                )
            ]
        )
        torch.testing.assert_close(made[row, :, :frames], wanted[0], rtol=0, atol=2e-3)


def test_velocity_with_a_time_for_each_row() -> None:
    torch.manual_seed(0)
    estimator = train_flow.new_flow().decoder["estimator"]
    assert isinstance(estimator, UNet)
    x, times = torch.randn(2, 320, 30), torch.tensor([0.1, 0.7])
    with torch.no_grad():
        wanted = [estimator(row[None], bias) for row, bias in zip(x, estimator.time_bias(times), strict=True)]
        for module in estimator.modules():
            if type(module) is ResNet:
                module.__class__ = train_flow.PerRowResNet
        torch.testing.assert_close(
            estimator(x, estimator.time_bias(times).mT), torch.cat(wanted), rtol=0, atol=1e-4
        )


def test_waveform_is_the_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_vocoder, "fast_products", nullcontext)  # float32, whatever the processor
    torch.manual_seed(0)
    hift = train_vocoder.new_vocoder()
    mel, source = torch.randn(1, 80, 20) - 5, torch.randn(1, 256 * 20) * 0.1
    with torch.no_grad():
        ours = train_vocoder.render(hift, mel, source)[0]
        wanted = hift([mel[0]], [source[0]])[0]
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))

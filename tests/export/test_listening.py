"""The bottom layers with the CTC head, exported: what they hear, in ragged batches and golden cases."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoints import RANDOM_MODEL
from golden_cases import cases
from made_once import made_once
from random_checkpoint import CheckpointShape, write_checkpoint
from torch import Tensor

from antiphon.errors import CheckpointError
from antiphon.export.folder import export_parts
from antiphon.export.listening import LISTENING_PART, Heard
from antiphon.export.listening_network import ListeningNetwork
from antiphon.export.model_folder import ModelSource, read_listening
from antiphon.export.part import PRECISIONS, Precision
from antiphon.export.verify import verify
from antiphon.model.checkpoint.quantized_folder import write_quantized
from antiphon.model.schemes import INT8

SIZES = (20, 1, 7)


@pytest.fixture(scope="module")
def golden() -> ModelSource:
    return read_listening(RANDOM_MODEL)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """Three queries share a key, heads are wider than the model, and frequencies are scaled."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    }
    shape = CheckpointShape(
        hidden=36, heads=6, kv_heads=2, head_dim=10, bottom_layers=2, config={"rope_scaling": scaling}
    )
    return read_listening(write_checkpoint(tmp_path_factory.mktemp("odd") / "model", shape))


def module(source: ModelSource, precision: Precision, *given: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return list(ListeningNetwork(source.weights, source.config, PRECISIONS[precision])(*given))


@pytest.mark.parametrize("name", ["golden", "odd"])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_rows_of_a_padded_batch_are_what_the_runtime_hears(
    name: str, precision: Precision, bound: float, request: pytest.FixtureRequest
) -> None:
    source: ModelSource = request.getfixturevalue(name)
    heard = Heard.drawn(source, SIZES, torch.Generator().manual_seed(0))
    results = LISTENING_PART.compare(heard, partial(module, source, precision))
    for result in ("log_probs", "labels"):
        for found, expected in zip(*results[result], strict=True):
            assert (found - expected).abs().max() < bound * max(row.abs().max() for row in heard.log_probs)
    labels, log_probs = module(source, precision, heard.ids, heard.mask)
    assert (labels[heard.mask == 0] == -1).all()
    assert not log_probs[heard.mask == 0].any()
    if precision == "fp32":
        for row, expected in zip(labels, heard.log_probs, strict=True):
            assert row[: len(expected)].tolist() == expected.argmax(1).tolist()


def test_a_token_hears_what_came_before_it(golden: ModelSource) -> None:
    heard = Heard.drawn(golden, (12,), torch.Generator().manual_seed(1))
    whole = module(golden, "fp32", heard.ids, heard.mask)[1]
    start = module(golden, "fp32", heard.ids[:, :5], heard.mask[:, :5])[1]
    torch.testing.assert_close(start, whole[:, :5], rtol=0, atol=1e-4)
    changed = heard.ids.clone()
    changed[0, 0] = golden.config.first_unit_id
    assert not torch.allclose(module(golden, "fp32", changed, heard.mask)[1][:, 5:], whole[:, 5:], atol=1e-2)


def test_other_labels_are_told_by_how_likely_they_are(golden: ModelSource) -> None:
    heard = Heard.drawn(golden, (9,), torch.Generator().manual_seed(2))
    log_probs = heard.log_probs[0][None]
    for given, difference in ((0, 0.0), (1, 1e-3)):
        labels = log_probs.argsort(-1, descending=True)[..., given]
        results = LISTENING_PART.compare(heard, lambda *_, labels=labels: [labels, log_probs])
        (found,), (expected,) = results["labels"]
        assert bool(((expected - found) > difference).all()) == bool(given)
        assert torch.equal(found, log_probs[0].gather(1, labels[0][:, None])[:, 0])


def test_only_its_own_tensors_are_read(golden: ModelSource, odd: ModelSource) -> None:
    assert list(golden.files) == ["config.json", "model.safetensors"]
    assert golden.weights.vision is None
    assert not golden.weights.layers
    assert LISTENING_PART.weights(golden) != LISTENING_PART.weights(odd)


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    write_quantized(RANDOM_MODEL, tmp_path / "int8", INT8)
    with pytest.raises(
        CheckpointError, match=r"bottom_audio_layers.*floating-point weights to export, found"
    ):
        read_listening(tmp_path / "int8")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "model", CheckpointShape())
    tensors = load_file(folder / "model.safetensors")
    tensors["model.audio_norm.weight"][3] = torch.inf
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.audio_norm\.weight: expected finite numbers"):
        read_listening(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(made: Path) -> None:
        export_parts([LISTENING_PART], lambda part: part.read(RANDOM_MODEL), made / "out")

    return made_once(tmp_path_factory, "export_listening", make) / "out"


@pytest.mark.slow
def test_the_file_is_within_its_bounds(exported: Path, golden: ModelSource) -> None:
    rows = list(verify(exported, lambda _: golden, [(1,), (2,), (19, 1, 8)]))
    assert {row.result for row in rows} == {"log_probs", "labels"}
    assert all(row.is_within for row in rows)
    assert any(row.max_error for row in rows)


@pytest.mark.slow
def test_golden_labels(exported: Path) -> None:
    """All prompts of the golden cases as one ragged batch, pictures left out."""
    from antiphon.codec.analysis.onnx_network import OnnxNetwork

    own = [case.data for case in cases() if "prompt_ctc" in case.data]
    ids = [[token for token in case["input_ids"] if token >= 0] for case in own]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [-7] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in ids])
    labels = OnnxNetwork(exported / "listening.onnx").run(padded.numpy(), mask.numpy())
    for row, case in zip(labels.tolist(), own, strict=True):
        assert row[: len(case["prompt_ctc"])] == case["prompt_ctc"], case["name"]
    assert len(own) > 5

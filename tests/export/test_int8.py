"""Which layers of the flow are computed in int8, and what they are calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import RANDOM_CODEC

from antiphon.codec import Codec
from antiphon.codec.flow.flow import FlowInput
from antiphon.errors import ConfigError
from antiphon.export.calibration import Calibration
from antiphon.export.folder import export_flow
from antiphon.export.int8 import Int8Plan, layers, plan_int8, quantized
from antiphon.export.replies import CALIBRATION, SENTENCES, questions_in
from antiphon.export.sources import FlowSource
from antiphon.export.verify import verify


@pytest.fixture(scope="module")
def inputs(codec: Codec) -> list[FlowInput]:
    return [
        codec.decoder.flow_input([(5 * i + k) % 40 for i in range(12)], codec.voice(None), seed=k)
        for k in (0, 1)
    ]


def test_weights_have_a_scale_for_each_channel() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [100.0, 50.0, -127.0]])
    whole, scales = quantized(weight, 0)
    assert whole.dtype == torch.int8
    assert whole.abs().amax(1).tolist() == [127, 0, 127]
    torch.testing.assert_close(whole * scales[:, None], weight, rtol=0, atol=0.51)
    other, same = quantized(weight.T, 1)
    assert torch.equal(other.T, whole)
    assert torch.equal(same, scales)


def test_layers_have_the_names_of_the_graph(source: FlowSource) -> None:
    found = layers(source.estimator)
    parts = [each for own in found.values() for each in own]
    assert len(set(map(id, parts))) == len(parts)
    products = [
        module
        for path, module in source.estimator.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d) and "mlp" not in path
    ]
    assert set(map(id, parts)) == set(map(id, products))
    assert [len(own) for name, own in found.items() if name.endswith("to_qkv")] == [3] * 6


@pytest.mark.slow
def test_the_worst_layers_stay_in_float(source: FlowSource, inputs: list[FlowInput]) -> None:
    """As many as it takes, and those that add the most."""
    before = {name: value.clone() for name, value in source.estimator.state_dict().items()}
    every = plan(source, inputs, 1e9)
    assert set(every.scales) == set(layers(source.estimator))
    assert not every.in_float
    some = plan(source, inputs, every.error / 2)
    assert every.error / 4 < some.error <= every.error / 2
    assert set(some.in_float) | set(some.scales) == set(every.scales)
    assert 0 < len(some.in_float) < len(every.scales) / 2
    assert all(some.scales[name] == every.scales[name] > 0 for name in some.scales)
    assert all(torch.equal(value, before[name]) for name, value in source.estimator.state_dict().items())
    assert some.metadata["antiphon.int8.in_float"].split() == list(some.in_float)


def plan(source: FlowSource, inputs: list[FlowInput], max_error: float) -> Int8Plan:
    return plan_int8(source.model, source.params, inputs, max_error=max_error)


@pytest.mark.slow
def test_an_export_in_int8(source: FlowSource, tmp_path: Path) -> None:
    units = tmp_path / "units.txt"
    units.write_text("1 2 3 4 5 6 7\n\n12, 13, 14\n20\n")
    own = FlowSource(source.params, source.model, source.files, Calibration(RANDOM_CODEC, units))
    export_flow(own, tmp_path / "out", precision="int8", solver=True)
    rows = list(verify(tmp_path / "out", lambda _: own, [(51,), (40, 23)]))
    assert {row.precision for row in rows} == {"int8"}
    assert all(row.is_within for row in rows)
    assert max(row.relative_error for row in rows) > 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 4000\n", r"units\.txt: utterance 2: units: expected numbers 0 to 63, got 3 to 4000"),
        ("\n", r"units\.txt: expected utterances, one in each line, found none"),
        ("\xff", r"units\.txt: expected text in UTF-8"),
        (None, r"units\.txt: expected a file of utterances: No such file"),
    ],
)
def test_wrong_utterances(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "units.txt"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        Calibration(RANDOM_CODEC, path).inputs()


def test_texts_are_heard_by_the_tokenizer_of_another_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the packaged model says to them has no meaning in another codec's units."""

    class Silent(Codec):
        tokenizer = None

        def __init__(self) -> None:
            pass

    path = tmp_path / "texts.txt"
    path.write_text("Say two.\n1 2 3\n")
    silent: Any = Silent()
    monkeypatch.setattr(Codec, "from_pretrained", lambda *_: silent)
    monkeypatch.setattr(Silent, "voice", lambda *_: None)
    with pytest.raises(ConfigError, match=r"expected units alone, .* has no speech tokenizer .* 'Say two\.'"):
        Calibration(RANDOM_CODEC, path).inputs()


def test_what_is_read_from_no_folder_has_no_voice(source: FlowSource, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int8: expected a codec that was read from a folder"):
        export_flow(FlowSource(source.params, source.model, {}), tmp_path / "out", precision="int8")


def test_exports_are_judged_by_what_they_were_not_calibrated_on() -> None:
    asked, others = (questions_in(path.read_text(encoding="utf-8")) for path in (SENTENCES, CALIBRATION))
    assert len(set(asked)) == len(asked) == 80
    assert len(set(others)) == len(others) == 12
    assert not set(asked) & set(others)

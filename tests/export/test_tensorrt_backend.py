"""`vocoder_backend="tensorrt:FOLDER"` on a GPU and with a TensorRT that are stand-ins: the same speech, with
the same laws, and no wait for the device."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import RANDOM_CODEC, RANDOM_MODEL
from fake_gpu import VERSIONS, FakeGpu
from made_once import made_once

from antiphon import Engine, Request, SamplingParams, Units
from antiphon.codec import Codec
from antiphon.codec.exported import Exported, fingerprint
from antiphon.codec.flow.tensorrt_unet import TensorrtUNet
from antiphon.codec.stopping import Stopped, stoppable
from antiphon.codec.tensorrt.library import installed
from antiphon.codec.tensorrt.manifest import manifests
from antiphon.codec.tensorrt.profile import Profile
from antiphon.errors import CheckpointError, ConfigError
from antiphon.export.sources import FlowSource
from antiphon.export.tensorrt.build import build_engine, builder_for
from antiphon.export.tensorrt.running import engines_left_out, engines_that_run
from antiphon.export.verify import verify

UNITS = [(7 * i) % 40 for i in range(45)]
PROFILES = (Profile.parse("1:64:120x1:2:4"), Profile.parse("1:160:180x1:2:2"))
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def engines(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine for each version."""

    def make(made: Path) -> None:
        shutil.copy(fp32 / "flow.onnx", made)
        with pytest.MonkeyPatch.context() as patch:
            gpu = FakeGpu(patch)
            for version in VERSIONS:
                gpu.install(version)
                library, target, is_here = builder_for(None)
                build_engine(made / "flow.onnx", library, target, is_here=is_here, profiles=PROFILES)

    return made_once(tmp_path_factory, "tensorrt_fp32", make)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return FakeGpu(monkeypatch)


@pytest.fixture
def copied(engines: Path, tmp_path: Path) -> Path:
    """An engines' folder that a test may break: of the first version alone."""
    for path in engines.iterdir():
        if VERSIONS[0] in path.name:
            shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_it_makes_the_same_speech(codec: Codec, engines: Path, gpu: FakeGpu, version: str) -> None:
    gpu.install(version)
    built = Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"tensorrt:{engines}")
    velocity = built.decoder.flow.matching.solver.estimator
    assert isinstance(velocity, TensorrtUNet)
    assert velocity.engine.manifest.version == version
    np.testing.assert_allclose(built.mel(UNITS), codec.mel(UNITS), atol=1e-4)

    # Streams have the same samples, whatever the sizes of pushes.
    def pushed(size: int) -> np.ndarray[Any, Any]:
        stream = built.stream(seed=3)
        count = len(UNITS)
        parts = [stream.push(UNITS[i : i + size], final=i + size >= count) for i in range(0, count, size)]
        return np.concatenate(parts)

    assert np.array_equal(pushed(1), pushed(17))


@pytest.mark.slow
def test_rows_of_a_batch_what_takes_turns_and_what_no_profile_holds(
    codec: Codec, engines: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guidance doubles rows: two fill the first profile, three go in turn, and one of 48 units alone fits the
    second. Longer ones are PyTorch's."""
    built = Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"tensorrt:{engines}")
    velocity = built.decoder.flow.matching.solver.estimator
    assert isinstance(velocity, TensorrtUNet)
    calls: list[str] = []

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*given: Any) -> Any:
            calls.append(name)
            return call(*given)

        return noting

    for number, context in enumerate(velocity.engine.contexts):
        monkeypatch.setattr(context, "run", noted(str(number), context.run))
    monkeypatch.setattr(velocity._unet, "forward", noted("torch", velocity._unet.forward))
    for counts, expected in (
        ((30, 13), "0"),
        ((30, 1, 13), "00"),  # four rows, then two
        ((48,), "1"),
        ((48, 30), "11"),
        ((60,), "torch"),
    ):
        rows = [codec.decoder.flow_input((UNITS * 2)[:n], codec.voice(None), seed=n) for n in counts]
        right = codec.decoder.mels(rows)
        calls.clear()
        found = built.decoder.mels(rows)
        assert "".join(calls) == 10 * expected
        for one, other in zip(found, right, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_buffers_and_shapes_are_given_once(
    engines: Path, gpu: FakeGpu, source: FlowSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the solver sets no shape, no address, and allocates nothing but what is split."""
    velocity = TensorrtUNet(source.estimator, engines, CPU)
    context = velocity.engine.contexts[0]._context
    x = torch.randn(2, 320, 21)
    x[:, 160:240] = x[:, 160:240, :1]
    first = velocity(x, torch.tensor([0.3]))
    expected = source.estimator(x, source.estimator.time_bias(torch.tensor([[0.3]]))[0, 0])
    with torch.inference_mode():
        torch.testing.assert_close(first, expected, rtol=0, atol=1e-4)
    for name in ("set_input_shape", "set_tensor_address", "set_device_memory"):
        monkeypatch.setattr(context, name, lambda *_: pytest.fail("it was set already"))
    again = velocity(x + 1, torch.tensor([0.5]))
    assert again.data_ptr() == first.data_ptr()
    assert context.active_optimization_profile == 0
    assert velocity.engine.contexts[1]._context.active_optimization_profile == 1
    assert velocity.engine._memory.numel() == velocity.engine.memory_bytes  # of the larger profile, for both


@pytest.mark.slow
def test_a_decode_is_stopped_between_two_steps(engines: Path, gpu: FakeGpu) -> None:
    built = Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=f"tensorrt:{engines}")
    asked = iter([False] * 10)  # of the encoder's layers, and of some steps
    with pytest.raises(Stopped), stoppable(lambda: next(asked, True)):
        built.mel(UNITS)


@pytest.mark.slow
def test_an_engine_speaks_with_it(engines: Path, gpu: FakeGpu) -> None:
    request = Request(
        [Units([1, 2, 3])], modalities=("text", "audio"), sampling_params=SamplingParams(max_units=20)
    )
    speech = []
    for backend in ("torch", f"tensorrt:{engines}"):
        with Engine(
            RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", vocoder_backend=backend, progress=False
        ) as engine:
            (done,) = engine.generate(request)
            assert done.audio is not None
            speech.append(done.audio)
    assert speech[0].shape == speech[1].shape
    assert len(speech[0])


@pytest.mark.slow
def test_engines_that_do_not_run_here(
    copied: Path, gpu: FakeGpu, source: FlowSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is refused with the command that builds one that does, which is then what runs."""
    unet = source.estimator

    def refused(error: type[Exception], message: str) -> str:
        with pytest.raises(error, match=message) as caught:
            TensorrtUNet(unet, copied, CPU)
        return str(caught.value)

    command = f"to build one: antiphon export engine {copied} --target sm80 {Profile.options(PROFILES)}"
    gpu.install("10.15.0.6")
    shown = refused(
        CheckpointError, r"expected one for sm80 and tensorrt 10\.15\.0\.6, found flow\.sm80\.tenso"
    )
    assert shown.endswith(command)
    gpu.install(None)
    shown = refused(CheckpointError, r"expected the package tensorrt, which is not installed: pip install")
    assert shown.endswith(command)
    gpu.install(VERSIONS[0])
    gpu.replace((9, 0))
    shown = refused(CheckpointError, r"expected one for sm90 and tensorrt .*, found .* \(sm80, tensorrt 10")
    assert shown.endswith(command.replace("sm80", "sm90"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(ConfigError, "tensorrt: expected a CUDA device, found none")


@pytest.mark.slow
def test_folders_and_engines_that_are_wrong(copied: Path, gpu: FakeGpu, source: FlowSource) -> None:
    monkeypatch = pytest.MonkeyPatch()
    unet, (manifest,) = source.estimator, manifests(copied)

    def refused(message: str, folder: Path = copied) -> None:
        with pytest.raises(CheckpointError, match=message):
            TensorrtUNet(unet, folder, CPU)

    refused("expected a folder with an engine that `antiphon export` built, found no folder", copied / "no")
    refused("expected an engine, found none; to build one .*: antiphon export engine", RANDOM_CODEC)
    engine, file = copied / manifest.engine, copied / manifest.file
    content, about = engine.read_bytes(), json.loads(file.read_text())
    engine.write_bytes(content[:-1])
    refused(r"expected sha256 \w{12}\.\.\., found \w{12}\.\.\.; to build it again: antiphon export engine")

    def change(engine_content: bytes, **fields: Any) -> None:
        digest = hashlib.sha256(engine_content).hexdigest()
        engine.write_bytes(engine_content)
        file.write_text(json.dumps(about | {"engine_sha256": digest} | fields))

    change(b"{}\n")
    refused("expected an engine that tensorrt 10.16.1.11 takes: ERROR: Serialization assertion")
    change(content.replace(b"[4, 80, 120]", b"[4, 80, 121]"))
    refused(r"expected profile 1:64:120x1:2:4, for '\w+' .*\(4, 80, 120\)\], found .*\(4, 80, 121\)\]")
    change(content.replace(b"velocity", b"velocitY"))
    refused("expected the tensors x, mask, mu, t, speaker, prompt, velocity, found mask, mu, .* velocitY, x")
    file.write_text(json.dumps(about))
    engine.write_bytes(content)
    trt = installed("tensorrt").module
    for kind, message in (
        (trt.DataType.HALF, "expected inputs and outputs of FLOAT, INT32, INT64, found 'mask' of HALF"),
        (trt.DataType.INT32, "expected inputs and outputs of float32, but not 'mask'"),
    ):
        monkeypatch.setattr(trt.ICudaEngine, "get_tensor_dtype", lambda _, name, kind=kind: kind)
        refused(message)
    monkeypatch.undo()
    change(content, weights="ab" * 32)
    refused("weights: expected .*, those of this codec, found 'abababababab'; export it again")
    change(content, kind="solver")
    refused("expected an engine, found none")
    engine.unlink()
    file.write_text(json.dumps(about))
    refused("no such file, expected an engine of TensorRT")


def test_what_it_does_not_run_on(tmp_path: Path) -> None:
    given = f"tensorrt:{tmp_path}"
    with pytest.raises(
        ConfigError, match=r"^backend: expected torch or onnxruntime:FOLDER on cpu, got 'tensorrt:"
    ):
        Codec.from_pretrained(RANDOM_CODEC, "cpu", backend=given)
    with pytest.raises(
        ConfigError, match=r"^vocoder_backend: expected torch or onnxruntime:FOLDER on cpu, got"
    ):
        Engine(RANDOM_MODEL, codec=RANDOM_CODEC, device="cpu", vocoder_backend=given)
    onnx = Exported("onnxruntime", tmp_path)
    with pytest.raises(
        ConfigError, match=r"^backend: expected torch or tensorrt:FOLDER on cuda, got 'onnxruntime"
    ):
        onnx.check_place("backend", torch.device("cuda"))
    assert Exported.parse("backend", given) == Exported("tensorrt", tmp_path)


def test_an_engine_is_of_one_codec(source: FlowSource, engines: Path) -> None:
    weights = fingerprint(source.estimator.params, source.estimator)
    assert {each.weights for each in manifests(engines)} == {weights}


@pytest.mark.slow
def test_engines_are_compared_with_pytorch(engines: Path, gpu: FakeGpu, source: FlowSource) -> None:
    """That of the version that is here, at what its profiles hold; the other one is named."""
    rows = list(verify(engines, lambda _: source, [(7,), (9, 1, 4), (3, 3, 3, 3, 3)]))
    manifest = next(each for each in manifests(engines) if each.version == VERSIONS[0])
    own = [row for row in rows if row.file == manifest.engine]
    assert {row.sizes for row in own} == {(7,), (9, 1, 4)}
    assert {row.result for row in own} == {"velocity", "mel"}
    assert all(row.is_within for row in own)
    assert {row.sizes for row in rows if row.file == "flow.onnx"} >= {(3, 3, 3, 3, 3)}
    ((name, why),) = engines_left_out(engines)
    assert VERSIONS[1] in name
    assert why == f"it is for tensorrt {VERSIONS[1]}, and tensorrt {VERSIONS[0]} is installed"
    gpu.install(None)
    assert all("tensorrt, which is not installed" in why for _, why in engines_left_out(engines))
    gpu.replace((9, 0))
    assert {why for _, why in engines_left_out(engines)} == {
        "it is for sm80, and the GPU of this machine is sm90"
    }
    assert not list(engines_that_run(engines, "flow"))


def test_without_a_gpu_no_engine_is_run(engines: Path) -> None:
    assert [why for _, why in engines_left_out(engines)] == ["it needs a GPU (sm80)"] * 2

"""A stand-in for TensorRT's Python package, by the documentation of its interfaces 10 and 11.

Only what is documented has a name here, so that a name that an interface lacks is an AttributeError, as it
would be with the real one. ONNX Runtime computes what an engine would. What a device would fail at fails:
addresses that are not aligned, shapes outside of the profile, memory that was not given, an engine of another
version or GPU. What `execute_async_v3` is given is computed when another stream waits for its stream, so that
a missing wait leaves what was there before.

FAKE_TENSORRT: the version, 10.16.1.11 if not given. FAKE_CAPABILITY: that of the GPU, 8.0 if not given.
FAKE_FAILURE: crash, hang, refuse or parse.

11 lacks what 10 had for weak typing and for an implicit batch: the builder's flags of precisions, the
calibrator, EXPLICIT_BATCH, `platform_has_fast_fp16`, and the sizes of memory in 32 bits.
"""

from __future__ import annotations

import ctypes
import enum
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

__version__ = os.environ.get("FAKE_TENSORRT", "10.16.1.11")
MAJOR = int(__version__.split(".")[0])
CAPABILITY = os.environ.get("FAKE_CAPABILITY", "8.0")
FAILURE = os.environ.get("FAKE_FAILURE", "")
ALIGNMENT = 64
"""Of what torch allocates on a CPU; of a GPU, 256"""
BYTES_PER_FRAME = 64
"""Made up: what a row's frame takes of an execution context's memory."""


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4, FP4, E8M0 = range(12)


KINDS = {"FLOAT16": "HALF", "BFLOAT16": "BF16", "DOUBLE": "FLOAT"}
"""ONNX's names where they differ; of float64, the parser makes float32."""
ARRAYS = {DataType.FLOAT: np.float32, DataType.INT32: np.int32, DataType.INT64: np.int64}
"""What the memory of inputs and outputs is read as."""


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class BuilderFlag(enum.IntEnum):
    TF32, REFIT, DISABLE_TIMING_CACHE, VERSION_COMPATIBLE, STRIP_PLAN = range(5)
    if MAJOR < 11:
        FP16, INT8, BF16, FP8, OBEY_PRECISION_CONSTRAINTS = range(5, 10)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    if MAJOR < 11:
        EXPLICIT_BATCH = 0
    STRONGLY_TYPED = int(MAJOR < 11)


LAYERS = {
    "MatMul": "MATRIX_MULTIPLY",
    "Gemm": "MATRIX_MULTIPLY",
    "Softmax": "SOFTMAX",
    "LayerNormalization": "NORMALIZATION",
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Cast": "CAST",
}


class LayerType(enum.Enum):
    MATRIX_MULTIPLY, SOFTMAX, NORMALIZATION, CONVOLUTION, DECONVOLUTION, CAST, ELEMENTWISE = range(7)


class ITensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        self.name = value.name
        self.shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
        self._axes = tuple(size.dim_param for size in kind.shape.dim)
        name = onnx.TensorProto.DataType.Name(kind.elem_type)
        self.dtype = DataType[KINDS.get(name, name)]


class ILayer:
    def __init__(self, node: onnx.NodeProto, outputs: Sequence[ITensor]) -> None:
        self.name = node.name
        self.type = LayerType[LAYERS.get(node.op_type, "ELEMENTWISE")]
        self._outputs = outputs

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self._model = onnx.ModelProto()
        self._layers: list[ILayer] = []

    def get_flag(self, flag: NetworkDefinitionCreationFlag) -> bool:
        return MAJOR >= 11 or bool(self.flags & 1 << int(flag))

    @property
    def num_inputs(self) -> int:
        return len(self._model.graph.input)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._model.graph.input[index])

    @property
    def num_outputs(self) -> int:
        return len(self._model.graph.output)

    def get_output(self, index: int) -> ITensor:
        return ITensor(self._model.graph.output[index])

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def _take(self, model: onnx.ModelProto) -> None:
        self._model = model
        inferred = onnx.shape_inference.infer_shapes(model)
        values = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
        for node in model.graph.node:
            outputs = [ITensor(values[name]) for name in node.output if name in values]
            self._layers.append(ILayer(node, outputs))


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[str] = []

    def parse_from_file(self, model: str) -> bool:
        if FAILURE == "parse":
            self._errors.append("In node 3 with name: and operator: Odd (checkFallback): UNSUPPORTED_NODE")
            return False
        self._network._take(onnx.load(model))
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002  # its names
        shapes = [tuple(each) for each in (min, opt, max)]
        if any(not low <= usual <= high for low, usual, high in zip(*shapes, strict=True)):
            raise ValueError(f"{input}: inconsistent shapes {shapes}")
        self._shapes[input] = shapes


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content


class IBuilderConfig:
    def __init__(self) -> None:
        self._flags = {BuilderFlag.TF32}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self.progress_monitor: IProgressMonitor | None = None
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self._flags

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._content and not cache._content.startswith(CAPABILITY.encode()):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class IHostMemory(bytearray):
    @property
    def nbytes(self) -> int:
        return len(self)


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        if MAJOR >= 11 and flags:
            warnings.warn("STRONGLY_TYPED: deprecated in TensorRT 11.0", DeprecationWarning, stacklevel=2)
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            monitor.step_complete("Building engine", 0)
        self.logger.log(ILogger.Severity.VERBOSE, "a great deal")
        compiling = f"Compiling for {CAPABILITY}"
        self.logger.log(ILogger.Severity.INFO, compiling)
        if FAILURE == "crash":
            sys.stdout.write("terminate called after throwing an instance of 'nvinfer1::Oops'\n")
            sys.stdout.flush()
            os.abort()
        if FAILURE == "hang":
            time.sleep(600)
        if FAILURE == "refuse":
            self.logger.log(ILogger.Severity.ERROR, "Error Code 10: Could not find any implementation")
            return None
        if monitor is not None:
            monitor.phase_finish("Building engine")
        if config._cache is not None:
            last = int((config._cache._content or b"- 0").split()[1])
            config._cache._content = f"{CAPABILITY} {last + 1}".encode()
        about = {
            "version": __version__,
            "capability": CAPABILITY,
            "profiles": [each._shapes for each in config._profiles],
            "is_strongly_typed": network.get_flag(NetworkDefinitionCreationFlag.STRONGLY_TYPED),
            "has_tf32": config.get_flag(BuilderFlag.TF32),
            "verbosity": config.profiling_verbosity.name,
        }
        return IHostMemory(json.dumps(about).encode() + b"\n" + network._model.SerializeToString())


if MAJOR < 11:
    Builder.platform_has_fast_fp16 = True  # type: ignore[attr-defined]
    IBuilderConfig.int8_calibrator = None  # type: ignore[attr-defined]


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        header, _, content = bytes(serialized_engine).partition(b"\n")
        try:
            about = json.loads(header)
        except ValueError:
            about = {}
        if (about.get("version"), about.get("capability")) != (__version__, CAPABILITY):
            text = "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed"
            self._logger.log(ILogger.Severity.ERROR, text)
            return None
        return ICudaEngine(about, content, self._logger)


class ICudaEngine:
    def __init__(self, about: dict[str, Any], content: bytes, logger: ILogger) -> None:
        import onnxruntime

        self._about, self._logger = about, logger
        graph = onnx.load_from_string(content).graph
        self._inputs = {value.name: ITensor(value) for value in graph.input}
        self._outputs = {value.name: ITensor(value) for value in graph.output}
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        names: list[str] = sorted((*self._inputs, *self._outputs))  # an order of its own
        return names[index]

    def _tensor(self, name: str) -> ITensor:
        return self._inputs[name] if name in self._inputs else self._outputs[name]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensor(name).dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._about["profiles"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(each) for each in self._about["profiles"][profile_index][name]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        shapes = self._about["profiles"][profile_index].values()
        count: int = max(math.prod(most) for _, _, most in shapes)
        return BYTES_PER_FRAME * count

    @property
    def device_memory_size_v2(self) -> int:
        counts = range(self.num_optimization_profiles)
        return max(self.get_device_memory_size_for_profile_v2(i) for i in counts)

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext:
        return IExecutionContext(self, strategy)


if MAJOR < 11:
    ICudaEngine.device_memory_size = ICudaEngine.device_memory_size_v2  # type: ignore[attr-defined]


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self.engine = engine
        self.active_optimization_profile = 0
        self._has_memory = strategy is not ExecutionContextAllocationStrategy.USER_MANAGED
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def _refuse(self, text: str) -> bool:
        self.engine._logger.log(ILogger.Severity.ERROR, text)
        return False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % ALIGNMENT == 0 or memory == 0
        self._has_memory = size >= self.engine.device_memory_size_v2

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.active_optimization_profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, self.active_optimization_profile)
        if len(shape) != len(least) or any(
            not low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        ):
            return self._refuse(f"{name}: shape {shape} is not within {least} and {most}")
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Axes of a name that an input has, too, are as long as there; others as the network makes them."""
        sizes: dict[str, int] = {}
        for own, shape in self._shapes.items():
            axes = self.engine._tensor(own)._axes
            sizes |= {axis: size for axis, size in zip(axes, shape, strict=True) if axis}
        tensor = self.engine._tensor(name)
        shape = tuple(sizes.get(axis, size) for axis, size in zip(tensor._axes, tensor.shape, strict=True))
        if -1 not in shape:
            return shape
        zeros = {own: np.zeros(shape, self._array(own)) for own, shape in self._shapes.items()}
        (result,) = self.engine._session.run([name], zeros)
        return np.asarray(result).shape

    def _array(self, name: str) -> Any:
        return ARRAYS[self.engine.get_tensor_dtype(name)]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % ALIGNMENT:
            return self._refuse(f"{name}: address {memory:#x} is not aligned")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        names = (*self.engine._inputs, *self.engine._outputs)
        if not self._has_memory or any(name not in self._addresses for name in names):
            return self._refuse("Parameter check failed: device memory or an address is missing")
        if any(name not in self._shapes for name in self.engine._inputs):
            return self._refuse("Parameter check failed: a shape is missing")
        if stream_handle == 0:
            warnings.warn("the default stream: additional synchronization", stacklevel=2)
        shapes, addresses = dict(self._shapes), dict(self._addresses)

        def compute() -> None:
            given = {
                name: _at(addresses[name], shapes[name], self._array(name)).copy()
                for name in self.engine._inputs
            }
            for name, result in zip(
                self.engine._outputs, self.engine._session.run(list(self.engine._outputs), given), strict=True
            ):
                found = np.asarray(result)
                _at(addresses[name], found.shape, self._array(name))[:] = found

        streams = sys.modules["fake_cuda"].STREAMS
        streams[stream_handle].jobs.append(compute)
        return True


def _at(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray[Any, Any]:
    """Memory as an array"""
    size = math.prod(shape) * np.dtype(kind).itemsize
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memoryview(memory), dtype=kind).reshape(shape)

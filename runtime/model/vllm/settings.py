"""What `text_backend_args` may say, checked, and what vLLM is told beside it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from antiphon.config import EngineConfig, ModelConfig
from antiphon.errors import CheckpointError, ConfigError
from antiphon.files.checkpoint import read_json, shown
from antiphon.model.checkpoint.shards import read_headers
from antiphon.plain import kind
from antiphon.plain import shown as shown_value

__all__ = ["VllmSettings", "check_llm_folder"]

WHERE = "text_backend_args"
MAX_ARGUMENTS = 200
MAX_CHARS = 100_000
OURS = ("enable_prompt_embeds", "skip_tokenizer_init", "tokenizer", "runner")
"""Arguments of vLLM that follow from what it is used for."""
GPU_SHARE = 0.5
"""Of a GPU's memory: the rest is for the speech layers, their cache and the codec."""
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers")
NORMS = ("model.norm.weight", "model.layers.0.input_layernorm.weight")
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker is a process of its own already
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
CACHES = {"VLLM_CACHE_ROOT": "vllm", "VLLM_CONFIG_ROOT": "config", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
PATHS_OF_PYTHON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class VllmSettings:
    """`text_backend_args`."""

    python: str = sys.executable
    """The interpreter that has vLLM"""
    model: Path | None = None
    """A folder that `antiphon export llm` has written; None: written at load, removed at the end"""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its process, beside those of this one"""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """EngineArgs of vLLM"""

    @classmethod
    def parse(cls, value: object) -> VllmSettings:
        """Raises ConfigError for what is not of this form, and if there is no vLLM to run."""
        given = _mapping(WHERE, {} if value is None else value)
        for name in OURS:
            if name in given:
                raise ConfigError(f"{WHERE}: {name} is set by the text backend itself, got it given")
        python = given.pop("python", sys.executable)
        model = given.pop("model", None)
        env = _mapping(f"{WHERE}['env']", given.pop("env", {}))
        for name, text in env.items():
            if type(text) is not str or "\0" in name + text or "=" in name or not name:
                raise ConfigError(
                    f"{WHERE}['env']: expected names and strings, got {shown_value([name, text])}"
                )
        try:
            plain = json.loads(json.dumps(given, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            raise ConfigError(
                f"{WHERE}: expected values that JSON has, got {shown_value(list(given))}"
            ) from None
        return cls(_interpreter(python), None if model is None else _folder(model), env, plain)

    def engine_args(
        self, folder: Path, config: EngineConfig, dtype: torch.dtype, device: torch.device
    ) -> dict[str, Any]:
        """What `EngineArgs` gets: our own settings, where nothing else was given."""
        found: dict[str, Any] = {
            "dtype": str(dtype).removeprefix("torch."),
            "max_model_len": config.max_model_len,
            "max_num_seqs": config.max_num_seqs,
            "enable_prefix_caching": config.enable_prefix_caching,
            "enforce_eager": config.enforce_eager,
            "seed": config.seed % 2**31,
            "disable_log_stats": True,
        }
        if device.type == "cuda":
            found["gpu_memory_utilization"] = GPU_SHARE
        fixed = {"model": str(folder), "enable_prompt_embeds": True, "skip_tokenizer_init": True}
        return found | dict(self.arguments) | fixed

    def environment(self, caches: Path) -> dict[str, str]:
        """The variables of its process. caches: a folder for what vLLM keeps, unless the environment says
        where."""
        own = dict(os.environ)
        if self.python != sys.executable:  # these name the packages of this one
            own = {name: text for name, text in own.items() if name not in PATHS_OF_PYTHON}
        kept = {variable: str(caches / name) for variable, name in CACHES.items()}
        return QUIET | kept | own | dict(self.env)


def check_llm_folder(folder: Path, checkpoint: Path, config: ModelConfig) -> None:
    """Raise CheckpointError unless a folder holds the LLM of this checkpoint: its sizes and its norms, which
    quantizing leaves as they are, tell."""
    found = read_json(folder / "config.json")
    expected = config.text_vocab_size, config.hidden_size, config.num_hidden_layers
    for name, size in zip(SIZES, expected, strict=True):
        if found.get(name) != size:
            raise CheckpointError(
                f"{folder / 'config.json'}: {name}: expected {size}, as the LLM of {checkpoint} has, "
                f"found {shown(found.get(name))}"
            )
    theirs, ours = read_headers(folder), read_headers(checkpoint)
    for name in NORMS:
        entry = theirs.entries.get(name)
        if entry is None or entry.shape != (config.hidden_size,):
            raise CheckpointError(
                f"{theirs.path}: expected {name} ({config.hidden_size},), found no such tensor"
            )
    norms = [dict(files.read(list(NORMS))) for files in (theirs, ours)]
    for name in NORMS:
        one, other = (tensors[name].float() for tensors in norms)
        if not torch.allclose(one, other, rtol=2**-7, atol=1e-6):  # it may be in bfloat16
            raise CheckpointError(
                f"{theirs.path}: {name}: expected that of {checkpoint}, found other numbers"
            )


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not issubclass(type(value), Mapping):
        raise ConfigError(f"{where}: expected a dict, got {kind(value)}")
    try:
        found = dict(islice(value.items(), MAX_ARGUMENTS + 1))
    except Exception as error:
        raise ConfigError(f"{where}: it cannot be read") from error
    if len(found) > MAX_ARGUMENTS:
        raise ConfigError(f"{where}: expected at most {MAX_ARGUMENTS} entries, got more")
    for name, entry in found.items():
        if type(name) is not str or not 0 < len(name) <= MAX_CHARS:
            raise ConfigError(f"{where}: expected names that are str, got {shown_value(name)}")
        if type(entry) is str and len(entry) > MAX_CHARS:
            raise ConfigError(
                f"{where}: {shown_value(name)}: expected at most {MAX_CHARS} characters, got more"
            )
    return found


def _interpreter(python: Any) -> str:
    if not issubclass(type(python), (str, os.PathLike)):
        raise ConfigError(f"{WHERE}['python']: expected the path of a Python, got {kind(python)}")
    path: str | None = shutil.which(os.fspath(python))
    if path is None:
        raise ConfigError(
            f"{WHERE}['python']: expected the path of a Python, found no program {shown_value(python)}"
        )
    if path == sys.executable and find_spec("vllm") is None:
        raise ConfigError(
            "text_backend: 'vllm' needs the package vllm, which is not installed: pip install "
            f"'antiphon[vllm]', or name the Python of an environment that has it in {WHERE}['python']"
        )
    return path


def _folder(model: Any) -> Path:
    if not issubclass(type(model), (str, os.PathLike)):
        raise ConfigError(f"{WHERE}['model']: expected the path of a folder, got {kind(model)}")
    path = Path(model)
    if not path.is_dir():
        raise ConfigError(
            f"{WHERE}['model']: expected a folder of `antiphon export llm`, got {shown_value(str(path))}"
        )
    return path.absolute()

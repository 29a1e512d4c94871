"""A stand-in for vLLM's documented interface (`LLMEngine`, `EngineArgs`, `SamplingParams`), in processes of
tests: a plain Llama in float64, written down from the folder alone (arXiv 2302.13971), which picks the
likeliest ids.

It keeps what it was asked in the file that FAKE_VLLM_NOTES names, and fails as FAKE_VLLM_FAULT says: "load",
"step 3" (raises in that step) or "exit 3" (the process ends there).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

RequestOutputKind: Any = import_module("vllm.sampling_params").RequestOutputKind
__version__ = "0.0.fake"
__all__ = ["EngineArgs", "LLMEngine", "SamplingParams"]

BLOCK_SIZE = 16


@dataclass
class EngineArgs:
    model: str
    dtype: str = "auto"
    max_model_len: int = 1 << 20
    max_num_seqs: int = 8
    seed: int = 0
    enable_prompt_embeds: bool = False
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    skip_tokenizer_init: bool = False
    disable_log_stats: bool = False
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    detokenize: bool = True
    output_kind: Any = RequestOutputKind.CUMULATIVE


@dataclass
class CompletionOutput:
    token_ids: list[int]


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int | None


@dataclass
class Sequence:
    params: SamplingParams
    x: np.ndarray
    """What the model reads (positions, hidden)"""
    num_cached: int
    cache: list[np.ndarray | None]
    num_new: int = 0


class Renderer:
    def render_cmpl(self, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [prompt | {"is_rendered": True} for prompt in prompts]


class LLMEngine:
    def __init__(self, arguments: EngineArgs) -> None:
        assert arguments.skip_tokenizer_init and arguments.enable_prompt_embeds
        folder = Path(arguments.model)
        self.renderer = Renderer()
        self._arguments = arguments
        self._config = json.loads((folder / "config.json").read_text())
        self._weights: dict[str, np.ndarray] = {}
        for path in folder.glob("*.safetensors"):
            self._weights |= {name: tensor.astype(np.float64) for name, tensor in load_file(path).items()}
        self._sequences: dict[str, Sequence] = {}
        self._seen: list[list[int]] = []
        self._num_steps = 0
        self._note("args", asdict(arguments))
        kind, _, count = os.environ.get("FAKE_VLLM_FAULT", "").partition(" ")
        self._fault = kind, int(count or 0)

    @classmethod
    def from_engine_args(cls, arguments: EngineArgs) -> LLMEngine:
        if os.environ.get("FAKE_VLLM_FAULT") == "load":
            raise RuntimeError("no such accelerator")
        print("loading the model", flush=True)  # noqa: T201
        return cls(arguments)

    def add_request(self, name: str, prompt: dict[str, Any], params: SamplingParams) -> None:
        assert prompt["is_rendered"] and params.output_kind is RequestOutputKind.DELTA
        assert name not in self._sequences and params.ignore_eos and not params.detokenize
        ids = prompt.get("prompt_token_ids")
        settings = asdict(params) | {"output_kind": None}
        self._note("ask", {"embeds": ids is None, "params": settings})
        if ids is None:
            x = prompt["prompt_embeds"].numpy().astype(np.float64)
        else:
            x = self._weights["model.embed_tokens.weight"][ids]
        if len(x) >= self._arguments.max_model_len:
            raise ValueError(f"the prompt has {len(x)} positions, more than {self._arguments.max_model_len}")
        layers = self._config["num_hidden_layers"]
        self._sequences[name] = Sequence(params, x, self._num_cached(ids or []), [None] * layers)

    def abort_request(self, names: list[str]) -> None:
        self._note("abort", names)
        for name in names:
            self._sequences.pop(name, None)

    def reset_prefix_cache(self) -> bool:
        self._seen.clear()
        self._note("forget", None)
        return True

    def has_unfinished_requests(self) -> bool:
        return bool(self._sequences)

    def step(self) -> list[RequestOutput]:
        self._num_steps += 1
        if self._num_steps == self._fault[1]:
            if self._fault[0] == "exit":
                print("a kernel has failed", flush=True)  # noqa: T201
                os._exit(7)
            raise RuntimeError("out of memory")
        outputs = []
        for name, one in list(self._sequences.items()):
            token = self._likeliest(one)
            one.x = self._weights["model.embed_tokens.weight"][[token]]
            one.num_new += 1
            stops = token in one.params.stop_token_ids or one.num_new >= one.params.max_tokens
            assert one.cache[0] is not None
            length = one.cache[0].shape[1] + 1
            if finished := stops or length >= self._arguments.max_model_len:
                del self._sequences[name]
            outputs.append(RequestOutput(name, [CompletionOutput([token])], finished, one.num_cached))
        return outputs

    def _num_cached(self, ids: list[int]) -> int:
        if not self._arguments.enable_prefix_caching:
            return 0
        most = 0
        for other in self._seen:
            pairs = enumerate(zip(ids, other, strict=False))
            same = next((place for place, (a, b) in pairs if a != b), min(len(ids), len(other)))
            most = max(most, min(same, len(ids) - 1) // BLOCK_SIZE * BLOCK_SIZE)
        self._seen.append(ids)
        return most

    def _note(self, what: str, about: Any) -> None:
        if notes := os.environ.get("FAKE_VLLM_NOTES"):
            with Path(notes).open("a", encoding="utf-8") as file:
                file.write(json.dumps([what, about]) + "\n")

    # --- the Llama ----------------------------------------------------------------------------

    def _likeliest(self, one: Sequence) -> int:
        x = one.x
        for number in range(self._config["num_hidden_layers"]):
            x = self._layer(f"model.layers.{number}", number, x, one)
        logits = self._product("lm_head", self._norm("model.norm", x[-1:]))
        return int(logits.argmax())

    def _layer(self, layer: str, number: int, x: np.ndarray, one: Sequence) -> np.ndarray:
        config = self._config
        heads, kv_heads, size = (
            config[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim")
        )
        before = one.cache[number]
        start = 0 if before is None else before.shape[1]
        normed = self._norm(f"{layer}.input_layernorm", x)
        q, k, v = (
            self._product(f"{layer}.self_attn.{name}_proj", normed).reshape(len(x), -1, size)
            for name in "qkv"
        )
        q, k = (self._rotated(part, start) for part in (q, k))
        kv = np.stack([k, v])
        kv = one.cache[number] = kv if before is None else np.concatenate([before, kv], 1)
        k, v = (part.repeat(heads // kv_heads, 1).transpose(1, 0, 2) for part in kv)
        scores = q.transpose(1, 0, 2) @ k.transpose(0, 2, 1) / size**0.5
        future = np.arange(kv.shape[1])[None] > start + np.arange(len(x))[:, None]
        scores = np.where(future, -np.inf, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + self._product(f"{layer}.self_attn.o_proj", mixed.transpose(1, 0, 2).reshape(len(x), -1))
        normed = self._norm(f"{layer}.post_attention_layernorm", x)
        gate = self._product(f"{layer}.mlp.gate_proj", normed)
        gate = gate / (1 + np.exp(-gate)) * self._product(f"{layer}.mlp.up_proj", normed)
        return np.asarray(x + self._product(f"{layer}.mlp.down_proj", gate))

    def _product(self, name: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ self._weights[f"{name}.weight"].T)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        rms = np.sqrt((x**2).mean(-1, keepdims=True) + self._config["rms_norm_eps"])
        return np.asarray(x / rms * self._weights[f"{name}.weight"])

    def _rotated(self, x: np.ndarray, start: int) -> np.ndarray:
        size = x.shape[-1]
        rates = self._config["rope_theta"] ** -(np.arange(0, size, 2) / size)
        if scaling := self._config["rope_scaling"]:
            turns = scaling["original_max_position_embeddings"] * rates / (2 * np.pi)
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            share = np.clip((turns - low) / (high - low), 0, 1)
            rates = rates * (share + (1 - share) / scaling["factor"])
        angles = (start + np.arange(len(x)))[:, None, None] * rates
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = np.split(x, 2, -1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

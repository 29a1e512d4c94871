"""The LLM of a Stream-Omni checkpoint as a folder of its own, which Hugging Face and vLLM load as a Llama.

Its layers lie between the speech layers, and Stream-Omni's training keeps them as they were in form: the same
names, shapes and rotary embedding (arXiv 2506.13642). So nothing is computed here; tensors are copied.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antiphon.config import ModelConfig
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import is_there, read_json
from antiphon.files.writing import folder_written_whole
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import Progress, checked_files, reporting
from antiphon.model.checkpoint.shards import INDEX, SINGLE, TensorFiles

__all__ = ["WrittenLlm", "export_llm"]

MAX_SHARD_BYTES = 2 * 2**30
"""A shard is in memory while it is written."""
QUANTIZATION = "quantization_config"
TEXT = ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
COPIED = (
    "generation_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
)
MAX_TOKENIZER_BYTES = 64 * 2**20


@dataclass(frozen=True)
class WrittenLlm:
    """What was written."""

    path: Path
    num_bytes: int
    """Of the weights"""
    num_files: int


def export_llm(
    source: Path,
    target: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: bool | Progress = False,
) -> WrittenLlm:
    """Write the LLM of the checkpoint `source` as the folder `target`: the text embeddings, the layers, the
    norm after them and the head, in the precision that they are stored in, int8 included.

    Its tokenizer has all tokens below the size of the text table; units are not among them.

    Args:
        max_shard_bytes: bound on the tensors of one file, unless it holds only one.
        progress: see `load_weights`.

    Raises:
        CheckpointError: `source` cannot be loaded.
        OSError: `target` exists, or cannot be written.
    """
    config = read_config(source)
    files, _ = checked_files(source, config)
    names = [name for name in files.entries if name.startswith(TEXT)]
    with folder_written_whole(target) as folder:
        num_bytes, num_files = _write_weights(folder, files, names, max_shard_bytes, progress)
        _write_json(folder / "config.json", _config(source, config, files, names))
        _write_tokenizer(source, folder, config.text_vocab_size)
        for name in COPIED:
            if is_there(source / name):
                shutil.copyfile(source / name, folder / name)
    return WrittenLlm(target, num_bytes, num_files)


def _config(source: Path, config: ModelConfig, files: TensorFiles, names: list[str]) -> dict[str, Any]:
    """A Hugging Face Llama's, in the keys that all versions of transformers read."""
    stored = {files.entries[name].dtype for name in names} & DTYPES.keys()
    stop_ids = sorted(config.stop_token_ids)
    scaling = config.rope_scaling
    found: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": stop_ids[0] if len(stop_ids) == 1 else stop_ids,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "mlp_bias": False,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None
        if scaling is None
        else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position_embeddings,
        },
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": DTYPES[min(stored)] if len(stored) == 1 else "float32",
        "use_cache": True,
        "vocab_size": config.text_vocab_size,
    }
    quantization = read_json(source / "config.json").get(QUANTIZATION)
    if isinstance(quantization, dict):
        modules = {name.removesuffix(".weight") for name in names}
        ignored = quantization.get("ignore") or []
        kept = [name for name in ignored if name in modules or str(name).startswith("re:")]
        found[QUANTIZATION] = quantization | {"ignore": kept}
    return found


# --- weights --------------------------------------------------------------------------------------


def _write_weights(
    folder: Path, files: TensorFiles, names: list[str], max_shard_bytes: int, progress: bool | Progress
) -> tuple[int, int]:
    """Bytes of the weights, and in how many files they are."""
    from safetensors.torch import save_file

    sizes = {name: tensor.nbytes for name, tensor in files.read(names)}
    shards = list(_shards(sizes, max_shard_bytes))
    places: dict[str, str] = {}
    with reporting(progress, sum(sizes.values()), "copying") as report:
        for number, shard in enumerate(shards, 1):
            file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
            tensors = dict(files.read(shard))
            save_file(tensors, folder / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
            report(sum(sizes[name] for name in shard))
    total = sum(sizes.values())
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    return total, len(shards)


def _shards(sizes: dict[str, int], max_bytes: int) -> Iterator[list[str]]:
    shard: list[str] = []
    total = 0
    for name, size in sizes.items():
        if shard and total + size > max_bytes:
            yield shard
            shard, total = [], 0
        shard.append(name)
        total += size
    yield shard


# --- tokenizer ------------------------------------------------------------------------------------


def _write_tokenizer(source: Path, folder: Path, num_ids: int) -> None:
    """Without tokens that the LLM has no row for."""
    path = source / "tokenizer.json"
    tokenizer = read_json(path, MAX_TOKENIZER_BYTES)
    added = tokenizer.get("added_tokens")
    vocab = tokenizer.get("model", {}).get("vocab")
    if not isinstance(added, list) or not isinstance(vocab, dict):
        raise CheckpointError(f"{path}: expected model.vocab and added_tokens, found no such keys")
    tokenizer["added_tokens"] = [token for token in added if token["id"] < num_ids]
    tokenizer["model"]["vocab"] = {token: id_ for token, id_ in vocab.items() if id_ < num_ids}
    _write_json(folder / "tokenizer.json", tokenizer)
    settings = source / "tokenizer_config.json"
    if is_there(settings):
        found = read_json(settings)
        _keep(found, "added_tokens_decoder", lambda id_: id_.isdecimal() and int(id_) < num_ids)
        _write_json(folder / settings.name, found)
    else:
        _write_json(folder / settings.name, {"tokenizer_class": "PreTrainedTokenizerFast"})


def _keep(settings: dict[str, Any], key: str, wanted: Callable[[str], bool]) -> None:
    if isinstance(settings.get(key), dict):
        settings[key] = {name: value for name, value in settings[key].items() if wanted(name)}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""Checkpoint folders without weights, for benchmarks: a config and a tokenizer that fits it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["CONFIGS", "write_checkpoint"]

CONFIGS = Path(__file__).parent / "configs"

NUM_SPECIAL = 512
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)


def write_checkpoint(name: str, folder: Path) -> Path:
    """The configuration `bench/configs/NAME` as a folder that loads with `load_format="dummy"`.

    The tokenizer has the bytes, filler words up to the size of the vocabulary, the special tokens as the last
    512 text ids, and the units.
    """
    source = CONFIGS / name
    config = json.loads((source / "config.json").read_text())
    shutil.copytree(source, folder, dirs_exist_ok=True)
    _tokenizer(config["text_vocab_size"], config["audio_vocab_size"]).save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer(text_vocab_size: int, audio_vocab_size: int) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first_special = text_vocab_size - NUM_SPECIAL
    words = [f"w{i}" for i in range(first_special - len(alphabet))]
    vocab = {token: i for i, token in enumerate(alphabet + words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    rest = [f"<|reserved_special_token_{i}|>" for i in range(3, 3 + NUM_SPECIAL - len(SPECIAL))]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*SPECIAL, *rest)])
    tokenizer.add_tokens([AddedToken(f"<Audio_{i}>", normalized=False) for i in range(audio_vocab_size)])
    return tokenizer

"""The text tokenizer: words of the world are one token each, anything else is spelled byte by byte.

A word has a token for each way it is written in the world: after a space, at the beginning of a sentence
with a capital, and, for words that questions begin with, in lower case too, as people type. It is the file
format of Llama 3 (byte-level BPE, `ignore_merges`), with an empty list of merges.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from antiphon.inputs.chat import DEFAULT_SYSTEM
from antiphon_tiny.omni.files import write_json
from antiphon_tiny.world import words
from antiphon_tiny.world.knowing import FACTS, UNKNOWN_FORMS, UNKNOWN_PLACES
from antiphon_tiny.world.samples import FRAMES, draw_sentences
from antiphon_tiny.world.talking import TALK

__all__ = ["make_tokenizer", "write_tokenizer"]

SPECIAL = (
    "begin_of_text",
    "end_of_text",
    "reserved_special_token_0",
    "reserved_special_token_1",
    "finetune_right_pad_id",
    "reserved_special_token_2",
    "start_header_id",
    "end_header_id",
    "eom_id",
    "eot_id",
)
MARKS = ("\n\n", " +", " -", " color", "color", "system", "user", "assistant")
WORD = r"[A-Za-z]+(?:'[a-z]+)?"
PRE_TOKENS = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+(?:'\p{L}+)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NUM_SENTENCES = 20000


def make_tokenizer(num_units: int) -> Tokenizer:
    byte_chars = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(byte_chars)}
    for token in sorted({_in_bytes(token) for token in _tokens()} - vocab.keys()):
        vocab[token] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(f"<Audio_{k}>", normalized=False) for k in range(num_units)])
    return tokenizer


def write_tokenizer(folder: Path, num_units: int) -> Tokenizer:
    """tokenizer.json and the two files that Hugging Face keeps beside it."""
    tokenizer = make_tokenizer(num_units)
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
    }
    write_json(folder / "special_tokens_map.json", ends)
    settings = {
        **ends,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", settings)
    return tokenizer


def _tokens() -> set[str]:
    """All tokens that are longer than a byte."""
    drawn = draw_sentences(NUM_SENTENCES, "train", 0) + draw_sentences(NUM_SENTENCES // 10, "held_out", 0)
    asked = [sentence.text for sentence in drawn if sentence.role == "user"]
    asked += [form for forms, _ in (*FACTS, *TALK) for form in forms]
    said = [sentence.text for sentence in drawn] + [answer for _, answer in (*FACTS, *TALK)]
    said += [
        *asked,
        *UNKNOWN_PLACES,
        *words.NAMES,
        *FRAMES,
        *(re.sub(r"{\w+}", "", f) for f in UNKNOWN_FORMS),
    ]
    first = {re.findall(WORD, text)[0] for text in said}
    first |= {word.capitalize() for word in (*words.NOUNS, *words.ADJECTIVES, *words.COLOURS, *words.NUMBERS)}
    asked_first = {re.findall(WORD, text)[0].lower() for text in asked}
    within = {word for text in said for word in re.findall(WORD, text)[1:]}
    within |= {*words.NOUNS, *words.ADJECTIVES, *words.COLOURS, *words.KINDS, *words.SIZES, *words.NUMBERS}
    within |= {words.plural(kind) for kind in words.KINDS} | set(words.NAMES) | set(UNKNOWN_PLACES)
    within |= {
        word for verb, tails in words.VERBS.items() for tail in tails for word in (verb, *tail.split())
    }
    within |= {frame.lower() for frame in FRAMES} | {word.lower() for word in first - set(words.NAMES)}
    system = re.findall(WORD, DEFAULT_SYSTEM)
    digits = {str(n) for n in range(10, 21)}
    return (
        first
        | asked_first
        | {" " + word for word in within | set(system[1:])}
        | {system[0]}
        | digits
        | set(MARKS)
    )


def _in_bytes(token: str) -> str:
    """As a byte-level file writes it."""
    return token.replace(" ", "Ġ").replace("\n", "Ċ")

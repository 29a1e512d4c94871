"""Reads `tokenizer.json`. The library that runs it, written in Rust, trusts its file: wrong values make it
panic, allocate any amount of memory, or end the process. So the file is parsed and checked here, and only
what was checked is handed over.

Byte-level BPE is accepted, with normalizers and pre-tokenizers around it. Regular expressions that known
models do not use are first tried in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import parse_json, read_file, refusing_failures, shortened, shown
from antiphon.plain import one_line

__all__ = ["TRIAL_TEXTS", "read_tokenizer"]

EXPECTED = "a tokenizer file that can be read"
MAX_BYTES = 64 * 2**20
"""Llama 3's file has 9 MB."""
MAX_PARTS = 64
"""Normalizers or pre-tokenizers in a sequence."""
MAX_ID = 2**24
MAX_GROWTH = 64
"""By what factor normalizers may lengthen a text."""
MAX_PATTERN_CHARS = 2000
MAX_CONTENT_CHARS = 64

TRIAL_S = 20.0
TRIAL_BYTES = 4 * 2**30
TRIAL_TEXTS = (
    "Hello, world! It's 12,345.67 o'clock?\n\n \t you'Ll",
    "".join(map(chr, range(1, 0x250))),
    "日本語とcafé 你好，世界。 \U0001f600\u200d\ufdfa\n",
    "a" * 400 + " " * 400 + "\n" * 400 + "1" * 400 + "!" * 400,
)
TRIAL = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({TRIAL_BYTES}, {TRIAL_BYTES}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.path[:0] = [sys.argv[1]]
import tokenizers
tokenizer = tokenizers.Tokenizer.from_str(sys.stdin.buffer.read().decode())
for text in json.loads(sys.argv[2]):
    tokenizer.encode(text, add_special_tokens=False)
"""

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
KNOWN_PATTERNS = frozenset(
    {
        rf"{ENDINGS}|{LETTERS}|\p{{N}}{{1,3}}{REST}",  # Llama 3, GPT-4
        rf"{ENDINGS}|{LETTERS}|\p{{N}}{REST}",  # Qwen 2
        rf"{LETTERS}(?:'\p{{L}}+)?|\p{{N}}{{1,3}}{REST}",  # the embedded model
        r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
        r"\d{1,3}(?=(?:\d{3})*\b)",
        r"\s+",
        " ",
    }
)
"""Regular expressions that need not be tried."""

PLAIN_NORMALIZERS = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "StripAccents": 1, "Nmt": 1}
"""By what factor each may lengthen a text, in characters."""
PRE_TOKENIZERS = frozenset(
    {"ByteLevel", "Split", "Sequence", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit", "Metaspace"}
)


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a `tokenizer.json`, without truncation, padding and post-processor.

    Raises CheckpointError if the file is missing, corrupt, or of a kind that is not supported.
    """
    content = read_file(path, EXPECTED, max_bytes=MAX_BYTES)
    values = TokenizerFile(path, parse_json(path, content))
    values.check()
    if values.needs_trial:
        _try_apart(path, values.text)
    with refusing_failures(path, EXPECTED):
        return tokenizers.Tokenizer.from_str(values.text)


class TokenizerFile:
    """The content of a tokenizer.json, checked part by part."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self._path = path
        self._values = values
        self.needs_trial = False
        """Whether there is a regular expression that is not in `KNOWN_PATTERNS`."""

    @property
    def text(self) -> str:
        """The file's JSON, without what plays no part here: no special tokens are added to prompts."""
        model = {**self._values["model"], "type": self._values["model"].get("type", "BPE")}
        left_out = {"truncation": None, "padding": None, "post_processor": None}
        return json.dumps({**self._values, "model": model, **left_out})

    def check(self) -> None:
        """Raises CheckpointError."""
        self._check_model(self._object("model", self._values.get("model")))
        self._check_added(self._values.get("added_tokens"))
        normalizer, pre_tokenizer = self._values.get("normalizer"), self._values.get("pre_tokenizer")
        growth = 1
        for part in self._parts("normalizer", "normalizers", normalizer):
            growth *= self._growth(part)
            if growth > MAX_GROWTH:
                raise self._error("normalizer", f"one that makes a text at most {MAX_GROWTH} times longer")
        for part in self._parts("pre_tokenizer", "pretokenizers", pre_tokenizer):
            if part.get("type") not in PRE_TOKENIZERS:
                raise self._error(
                    "pre_tokenizer", f"one of {', '.join(sorted(PRE_TOKENIZERS))}", part.get("type")
                )
            if part["type"] == "Split":
                self._check_pattern("pre_tokenizer", part.get("pattern"))
        decoder = self._values.get("decoder")
        if decoder is not None:
            kind = self._object("decoder", decoder).get("type")
            if kind != "ByteLevel":
                raise self._error("decoder", "ByteLevel (nothing else is implemented)", kind)

    def _check_model(self, model: Mapping[str, Any]) -> None:
        kind = model.get("type", "BPE")
        if kind not in ("BPE", "WordLevel"):
            raise self._error("model.type", "'BPE' (nothing else is implemented)", kind)
        vocab = self._object("model.vocab", model.get("vocab"))
        for token, token_id in vocab.items():
            if type(token_id) is not int or not 0 <= token_id < MAX_ID:
                raise self._error(f"model.vocab.{shortened(token)}", f"an id below {MAX_ID}", token_id)
        unknown = model.get("unk_token")
        # Without it, a WordLevel model fails on any word that it lacks.
        needed = unknown is not None or kind == "WordLevel"
        if needed and (not isinstance(unknown, str) or unknown not in vocab):
            raise self._error("model.unk_token", "a token of the vocabulary", unknown)
        if kind == "BPE":
            for name in ("continuing_subword_prefix", "end_of_word_suffix"):
                if model.get(name) not in (None, ""):
                    raise self._error(f"model.{name}", "null (byte-level BPE does not use it)", model[name])
            if model.get("dropout") not in (None, 0):
                raise self._error(
                    "model.dropout", "null: each text has one sequence of ids", model["dropout"]
                )
            if not isinstance(model.get("merges"), list):
                raise self._error("model.merges", "a list", model.get("merges"))

    def _check_added(self, added: Any) -> None:
        if not isinstance(added, list) and added is not None:
            raise self._error("added_tokens", "a list", added)
        for token in added or ():
            content = token.get("content") if isinstance(token, dict) else None
            if not isinstance(content, str):
                raise self._error("added_tokens", "objects with a string as content", token)
            token_id = token.get("id")
            if type(token_id) is not int or not 0 <= token_id < MAX_ID:
                raise self._error(f"added_tokens.{shortened(content)}", f"an id below {MAX_ID}", token_id)

    def _parts(self, name: str, list_name: str, value: Any) -> list[dict[str, Any]]:
        """The normalizers or pre-tokenizers, with sequences taken apart."""
        if value is None:
            return []
        parts: list[dict[str, Any]] = []
        left = [self._object(name, value)]
        while left:
            part = left.pop()
            if part.get("type") != "Sequence":
                parts.append(part)
            else:
                inner = part.get(list_name)
                if not isinstance(inner, list):
                    raise self._error(f"{name}.{list_name}", "a list", inner)
                left += [self._object(name, item) for item in inner[: MAX_PARTS + 1]]
            if len(parts) + len(left) > MAX_PARTS:
                raise self._error(name, f"at most {MAX_PARTS} parts", value)
        return parts

    def _growth(self, part: Mapping[str, Any]) -> int:
        """By what factor a normalizer can lengthen a text of at least one character."""
        kind = part.get("type")
        if isinstance(kind, str) and kind in PLAIN_NORMALIZERS:
            return PLAIN_NORMALIZERS[kind]
        if kind == "Strip":
            return 1
        if kind == "Prepend":
            return 1 + len(self._content("normalizer.prepend", part.get("prepend")))
        if kind == "Replace":
            regular = self._check_pattern("normalizer", part.get("pattern"))
            length = len(self._content("normalizer.content", part.get("content")))
            return length + 1 if regular else max(1, length)  # a regular expression may match nothing
        raise self._error(
            "normalizer", f"one of Prepend, Replace, Strip, {', '.join(PLAIN_NORMALIZERS)}", kind
        )

    def _content(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > MAX_CONTENT_CHARS:
            raise self._error(name, f"a text of at most {MAX_CONTENT_CHARS} characters", value)
        return value

    def _check_pattern(self, name: str, pattern: Any) -> bool:
        """Check a pattern, and return whether it is a regular expression."""
        pattern = self._object(f"{name}.pattern", pattern)
        text = pattern.get("Regex", pattern.get("String"))
        if not isinstance(text, str) or not 0 < len(text) <= MAX_PATTERN_CHARS or len(pattern) != 1:
            expected = f"a String or Regex of 1 to {MAX_PATTERN_CHARS} characters"
            raise self._error(f"{name}.pattern", expected, pattern)
        if "Regex" in pattern and text not in KNOWN_PATTERNS:
            self.needs_trial = True
        return "Regex" in pattern

    def _object(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(name, "an object", value)
        return value

    def _error(self, name: str, expected: str, found: object = ...) -> CheckpointError:
        ending = "" if found is ... else f", found {shown(found)}"
        return CheckpointError(f"{self._path}: {name}: expected {expected}{ending}")


def _try_apart(path: Path, text: str) -> None:
    """Let another process read and use the tokenizer: a regular expression does not show how it behaves."""
    place = str(Path(tokenizers.__file__).parents[1])
    expected = "regular expressions that end within bounds"
    if not sys.executable:
        raise CheckpointError(f"{path}: expected {expected}; no Python was found to try them")

    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", TRIAL, place, json.dumps(TRIAL_TEXTS)],
            input=text.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"},
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{path}: expected {expected}, found some still running after {TRIAL_S:g} s"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected {expected}; they cannot be tried: {one_line(error)}"
        ) from error
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
        raise CheckpointError(
            f"{path}: expected {expected}, found status {done.returncode}: {one_line(last[0])}"
        )

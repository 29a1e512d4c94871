"""What lies where a checkpoint's file should be is refused by name in one line; nothing is waited for."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import RANDOM_CODEC, RANDOM_MODEL

from antiphon.codec import Codec
from antiphon.errors import CheckpointError
from antiphon.files.checkpoint import read_json, refusing_failures, shown
from antiphon.model.checkpoint.folder import read_config
from antiphon.model.checkpoint.loading import load_weights
from antiphon.plain import one_line
from antiphon.text.tokenizer import Tokenizer

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "model.safetensors",
    "preprocessor_config.json",
    "vision_tower/config.json",
)
CODEC_FILES = (
    "cosyvoice.yaml",
    "flow.pt",
    "hift.pt",
    "spk2info.pt",
    "speech_tokenizer_v1.onnx",
    "campplus.onnx",
)
FILES = MODEL_FILES + CODEC_FILES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and a codec in one folder."""
    shutil.copytree(RANDOM_MODEL, tmp_path / "model")
    return Path(shutil.copytree(RANDOM_CODEC, tmp_path / "model", dirs_exist_ok=True))


def load_model(folder: Path) -> None:
    load_weights(folder, read_config(folder), device="cpu", dtype=torch.float32)


def load_codec(folder: Path) -> None:
    Codec.from_pretrained(folder, device="cpu")


def refusal(folder: Path, name: str) -> str:
    """How the folder is refused for its file `name`."""
    with pytest.raises(CheckpointError) as caught:
        load_codec(folder) if name in CODEC_FILES else load_model(folder)
    message = str(caught.value)
    assert str(folder / name) in message
    assert "\n" not in message
    assert len(message) < 600
    return message


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4976698672\n"
STAND_INS = {
    "git-lfs pointer": (LFS, "a git-lfs pointer, not the file: run `git lfs pull`"),
    "web page": (b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>", "a web page"),
    "error in XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    "gzip": (gzip.compress(b"{}" * 1000), "a gzip file"),
    "empty": (b"", "0 bytes"),
    "not found": (b"Entry not found", "'Entry not found'"),
    "link as text": (b"../../blobs/0123abcd", "the text of a link"),
}


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        *((name, stand_in) for name in ("config.json", "cosyvoice.yaml") for stand_in in STAND_INS),
        *((name, "git-lfs pointer") for name in FILES),
        *((name, "empty") for name in FILES),
    ],
)
def test_what_is_not_the_file_is_named(folder: Path, name: str, stand_in: str) -> None:
    content, found = STAND_INS[stand_in]
    (folder / name).write_bytes(content)
    assert found in refusal(folder, name)


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_folder(path: Path) -> None:
    path.mkdir()


def put_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 << 30)


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (put_fifo, "a pipe"),
    "folder": (put_folder, "a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "a link to nowhere"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
    "100 GB of nothing": (put_sparse, "107374182400"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_only_regular_files_of_bounded_size_are_read(folder: Path, name: str, kind: str) -> None:
    """None is waited for, none is read to an end that it does not have, none counts as absent."""
    make, found = KINDS[kind]
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert found in refusal(folder, name)


def test_files_may_be_links_to_files(folder: Path, tmp_path: Path) -> None:
    """As in the Hugging Face cache."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    assert read_config(folder) == read_config(RANDOM_MODEL)


def test_windows_line_ends_and_byte_order_marks_are_read(folder: Path) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer.json", "cosyvoice.yaml"):
        content = (folder / name).read_bytes().replace(b"\n", b"\r\n")
        (folder / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert read_config(folder) == read_config(RANDOM_MODEL)
    Tokenizer.from_pretrained(folder)
    assert Codec.from_pretrained(folder, device="cpu").num_units_vocab == 64


JSON_CASES = {
    "nested": ('{"a": ' + "[" * 100_000, "nested too deeply"),
    "huge integer": ('{"a": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
    "twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "a key appears twice: 'c'"),
    "not UTF-8": ('{"a": "\udcff"}', "can't decode byte 0xff"),
    "UTF-16": ("\udcff\udcfe{\0}\0", "can't decode"),
    "no JSON": ('{"a": tru}', "Expecting value"),
    "a list": ("[1]", "expected a JSON object, found list"),
    "long key": ('{"' + "k" * 100_000 + '": 1, "' + "k" * 100_000 + '": 1}', "appears twice"),
}


@pytest.mark.parametrize("case", JSON_CASES)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_hostile_json(folder: Path, name: str, case: str) -> None:
    text, found = JSON_CASES[case]
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    assert found in refusal(folder, name)


def test_numbers_that_json_does_not_know_are_refused_where_they_count(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    for value in ("NaN", "Infinity", "-Infinity", "1e999"):
        changed = config.replace('"rms_norm_eps": 1e-05', f'"rms_norm_eps": {value}')
        assert changed != config
        (folder / "config.json").write_text(changed)
        assert "rms_norm_eps: expected a number above 0" in refusal(folder, "config.json")


def test_an_index_may_be_long_but_not_endless(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": "x" * 2000}))
    assert read_json(tmp_path / "a.json", 3000) == {"a": "x" * 2000}
    with pytest.raises(CheckpointError, match="expected at most 1000 bytes, found 2009"):
        read_json(tmp_path / "a.json", 1000)


def test_what_errors_show_has_a_bound() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    wide: list[object] = ["a"] * 10
    for _ in range(30):
        wide = [wide] * 10
    for value in ("x" * 10**7, 10**10_000, deep, wide, {"a" * 10**6: "b" * 10**6}, b"x" * 10**7):
        assert len(shown(value)) <= 200
    assert shown({"bits": [4, 2.5, None]}) == "{'bits': [4, 2.5, None]}"
    assert one_line(ValueError("a\n  b\t" + "c" * 10**6)).startswith("a b ccc")
    assert len(one_line(ValueError("c" * 10**6))) == 200


def test_a_library_that_panics_is_refused_and_an_interrupt_is_not() -> None:
    class PanicException(BaseException):
        """As pyo3 raises it."""

    for error in (PanicException("out of\nrange"), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "")):
        with pytest.raises(CheckpointError, match=r"^x: expected y: "), refusing_failures(Path("x"), "y"):
            raise error
    with pytest.raises(KeyboardInterrupt), refusing_failures(Path("x"), "y"):
        raise KeyboardInterrupt

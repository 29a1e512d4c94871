"""torch's files, read without torch: what it writes comes back, what it would not write is refused."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from antiphon.codec import Codec
from antiphon.codec.checkpoint.tensors import read_tensors
from antiphon.codec.checkpoint.torch_file import read_torch_file
from antiphon.errors import CheckpointError

MATRIX = torch.arange(12.0).reshape(3, 4)
CONTENT = {
    "matrix": MATRIX,
    "transposed": MATRIX.T,
    "column": MATRIX[1:, 2],
    "number": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "shared": MATRIX[0],
    "half": torch.ones(3, dtype=torch.float16),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "double": torch.ones(2, dtype=torch.float64),
    "ids": torch.arange(5),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "mask": torch.tensor([True, False]),
    "plain": [
        1,
        -2,
        300,
        70_000,
        2**40,
        -(2**70),
        2.5,
        None,
        True,
        False,
        "text",
        "文",
        (),
        (1,),
        (1, 2, 3, 4),
    ],
    "nested": {"a": {"b": [MATRIX]}},
    7: "a number as a key",
}


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_writes_comes_back(tmp_path: Path, zipped: bool, protocol: int) -> None:
    path = tmp_path / "x.pt"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert_equal(read_torch_file(path), CONTENT)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert_equal(read_torch_file(path), dict(module.state_dict()))
    torch.save(nn.Parameter(MATRIX), path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    assert_equal(read_torch_file(path), MATRIX)


def test_files_whose_checksums_were_left_out_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_equal(read_torch_file(tmp_path / "x.pt"), CONTENT)


# --- as trainers leave them -----------------------------------------------------------------------


def beside(**notes: Any) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: {**tensors, **notes}


def under(name: str, **notes: Any) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: {name: OrderedDict(tensors), **notes}


def behind(mark: str, **notes: Any) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: {**{mark + name: tensor for name, tensor in tensors.items()}, **notes}


@pytest.mark.parametrize(
    "change",
    [
        beside(epoch=3, step=1200),
        beside(epoch=torch.tensor(3), lr=0.001, name="flow", best=None),
        under("state_dict", epoch=3),
        under("model", optimizer={"state": {}, "lr": [0.1]}),
        under("module"),
        behind("module.", epoch=3),
        behind("_orig_mod."),
        lambda tensors: {"model": behind("module.")(tensors)},
    ],
)
def test_what_trainers_save_is_read(folder_copy: Path, codec: Codec, change: Callable[[Any], Any]) -> None:
    for name in ("flow.pt", "hift.pt"):
        tensors = torch.load(folder_copy / name, weights_only=True)
        torch.save(change(tensors), folder_copy / name)
    found = Codec.from_pretrained(folder_copy, device="cpu").decode([[1, 2, 3]])[0]
    assert (found == codec.decode([[1, 2, 3]])[0]).all()


def test_the_vocoder_of_a_trained_pair_is_read(folder_copy: Path, codec: Codec) -> None:
    tensors = torch.load(folder_copy / "hift.pt", weights_only=True)
    pair = behind("generator.", epoch=1)(tensors)
    pair["discriminator.mpd.convs.0.weight_g"] = torch.zeros(3)
    torch.save(pair, folder_copy / "hift.pt")
    found = Codec.from_pretrained(folder_copy, device="cpu").decode([[1, 2, 3]])[0]
    assert (found == codec.decode([[1, 2, 3]])[0]).all()


@pytest.mark.parametrize("notes", [{"a.b": 5}, {"a.b": "text"}, {"epoch": [1]}, {"epoch": torch.arange(3)}])
def test_notes_have_no_dot_and_are_plain(tmp_path: Path, notes: dict[str, Any]) -> None:
    torch.save({"weight.a": MATRIX, **notes}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt: .*: expected a floating point tensor, found"):
        read_tensors(tmp_path / "x.pt")


# --- hostile files --------------------------------------------------------------------------------


def refusal(folder: Path, name: str) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        Codec.from_pretrained(folder, device="cpu")
    message = str(caught.value)
    assert str(folder / name) in message
    assert "\n" not in message
    assert len(message) < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB
    return message


TENSORS: dict[str, Callable[[], Tensor]] = {
    "4 TB of one number": lambda: torch.zeros(1).expand(1 << 20, 1 << 20),
    "2 GB of one number": lambda: torch.zeros(1).expand(1 << 15, 1 << 14),
    "a row many times": lambda: torch.zeros(1, 192).expand(1 << 20, 192),
    "sparse": lambda: torch.zeros(1, 192).to_sparse(),
    "compressed rows": lambda: torch.zeros(1, 192).to_sparse_csr(),
    "meta": lambda: torch.zeros(1, 192, device="meta"),
    "float8": lambda: torch.zeros(1, 192).to(torch.float8_e4m3fn),
    "complex": lambda: torch.zeros(1, 192, dtype=torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(1, 192), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("name", ["flow.pt", "spk2info.pt"])
def test_tensors_that_are_not_plain_are_refused(folder_copy: Path, name: str, kind: str) -> None:
    tensor = TENSORS[kind]()
    torch.save({"a": {"embedding": tensor}} if name == "spk2info.pt" else {"a": tensor}, folder_copy / name)
    assert "expected tensors in a whole torch file and nothing that runs" in refusal(folder_copy, name)


class Call:
    """A pickle that calls a function, if anybody lets it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Call(bytearray, 2**40),
        Call(torch.FloatTensor, 2**40),
        Call(torch.zeros, 2**40),
        Call(eval, "1"),
        Call(OrderedDict, [("a", 1)]),
        {"a": {1, 2}},
        {(1, 2): 3},
        {2.5: 3},
        nn.Linear(2, 2),
        b"bytes",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_called(folder_copy: Path, value: Any) -> None:
    torch.save({"a": value} if not isinstance(value, dict) else value, folder_copy / "flow.pt")
    assert "nothing that runs" in refusal(folder_copy, "flow.pt")


def test_keys_whose_hash_takes_for_ever(folder_copy: Path) -> None:
    """A tuple of twice a tuple of twice a tuple ..."""
    key: Any = ()
    for _ in range(80):
        key = (key, key)
    content = io.BytesIO()
    torch.save([key], content)
    archive = zipfile.ZipFile(content)
    data = archive.read("archive/data.pkl")
    # as the key of a dict instead of the item of a list: ]q.X ... a. becomes }q.X ... Ns.
    data = data.replace(b"]", b"}", 1)[:-2] + b"Ns."
    with zipfile.ZipFile(folder_copy / "flow.pt", "w") as target:
        target.writestr("archive/data.pkl", data)
    assert "a key of type tuple" in refusal(folder_copy, "flow.pt")


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        pickle.dumps({"a": 1}),
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        b"\x80\x02" + b"(" * 100_000,
        b"\x80\x02" + b"]" * 100_000 + b".",
        b"\x80\x02h\x00.",
        b"\x80\x02X" + struct.pack("<I", 2**31) + b"a.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"a.",
        b"\x80\x02r" + struct.pack("<I", 2**32 - 1) + b".",
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
        b"PK\x05\x06" + bytes(8) + b"\xff\xff\xff\x7f" + bytes(6),
        b"\x89PNG\r\n",
        b"not a torch file",
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt: expected tensors in a whole torch file"):
        read_torch_file(tmp_path / "x.pt")


def repack(path: Path, change: Callable[[str, bytes], tuple[bytes, int]]) -> None:
    """Write an archive anew, each entry with other contents or compression."""
    entries = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "w") as target:
        for name in entries.namelist():
            data, compression = change(name, entries.read(name))
            target.writestr(name, data, compression)


STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: (bytes(len(data)), DEFLATED), "compressed entries"),
        (lambda name, data: (data, DEFLATED if name.endswith("/data/0") else STORED), "compressed entries"),
        (lambda name, data: (data * (1 + name.endswith("/data/0")), STORED), "bytes for"),
        (lambda name, data: (b"big" if name.endswith("byteorder") else data, STORED), "highest byte first"),
        (
            lambda name, data: (data if "data.pkl" not in name else data + bytes(2**23), STORED),
            "at most 4194304",
        ),
    ],
)
def test_archives_that_torch_does_not_write(folder_copy: Path, change: Any, message: str) -> None:
    repack(folder_copy / "flow.pt", change)
    assert message in refusal(folder_copy, "flow.pt")


def test_entries_that_lie_on_each_other_are_refused(tmp_path: Path) -> None:
    """A directory may name the same bytes many times."""
    path = tmp_path / "x.pt"
    torch.save({f"a.{i}": torch.full((1000,), float(i)) for i in range(50)}, path)
    data = bytearray(path.read_bytes())
    entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    first = next(entry for entry in entries if entry.filename.endswith("/data/0"))
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        name_bytes = int.from_bytes(data[place + 28 : place + 30], "little")
        if b"/data/" in data[place + 46 : place + 46 + name_bytes]:
            data[place + 42 : place + 46] = struct.pack("<I", first.header_offset)
        place = data.find(b"PK\x01\x02", place + 46)
    path.write_bytes(data[: first.header_offset + 5000] + data[data.find(b"PK\x01\x02") :])
    with pytest.raises(CheckpointError, match=r"x\.pt: "):
        read_torch_file(path)


def test_a_program_of_torch_script_is_named(folder_copy: Path) -> None:
    path = folder_copy / "flow.pt"
    entries = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    with zipfile.ZipFile(path, "a") as target:
        root = entries.namelist()[0].split("/")[0]
        target.writestr(f"{root}/constants.pkl", b"\x80\x02).")
    assert "found a TorchScript program" in refusal(folder_copy, "flow.pt")


def test_nothing_was_made(tmp_path: Path) -> None:
    """The most that a file may do is to be read."""
    torch.save({"a": Call(os.mkdir, str(tmp_path / "made"))}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"nothing that runs: a call of posix\.mkdir"):
        read_torch_file(tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()

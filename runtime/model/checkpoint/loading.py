"""Loads `OmniWeights` from safetensors files, or draws them from a random generator."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from antiphon.config import ModelConfig
from antiphon.device.dtypes import DTYPES, dtype_of
from antiphon.errors import CheckpointError, ConfigError
from antiphon.files.checkpoint import read_json, shortened
from antiphon.model.checkpoint.folder import LoadFormat, check_folder
from antiphon.model.checkpoint.quantization import SCALE_SUFFIX, may_stay, scheme_of
from antiphon.model.checkpoint.quantizing import (
    HEAD_NAMES,
    Int8Matrices,
    Quantizer,
    kept_names,
    matrix_groups,
    matrix_names,
    saved_bytes,
)
from antiphon.model.checkpoint.shards import TensorEntry, TensorFiles, read_headers
from antiphon.model.checkpoint.tensors import (
    VISION_PREFIX,
    empty_weights,
    is_unused,
    named_tensors,
    num_bytes,
)
from antiphon.model.checkpoint.vision_settings import missing_tower, vision_folder
from antiphon.model.schemes import Scheme
from antiphon.model.weights import OmniWeights
from antiphon.plain import one_line, shown

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Progress", "checked_files", "load_weights", "reporting", "resolve_dtype"]

Progress = Callable[[int, int], None]
"""Called with the bytes loaded so far and the bytes in all, both as they will be stored."""

INT8 = "I8"
FILE_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

DUMMY_STD = 0.02
"""Standard deviation of random weights: the initializer_range of Llama."""

BAR_AFTER_S = 1.0
"""A load that takes less than this shows no progress bar."""

MAX_LISTED = 5
"""How many names an error about several tensors spells out."""


def resolve_dtype(
    dtype: str | torch.dtype, folder: Path, device: torch.device | str, *, load_format: LoadFormat = "auto"
) -> torch.dtype:
    """The dtype that weights are stored in.

    "auto" is float32 on the CPU, where 16 bits are inexact, and elsewhere the dtype of most of the
    file's numbers (for dummy weights: what config.json says, else bfloat16).

    Raises:
        ConfigError: not one of "auto", "float32", "bfloat16", "float16", or torch's own names for them.
        CheckpointError: "auto", and the file cannot be read or holds other dtypes.
    """
    if (named := dtype_of(dtype)) is not None:
        return named
    if not isinstance(dtype, str) or dtype != "auto":
        raise ConfigError(f"dtype: expected 'auto' or one of {', '.join(DTYPES)}, got {shown(dtype)}")
    if torch.device(device).type == "cpu":
        return torch.float32
    if load_format == "dummy":
        settings = read_json(folder / "config.json")
        return dtype_of(settings.get("dtype") or settings.get("torch_dtype")) or torch.bfloat16
    counts: dict[str, int] = {}
    files = read_headers(folder)
    quantized = scheme_of(folder) is not None
    for entry in files.entries.values():
        if quantized and entry.dtype == INT8:
            continue
        counts[entry.dtype] = counts.get(entry.dtype, 0) + torch.Size(entry.shape).numel()
    most = max(counts, key=lambda name: counts[name], default="nothing")
    if most not in FILE_DTYPES:
        raise CheckpointError(
            f"{files.path}: expected tensors of {' or '.join(FILE_DTYPES)}, found {shortened(most)}"
        )
    return FILE_DTYPES[most]


def load_weights(
    folder: Path,
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    load_format: LoadFormat = "auto",
    seed: int = 0,
    progress: bool | Progress = False,
    quantization: Scheme | None = None,
    keep: Collection[str] = (),
) -> OmniWeights:
    """The weights of a checkpoint.

    "auto" reads `model.safetensors`, or the shards of `model.safetensors.index.json`; the vision tower may
    lie in the folder that `mm_vision_tower` names instead. Files are memory-mapped and each tensor is
    copied once, into its place in the final dtype and on the final device.

    "dummy" draws random weights from `seed` and needs no file: matrices and tables normal with standard
    deviation 0.02, norms 1, biases 0. The same seed, configuration, dtype and kind of device give the same
    weights. On the device "meta" there is nothing to draw.

    Matrices that the files hold in int8 are loaded as they are; then only tables and the text side of fusion
    are quantized, which no file holds in int8. How they are multiplied is for `quantization` to say, or else
    for the folder.

    Args:
        progress: True for a bar on the terminal's standard error once loading takes longer than a second,
            or a function to call.
        quantization: quantize each matrix of the layers, heads and tables as soon as it has been read, or
            drawn.
        keep: patterns of modules that are not quantized, see `kept_names`.

    Raises:
        CheckpointError: a tensor is missing, is unknown, has another shape or an unsupported dtype, or holds
            NaN or infinity in the final dtype; a file is missing, truncated or corrupt; or this machine has
            too little memory. Names file, tensor, expected and found.
        ConfigError: an unknown `load_format`; nothing to quantize that a pattern of `keep` names.
    """
    kept = kept_names(config, keep)
    if load_format == "dummy":
        weights = _allocate(folder / "config.json", config, device, dtype, quantization, kept)
        quantizer = None
        if quantization is not None:
            quantizer = Quantizer(weights, config, quantization, device=device, keep=kept)
        _fill_randomly(weights, config, torch.device(device), seed, quantizer)
        _free(quantizer, device)
        return weights
    if load_format != "auto":
        raise ConfigError(f"load_format: expected 'auto' or 'dummy', got {shown(load_format)}")
    check_folder(folder)
    files, int8_names = checked_files(folder, config)
    scheme = quantization or scheme_of(folder)
    if int8_names and scheme is not None and scheme.library is not None:
        raise ConfigError(
            f"quantization: expected int8 or int8-weight-only for the int8 weights of {folder}, "
            f"got {scheme.name!r}"
        )
    if stored := sorted(kept & int8_names):
        raise ConfigError(
            f"quantization_keep: expected modules that are not in int8 already in {folder}, got "
            f"{stored[0].removesuffix('.weight')}"
        )
    weights = _allocate(files.path, config, device, dtype, scheme, kept)
    quantizer = None
    if scheme is not None:
        quantizer = Quantizer(
            weights, config, scheme, device=device, keep=kept, kept_in_files=bool(int8_names)
        )
    int8 = Int8Matrices(weights, config, int8_names, device) if int8_names else None
    places = dict(named_tensors(weights, config)) if int8 is None else int8.places
    sizes = {name: place.numel() * place.element_size() for name, place in places.items()}
    with reporting(progress, sum(sizes.values()), "loading weights") as report:
        for name, tensor in files.read(list(places)):
            part = places.pop(name)
            place = part if quantizer is None else quantizer.place(part)
            place.copy_(tensor.reshape(place.shape))
            _check_finite(files.entries[name], place)
            if quantizer is not None:
                quantizer.filled(part)
            report(sizes[name])
    if int8 is not None:
        assert scheme is not None and scheme.library is None
        int8.filled(scheme)
    _free(quantizer, device)
    return weights


def _allocate(
    path: Path,
    config: ModelConfig,
    device: torch.device | str,
    dtype: torch.dtype,
    scheme: Scheme | None,
    keep: Collection[str],
) -> OmniWeights:
    """Storage on the device. More than all of this machine's memory is refused before any is allocated: the
    system would grant it, and end the process once it is used.

    A GPU's memory is taken by what is allocated, not by what is written. So what is to be quantized stays on
    the device "meta" until its numbers come.
    """
    planned = empty_weights(config, device="meta", dtype=dtype)
    size = num_bytes(planned, config)
    if scheme is not None:
        size -= saved_bytes(planned, config, scheme, keep)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if torch.device(device).type != "cpu":
        matrices = None if scheme is None else "meta"
        return empty_weights(config, device=device, dtype=dtype, matrices=matrices)
    if size > memory:
        raise CheckpointError(
            f"{path}: expected weights that fit into memory ({memory} bytes), found {size} bytes of {dtype}"
        )
    try:
        return empty_weights(config, device=device, dtype=dtype)
    except (RuntimeError, MemoryError) as error:  # the process may have a limit of its own
        raise CheckpointError(
            f"{path}: expected weights that fit into memory, found {size} bytes of {dtype}: {one_line(error)}"
        ) from error


def _free(quantizer: Quantizer | None, device: torch.device | str) -> None:
    """What matrices took before they were quantized goes back to the GPU, whose cache gets it."""
    if quantizer is not None and torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def _check_finite(entry: TensorEntry, tensor: Tensor) -> None:
    """Check by the smallest and the largest number, which are NaN if any is; cheaper than the copy was."""
    bounds = torch.stack(torch.aminmax(tensor)).tolist() if tensor.numel() else []
    if not all(map(math.isfinite, bounds)):
        raise CheckpointError(
            f"{entry.file}: {entry.name}: expected finite numbers in {tensor.dtype}, found NaN or infinity"
        )


# --- what the files must hold ---------------------------------------------------------------------


def checked_files(folder: Path, config: ModelConfig) -> tuple[TensorFiles, frozenset[str]]:
    """The tensors of a checkpoint, all there and in shapes and types that can be loaded; and the names of
    those in int8, whose scales are there too. Raises what `load_weights` raises."""
    files = _with_vision_tower(read_headers(folder), folder, config)
    # Checked against storage that takes no memory, so that a wrong file fails before a large allocation.
    weights = empty_weights(config, device="meta", dtype=torch.float32)
    expected = dict(named_tensors(weights, config))
    int8: frozenset[str] = frozenset()
    if scheme_of(folder) is not None:
        # Others often leave the heads as they are.
        stays = may_stay(folder)
        int8 = frozenset(
            name
            for name in matrix_names(config)
            if name not in files.entries
            or files.entries[name].dtype == INT8
            or not (name in HEAD_NAMES or stays(name))
        )
        _check_whole(files, config, int8)
        expected = Int8Matrices(weights, config, int8).places
    _check_names(files, expected, folder, config)
    _check_entries(files, expected, int8)
    return files, int8


def _check_whole(files: TensorFiles, config: ModelConfig, int8: frozenset[str]) -> None:
    """Tensors that are stored together are all in int8, or none of them."""
    for group in matrix_groups(config):
        some = [name for name in group if name in int8]
        if some and len(some) < len(group):
            other = next(name for name in group if name not in int8)
            entry = files.entries[other]
            raise CheckpointError(
                f"{entry.file}: {other}: expected I8 like {some[0]}, found {shortened(entry.dtype)}"
            )


def _with_vision_tower(files: TensorFiles, folder: Path, config: ModelConfig) -> TensorFiles:
    """If the file holds no vision tower, add the one in the folder that `mm_vision_tower` names."""
    tower = vision_folder(folder)
    inside = any(name.startswith(VISION_PREFIX) for name in files.entries)
    if config.vision is None or inside or tower is None:
        return files
    # A whole SigLIP also has a text model; only its vision model is used.
    found = {
        VISION_PREFIX + name: entry
        for name, entry in read_headers(tower).entries.items()
        if name.startswith("vision_model.")
    }
    return replace(files, entries={**files.entries, **found})


def _check_names(files: TensorFiles, expected: dict[str, Tensor], folder: Path, config: ModelConfig) -> None:
    missing = [name for name in expected if name not in files.entries]
    if missing:
        shapes = [f"{name} {tuple(expected[name].shape)}" for name in missing[:MAX_LISTED]]
        hint = ""
        if all(name.startswith(VISION_PREFIX) for name in missing) and vision_folder(folder) is None:
            hint = "; mm_vision_tower of config.json names no folder of the checkpoint either: "
            hint += missing_tower(folder)
        raise CheckpointError(
            f"{files.path}: expected {_listed(shapes, len(missing))}, found no such tensor{hint}"
        )
    extra = [name for name in files.entries if name not in expected and not is_unused(name, config)]
    if extra:
        entry = files.entries[extra[0]]
        found = [f"{shortened(name)} {shown(files.entries[name].shape)}" for name in extra[:MAX_LISTED]]
        raise CheckpointError(
            f"{entry.file}: expected {len(expected)} tensors of known names, "
            f"also found {_listed(found, len(extra))}"
        )


def _check_entries(files: TensorFiles, expected: dict[str, Tensor], int8: frozenset[str]) -> None:
    for name, place in expected.items():
        entry = files.entries[name]
        shapes = [tuple(place.shape)]
        if name.removesuffix(SCALE_SUFFIX) in int8 and name not in int8:
            shapes.append((len(place),))  # as some write a column
        if entry.shape not in shapes:
            wanted, found = " or ".join(map(str, shapes)), shown(entry.shape)
            raise CheckpointError(f"{entry.file}: {entry.name}: expected shape {wanted}, found {found}")
        dtypes = [INT8] if name in int8 else list(FILE_DTYPES)
        if entry.dtype not in dtypes:
            found = shortened(entry.dtype)
            raise CheckpointError(
                f"{entry.file}: {entry.name}: expected {' or '.join(dtypes)}, found {found}"
            )


def _listed(names: list[str], count: int) -> str:
    """These names, the first of `count`, and how many more there are."""
    rest = count - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest > 0 else "")


# --- random weights -------------------------------------------------------------------------------


def _fill_randomly(
    weights: OmniWeights, config: ModelConfig, device: torch.device, seed: int, quantizer: Quantizer | None
) -> None:
    if device.type == "meta":
        return
    generator = torch.Generator(device=device).manual_seed(seed)
    for name, part in named_tensors(weights, config):
        place = part if quantizer is None else quantizer.place(part)
        if name.endswith(".bias"):
            place.zero_()
        elif "norm" in name.split(".")[-2]:
            place.fill_(1.0)
        else:
            place.normal_(0.0, DUMMY_STD, generator=generator)
        if quantizer is not None:
            quantizer.filled(part)


# --- progress -------------------------------------------------------------------------------------


@contextmanager
def reporting(progress: bool | Progress, total: int, title: str) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of bytes done since the last call. title: what a bar says."""
    done = 0
    if progress is True:
        with _bar(total, title) as report:
            yield report
        return

    def count(size: int) -> None:
        nonlocal done
        done += size
        if callable(progress):
            progress(done, total)

    yield count


@contextmanager
def _bar(total: int, title: str) -> Iterator[Callable[[int], None]]:
    bar: Bar | None = None
    done = 0
    begin = time.monotonic()

    def report(size: int) -> None:
        nonlocal bar, done
        done += size
        if bar is None and time.monotonic() - begin >= BAR_AFTER_S:
            bar = _drawn(total, title)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield report
    finally:
        if bar is not None:
            bar.stop()


def _drawn(total: int, title: str) -> Bar:
    """On a terminal; imported only where it is drawn."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar.add_task("", total=total)
    bar.start()
    return bar

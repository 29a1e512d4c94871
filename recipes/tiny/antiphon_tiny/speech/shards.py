"""Speech on disk: shards of a few hundred utterances, samples as int16 that are mapped into memory.

A shard NAME-0007 is `NAME-0007.TRACK.npy` for each track (one utterance after the other) and
`NAME-0007.json`, written last, so that a shard that is there is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.codec.analysis.logmel import INPUT_RATE_HZ

__all__ = ["Utterance", "has_shard", "read_sets", "to_int16", "write_shard"]


@dataclass
class Utterance:
    """One utterance of a set; the arrays lie on disk until they are used."""

    set_name: str
    info: dict[str, Any]
    """text, voice, and where they are known phones and ends_s"""
    tracks: dict[str, np.ndarray]
    """`heard`: int16 at 16 kHz, and others by set"""

    @property
    def seconds(self) -> float:
        return len(self.tracks["heard"]) / INPUT_RATE_HZ

    def samples(self, track: str = "heard") -> np.ndarray:
        """float32 in -1 to 1."""
        out: np.ndarray = self.tracks[track].astype(np.float32) / 32767
        return out


def to_int16(samples: np.ndarray) -> np.ndarray:
    whole: np.ndarray = (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
    return whole


def has_shard(folder: Path, name: str, index: int) -> bool:
    return (folder / f"{name}-{index:04d}.json").is_file()


def write_shard(
    folder: Path, name: str, index: int, infos: list[dict[str, Any]], tracks: Mapping[str, list[np.ndarray]]
) -> None:
    """infos and tracks: one for each utterance."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = {}
    for track, parts in tracks.items():
        np.save(folder / f"{name}-{index:04d}.{track}.npy", np.concatenate(parts))
        bounds[track] = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    path = folder / f"{name}-{index:04d}.json"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({"utterances": infos, "bounds": bounds}, ensure_ascii=False))
    unfinished.rename(path)


def read_sets(folder: Path, names: Iterable[str]) -> list[Utterance]:
    """All utterances of these sets that are there, in order."""
    found = []
    for name in names:
        for path in sorted(folder.glob(f"{name}-[0-9][0-9][0-9][0-9].json")):
            content = json.loads(path.read_text())
            mapped = {
                track: np.load(path.with_suffix(f".{track}.npy"), mmap_mode="r")
                for track in content["bounds"]
            }
            for i, info in enumerate(content["utterances"]):
                tracks = {
                    track: mapped[track][bounds[i] : bounds[i + 1]]
                    for track, bounds in content["bounds"].items()
                }
                found.append(Utterance(name, info, tracks))
    return found

"""CPU quotas, as control groups of both versions tell of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from antiphon.process import cores, forking
from antiphon.process.cores import quota_cores, within_quota


def group(mount: Path, path: str, **files: str) -> None:
    folder = mount / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"": {"cpu__max": "150000 100000"}}, 1.5),
        ("0::/", {"": {"cpu__max": "max 100000"}}, None),
        ("0::/pod/box", {"pod": {"cpu__max": "400000 100000"}, "pod/box": {"cpu__max": "max 100000"}}, 4.0),
        ("0::/pod/box", {"pod": {"cpu__max": "50000 100000"}, "pod/box": {"cpu__max": "75000 50000"}}, 0.5),
        ("0::/not/mounted/here", {"": {"cpu__max": "200000 100000"}}, 2.0),
        ("0::/../sibling", {"": {"cpu__max": "300000 100000"}}, 3.0),
        (
            "3:memory:/a\n2:cpu,cpuacct:/docker/a\n0::/",
            {"cpu/docker/a": {"cpu__cfs_quota_us": "250000", "cpu__cfs_period_us": "100000"}},
            2.5,
        ),
        ("1:cpu:/", {"cpu": {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}}, None),
        ("1:cpu:/", {"cpu": {"cpu__cfs_quota_us": "1000", "cpu__cfs_period_us": "0"}}, None),
        ("1:cpu:/", {"cpu": {"cpu__cfs_quota_us": "half", "cpu__cfs_period_us": "100000"}}, None),
        ("2:cpuset:/", {"cpu": {"cpu__cfs_quota_us": "1", "cpu__cfs_period_us": "1"}}, None),
        ("nothing that is known", {}, None),
        ("", {}, None),
    ],
    ids=str,
)
def test_the_smallest_quota_counts(
    tmp_path: Path, groups: str, files: dict[str, dict[str, str]], quota: float | None
) -> None:
    (tmp_path / "groups").write_text(groups)
    for path, texts in files.items():
        group(tmp_path / "mount", path, **texts)
    assert quota_cores(tmp_path / "groups", tmp_path / "mount") == quota


def test_systems_without_groups(tmp_path: Path) -> None:
    assert quota_cores(tmp_path / "groups", tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "count", "expected"), [(None, 8, 8), (4.0, 8, 4), (2.9, 8, 2), (0.3, 8, 1), (16.0, 8, 8)]
)
def test_whole_cores_and_at_least_one(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, count: int, expected: int
) -> None:
    monkeypatch.setattr(cores, "_quota", lambda: quota)
    assert within_quota(count) == expected


def test_what_computes_keeps_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "within_quota", lambda count: min(count, 3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert forking.num_threads() == 3

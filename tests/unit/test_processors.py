"""How many processors a quota leaves, in every place where one may stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipway.processors import processors

HAVE = len(os.sched_getaffinity(0))
V2, V1 = "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/cpu/cpu.cfs_quota_us"
PERIOD = {"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}


def _root(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, HAVE),
        ({V2: "max 100000\n"}, HAVE),
        ({V2: "50000 100000\n"}, 1),
        ({V2: "100000 100000\n"}, 1),
        ({V2: "9900000 100000\n"}, HAVE),
        ({V2: "nonsense"}, HAVE),
        ({V2: ""}, HAVE),
        ({V2: "100000 0\n"}, HAVE),
        ({V1: "-1\n", **PERIOD}, HAVE),
        ({V1: "50000\n", **PERIOD}, 1),
        ({V1: "50000\n"}, HAVE),
        (
            {
                "proc/self/cgroup": "0::/system.slice/slipway.service\n",
                "sys/fs/cgroup/system.slice/cpu.max": "70000 100000\n",
                "sys/fs/cgroup/system.slice/slipway.service/cpu.max": "max 100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/a\n2:cpu,cpuacct:/deep/er\n",
                "sys/fs/cgroup/cpu,cpuacct/deep/cpu.cfs_quota_us": "20000\n",
                "sys/fs/cgroup/cpu,cpuacct/deep/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        # A path of the machine, which a container does not see: its own root has the quota.
        ({"proc/self/cgroup": "0::/../../pod7\n", V2: "30000 100000\n"}, 1),
        ({"proc/self/cgroup": "nonsense\n0::\n"}, HAVE),
    ],
)
def test_the_tightest_quota_counts(tmp_path: Path, files: dict[str, str], wanted: int) -> None:
    assert processors(_root(tmp_path, files)) == wanted


def test_two_and_a_half_processors_are_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert processors(_root(tmp_path, {V2: "250000 100000\n"})) == 3
    assert processors(_root(tmp_path, {V2: "max 100000\n"})) == 8

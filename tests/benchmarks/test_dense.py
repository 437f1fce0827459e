"""The benchmark of detectors and segmentation networks: what it says of who misses the goal, and what it refuses."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from support.reports import measurement

from lit_deploy.bench.result import Breakdown, Exclusion, Part
from lit_deploy.bench.run import BenchReport
from lit_deploy.machine.facts import this_machine
from lit_deploy.report.terminal import as_json

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
dense = importlib.import_module("dense")


def report(*, slower: bool = False, larger: bool = False, absent: bool = False) -> BenchReport:
    eager = measurement("eager", 1, 100.0, 1.0, kind="torch", peak_memory_mib=900.0)
    ours = measurement("ours", 1, 50.0, 0.9 if slower else 2.0, peak_memory_mib=901.0 if larger else 800.0)
    return BenchReport(
        "retinanet_lit_s", (800, 1216), 2, "eager", 0.3, 7, (eager, ours),
        (Exclusion("OpenVINO", None, "not here"),) if absent else (), 0.0, this_machine(),
        (Breakdown("ours", (Part("network", 45.0), Part("NMS", 5.0))),),
    )  # fmt: skip


def test_goal() -> None:
    assert list(dense.missed(report())) == []
    (slow,), (large,), (absent,) = (
        list(dense.missed(report(**{name: True}))) for name in ("slower", "larger", "absent")
    )
    assert "ours is slower than eager (0.90 of its speed)" in slow
    assert "ours needs 901 MiB, eager 900 MiB" in large
    assert "OpenVINO was not measured (not here)" in absent


def test_markdown_and_json() -> None:
    good, bad = report(), report(larger=True)
    assert "is met by everybody" in dense.markdown(dense.DenseResult((good,), ()))
    result = dense.DenseResult((good, bad), tuple(dense.missed(bad)))
    text = dense.markdown(result)
    assert "is missed by:\n\n* " in text
    assert text.count("| ours (fastest) | fp32 | 1 |") == 2
    assert text.count("| ours | 45.0 (90.0%) | 5.00 (10.0%) |") == 2
    assert len(json.loads(as_json(result))["networks"]) == 2


def test_unknown_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    assert dense.main(["--networks", "retinanet_lit_s,yolo", "--folder", str(folder)]) == 2
    assert "error: --networks has yolo, expected some of retinanet_lit_s, " in capsys.readouterr().err
    assert dense.main(["--size", "800", "--folder", str(folder)]) == 2
    assert "--size is '800', expected height x width" in capsys.readouterr().err
    assert not folder.exists()

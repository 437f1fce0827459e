"""Charts of names that others have given, in places that have a matplotlib of their own mind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import ROOT, Run
from support.reports import measurement

from lit_deploy.bench.result import BenchReport, Exclusion
from lit_deploy.core.errors import MissingDependency
from lit_deploy.machine.facts import Machine
from lit_deploy.report.charts import bench_plot, check_chart

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'lit-deploy[plot]'")

EVIL = "$\\frac{$ a\x1b[31m\n‮.onnx"
DRAW = """
import sys
from pathlib import Path
from lit_deploy.report.charts import _figure, check_chart
check_chart(Path(sys.argv[1]))
with _figure(Path(sys.argv[1]), 1, (2.0, 2.0)): pass
import os
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize(
    "backend", ["module://matplotlib_inline.backend_inline", "module://nowhere", "inline", "qtagg"]
)
def test_a_back_end_of_somebody_else(backend: str, tmp_path: Path) -> None:
    """As in the environment of a notebook's terminal."""
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DRAW, tmp_path / "a.png"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{backend}\n"), done.stderr
    assert (tmp_path / "a.png").stat().st_size > 100


def test_names_are_no_formulas(tmp_path: Path) -> None:
    machine = Machine("$\\cpu", 2, (), "Some OS", "3.11", {}, "2026-01-02T03:04:05+00:00", 0.25)
    report = BenchReport(
        "lit_s", (224, 224), 2, EVIL, 0.3, 20, (measurement(EVIL, 1, 60.0, 1.0),), (Exclusion(EVIL, None, "x"),), 0.1,
        machine,
    )  # fmt: skip
    bench_plot(report, tmp_path / "a.svg")
    assert "\x1b" not in (tmp_path / "a.svg").read_text()


def test_a_broken_matplotlib_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "matplotlib").mkdir(parents=True)
    (tmp_path / "site" / "matplotlib" / "__init__.py").write_text("raise ImportError('libfreetype.so.6: no such file')")
    for known in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(MissingDependency, match=r"matplotlib is installed but does not load \(libfreetype"):
        check_chart(tmp_path / "a.png")


def test_the_report_comes_before_its_chart(
    run: Run, exported: Path, checkpoint_file: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured for minutes is not lost with a picture."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("no fonts here")

    monkeypatch.setattr("lit_deploy.report.charts.layers_plot", fail)
    checkpoint = checkpoint_file("tiny")  # type: ignore[operator]
    outcome = run("verify", exported, "--ckpt", checkpoint, "--layers", "--plot", "a.png", "--threads", 1)
    assert outcome.code == 2
    assert "PASS" in outcome.out
    assert "no fonts here" in outcome.err

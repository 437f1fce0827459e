"""Results on the terminal, as JSON, as Markdown and as charts."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
import sys
from pathlib import Path

import pytest
from support.reports import measurement, rendered

from lit_deploy.bench.result import BenchReport, Exclusion
from lit_deploy.core.errors import MissingDependency, StateDictMismatch, UsageError
from lit_deploy.core.files import write_text
from lit_deploy.core.progress import Step
from lit_deploy.core.specs import TOLERANCES
from lit_deploy.machine.facts import Machine
from lit_deploy.models.families import PUBLISHED as OFFICIAL
from lit_deploy.models.layout import parameter_count
from lit_deploy.report.bench import bench_from_json, bench_markdown, bench_table
from lit_deploy.report.charts import bench_plot, check_chart, layers_plot
from lit_deploy.report.doctor import doctor_table
from lit_deploy.report.errors import error_details
from lit_deploy.report.inspect import inspection_table
from lit_deploy.report.models import models_json, models_table
from lit_deploy.report.predict import predictions_table
from lit_deploy.report.terminal import as_json, show, steps
from lit_deploy.report.verify import layers_table, verify_table
from lit_deploy.tasks.classification.predictions import Prediction
from lit_deploy.tasks.comparison import Comparison
from lit_deploy.tasks.protocol import Metric
from lit_deploy.workflows.doctor import Check, Diagnosis
from lit_deploy.workflows.verify import ParityFailed, VerifyReport

METRICS = (
    Metric("relative", "relative error, logits", math.inf, "inf", "<= 1e-05"),
    Metric("cosine", "cosine, worst image", -1.0, "-1.0000000", ">= 0.999999"),
    Metric("top1", "top-1 agreement", 0.5, "50.0%", "100%"),
)


@pytest.fixture
def bench() -> BenchReport:
    machine = Machine("Some CPU [v2]", 2, (), "Some OS", "3.11.7", {"numpy": "2.4"}, "2026-01-02T03:04:05+00:00", 0.25)
    measurements = (
        measurement("PyTorch eager", 1, 60.0, 1.0, kind="torch", max_relative_difference=0.0),
        measurement("with kernel", 1, 20.0, 3.0, kind="onnxruntime"),
        measurement("floor", 1, 15.0, 4.0, max_relative_difference=None),
        measurement("PyTorch eager", 8, 480.0, 1.0, kind="torch", max_relative_difference=0.0),
        measurement("with kernel", 8, 0.5, 2.5, kind="onnxruntime"),
    )
    exclusions = (Exclusion("OpenVINO", None, "not installed"), Exclusion("floor", 8, "refused: [too] different"))
    return BenchReport("lit_s", (224, 224), 2, "PyTorch eager", 0.3, 20, measurements, exclusions, 0.1, machine)


@pytest.fixture
def parity() -> VerifyReport:
    layers = tuple(Comparison(f"layers.0.blocks.{i}", 1e-5, 1e-6, 2e-7, 0.9999999) for i in range(3))
    layers += (
        Comparison("layers.0.downsample", 0.5, 0.1, 0.2, 0.7),
        Comparison("norm", math.inf, math.inf, math.inf, -1),
    )
    return VerifyReport(
        "some/folder/lit_s.onnx", "ONNX Runtime 1.31 cpu", "PyTorch 2.13 cpu", "fp32", TOLERANCES["fp32"], 8, "seeded",
        Comparison("logits", math.inf, 0.5, math.inf, -1.0), METRICS, 0.31, layers, "layers.0.downsample", "fail",
        ("logits: relative error inf exceeds 1e-05", "layers.0.downsample is the first layer outside the tolerance"),
    )  # fmt: skip


def test_bench_table(bench: BenchReport) -> None:
    text = rendered(bench_table(bench))
    for expected in (
        "LIT-S 224x224", "images/s", "MiB", "3.00 (2.70-3.30)", "60.0", "0.500", "16000.0", "312",
        "agree within 3.0e-07", "Some CPU [v2]", "2 threads", "fp32", "load average",
        "median and quartiles over 20 rounds", "OpenVINO: not measured, not installed",
        "floor, batch 8: not measured, refused: [too] different",
    ):  # fmt: skip
        assert expected in text, expected


def test_bench_table_fits_a_narrow_terminal_without_losing_numbers(bench: BenchReport) -> None:
    text = rendered(bench_table(dataclasses.replace(bench, exclusions=())), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "(2.70-3.30)" in text
    assert "16000.0" in text
    assert "…" not in text


def test_bench_json_round_trip(bench: BenchReport) -> None:
    text = as_json(bench)
    assert json.loads(text)["measurements"][1]["round_ms"] == [20.0, 20.2]
    assert bench_from_json(text) == bench
    for damaged in ("{}", "nonsense", text.replace('"p50"', '"p51"'), "[1]"):
        with pytest.raises(UsageError, match="not the JSON"):
            bench_from_json(damaged)


def test_bench_markdown(bench: BenchReport) -> None:
    lines = bench_markdown(bench).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(bench.measurements)
    assert len({row.count("|") for row in rows}) == 1
    cells = [cell.strip() for cell in rows[3].strip("|").split("|")]
    assert cells[:4] == ["with kernel (fastest)", "fp32", "1", "20.0"]
    assert "(fastest)" not in rows[2]
    assert "(fastest)" not in rows[4], "a lower bound is no contender"
    assert cells[8:11] == ["50.0", "312", "3.00 (2.70-3.30)"]
    assert cells[11] == "3.0e-07"
    assert "not compared" in rows[4]
    assert "* OpenVINO: not measured, not installed" in lines
    assert any("Some CPU" in line for line in lines)


def test_disturbed_benchmark_says_so(bench: BenchReport) -> None:
    assert bench.quiet
    disturbed = dataclasses.replace(bench, other_cores=1.26)
    for text in (rendered(bench_table(disturbed)), bench_markdown(disturbed)):
        assert "disturbed: other processes kept 1.3 of 2 cores busy" in text
    assert "disturbed" not in bench_markdown(bench)
    assert dataclasses.replace(bench, other_cores=None).quiet


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_bench_plot(bench: BenchReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bench_plot(bench, tmp_path / "chart.png")
    assert min(png_size(tmp_path / "chart.png")) > 300
    bench_plot(bench, tmp_path / "chart.svg")
    assert "<svg" in (tmp_path / "chart.svg").read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(UsageError, match=r"chart\.txt, expected a name ending in \.png"):
        bench_plot(bench, tmp_path / "chart.txt")
    with pytest.raises(UsageError, match="no measurement to draw"):
        bench_plot(dataclasses.replace(bench, measurements=()), tmp_path / "empty.png")
    with pytest.raises(UsageError, match="does not exist"):
        bench_plot(bench, tmp_path / "absent" / "chart.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart.png", "chart.svg"]


def test_plot_without_matplotlib(bench: BenchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=re.escape("pip install 'lit-deploy[plot]'")):
        bench_plot(bench, tmp_path / "chart.png")
    with pytest.raises(MissingDependency, match="matplotlib"):
        check_chart(tmp_path / "chart.png")
    assert list(tmp_path.iterdir()) == []


def test_verify_table(parity: VerifyReport) -> None:
    text = rendered(verify_table(parity))
    for expected in ("lit_s.onnx", "<= 1e-05", ">= 0.999999", "50.0%", "FAIL", "8 seeded images", *parity.reasons):
        assert expected in text, expected
    good = Metric("relative", "relative error, logits", 3.21e-7, "3.21e-07", "<= 1e-05")
    passed = dataclasses.replace(parity, verdict="pass", reasons=(), metrics=(good,))
    text = rendered(verify_table(passed))
    assert "PASS" in text
    assert "3.21e-07" in text


def test_layers_table(parity: VerifyReport) -> None:
    lines = rendered(layers_table(parity)).splitlines()
    marked = [line for line in lines if "first departure" in line]
    assert len(marked) == 1
    assert "layers.0.downsample" in marked[0]
    assert any("norm" in line and "outside" in line and "inf" in line for line in lines)


def test_verify_json_is_strict(parity: VerifyReport) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = json.loads(as_json(parity), parse_constant=refuse)
    assert value["output"]["max_abs"] is None
    assert value["layers"][0]["relative"] == 2e-7
    assert value["tolerance"] == {"relative": 1e-5, "cosine": 0.999999}


def test_layers_plot(parity: VerifyReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    layers_plot(parity, tmp_path / "layers.svg")
    drawn = (tmp_path / "layers.svg").read_text()
    for expected in ("layers.0.downsample", "first departure", "limit 1e-05", "not finite"):
        assert f"<!-- {expected}" in drawn, expected
    layers_plot(parity, tmp_path / "layers.png")
    assert min(png_size(tmp_path / "layers.png")) > 300
    with pytest.raises(UsageError, match="--layers"):
        layers_plot(dataclasses.replace(parity, layers=()), tmp_path / "none.png")


def test_error_details(parity: VerifyReport) -> None:
    error = StateDictMismatch("wrong keys", ("a.weight",), ("b[0]",), (("c", (1, 2), (3, 4)),))
    text = rendered(error_details(error))
    for expected in ("a.weight", "missing", "b[0]", "unexpected", "shape [1, 2], expected [3, 4]"):
        assert expected in text, expected
    assert "FAIL" in rendered(error_details(ParityFailed("no", parity)))
    assert rendered(error_details(UsageError("no"))).strip() == ""


def test_predictions_inspection_and_models() -> None:
    predictions = [Prediction("a[1].jpg", (3, 1), ("tiger [cat]", "dog"), (0.75, 0.125))]
    text = rendered(predictions_table(predictions))
    for expected in ("a[1].jpg", "75.00%", "tiger [cat]", "12.50%"):
        assert expected in text, expected
    assert json.loads(as_json(predictions))[0]["labels"] == ["tiger [cat]", "dog"]
    text = rendered(inspection_table({"kind": "x", "model": {"name": "lit_s", "size": (1, 2)}, "batch": None}))
    assert re.search(r"model\.name +│ lit_s", text)
    assert re.search(r"model\.size +│ 1, 2", text)
    assert re.search(r"batch +│ dynamic", text)
    text = rendered(models_table(OFFICIAL))
    assert "lit_s" in text
    assert f"{parameter_count(OFFICIAL['lit_s'].spec) / 1e6:.1f} M" in text
    models = json.loads(models_json(OFFICIAL))
    assert models["lit_ti"]["url"].startswith("https://")
    assert models["lit_ti"]["spec"]["image_size"] == [224, 224]


def test_doctor_table() -> None:
    checks = (
        Check("good", "ok", "here [1]", searched=("/not/shown",)),
        Check("bad", "missing", "not found", ("/one", "/two"), "pip install 'x[y]'"),
    )
    text = rendered(doctor_table(Diagnosis(checks)))
    for expected in ("here [1]", "searched /one", "searched /two", "pip install 'x[y]'", "missing"):
        assert expected in text, expected
    assert "/not/shown" not in text
    assert "Everything required" in rendered(doctor_table(Diagnosis(checks[:1])))


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text("héllo", tmp_path / "a.md")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "héllo\n"
    with pytest.raises(UsageError, match="cannot write"):
        write_text("x", tmp_path / "absent" / "a.md")


def test_show_prints_strings_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    long = '{"a": "[bold]' + "x" * 300 + '"}'
    show(long)
    assert capsys.readouterr().out == long + "\n"
    show(error_details(StateDictMismatch("no", ("some.key",))), stderr=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "some.key" in captured.err


def test_steps_are_silent_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with steps() as progress:
        progress(Step("something [1]"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")

"""The benchmark: structure of its report, refusals, and that no process is ever left behind."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.benchmarks import QUICK
from support.exported import change_initializer, edited, export_of
from support.golden import TINY

from lit_deploy.backends.open import open_session
from lit_deploy.bench import contenders
from lit_deploy.bench import run as bench
from lit_deploy.bench import worker as bench_worker
from lit_deploy.bench.contenders import Contender, contenders_for
from lit_deploy.bench.run import BenchReport, run_bench
from lit_deploy.bench.worker import Worker
from lit_deploy.core.errors import LitDeployError, UsageError
from lit_deploy.core.progress import Step
from lit_deploy.machine import native
from lit_deploy.machine.facts import computes_bf16, cpu_flags
from lit_deploy.tasks.classification import difference


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, checkpoint_file: Callable[[str], Path]) -> dict[str, Path]:
    """A tiny checkpoint and exports of it: default, top5 from raw pixels, portable, fixed batch, and a wrong one."""
    folder, checkpoint = tmp_path_factory.mktemp("bench"), checkpoint_file("tiny")
    exports = {
        "tiny": export_of(checkpoint),
        "top5": export_of(checkpoint, input="uint8", output="top5"),
        "portable": export_of(checkpoint, portable=True),
        "fixed": export_of(checkpoint, batch=2),
    }
    for name, path in exports.items():
        (folder / f"{name}.onnx").symlink_to(path)

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: value + np.float32(0.01))

    edited(exports["tiny"], folder / "wrong.onnx", change)
    return {path.stem: path for path in folder.glob("*.onnx")} | {"checkpoint": checkpoint}


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process ids of all workers that a test starts."""
    started: list[int] = []

    class Recorded(Worker):
        def __init__(self, label: str, environment: Mapping[str, str] | None = None) -> None:
            super().__init__(label, environment)
            started.append(self.pid)

    monkeypatch.setattr(bench, "Worker", Recorded)
    return started


def group_is_gone(group: int) -> bool:
    """Whether no process of a group is left, not even a stopped one."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def stock(path: Path, label: str | None = None) -> Contender:
    return Contender(label or path.stem, path, "onnxruntime-stock")


def test_report(files: dict[str, Path], workers: list[int]) -> None:
    eager = Contender("eager", files["checkpoint"], "torch")
    missing = Contender("absent", files["tiny"], "openvino", unavailable="not installed: pip install openvino")
    steps: list[Step] = []
    report = run_bench([stock(files["tiny"]), missing, eager], batches=(1, 3), progress=steps.append, **QUICK)

    assert [(m.label, m.batch) for m in report.measurements] == [("tiny", 1), ("eager", 1), ("tiny", 3), ("eager", 3)]
    assert (report.baseline, report.threads, report.rounds, report.image_size) == ("eager", 1, 3, (64, 64))
    assert [(e.label, e.batch) for e in report.exclusions] == [("absent", None)]
    assert "pip install openvino" in report.exclusions[0].reason
    for m in report.measurements:
        assert 0 < m.p50 <= m.p90 <= m.p95 <= m.p99
        assert len(m.round_ms) == 3
        assert m.samples >= 3
        assert m.images_per_second == pytest.approx(m.batch * 1000 / m.p50)
        assert 10 < m.peak_memory_mib < 10_000
        assert m.max_relative_difference is not None
        assert m.max_relative_difference <= 1e-5
    tiny, reference = report.measurements[:2]
    ratios = np.array(reference.round_ms) / np.array(tiny.round_ms)
    assert (tiny.speedup_quartiles[0], tiny.speedup, tiny.speedup_quartiles[1]) == pytest.approx(
        tuple(np.percentile(ratios, (25, 50, 75)))
    )
    assert (reference.speedup, reference.max_relative_difference) == (1.0, 0.0)
    assert reference.peak_memory_mib > tiny.peak_memory_mib + 50, "torch takes much more than ONNX Runtime"
    assert steps[0] == Step("load eager", 0.0)
    assert len(steps) == 2 + 2 * 2 + 2 * 2 * 3
    assert len(workers) == 2
    assert all(map(group_is_gone, workers))


def test_outputs_of_every_kind_are_compared(files: dict[str, Path], workers: list[int]) -> None:
    chosen = [stock(files[name]) for name in ("tiny", "wrong", "top5", "portable")]
    report = run_bench(chosen, batches=(2,), **{**QUICK, "rounds": 1})
    assert [m.label for m in report.measurements] == ["tiny", "top5", "portable"]
    (refusal,) = report.exclusions
    assert (refusal.label, refusal.batch) == ("wrong", 2)
    assert "refused: its outputs differ by" in refusal.reason


def test_lower_bound_is_not_compared(files: dict[str, Path]) -> None:
    bound = Contender("bound", files["wrong"], "onnxruntime-stock", compared=False)
    report = run_bench([stock(files["tiny"]), bound], batches=(1,), **{**QUICK, "rounds": 1})
    assert [m.max_relative_difference for m in report.measurements] == [0.0, None]


def test_floor_of_the_latency_benchmark(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It holds every matrix product of the network except the offset branches, which are inside the operator."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    latency = importlib.import_module("latency")
    floor, macs, whole = latency.matrix_products(onnx.load(files["tiny"]))
    merges = zip(TINY.embed_dims[:3], TINY.map_sizes[1:], strict=True)
    assert macs == whole - sum(8 * 4 * channels * height * width for channels, (height, width) in merges)
    assert {node.op_type for node in floor.graph.node} == {"MatMul", "Reshape", "Slice", "Gather"}
    onnx.save(floor, tmp_path / "floor.onnx")
    with open_session(tmp_path / "floor.onnx") as session:
        for batch in (1, 3):
            logits = session.run(bench_worker.seeded_feed(session.manifest, batch))["logits"]
            assert logits.shape == (batch, 7)
            assert np.isfinite(logits).all()
            assert np.abs(logits).max() > 1e-20, "values that vanish become denormal, and slow"


def test_openvino(files: dict[str, Path]) -> None:
    pytest.importorskip("openvino")
    chosen = [stock(files["tiny"]), Contender("portable", files["portable"], "openvino")]
    chosen.append(Contender("functions", files["tiny"], "openvino"))
    if native.find_extension() is not None:
        chosen.append(Contender("kernels", files["tiny"], "openvino-kernels"))
    if computes_bf16(cpu_flags()):
        chosen.append(Contender("bf16", files["tiny"], "openvino-bf16"))
    report = run_bench(chosen, batches=(1, 2), **{**QUICK, "rounds": 1})
    assert [m.label for m in report.measurements] == [contender.label for contender in chosen] * 2
    assert report.fastest(2) in {contender.label for contender in chosen}
    for m in report.measurements:
        assert m.max_relative_difference is not None
        assert m.precision == ("bf16" if m.label == "bf16" else "fp32")
        assert (m.max_relative_difference > 1e-5) == (m.label == "bf16")


def test_outputs_are_compared_within_a_network(files: dict[str, Path], checkpoint_file: Callable[[str], Path]) -> None:
    """Two networks in one table, each against its own first contender."""
    other = checkpoint_file("tiny_ti")
    chosen = [stock(files["tiny"]), stock(export_of(other), "other"), Contender("eager", other, "torch")]
    chosen.append(stock(files["wrong"]))
    report = run_bench(chosen, batches=(1,), **{**QUICK, "rounds": 1})
    assert [m.label for m in report.measurements] == ["tiny", "other", "eager"]
    assert [e.label for e in report.exclusions] == ["wrong"]
    assert (report.baseline, report.further_models) == ("eager", ())


def test_worker_is_stopped_between_its_turns_and_serves_onnxruntime_without_torch(files: dict[str, Path]) -> None:
    with Worker("tiny") as worker:
        request = {"kind": "onnxruntime-stock", "source": str(files["tiny"]), "device": "cpu", "threads": 2}
        answer = worker.ask(60, do="open", **request, allow_engine_code=False)
        assert "ONNX Runtime" in answer["description"]
        worker.ask(60, do="prepare", batch=2)
        for _ in range(2):
            turn = worker.ask(60, do="turn", seconds=0.01)
            assert all(milliseconds > 0 for milliseconds in turn["ms"])
            assert turn["phases"] == [], "nothing is known of what happens inside"
            deadline = time.monotonic() + 5
            while process_state(worker.pid) != "T" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert process_state(worker.pid) == "T"
        assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text()
    assert group_is_gone(worker.pid)


def test_other_processes_are_noticed() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        others = bench_worker._OtherProcesses()
        time.sleep(1.0)
        cores = others.busy_cores()
    finally:
        busy.kill()
        busy.wait()
    assert cores is not None
    assert cores > 0.5
    others = bench_worker._OtherProcesses()
    begin = time.process_time()
    while time.process_time() - begin < 0.5:
        pass
    own = others.busy_cores()
    assert own is not None
    assert own < (os.cpu_count() or 1) - 0.3, "this process's own work is not counted"


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_killed_worker_is_one_sentence(files: dict[str, Path], workers: list[int]) -> None:
    def kill_the_first(step: Step) -> None:
        if "round 2" in step.name:
            os.kill(workers[0], signal.SIGKILL)

    with pytest.raises(LitDeployError, match="a: its process was killed, most often for lack of memory"):
        run_bench([stock(files["tiny"], "a"), stock(files["tiny"], "b")], (1,), progress=kill_the_first, **QUICK)
    assert len(workers) == 2
    assert all(map(group_is_gone, workers))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import time; time.sleep(60)", r"tiny: no answer to 'open' within 0\.5 s"),
        ("import sys; sys.exit('lost my way')", r"tiny: its process ended with exit code 1 .*\(lost my way\)"),
        ("import os; os.abort()", "tiny: its process was ended by SIGABRT"),
    ],
)
def test_broken_worker(
    program: str, message: str, files: dict[str, Path], workers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_worker, "COMMAND", (sys.executable, "-c", program))
    timeout = 0.5 if "sleep" in program else 30.0
    with pytest.raises(LitDeployError, match=message):
        run_bench([stock(files["tiny"])], (1,), **{**QUICK, "timeout": timeout})
    assert all(map(group_is_gone, workers))


def test_interrupt_leaves_no_process(files: dict[str, Path], workers: list[int]) -> None:
    def press_ctrl_c(step: Step) -> None:
        if "prepare" in step.name:  # raised while the parent waits for the answer
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        run_bench([stock(files["tiny"])], (1,), progress=press_ctrl_c, **QUICK)
    assert workers
    assert all(map(group_is_gone, workers))


def test_parents_death_ends_a_stopped_worker(files: dict[str, Path]) -> None:
    program = (
        "import os, signal, sys\n"
        "from lit_deploy.bench.worker import Worker\n"
        "worker = Worker('tiny')\n"
        f"source = {str(files['tiny'])!r}\n"
        "setting = {'device': 'cpu', 'threads': 1, 'allow_engine_code': False}\n"
        "worker.ask(60, do='open', kind='onnxruntime-stock', source=source, **setting)\n"
        "print(worker.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == -signal.SIGKILL
    pid = int(result.stdout)
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has collected yet."""
    try:
        return process_state(pid) not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": ()}, "batch sizes are"),
        ({"batches": (0,)}, "batch sizes are"),
        ({"batches": (1, 1)}, "distinct sizes"),
        ({"rounds": 0}, "got rounds 0"),
        ({"threads": 0}, "threads 0"),
    ],
)
def test_unusable_arguments(arguments: dict[str, object], message: str, files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=message):
        run_bench([stock(files["tiny"])], **{**QUICK, **arguments})


def test_unusable_contenders(files: dict[str, Path], workers: list[int]) -> None:
    with pytest.raises(UsageError, match="share a label"):
        run_bench([stock(files["tiny"]), stock(files["tiny"])], **QUICK)
    with pytest.raises(UsageError, match=r"nothing can be measured here \(x: not installed\)"):
        run_bench([Contender("x", files["tiny"], "openvino", unavailable="not installed")], **QUICK)
    with pytest.raises(UsageError, match=r"batch size 2 only, but \[1, 8\] were asked for"):
        run_bench([stock(files["fixed"])], **QUICK)
    assert all(map(group_is_gone, workers))


def test_contenders_for_named_files(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIT_DEPLOY_LIBRARY", str(tmp_path / "absent.so"))
    openvino = replace(contenders.BACKENDS["openvino"], modules=())
    monkeypatch.setitem(contenders.BACKENDS, "openvino", openvino)
    monkeypatch.setattr(contenders, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    chosen = contenders_for([files["tiny"], files["portable"]], files["checkpoint"])
    assert [(c.label, c.kind) for c in chosen] == [
        ("PyTorch eager", "torch"),
        ("tiny.onnx, ONNX Runtime + lit-deploy kernel", "onnxruntime"),
        ("tiny.onnx, ONNX Runtime", "onnxruntime-stock"),
        ("tiny.onnx, OpenVINO + lit-deploy kernels", "openvino-kernels"),
        ("tiny.onnx, OpenVINO + lit-deploy kernels, bf16", "openvino-bf16"),
        ("portable.onnx, ONNX Runtime", "onnxruntime-stock"),
        ("portable.onnx, OpenVINO", "openvino"),
        ("portable.onnx, OpenVINO, bf16", "openvino-bf16"),
    ]
    reasons = [c.unavailable for c in chosen]
    assert "not built" in str(reasons[1])
    absence = "OpenVINO is not installed; run: pip install 'lit-deploy[openvino]'"
    assert [r for c, r in zip(chosen, reasons, strict=True) if "OpenVINO" in c.label] == [absence] * 4
    assert [reasons[0], reasons[2], reasons[5]] == [None] * 3
    monkeypatch.setattr(contenders, "cpu_flags", frozenset)
    assert len(contenders_for([files["tiny"], files["portable"]])) == 5, "no bfloat16 on such a CPU"
    with pytest.raises(UsageError, match="got no file"):
        contenders_for([])


def test_everything_on_one_checkpoint(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """``lit-deploy bench --ckpt``: exports, runs what is here, lists the rest (torch.compile takes too long here)."""
    monkeypatch.setattr(contenders, "cpp_compiler", lambda: None)
    monkeypatch.setattr(contenders, "cpu_flags", frozenset)
    monkeypatch.setattr(bench, "run_bench", quick_run)
    report = bench.bench_files([], files["checkpoint"], batches=(1,), rounds=1, threads=1)
    named = {m.label for m in report.measurements} | {e.label for e in report.exclusions}
    assert named == {
        "PyTorch eager", "PyTorch torch.compile", "ONNX Runtime + lit-deploy kernel", "ONNX Runtime", "OpenVINO",
        "OpenVINO + lit-deploy kernels",
    }  # fmt: skip
    assert {"PyTorch eager", "ONNX Runtime"} <= {m.label for m in report.measurements}
    assert any(e.label == "PyTorch torch.compile" and "C++ compiler" in e.reason for e in report.exclusions)


def quick_run(chosen: tuple[Contender, ...], batches: tuple[int, ...], **options: object) -> BenchReport:
    return run_bench(chosen, batches, **{**QUICK, **options})


@pytest.mark.parametrize("swap", [False, True])
def test_differences_between_kinds_of_outputs(swap: bool) -> None:
    logits = np.array([[1.0, 3.0, 2.0]])
    powers = np.exp(logits - 3)
    probabilities = powers / powers.sum()
    top = {"scores": probabilities[:, [1, 2]], "classes": np.array([[1, 2]])}
    pairs: list[tuple[dict, dict]] = [
        ({"logits": logits}, {"probabilities": probabilities}),
        ({"logits": logits}, top),
        ({"probabilities": probabilities}, top),
        (top, top),
    ]
    measure: Callable[[dict, dict], float] = difference
    for a, b in pairs:
        assert (measure(b, a) if swap else measure(a, b)) < 1e-12
    wrong = {**top, "classes": np.array([[0, 2]])}
    assert (measure(wrong, pairs[0][0]) if swap else measure(pairs[0][0], wrong)) > 0.1
    assert measure({"logits": logits}, {"logits": logits + np.array([np.nan, 0, 0])}) == float("inf")
    assert measure({"logits": logits}, {"logits": logits[:, :2]}) == float("inf")

"""Every planted fault is caught by verification, and ``--layers`` names the first layer it shows in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from support.exported import change_initializer, edited, export_of
from support.golden import TINY, TINY_TI
from support.shared import later

from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.specs import TOLERANCES, ModelSpec
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.workflows import verify as verify_module
from lit_deploy.workflows.verify import VerifyReport, verify_artifact

Array = NDArray[Any]
CheckpointFile = Callable[[str], Path]
Change = Callable[[onnx.ModelProto], None]
SPECS = {**OFFICIAL_SPECS, "tiny": TINY, "tiny_ti": TINY_TI}


@pytest.fixture
def reference_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the same PyTorch reference answer many verifications: its outputs are kept by the bytes it was fed.

    Only the time is saved: the outputs are what the real session returned.
    """
    monkeypatch.setattr(verify_module, "open_session", open_remembering)


class Remembering:
    """A PyTorch session whose answers are remembered."""

    def __init__(self, source: str | Path, options: SessionOptions) -> None:
        with open_session(source, options) as session:
            self.manifest, self.description, self.inputs = session.manifest, session.description, session.inputs
        self.source, self.options = source, options
        self.answers: dict[bytes, dict[str, Any]] = {}

    def __enter__(self) -> Remembering:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        key = feeds["images"].tobytes()
        if key not in self.answers:
            with open_session(self.source, self.options) as session:
                self.answers[key] = session.run(feeds)
        return self.answers[key]


_remembered: dict[str, Remembering] = {}


def open_remembering(source: str | Path, options: SessionOptions) -> Any:
    if Path(source).suffix == ".onnx":
        return open_session(source, options)
    if str(source) not in _remembered:
        _remembered[str(source)] = Remembering(source, options)
    return _remembered[str(source)]


def merge(spec: ModelSpec, stage: int) -> str:
    return f"layers.{stage}.downsample" if spec.family == "lit" else f"patch_embed{stage + 2}"


def axes_swapped(spec: ModelSpec, state: dict[str, Array], stage: int) -> Change:
    """dx and dy of every tap exchanged."""

    def change(model: onnx.ModelProto) -> None:
        for part in ("weight", "bias"):
            name = f"{merge(spec, stage)}.dconv.conv_offset.{part}"
            change_initializer(model, name, lambda value: value[[1, 0, 3, 2, 5, 4, 7, 6]])

    return change


def taps_permuted(spec: ModelSpec, state: dict[str, Array], stage: int) -> Change:
    """Columns before rows: taps 1 and 2 exchanged in the projection."""

    def change(model: onnx.ModelProto) -> None:
        def swap(value: Array) -> Array:
            return value.reshape(4, -1, value.shape[1])[[0, 2, 1, 3]].reshape(value.shape)

        change_initializer(model, f"{merge(spec, stage)}.dconv.weight", swap)

    return change


def offset_taps_permuted(spec: ModelSpec, state: dict[str, Array], stage: int) -> Change:
    """The offsets of taps 1 and 2 exchanged."""

    def change(model: onnx.ModelProto) -> None:
        for part in ("weight", "bias"):
            name = f"{merge(spec, stage)}.dconv.conv_offset.{part}"
            change_initializer(model, name, lambda value: value[[0, 1, 4, 5, 2, 3, 6, 7]])

    return change


def wrong_epsilon(spec: ModelSpec, state: dict[str, Array], stage: int) -> Change:
    """BatchNorm folded with 1e-3 where the network has 1e-5."""
    prefix = merge(spec, stage)
    norm = {part: state[f"{prefix}.norm_layer.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
    right, wrong = (norm["weight"] / np.sqrt(norm["running_var"] + eps) for eps in (1e-5, 1e-3))

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, f"{prefix}.dconv.weight", lambda value: value * (wrong / right))
        bias = wrong * (state[f"{prefix}.dconv.bias"] - norm["running_mean"]) + norm["bias"]
        change_initializer(model, f"{prefix}.dconv.bias", lambda value: bias)

    return change


def mean_forgotten(spec: ModelSpec, state: dict[str, Array], stage: int) -> Change:
    """BatchNorm folded without its running mean."""
    prefix = merge(spec, stage)
    scale = state[f"{prefix}.norm_layer.weight"] / np.sqrt(state[f"{prefix}.norm_layer.running_var"] + 1e-5)
    shift = scale * state[f"{prefix}.norm_layer.running_mean"]
    return lambda model: change_initializer(model, f"{prefix}.dconv.bias", lambda value: value + shift)


def wrong_row(place: str) -> Callable[[ModelSpec, dict[str, Array], int], Change]:
    """One row of the bias table, of every head, holds what belongs to the next row."""

    def fault(spec: ModelSpec, state: dict[str, Array], stage: int) -> Change:
        name = f"layers.{stage}.blocks.{spec.depths[stage] - 1}.attn.relative_position_bias_table"
        height, width = spec.map_sizes[stage]
        centre = (height - 1) * (2 * width - 1) + width - 1
        row = {"corner": 0, "interior": centre - width, "centre": centre}[place]
        table = state[name]

        def change(model: onnx.ModelProto) -> None:
            def edit(value: Array) -> Array:
                value.reshape(len(value), -1)[:, row] = table[row + 1]
                return value

            change_initializer(model, name, edit)

        return change

    return fault


def tanh_gelu(spec: ModelSpec, state: dict[str, Array], stage: int) -> Change:
    """The approximate GELU in every MLP and merging."""

    def change(model: onnx.ModelProto) -> None:
        for node in (node for node in model.graph.node if node.op_type == "Gelu"):
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("approximate", "tanh"))

    return change


FAULTS: dict[str, Callable[[ModelSpec, dict[str, Array], int], Change]] = {
    "dx and dy swapped": axes_swapped,
    "taps permuted": taps_permuted,
    "offsets of taps permuted": offset_taps_permuted,
    "BatchNorm epsilon": wrong_epsilon,
    "BatchNorm mean": mean_forgotten,
    "corner row of the bias table": wrong_row("corner"),
    "interior row of the bias table": wrong_row("interior"),
    "centre row of the bias table": wrong_row("centre"),
    "tanh GELU": tanh_gelu,
}


def first_layer(spec: ModelSpec, fault: str, stage: int) -> str:
    if fault == "tanh GELU":
        return "layers.0.blocks.0" if spec.family == "lit" else "block1.0"
    if "table" in fault:
        return f"layers.{stage}.blocks.{spec.depths[stage] - 1}"
    return merge(spec, stage)


def verify_fault(
    checkpoint: Path, fault: str, stage: int, folder: Path, layers: bool = True, **options: Any
) -> VerifyReport:
    spec = SPECS[checkpoint.stem]
    state = {key: value.astype(np.float64) for key, value in make_state(spec).items()}
    path = edited(export_of(checkpoint, **options), folder / "fault.onnx", FAULTS[fault](spec, state, stage))
    report = verify_artifact(path, checkpoint, layers=layers)
    path.unlink()
    return report


# Stage of the fault: merges 0..2 and attention stages 2..3.
TINY_CASES = [
    *((name, fault, stage) for name in ("tiny", "tiny_ti") for fault in list(FAULTS)[:5] for stage in range(3)),
    *(("tiny", fault, stage) for fault in list(FAULTS)[5:8] for stage in (2, 3)),
    ("tiny", "tanh GELU", 0),
    ("tiny_ti", "tanh GELU", 0),
]


@pytest.mark.usefixtures("reference_once")
@pytest.mark.parametrize(("name", "fault", "stage"), TINY_CASES)
def test_planted_fault(name: str, fault: str, stage: int, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Caught, by the outputs alone too, and the first layer it shows in is named."""
    report = verify_fault(checkpoint_file(name), fault, stage, tmp_path)
    assert report.verdict == "fail"
    assert report.first_departure == first_layer(SPECS[name], fault, stage)
    assert any(report.first_departure in reason for reason in report.reasons)
    assert report.output.relative > TOLERANCES["fp32"].relative, "seen in the outputs, so without --layers as well"
    before = [layer.relative for layer in report.layers]
    names = [layer.name for layer in report.layers]
    assert max(before[: names.index(report.first_departure)], default=0) <= TOLERANCES["fp32"].relative


LIT_S_CASES = [
    ("dx and dy swapped", 0), ("taps permuted", 1), ("offsets of taps permuted", 2), ("BatchNorm epsilon", 2),
    ("corner row of the bias table", 2), ("interior row of the bias table", 2), ("corner row of the bias table", 3),
    ("interior row of the bias table", 3), ("tanh GELU", 0),
]  # fmt: skip


@pytest.mark.usefixtures("reference_once")
@pytest.mark.parametrize(
    ("fault", "stage"), [LIT_S_CASES[0], *(pytest.param(*case, marks=later) for case in LIT_S_CASES[1:])]
)
def test_planted_fault_in_lit_s(fault: str, stage: int, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    report = verify_fault(checkpoint_file("lit_s"), fault, stage, tmp_path)
    assert report.verdict == "fail"
    assert report.first_departure == first_layer(SPECS["lit_s"], fault, stage)


@pytest.mark.usefixtures("reference_once")
def test_lit_s_without_a_fault(checkpoint_file: CheckpointFile) -> None:
    report = verify_artifact(export_of(checkpoint_file("lit_s")), checkpoint_file("lit_s"), layers=True)
    assert (report.verdict, report.reasons, report.first_departure) == ("pass", (), None)
    assert len(report.layers) == 1 + sum(SPECS["lit_s"].depths) + 3 + 1


HALF_CASES = {
    ("dx and dy swapped", 0): True, ("taps permuted", 1): True, ("offsets of taps permuted", 2): True,
    ("BatchNorm mean", 0): True, ("centre row of the bias table", 3): True,
    ("BatchNorm epsilon", 2): False, ("tanh GELU", 0): False,
}  # fmt: skip


@pytest.mark.usefixtures("reference_once")
@pytest.mark.parametrize(("fault", "stage"), HALF_CASES)
def test_planted_fault_in_half_precision(
    fault: str, stage: int, checkpoint_file: CheckpointFile, tmp_path: Path
) -> None:
    """Faults of structure exceed what rounding to float16 explains; an epsilon or a tanh does not, and passes.

    The exporter writes both precisions from one lowered network, so the float32 check covers those two.
    """
    report = verify_fault(checkpoint_file("tiny"), fault, stage, tmp_path, precision="fp16")
    assert (report.verdict == "fail") is HALF_CASES[fault, stage]
    if report.verdict == "fail":
        assert report.first_departure == first_layer(TINY, fault, stage)


@pytest.mark.usefixtures("reference_once")
@pytest.mark.parametrize(("fault", "stage"), [case for case in HALF_CASES if case[0] != "BatchNorm epsilon"])
def test_planted_fault_in_bf16(fault: str, stage: int, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Under the limits of bf16 the same faults are caught as in float16; an epsilon changes no weight of 8 bits."""
    report = verify_fault(checkpoint_file("tiny"), fault, stage, tmp_path, precision="bf16")
    assert report.precision == "bf16"
    assert (report.verdict == "fail") is HALF_CASES[fault, stage]
    if report.verdict == "fail":
        assert report.first_departure == first_layer(TINY, fault, stage)


def test_bf16_without_a_fault(checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny")
    report = verify_artifact(export_of(checkpoint, precision="bf16"), checkpoint, layers=True)
    assert (report.verdict, report.reasons) == ("pass", ())


@pytest.mark.usefixtures("reference_once")
@pytest.mark.parametrize("fault", ["dx and dy swapped", "BatchNorm epsilon", "tanh GELU"])
@pytest.mark.parametrize("output", ["probabilities", "top5"])
def test_planted_fault_behind_other_outputs(
    output: str, fault: str, checkpoint_file: CheckpointFile, tmp_path: Path
) -> None:
    report = verify_fault(checkpoint_file("tiny"), fault, 1, tmp_path, layers=False, output=output)
    assert report.verdict == "fail"
    assert report.layers == ()


def reordered(columns: list[int], shift: int = 0) -> Change:
    """The five classes and their scores picked anew, and the class indices moved by ``shift``."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(columns), "columns"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(shift), "shift"))
        top = next(node for node in model.graph.node if node.op_type == "TopK")
        top.output[:] = ["best_scores", "best_classes"]
        model.graph.node.extend(
            [
                helper.make_node("Gather", ["best_scores", "columns"], ["scores"], axis=1),
                helper.make_node("Gather", ["best_classes", "columns"], ["picked"], axis=1),
                helper.make_node("Add", ["picked", "shift"], ["classes"]),
            ]
        )

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (reordered([0, 0, 0, 0, 0]), "occurs twice"),
        (reordered([4, 3, 2, 1, 0]), "descending"),
        (reordered([0, 1, 2, 3, 4], shift=5000), "outside 0..6"),
    ],
    ids=["best repeated", "worst first", "no such class"],
)
def test_damaged_ranking(change: Change, words: str, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Scores that fit their classes are not enough: a top-5 is five different classes, best first."""
    checkpoint = checkpoint_file("tiny")
    path = edited(export_of(checkpoint, output="top5"), tmp_path / "a.onnx", change)
    report = verify_artifact(path, checkpoint)
    assert report.verdict == "fail"
    assert any(words in reason for reason in report.reasons), report.reasons


def test_constant_half_precision_output(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Large equal logits hide everything from a relative limit: the check must not call that a pass."""
    state = make_state(TINY)
    state["head.bias"] = state["head.bias"] + 2000
    save_checkpoint(state, tmp_path / "biased.pth")
    path = export_of(tmp_path / "biased.pth", precision="fp16")
    report = verify_artifact(path, tmp_path / "biased.pth")
    assert report.verdict != "pass", report

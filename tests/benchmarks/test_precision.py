"""The benchmark of precisions: its images, its metrics, and its profiles of small networks."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.exported import export_of, needs_library
from support.golden import TINY

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.bench.result import BenchReport, Measurement
from lit_deploy.core.errors import MissingDependency
from lit_deploy.core.specs import TOLERANCES
from lit_deploy.evaluate.classification import Score
from lit_deploy.evaluate.result import EvaluateReport
from lit_deploy.images.calibration import CalibrationImages
from lit_deploy.machine.facts import Machine
from lit_deploy.models.families import default_input
from lit_deploy.quantize.gates import predictions
from lit_deploy.report.terminal import as_json
from lit_deploy.tasks.classification.scores import Accuracy

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
precision, speed = (importlib.import_module(name) for name in ("precision", "precision_speed"))

CheckpointFile = Callable[[str], Path]
SIZES = [(640, 427), (512, 600)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[CalibrationImages, CalibrationImages]:
    """Crops of photographs for calibration and for the test, as the tiny network takes them."""
    photos = list(precision.photographs().values())
    return precision.photo_images(photos, tmp_path_factory.mktemp("crops"), default_input(TINY))


@pytest.fixture(scope="module")
def int8(
    checkpoint_file: CheckpointFile, images: tuple[CalibrationImages, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny network in 8 bits."""
    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    source = export_of(checkpoint_file("tiny"))
    precision.export_8bit(source, source, out, images[0], "int8", 1, print, "entropy")
    return out


def test_crops_are_inside_their_photograph_and_of_its_area() -> None:
    crops = precision.draw_crops(SIZES, 40, seed=0)
    assert [crop[0] for crop in crops] == [0, 1] * 20
    for photo, left, top, right, bottom in crops:
        width, height = SIZES[photo]
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert 0.14 < (right - left) * (bottom - top) / (width * height) <= 1
        assert 0.74 < (right - left) / (bottom - top) < 1.35


def test_crops_follow_the_seed_and_none_is_drawn_twice() -> None:
    first = precision.draw_crops([(12, 12)], 60, seed=0)
    assert precision.draw_crops([(12, 12)], 60, seed=0) == first
    assert len(set(first)) == 60
    free = precision.draw_crops([(12, 12)], 60, seed=1)
    kept = precision.draw_crops([(12, 12)], 60, seed=1, taken=first)
    assert set(free) & set(first)  # photographs so small leave little choice, but
    assert not set(kept) & set(first)


def test_no_image_is_for_calibration_and_for_the_test(images: tuple[CalibrationImages, ...]) -> None:
    calibration, test = images
    assert (calibration.count, test.count) == (precision.CALIBRATION, precision.TEST)
    seen = {image.tobytes() for image in calibration.images}
    assert len(seen) == calibration.count
    assert not any(image.tobytes() in seen for image in test.images)


def test_missing_photographs_are_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r"sklearn.* is not installed.*pip install"):
        precision.photographs()


def test_compare_measures_what_it_says() -> None:
    expected = np.array([[3.0, 4.0], [0.0, 10.0]])
    relative, cosines = precision.compare(expected, np.array([[3.0, 4.0], [2.0, 10.0]]))
    assert relative == pytest.approx(0.2)
    np.testing.assert_allclose(cosines, [1, 10 / np.sqrt(104)])


def test_closeness_tells_precision_method_and_damage(
    checkpoint_file: CheckpointFile, int8: Path, images: tuple[CalibrationImages, ...]
) -> None:
    test, checkpoint = images[1], checkpoint_file("tiny")
    reference = predictions(checkpoint, test.feeds, SessionOptions(threads=1))
    exact = precision.closeness("tiny", export_of(checkpoint), test, reference, 1, print)
    rough = precision.closeness("tiny", int8, test, reference, 1, print)
    assert (exact.precision, exact.method, exact.images) == ("fp32", None, test.count)
    assert (rough.precision, rough.method) == ("int8", "entropy")
    assert exact.relative <= TOLERANCES["fp32"].relative
    assert exact.differing == 0
    assert 100 * exact.relative < rough.relative < 1
    assert 0.9 < rough.cosine_min < rough.cosine_mean < exact.cosine_min <= 1 + 1e-12


def rows(*worst: tuple[str, float, float]) -> list[Any]:
    return [precision.Closeness("lit_s", name, None, 32, error, cosine, 1.0, 0) for name, error, cosine in worst]


def test_margins_are_those_of_the_worst_file() -> None:
    names = ("fp32", "fp16", "bf16", "fp8")
    found = rows(("int8", 0.1, 0.999), ("int8", 0.05, 0.99), *((name, 1e-9, 1.0) for name in names))
    margins = {margin.precision: margin for margin in precision.margins(found)}
    assert list(margins) == ["fp32", "fp16", "bf16", "int8", "fp8"]
    worst = margins["int8"]
    assert (worst.relative, worst.cosine) == (0.1, 0.99)
    assert (worst.relative_limit, worst.cosine_limit) == (TOLERANCES["int8"].relative, TOLERANCES["int8"].cosine)


def bench_report(**rounds: tuple[float, ...]) -> BenchReport:
    """A report of these rounds in milliseconds, by label."""
    machine = Machine("CPU", 2, (), "Linux", "3.11", {}, "2026-01-01", 0.0)
    measurements = tuple(
        Measurement(label, "torch", "", "fp32", 1, 9, 1, 1, 1, 1, 1, 1, 1, 9.0, (9.0, 9.0), None, times)
        for label, times in rounds.items()
    )
    return BenchReport("lit_s", (224, 224), 2, next(iter(rounds)), 0.3, 3, measurements, (), 0.0, machine)


def test_a_new_baseline_changes_every_ratio_pair_by_pair() -> None:
    slow = (40.0, 80.0, 20.0)  # a slow spell of the machine meets both
    result = speed.rebased(bench_report(eager=slow, ours=(20.0, 40.0, 10.0), int8=(10.0, 20.0, 10.0)), "ours")
    assert result.baseline == "ours"
    assert [m.speedup for m in result.measurements] == [0.5, 1.0, 2.0]
    assert result.measurements[2].speedup_quartiles == (1.5, 2.0)


@needs_library
def test_everything_is_timed_over_the_fp32_file(
    checkpoint_file: CheckpointFile, int8: Path, images: tuple[CalibrationImages, ...]
) -> None:
    checkpoint = checkpoint_file("tiny")
    files = {"fp32": export_of(checkpoint), "int8": int8}
    files = speed.export_timed(checkpoint, files, images[0], 1, print)
    assert read_manifest(files["int8_portable"]).portable
    result = speed.measure_speed(checkpoint, files, 1, 1, (1,))
    timed = [m.label for m in result.measurements]
    assert timed == [*speed.TIMED.values(), "fp32, PyTorch eager"]
    assert timed[0] == result.baseline
    assert result.measurements[0].speedup == 1
    assert [m.precision for m in result.measurements] == ["fp32"] * 2 + ["int8"] * 3 + ["fp32"]


def test_a_profile_tells_integer_products_from_float_ones(
    checkpoint_file: CheckpointFile, int8: Path, tmp_path: Path
) -> None:
    fp32 = speed.onnxruntime_profile("fp32", export_of(checkpoint_file("tiny")), tmp_path, runs=2)
    eight = speed.onnxruntime_profile("int8", int8, tmp_path, runs=2)
    quantization = read_manifest(int8).quantization
    assert quantization is not None
    assert fp32.integer_products == 0
    assert eight.integer_products == quantization.products == 19
    # those of the attentions are inside the operator; the others are never quantised
    assert eight.float_products == {"patch_embed.proj": 1, "head": 1}
    assert sum(fp32.float_products.values()) == 19 + 2
    for profile in (fp32, eight):
        for shares in (profile.operators, profile.parts):
            assert sum(share.nodes for share in shares) == profile.nodes
            assert sum(share.milliseconds for share in shares) == pytest.approx(profile.milliseconds)
    quantizing = next(share.nodes for share in eight.parts if share.name == "Q/DQ")
    assert quantizing == 19
    assert "Q/DQ" not in [share.name for share in fp32.parts]


def test_openvino_is_profiled_as_well(checkpoint_file: CheckpointFile) -> None:
    pytest.importorskip("openvino")
    portable = export_of(checkpoint_file("tiny"), portable=True)
    profile = speed.openvino_profile("fp32", portable, runs=2)
    assert profile.integer_products == 0
    assert sum(profile.float_products.values()) >= 21  # attention may be fused
    assert {"linear layers, GELU", "inside attention", "norms"} <= {share.name for share in profile.parts}


def test_a_node_counts_with_its_least_time() -> None:
    def node(milliseconds: float) -> Any:
        return speed.NodeTime("head/MatMul", "MatMul", False, milliseconds)

    profile = speed._profile("fp32", 3, [("0", node(3.0)), ("0", node(1.0)), ("1", node(2.0)), ("0", node(5.0))])
    assert (profile.nodes, profile.milliseconds) == (2, 3.0)
    assert profile.operators == (speed.Share("MatMul", 2, 3.0),)


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("layers.2.blocks.0.attn.qkv/MatMul", "MatMul", "linear layers, GELU"),
        ("layers.2.blocks.0.attn/Softmax", "Softmax", "inside attention"),
        ("layers.2.blocks.0.attn/RelativePositionAttention", "RelativePositionAttention", "inside attention"),
        ("layers.2.blocks.0/Add", "Add", "residual sums"),
        ("layers.2.blocks.0.norm1/LayerNormalization", "LayerNormalization", "norms"),
        ("MVN_7", "MVN", "norms"),
        ("BiasGelu_token_12", "BiasGelu", "linear layers, GELU"),
        ("layer_norm_3_QuantizeLinear", "QuantizeLinear", "Q/DQ"),
        ("patch_embed.proj/Add", "Add", "patch embedding"),
        ("layers.0.downsample.dconv/MatMul", "MatMul", "linear layers, GELU"),
        ("layers.0.downsample/DeformableTokenMerging", "DeformableTokenMerging", "merging and the rest"),
        ("logits", "FullyConnected", "linear layers, GELU"),
    ],
)
def test_a_node_belongs_to_a_part(name: str, kind: str, part: str) -> None:
    assert speed.part_of(speed.NodeTime(name, kind, False, 1.0)) == part


def test_the_report_is_whole_in_json_and_markdown(int8: Path, tmp_path: Path) -> None:
    found = [precision.Closeness("lit_s", name, None, 32, 0.01, 0.99, 0.999, 3) for name in TOLERANCES]
    best = Accuracy(358, 358 / 360, 0.98, 0.998)
    digits = EvaluateReport(
        "held-out digits", "folders", 360, 360, 10, "digits.pth", True,
        (Score("digits.pth", "digits.pth", "PyTorch", "fp32", "", best, None, 0, 1.0, 0, 9.0),),
        ((1.0,),), (), 32, 1, 1.0, 0, (),
    )  # fmt: skip
    method = precision.Closeness("lit_s", "int8", "entropy", 32, 0.02, 0.98, 0.998, 4)
    profile = speed.onnxruntime_profile("int8, ONNX Runtime", int8, tmp_path, runs=1)
    result = precision.PrecisionReport(
        ("china.jpg",), 64, 32, tuple(found), (method,), precision.margins([*found, method]), digits,
        bench_report(ours=(1.0,)), True, (profile,),
    )  # fmt: skip
    text = precision.precision_markdown(result)
    assert "| lit_s | entropy | 32 | 2.0e-02 | 0.980000 | 0.998000 | 4 |" in text
    assert "| int8 | 2.0e-02 | 2e-01 | 10 | 2.0e-02 | 1e-02 | 0.5 |" in text
    assert "99.44%" in text
    assert "19 matrix products on integers, 2 in float" in text
    assert "china.jpg" in text
    assert json.loads(as_json(result))["profiles"][0]["integer_products"] == 19

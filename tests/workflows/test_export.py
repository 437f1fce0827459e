"""Exported files: the official numbers, the options, a clean graph, and whole files only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.exported import KERNELS, export_of, needs_bf16, needs_extension, needs_library
from support.golden import NAMES, TINY, Golden, input_u8
from support.shared import later

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import TOLERANCES, ModelSpec
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.images.labels import imagenet_labels
from lit_deploy.images.preprocessing import normalize
from lit_deploy.models.families import OFFICIAL_SPECS, default_input
from lit_deploy.workflows.export import export_checkpoint
from lit_deploy.workflows.verify import verify_artifact

Array = NDArray[Any]
CheckpointFile = Callable[[str], Path]
EXPORTED_LIMIT = 5e-5  # on logits of rms 1; reached 5e-6
ODD = ModelSpec("custom", "lit", (8, 12, 20, 24), (2, 1, 1, 2), (2, 3), (3, 2, 2, 1), (80, 48), 10)
"""Not square, map sizes 20x12, 10x6, 5x3, 2x1: the last merging drops a row and a column."""


def logits(path: Path, images: Array, library: bool | None = False) -> Array:
    with open_session(path, SessionOptions(library=library)) as session:
        return session.run({"images": images})["logits"]


def pixels_of(spec: ModelSpec, count: int) -> NDArray[np.uint8]:
    return np.stack([synthetic_image(7, f"image:{i}", *spec.image_size) for i in range(count)])


# --------------------------------------------------------------------------------------------- the official numbers


# Tracing LIT-M or LIT-B takes 15 s, or half of that where the batch is fixed. LIT-S is run in every form that a file
# can have; the large ones add their numbers.
ORDERS = {"lit_ti": ([0], [1], [0, 1], [1, 0, 1], [0, 1, 1, 0, 1]), "lit_m": ([1, 0],), "lit_b": ([1], [0, 1])}
ORDERS["lit_s"] = ORDERS["lit_ti"]


def golden_file(name: str, mode: str, checkpoint: Path) -> Path:
    """The file to run: the portable LIT-S takes raw pixels, and LIT-M always two images."""
    if mode == "portable":
        return export_of(checkpoint, portable=True, input="uint8")
    return export_of(checkpoint, batch=2 if name == "lit_m" else None)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(pytest.param(name, False, id=f"{name}-function") for name in NAMES),
        *(pytest.param(name, True, id=f"{name}-library", marks=needs_library) for name in NAMES),
        pytest.param("lit_s", "portable", id="lit_s-portable"),
    ],
)
def test_golden_logits(
    name: str,
    mode: bool | str,
    checkpoint_file: CheckpointFile,
    golden: Callable[[str], Golden],
    golden_input: Array,
) -> None:
    """The official logits, in batches of several sizes of one session."""
    path = golden_file(name, str(mode), checkpoint_file(name))
    expected = golden(name)["logits"]
    images = input_u8() if read_manifest(path).input.kind == "uint8" else golden_input
    with open_session(path, SessionOptions(library=mode is True)) as session:
        for order in ORDERS[name]:
            got = session.run({"images": images[order]})["logits"]
            np.testing.assert_allclose(got, expected[order], rtol=0, atol=EXPORTED_LIMIT)
            assert (np.argsort(-got, axis=1)[:, :5] == golden(name)["top5"][order]).all()


@pytest.mark.parametrize(
    "library", [pytest.param(False, id="functions"), pytest.param(True, id="extension", marks=needs_extension)]
)
@pytest.mark.parametrize("name", ["lit_ti", "lit_s", *(pytest.param(name, marks=later) for name in ("lit_m", "lit_b"))])
def test_golden_logits_on_openvino(
    name: str, library: bool, checkpoint_file: CheckpointFile, golden: Callable[[str], Golden], golden_input: Array
) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    options = SessionOptions(backend="openvino", library=library)
    with open_session(golden_file(name, "False", checkpoint_file(name)), options) as session:
        got = session.run({"images": golden_input})["logits"]
    np.testing.assert_allclose(got, golden(name)["logits"], rtol=0, atol=EXPORTED_LIMIT)
    assert (np.argsort(-got, axis=1)[:, :5] == golden(name)["top5"]).all()


@needs_extension
@needs_bf16
@pytest.mark.parametrize("name", NAMES)
def test_golden_logits_in_bfloat16(
    name: str, checkpoint_file: CheckpointFile, golden: Callable[[str], Golden], golden_input: Array
) -> None:
    """Computed by the CPU; without our operators the cosine is 0.9965 for LIT-S, as sampling positions are rounded."""
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    options = SessionOptions(backend="openvino", library=True, precision_hint="bf16")
    with open_session(golden_file(name, "False", checkpoint_file(name)), options) as session:
        got = session.run({"images": golden_input})["logits"]
    assert cosines(got, golden(name)["logits"]).min() >= 0.9998


@pytest.mark.parametrize("library", KERNELS)
@pytest.mark.parametrize("name", ["lit_ti", "lit_s", pytest.param("lit_b", marks=later)])
def test_golden_fp16(
    name: str, library: bool, checkpoint_file: CheckpointFile, golden: Callable[[str], Golden], golden_input: Array
) -> None:
    """LIT-M, which is left out, has the widths of LIT-S and the depths of LIT-B."""
    path = export_of(checkpoint_file(name), precision="fp16", batch=2 if name == "lit_b" else None)
    got, expected = logits(path, golden_input, library), golden(name)["logits"]
    assert cosines(got, expected).min() >= 0.9995
    assert (got.argmax(1) == expected.argmax(1)).all()
    assert path.stat().st_size < 0.52 * export_of(checkpoint_file(name)).stat().st_size


def cosines(got: Array, expected: Array) -> Array:
    """Cosine similarity of every image's logits with the expected ones."""
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    return (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)


@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_bf16_graph(name: str, checkpoint_file: CheckpointFile) -> None:
    """The graph that bf16 engines are built from computes what PyTorch computes, up to its rounding."""
    checkpoint = checkpoint_file(name)
    path = export_of(checkpoint, precision="bf16")
    manifest = read_manifest(path)
    assert manifest.precision == "bf16"
    pixels = pixels_of(manifest.model, 8)
    expected = torch_logits(checkpoint, pixels)
    got = logits(path, normalize(pixels, manifest.input))
    relative, limits = np.abs(got - expected).max() / np.abs(expected).max(), TOLERANCES["bf16"]
    print(f"{name}, rounded to bf16: relative {relative:.1e}, cosine {cosines(got, expected).min():.6f}")
    assert 1e-3 < relative < limits.relative, "less would mean that nothing was rounded"
    assert cosines(got, expected).min() > limits.cosine


@pytest.mark.parametrize("name", [pytest.param("lit_ti", marks=later), "lit_s"])
def test_honest_bf16(
    name: str, checkpoint_file: CheckpointFile, golden_input: Array, golden: Callable[[str], Golden]
) -> None:
    """What an engine in bf16 may reach: PyTorch computes the network that is exported, in bf16 throughout.

    The limits are about four times that, so that they refuse what rounding does not explain.
    """
    import torch

    from lit_deploy.models.build import build
    from lit_deploy.models.lowering import lower

    checkpoint = load_checkpoint(checkpoint_file(name))
    network = lower(build(checkpoint.spec, checkpoint.state), default_input(checkpoint.spec), "bf16")
    with torch.inference_mode():
        got = network(torch.from_numpy(golden_input)).float().numpy()
    expected = golden(name)["logits"]
    relative, limits = np.abs(got - expected).max() / np.abs(expected).max(), TOLERANCES["bf16"]
    print(f"{name} in bf16: relative {relative:.1e}, cosine {cosines(got, expected).min():.6f}")
    assert limits.relative / 12 < relative < limits.relative / 3
    assert cosines(got, expected).min() > 1 - (1 - limits.cosine) / 9, "its error grows with the square of the other"
    assert (got.argmax(1) == expected.argmax(1)).all()


# ---------------------------------------------------------------------------------------------------- the options


@pytest.fixture(scope="module", params=["tiny", "tiny_ti"])
def tiny(request: pytest.FixtureRequest, checkpoint_file: CheckpointFile) -> Path:
    """Checkpoint of a small network of either family."""
    return checkpoint_file(request.param)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "odd.pth"
    save_checkpoint(make_state(ODD), path)
    return path


def torch_logits(checkpoint: Path, pixels: NDArray[np.uint8], **changes: Any) -> Array:
    """PyTorch's logits, with the preprocessing of the manifest or with ``changes`` to it."""
    with open_session(checkpoint) as session:
        return session.run({"images": normalize(pixels, replace(session.manifest.input, **changes))})["logits"]


def test_uint8_equals_float(checkpoint_file: CheckpointFile) -> None:
    """Raw pixels in: the normalisation inside the graph changes nothing."""
    pixels, checkpoint = pixels_of(TINY, 3), checkpoint_file("tiny")
    expected = torch_logits(checkpoint, pixels)
    got = logits(export_of(checkpoint, input="uint8"), pixels)
    np.testing.assert_allclose(got, expected, rtol=0, atol=EXPORTED_LIMIT)
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_own_normalisation(checkpoint_file: CheckpointFile) -> None:
    """Own mean, deviation and resize rule: in the graph of a uint8 file, and in every manifest."""
    mean, std = (0.5, 0.25, 0.75), (0.5, 0.125, 1.0)
    pixels, checkpoint = pixels_of(TINY, 2), checkpoint_file("tiny")
    path = export_of(checkpoint, input="uint8", mean=mean, std=std, resize=99)
    expected = torch_logits(checkpoint, pixels, mean=mean, std=std)
    np.testing.assert_allclose(logits(path, pixels), expected, rtol=0, atol=EXPORTED_LIMIT)
    assert np.abs(expected - torch_logits(checkpoint, pixels)).max() > 0.05, "the other mean and std must matter"
    spec = read_manifest(path).input
    assert (spec.mean, spec.std, spec.resize, spec.kind) == (mean, std, 99, "uint8")
    report = verify_artifact(path, checkpoint, layers=True)
    assert report.verdict == "pass", report.reasons


def test_probabilities_and_top5(checkpoint_file: CheckpointFile) -> None:
    """Seven classes: probabilities are the softmax of the logits, top5 its five largest in order."""
    checkpoint = checkpoint_file("tiny")
    pixels = pixels_of(TINY, 3)
    scores = torch_logits(checkpoint, pixels).astype(np.float64)
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    images = normalize(pixels, read_manifest(export_of(checkpoint)).input)
    with open_session(export_of(checkpoint, output="probabilities")) as session:
        (probabilities,) = session.run({"images": images}).values()
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
    with open_session(export_of(checkpoint, output="top5")) as session:
        assert [(spec.name, spec.dtype) for spec in session.outputs] == [("scores", "float32"), ("classes", "int64")]
        best = session.run({"images": images})
    order = np.argsort(-expected, axis=1)[:, :5]
    assert (best["classes"] == order).all()
    np.testing.assert_allclose(best["scores"], np.take_along_axis(expected, order, 1), rtol=0, atol=1e-5)


def test_fewer_than_five_classes(tmp_path: Path) -> None:
    """``top5`` of three classes are three; LIT-Ti's class token, fp16 and a fixed batch at once."""
    spec = ModelSpec("custom", "lit_ti", (8, 8, 64, 64), (1, 1, 1, 1), (1, 1), (2, 2, 1, 1), (96, 96), 3)
    save_checkpoint(make_state(spec), tmp_path / "three.pth")
    path = tmp_path / "three.onnx"
    result = export_checkpoint(tmp_path / "three.pth", path, OnnxOptions("uint8", "top5", "fp16", batch=2))
    assert result.report is not None
    assert result.report.verdict == "pass"
    with open_session(path) as session:
        best = session.run({"images": pixels_of(spec, 2)})
    assert best["classes"].shape == best["scores"].shape == (2, 3)
    assert (np.sort(best["classes"], axis=1) == [0, 1, 2]).all()


def test_fixed_batch(tiny: Path) -> None:
    path = export_of(tiny, batch=3)
    with open_session(tiny) as reference:
        spec = reference.manifest.input
    images = normalize(pixels_of(TINY, 4), spec)
    np.testing.assert_allclose(
        logits(path, images[:3]), torch_logits(tiny, pixels_of(TINY, 3)), rtol=0, atol=EXPORTED_LIMIT
    )
    with open_session(path) as session:
        assert session.inputs[0].shape == (3, 3, 64, 64)
        assert session.outputs[0].shape[0] == 3
        with pytest.raises(UsageError, match=r"is float32 \[4, 3, 64, 64\], expected float32 \[3 x 3 x 64 x 64\]"):
            session.run({"images": images})
    assert read_manifest(path).batch == 3
    counts = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    assert not counts.keys() & {"Shape", "Identity", "Cast"}, "with every size known nothing needs to be computed"


def test_other_dimensions(odd: Path) -> None:
    """Not square, odd maps, ten classes; default and portable, both kernels."""
    pixels = pixels_of(ODD, 3)
    expected = torch_logits(odd, pixels)
    with open_session(odd) as reference:
        images = normalize(pixels, reference.manifest.input)
    for path in (export_of(odd), export_of(odd, portable=True)):
        np.testing.assert_allclose(logits(path, images), expected, rtol=0, atol=EXPORTED_LIMIT)
        np.testing.assert_allclose(logits(path, images, None), expected, rtol=0, atol=EXPORTED_LIMIT)
        assert read_manifest(path).model == ODD
    report = verify_artifact(export_of(odd), odd, layers=True)
    assert report.verdict == "pass", report.reasons
    assert len(report.layers) == 1 + sum(ODD.depths) + 3 + 1


def test_odd_sizes_of_lit_ti(tmp_path: Path) -> None:
    """LIT-Ti on 80x80, maps of 20, 10, 5 and 2: position embeddings and class token, portable, verified by layer."""
    spec = ModelSpec("custom", "lit_ti", (8, 16, 64, 64), (1, 1, 2, 1), (1, 1), (2, 2, 1, 1), (80, 80), 10)
    save_checkpoint(make_state(spec), tmp_path / "odd_ti.pth")
    export_checkpoint(tmp_path / "odd_ti.pth", tmp_path / "a.onnx", OnnxOptions(portable=True), verify=False)
    report = verify_artifact(tmp_path / "a.onnx", tmp_path / "odd_ti.pth", layers=True)
    assert report.verdict == "pass", report.reasons


def test_labels(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """From a file, from the checkpoint, or numbers; a wrong count is refused before anything is converted."""
    checkpoint = checkpoint_file("tiny")
    names = [f"digit {i}" for i in range(7)]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    path = tmp_path / "labelled.onnx"
    export_checkpoint(checkpoint, path, OnnxOptions(labels=tmp_path / "names.txt"), verify=False)
    assert list(read_manifest(path).labels) == names
    assert read_manifest(export_of(checkpoint)).labels == tuple(f"class {i}" for i in range(7))
    save_checkpoint(make_state(TINY), tmp_path / "own.pth", "state_dict", classes=tuple("abcdefg"))
    assert manifest_from_checkpoint(load_checkpoint(tmp_path / "own.pth")).labels == tuple("abcdefg")
    for wrong in (tuple(names[:6]), tmp_path / "absent.txt", checkpoint):
        with pytest.raises(UsageError, match="labels"):
            export_checkpoint(checkpoint, tmp_path / "wrong.onnx", OnnxOptions(labels=wrong), verify=False)
    assert not (tmp_path / "wrong.onnx").exists()


@pytest.mark.parametrize("name", ["a\x1b[31m", "\ud800"], ids=["escape", "surrogate"])
def test_names_that_no_terminal_should_show(tmp_path: Path, name: str) -> None:
    """A checkpoint's class names are other people's text: refused before anything is converted, mended by others."""
    save_checkpoint(make_state(TINY), tmp_path / "own.pth", "state_dict", classes=(name, *"bcdefg"))
    with pytest.raises(UsageError, match=r"the label of class 0 has control characters .* --labels"):
        export_checkpoint(tmp_path / "own.pth", tmp_path / "own.onnx", verify=False)
    with pytest.raises(UsageError, match="the label of class 0"):
        export_checkpoint(tmp_path / "own.pth", tmp_path / "own.onnx", OnnxOptions(labels=(name, *"bcdefg")))
    assert not (tmp_path / "own.onnx").exists()
    export_checkpoint(tmp_path / "own.pth", tmp_path / "own.onnx", OnnxOptions(labels=tuple("abcdefg")), verify=False)


def test_imagenet_labels(checkpoint_file: CheckpointFile) -> None:
    assert read_manifest(export_of(checkpoint_file("lit_ti"))).labels == imagenet_labels()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"batch": 10**20}, "expected 1 to 1024"),
        ({"precision": "fp64"}, "expected one of fp32, fp16"),
        ({"input": "uint16"}, "expected one of float, uint8"),
        ({"output": "top7"}, "expected one of logits"),
        ({"std": (1, 0, 1)}, "std"),
        ({"std": (1, 1, 1e-40)}, "std"),
        ({"mean": (float("nan"), 0, 0)}, "mean"),
        ({"mean": (1e30, 0, 0)}, "mean"),
        ({"std": (1, 1, -1)}, "std"),
        ({"mean": (123, 117, 104)}, r"pixels in 0\.\.1; of pixels in 0\.\.255 it is --mean 0.482 0.459 0.408"),
        ({"std": (58.4, 57.1, 57.4)}, "it is --std 0.229 0.224 0.225"),
        ({"resize": 63}, "below the input of 64 x 64, .* give 64 or more, or leave it out for the official .* 73"),
        ({"labels": ("a\x1b[31m", *"bcdefg")}, "the label of class 0 has control characters"),
        ({"labels": ("a",)}, "1 labels for 7 classes"),
        ({"labels": "names.t"}, "names.t"),  # a path, although as many characters as there are classes
        ({"resize": 0}, "resize"),
        ({"resize": -5}, "resize"),
        ({"resize": 999_999_999}, "resize"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_options(options: dict[str, Any], word: str, checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=word):
        export_checkpoint(checkpoint_file("tiny"), tmp_path / "a.onnx", OnnxOptions(**options))
    assert os.listdir(tmp_path) == []


def test_four_channels_are_refused(tmp_path: Path) -> None:
    spec = ModelSpec("custom", "lit", (8, 8, 8, 8), (1, 1, 1, 1), (1, 1), (1, 1, 1, 1), (32, 32), 2, in_channels=4)
    save_checkpoint(make_state(spec), tmp_path / "four.pth")
    with pytest.raises(UsageError, match="4 channels"):
        export_checkpoint(tmp_path / "four.pth", tmp_path / "four.onnx")


def test_openvino_runs_the_portable_file(tiny: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install openvino")
    pixels = pixels_of(TINY, 3)
    expected = torch_logits(tiny, pixels)
    path = export_of(tiny, portable=True)
    images = normalize(pixels, read_manifest(path).input)
    # the CPU plugin would otherwise be free to compute in bfloat16
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (3, 1):
        (got,) = compiled({"images": images[:count]}).values()
        np.testing.assert_allclose(got, expected[:count], rtol=0, atol=EXPORTED_LIMIT)


def test_official_specs_are_the_files() -> None:
    """The goldens above are of the networks that users name."""
    assert [name for name, spec in OFFICIAL_SPECS.items() if spec.family in ("lit", "lit_ti")] == list(NAMES)

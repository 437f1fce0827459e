"""bfloat16 and float8 files on ONNX Runtime's CPU sessions: what is computed is what the file says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ml_dtypes import bfloat16, float8_e4m3fn
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.exported import KERNELS, edited, export_of, relabelled
from support.golden import Golden

from lit_deploy.artifacts.onnx_file import (
    OnnxArtifact,
    manifest_of,
    metadata_of,
    read_manifest,
    read_onnx,
    set_manifest,
    with_value_info,
)
from lit_deploy.backends.emulation import FP8_SETTING, bf16_in_float32
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import TOLERANCES, Quantization
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.models.build import build
from lit_deploy.models.lowering import lower
from lit_deploy.workflows.export import export_checkpoint

ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'lit-deploy[ort]'")

Array = NDArray[Any]
CheckpointFile = Callable[[str], Path]
RNG = np.random.default_rng(16)
IMAGES = RNG.standard_normal((3, 3, 64, 64)).astype(np.float32)
STEP = 2.0**-9
"""Largest relative error of one rounding to bfloat16."""


def rounded(values: Array) -> Array:
    """To bfloat16 and back."""
    return values.astype(bfloat16).astype(np.float32)


def is_rounded(values: Array) -> bool:
    """Tell from the bits whether float32 values are bfloat16 ones."""
    return not (np.ascontiguousarray(values).view(np.uint32) & 0xFFFF).any()


def relative(got: Array, expected: Array) -> float:
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def description_of(path: Path, options: SessionOptions | None = None) -> str:
    with open_session(path, options) as session:
        return session.description


def logits(path: Path, images: Array, options: SessionOptions | None = None) -> Array:
    with open_session(path, options) as session:
        return session.run({"images": images})["logits"]


# ------------------------------------------------------------------------------------------ operation by operation


def small_graph(*, declared: bool = True) -> tuple[onnx.ModelProto, Array, Array]:
    """``cast(x) @ w + b``, transposed, squared, as float32: of bfloat16 inside; with the values of ``w`` and ``b``."""
    half, single = TensorProto.BFLOAT16, TensorProto.FLOAT
    weight, bias = (RNG.standard_normal(shape).astype(bfloat16) for shape in ((4, 5), (5,)))
    constant = helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(bias, "b"))
    nodes = [
        constant,
        helper.make_node("Cast", ["x"], ["half"], to=half),
        helper.make_node("MatMul", ["half", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["turned"], perm=[1, 0]),
        helper.make_node("Mul", ["turned", "turned"], ["square"]),
        helper.make_node("Cast", ["square"], ["y"], to=single),
    ]
    shapes = {"b": [5], "half": [3, 4], "product": [3, 5], "sum": [3, 5], "turned": [5, 3], "square": [5, 3]}
    infos = [helper.make_tensor_value_info(name, half, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", single, [3, 4])],
        [helper.make_tensor_value_info("y", single, [5, 3])], [numpy_helper.from_array(weight, "w")],
        value_info=infos if declared else [],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model, weight.astype(np.float32), bias.astype(np.float32)


def run_model(model: onnx.ModelProto, x: Array) -> Array:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    result: Array = session.run(["y"], {"x": x})[0]
    return result


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "inferred"])
def test_every_operation_is_rounded(declared: bool) -> None:
    """Bit for bit what NumPy computes in float32 with a rounding after each operation."""
    model, weight, bias = small_graph(declared=declared)
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        run_model(model, x)  # else there is nothing to emulate
    bf16_in_float32(model, Path("small.onnx"))
    onnx.checker.check_model(model, full_check=True)
    product = np.zeros((3, 5), np.float64)
    for k in range(4):  # products of bfloat16 numbers, and their sums, are far from the end of float64
        product += rounded(x)[:, k : k + 1].astype(np.float64) * weight[k]
    total = rounded(rounded(product.astype(np.float32)) + bias).T
    got = run_model(model, x)
    assert is_rounded(got)
    assert np.array_equal(got, rounded(total * total))
    exact = ((x @ weight + bias) ** 2).T
    assert STEP / 8 < relative(got, exact) < 8 * STEP, "it differs from float32 by a few roundings"
    total_once = rounded(x) @ weight + bias
    assert not np.array_equal(got, rounded(total_once.T**2)), "a missing rounding inside would be seen"


def test_rounding_of_every_kind_of_number() -> None:
    """Nearest, ties to even, overflow to infinity, NaN and subnormal numbers."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16),
             helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT)],
            "cast", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        ),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    bf16_in_float32(model, Path("cast.onnx"))
    ties = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8]
    x = np.array([*ties, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1e-40, -0.0, 0.1], np.float32)
    expected = np.array([1, 1 + 2**-6, -1, np.inf, -np.inf, np.inf, -np.inf, np.nan], np.float32)
    got = run_model(model, x)
    assert np.array_equal(got[:8], expected, equal_nan=True)
    assert np.array_equal(got[8:], rounded(x[8:]))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[3].op_type, model.graph.node[3].domain = "Unknown", "somewhere"
    model.opset_import.add(domain="somewhere", version=1)


def unknown_domain(model: onnx.ModelProto) -> None:
    model.graph.node[3].domain = "nowhere"


def cut_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-3]


@pytest.mark.parametrize(
    ("change", "words"),
    [(unknown_operator, "nothing tells the type of 'sum'"), (unknown_domain, "domain nowhere"), (cut_weight, "buffer")],
)
def test_damaged_graphs(change: Callable[[onnx.ModelProto], None], words: str) -> None:
    model, _, _ = small_graph(declared=False)
    change(model)
    with pytest.raises(ArtifactError, match=rf"^the graph of small\.onnx is damaged \([^\n]*{words}[^\n]*\)"):
        bf16_in_float32(model, Path("small.onnx"))


# ------------------------------------------------------------------------------------------------- whole networks


@pytest.mark.parametrize("kind", [*KERNELS, pytest.param("portable", id="portable")])
def test_networks(kind: bool | str, checkpoint_file: CheckpointFile) -> None:
    """With the kernel, the function and inlined: every bfloat16 value is one, and layers and values say so."""
    portable = kind == "portable"
    path = export_of(checkpoint_file("tiny"), precision="bf16", **({"portable": True} if portable else {}))
    graph = with_value_info(read_onnx(path)).graph
    half = tuple(v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.BFLOAT16)
    assert len(half) > 60
    library = None if portable else bool(kind)
    with open_session(path, SessionOptions(library=library, layers=True, values=half)) as session:
        words = "inlined" if portable else "lit-deploy kernel" if kind else "built-in function"
        assert session.description.endswith(f" cpu ({words}, bfloat16 emulated in float32)")
        got = session.run({"images": IMAGES})
        assert {spec.dtype for spec in session.outputs} == {"float32"}
        layers = session.manifest.layers
    assert set(got) == {"logits", *layers, *half}
    assert [value for value in half if not is_rounded(got[value])] == []
    assert len({*layers, *half}) < len(layers) + len(half), "some layers are of bfloat16"
    alone = logits(path, IMAGES, SessionOptions(library=library))
    assert np.array_equal(alone, got["logits"]), "nothing is optimised away when only the logits are asked for"
    many = np.random.default_rng(3).standard_normal((48, *IMAGES.shape[1:])).astype(np.float32)
    expected = logits(export_of(checkpoint_file("tiny")), many)
    difference = logits(path, many, SessionOptions(library=library)) - expected
    mean = float(np.sqrt((difference**2).mean()) / np.abs(expected).max())  # the largest error is chance
    assert STEP / 4 < mean < TOLERANCES["bf16"].relative / 6


@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_pytorch_in_bfloat16(name: str, checkpoint_file: CheckpointFile) -> None:
    """Nearer to PyTorch's bfloat16 than to float32, and as far from float32 as PyTorch's bfloat16 is."""
    import torch

    checkpoint = load_checkpoint(checkpoint_file(name))
    path = export_of(checkpoint_file(name), precision="bf16")
    network = build(checkpoint.spec, checkpoint.state)
    with torch.inference_mode():
        float32 = network(torch.from_numpy(IMAGES)).numpy()
        lowered = lower(network, read_manifest(path).input, "bf16")
        expected = lowered(torch.from_numpy(IMAGES)).float().numpy()
    got = logits(path, IMAGES)
    error, native = relative(got, float32), relative(expected, float32)
    print(f"{name}: {error:.1e} from float32 (PyTorch {native:.1e}), {relative(got, expected):.1e} from PyTorch bf16")
    assert relative(got, expected) < 12 * STEP
    assert native / 2.5 < error < 2.5 * native
    assert np.linalg.norm(got - expected) < np.linalg.norm(got - float32)


def test_export_verifies(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """One command writes the file and proves it on the emulation; the weights take two bytes."""
    checkpoint, path = checkpoint_file("tiny"), tmp_path / "tiny.onnx"
    options = OnnxOptions("uint8", "top5", "bf16", batch=2)
    result = export_checkpoint(checkpoint, path, options, backend="onnxruntime")
    assert result.report is not None
    assert (result.report.verdict, result.report.precision) == ("pass", "bf16")
    assert "bfloat16 emulated in float32" in result.report.tested
    assert result.manifest.parity == result.report.summary() == read_manifest(path).parity
    assert result.report.output.relative > STEP / 4, "no bfloat16 file is as exact as this"
    whole = [numpy_helper.to_array(tensor) for tensor in read_onnx(path).graph.initializer]
    assert sum(w.nbytes for w in whole if w.dtype == bfloat16) > sum(w.nbytes for w in whole if w.dtype == np.float32)


def test_golden_predictions(
    checkpoint_file: CheckpointFile, golden: Callable[[str], Golden], golden_input: Array
) -> None:
    got = logits(export_of(checkpoint_file("lit_ti"), precision="bf16"), golden_input)
    expected = golden("lit_ti")["logits"]
    assert relative(got, expected) < TOLERANCES["bf16"].relative / 3
    assert (got.argmax(1) == expected.argmax(1)).all()


# ------------------------------------------------------------------------------------------------------------- fp8


def float8(values: Array, scale: float) -> Array:
    """Quantised to e4m3fn and back; what is out of range becomes the largest number."""
    return np.clip(values / np.float32(scale), -448, 448).astype(float8_e4m3fn).astype(np.float32) * np.float32(scale)


def quantize_head(model: onnx.ModelProto, scale: float) -> None:
    """Put Q/DQ of float8 around the last product of a network, and say so in its manifest."""
    graph = model.graph
    product = next(node for node in graph.node if node.name == "head/MatMul")
    weight = next(tensor for tensor in graph.initializer if tensor.name == product.input[1])
    eight = np.clip(numpy_helper.to_array(weight) / np.float32(scale), -448, 448).astype(float8_e4m3fn)
    graph.initializer.remove(weight)
    graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in (("scale", np.float32(scale)), ("zero", np.zeros((), float8_e4m3fn)), ("w8", eight))
    )
    activation, name = product.input
    nodes = [
        helper.make_node("QuantizeLinear", [activation, "scale", "zero"], ["q"], "head/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "head/DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["w8", "scale", "zero"], [name], "head/DequantizeLinear_1"),
    ]
    product.input[0] = "dq"
    index = list(graph.node).index(product)
    whole = [*graph.node[:index], *nodes, *graph.node[index:]]
    del graph.node[:]
    graph.node.extend(whole)
    quantization = Quantization("minmax", None, 1, "test", "00", "fp32", (), 1)
    manifest = manifest_of(metadata_of(model), Path("fp8.onnx"))
    set_manifest(model, replace(manifest, precision="fp8", quantization=quantization))


def test_float8(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """The session computes what NumPy computes with ml_dtypes' float8."""
    scale, plain = 0.01, export_of(checkpoint_file("tiny"))
    path = edited(plain, tmp_path / "fp8.onnx", lambda model: quantize_head(model, scale))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in read_onnx(plain).graph.initializer}
    pooled = next(node for node in read_onnx(plain).graph.node if node.name == "head/MatMul").input[0]
    with open_session(plain, SessionOptions(values=(pooled,))) as session:
        result = session.run({"images": IMAGES})
    weight, bias = constants["head.weight"], constants["head.bias"]
    expected = float8(result[pooled], scale) @ float8(weight, scale) + bias
    with open_session(path) as session:
        got = session.run({"images": IMAGES})["logits"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert relative(got, result["logits"]) > 1e-3, "8 bits round more than float32 does"


# --------------------------------------------------------------------------------------------- who pays, who decides


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_files_are_left_alone(
    precision: str, checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are loaded by ONNX Runtime from their path; int8 keeps its fusion."""
    path = relabelled(export_of(checkpoint_file("tiny")), tmp_path / "a.onnx", precision=precision)
    monkeypatch.setattr(OnnxArtifact, "read", lambda path: pytest.fail("the file was parsed"))
    with open_session(path) as session:
        settings: Any = session._session.get_session_options()  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="does not have"):
            settings.get_session_config_entry(FP8_SETTING[0])
        assert "emulated" not in session.description


def test_float8_inside_bfloat16(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """An 8-bit file whose other operations are of bfloat16 needs both."""
    quantization = Quantization("minmax", None, 1, "test", "00", "bf16", (), 0)
    source = export_of(checkpoint_file("tiny"), precision="bf16")
    path = relabelled(source, tmp_path / "a.onnx", precision="fp8", quantization=quantization)
    with open_session(path) as session:
        settings: Any = session._session.get_session_options()  # type: ignore[attr-defined]
        assert settings.get_session_config_entry(FP8_SETTING[0]) == FP8_SETTING[1]
        assert session.description.endswith(", bfloat16 emulated in float32, fp8 emulated)")
    assert np.array_equal(logits(path, IMAGES), logits(source, IMAGES))

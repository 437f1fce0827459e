"""Q/DQ in the graph: which products get it, what it computes, and that ONNX Runtime runs integer kernels for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ml_dtypes import float8_e4m3fn
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.engines import MANIFEST
from support.exported import export_of
from support.golden import Golden
from support.quantized import integer_products, run_plainly

from lit_deploy.artifacts.onnx_file import (
    OnnxArtifact,
    manifest_of,
    metadata_of,
    read_onnx,
    set_manifest,
    with_value_info,
)
from lit_deploy.backends import onnxruntime
from lit_deploy.backends.onnxruntime import EXACT_INT8
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ExportError, UsageError
from lit_deploy.core.specs import EIGHT_BIT, EightBit
from lit_deploy.exporters import qdq
from lit_deploy.exporters.qdq import LARGEST, Product, observed, quantized
from lit_deploy.machine.facts import cpu_flags, int8_saturates

ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'lit-deploy[ort]'")

Array = NDArray[Any]
CheckpointFile = Callable[[str], Path]
RNG = np.random.default_rng(4)
EIGHT_BITS = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}


def products(model: onnx.ModelProto, precision: EightBit, keep: Sequence[str] = ()) -> tuple[Product, ...]:
    """``qdq.products`` of an exported model, or of one that is made by hand and takes the tiny network's manifest."""
    manifest = manifest_of(metadata_of(model), Path("model")) if model.metadata_props else MANIFEST
    return qdq.products(OnnxArtifact(model, manifest), precision, keep)


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """``qdq.opened`` of an exported model, for fp8."""
    return qdq.opened(OnnxArtifact(model, manifest_of(metadata_of(model), Path("model"))), "fp8").graph


def linear_modules(model: onnx.ModelProto) -> list[str]:
    """Modules of all products with a constant weight, told independently of node names: by the weights' names."""
    weights = {tensor.name for tensor in model.graph.initializer}
    used = [node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    return [name.removesuffix(".weight") for name in used]


def largest_of(path: Path, values: tuple[str, ...], images: Array) -> dict[str, float]:
    with open_session(path, SessionOptions(values=values)) as session:
        outputs = session.run({"images": images})
    return {name: float(np.abs(outputs[name]).max()) for name in values}


# ------------------------------------------------------------------------------------------------- what is quantised


@pytest.mark.parametrize("name", ["tiny", "tiny_ti"])
def test_all_linear_modules_but_the_first_and_the_last(name: str, checkpoint_file: CheckpointFile) -> None:
    model = read_onnx(export_of(checkpoint_file(name)))
    first, *inner, last = linear_modules(model)
    assert first.startswith("patch_embed")
    assert last == "head"
    assert [product.module for product in products(model, "int8")] == inner
    assert sum(module.endswith("dconv") for module in inner) == 3, "projections behind the merging are among them"


@pytest.mark.parametrize("portable", [False, True], ids=["with functions", "portable"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_attention_is_quantised_in_fp8_only(precision: str, portable: bool, checkpoint_file: CheckpointFile) -> None:
    options = {} if precision == "fp32" else {"precision": precision}
    path = export_of(checkpoint_file("tiny"), **options, **({"portable": True} if portable else {}))
    model = opened(read_onnx(path))
    inside = [product for product in products(model, "fp8") if product.weight is None]
    blocks = [
        name for name in manifest_of(metadata_of(model), Path()).layers if name.startswith(("layers.2.b", "layers.3.b"))
    ]
    assert Counter(product.module for product in inside) == {f"{block}.attn.products": 2 for block in blocks}
    assert [product.probabilities is not None for product in inside] == [False, True] * len(blocks)
    assert len(products(model, "fp8")) == len(products(model, "int8")) + len(inside)
    assert opened(model) == model, "opened once, it stays"
    names = observed(inside)
    assert len(names) == 3 * len(blocks), "q, k and v; the range of a softmax is known"
    assert not {product.probabilities for product in inside} & set(names)


def test_keep(checkpoint_file: CheckpointFile) -> None:
    model = opened(read_onnx(export_of(checkpoint_file("tiny"))))
    every = products(model, "fp8")
    modules = [product.module for product in every]
    for patterns in (["layers.2.blocks.0.mlp.fc1"], ["layers.2"], ["*.attn"], ["layers.[01].*", "*.dconv"]):
        kept = [product.module for product in products(model, "fp8", patterns)]
        assert 0 < len(kept) < len(modules)
        assert [module for module in modules if module in kept] == kept, "the order stays"
    assert not [p for p in products(model, "fp8", ["layers.2"]) if p.module.startswith("layers.2.")]
    assert [p.module for p in products(model, "fp8", ["*.attn"]) if ".attn" in p.module] == [], "all below it too"
    inner = [p.module for p in products(model, "fp8", ["*.attn.products"])]
    assert inner == [p.module for p in products(model, "int8")], "without what surrounds them"
    assert products(model, "int8", ["layers.*"]) == ()


@pytest.mark.parametrize("pattern", ["layers.9", "head", "patch_embed.proj", "LAYERS.0.*", ""])
def test_a_pattern_that_matches_nothing(pattern: str, checkpoint_file: CheckpointFile) -> None:
    model = read_onnx(export_of(checkpoint_file("tiny")))
    with pytest.raises(
        UsageError, match=r"^nothing that could be quantised is named '.*'; names are layers\.0\.[^\n]+$"
    ):
        products(model, "int8", [pattern])


# ------------------------------------------------------------------------------------------------ what is computed


def shared_input() -> onnx.ModelProto:
    """``(x @ w) * (x @ v)``: one value that two products read."""
    weights = {f"{name}.weight": RNG.standard_normal((16, 8)).astype(np.float32) for name in "wv"}
    weights["w.weight"][:, 3] = 0.0
    nodes = [
        helper.make_node("Identity", ["x"], ["h"], "h/Identity"),
        helper.make_node("MatMul", ["h", "w.weight"], ["a"], "w/MatMul"),
        helper.make_node("MatMul", ["h", "v.weight"], ["b"], "v/MatMul"),
        helper.make_node("Add", ["a", "b"], ["y"], "y/Add"),
    ]
    graph = helper.make_graph(
        nodes, "shared", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 8])],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )  # fmt: skip
    return with_value_info(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def eight_bits(values: Array, scale: Array, precision: EightBit) -> Array:
    """Quantised and dequantised by NumPy alone; QuantizeLinear uses -128 as well."""
    scaled = np.clip(values / scale, -LARGEST[precision] - (precision == "int8"), LARGEST[precision])
    rounded = np.rint(scaled) if precision == "int8" else scaled.astype(float8_e4m3fn).astype(np.float32)
    return (rounded * scale).astype(np.float32)


@pytest.mark.parametrize("precision", EIGHT_BIT)
def test_numbers(precision: EightBit) -> None:
    """What NumPy computes from the definition; values beyond the range are clipped; a column of zeros stays zero."""
    model = shared_input()
    x = RNG.standard_normal((5, 16)).astype(np.float32)
    limit = float(np.abs(x).max()) / 2
    result = quantized(model, precision, {"h": limit}, products(model, precision))
    onnx.checker.check_model(result, full_check=True)
    expected = np.zeros((5, 8), np.float32)
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        columns = np.maximum(np.abs(weight).max(axis=0), 1e-30) / LARGEST[precision]
        expected += eight_bits(x, np.float32(limit / LARGEST[precision]), precision) @ eight_bits(
            weight, columns, precision
        )
    np.testing.assert_allclose(run_plainly(result, x), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(run_plainly(model, x) - expected).max() > 0.1, "the clipping shows"
    assert Counter(node.op_type for node in result.graph.node)["QuantizeLinear"] == 1, "one for both that read it"


@pytest.mark.parametrize("precision", EIGHT_BIT)
@pytest.mark.parametrize("base", ["fp32", "fp16"])
def test_types(precision: EightBit, base: str, checkpoint_file: CheckpointFile) -> None:
    """Weights are of 8 bits, zero points zero, scales of the graph's own type; everything else is as it was."""
    before = read_onnx(export_of(checkpoint_file("tiny"), **({} if base == "fp32" else {"precision": base})))
    untouched = before.SerializeToString(deterministic=True)
    chosen = products(before, precision)
    after = quantized(before, precision, dict.fromkeys(observed(chosen), 3.0), chosen)
    onnx.checker.check_model(after, full_check=True)
    assert before.SerializeToString(deterministic=True) == untouched, "the model handed in stays as it is"
    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    wide = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}[base]
    for product in chosen:
        for value in (*product.activations, *([product.weight] if product.weight else [])):
            scale, zero = numpy_helper.to_array(tensors[f"{value}/scale"]), tensors[f"{value}/zero_point"]
            assert (tensors[f"{value}/scale"].data_type, zero.data_type) == (wide, EIGHT_BITS[precision])
            assert (scale > 0).all()
            assert not numpy_helper.to_array(zero).astype(np.float32).any()
        if product.weight:
            assert product.weight not in tensors
            stored = tensors[f"{product.weight}/quantized"]
            assert stored.data_type == EIGHT_BITS[precision]
            extremes = np.abs(numpy_helper.to_array(stored).astype(np.float32)).max(axis=0)
            assert (extremes > 0.9 * LARGEST[precision]).all(), "every column uses its whole range"
            assert (extremes <= LARGEST[precision]).all()
    ours = {node.name: node for node in before.graph.node}
    changed = {product.node for product in chosen}
    for node in after.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") and node.name not in changed:
            assert node == ours.pop(node.name)
    assert set(ours) == changed, "no node is lost"
    assert list(after.functions) == list(before.functions)


def test_softmax_in_fp8_has_a_known_range(checkpoint_file: CheckpointFile) -> None:
    model = opened(read_onnx(export_of(checkpoint_file("tiny"))))
    chosen = products(model, "fp8")
    result = quantized(model, "fp8", dict.fromkeys(observed(chosen), 3.0), chosen)
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    found = [scales[f"{product.probabilities}/scale"] for product in chosen if product.probabilities]
    assert found == [np.float32(1 / 448)] * len(found)
    assert found


def test_a_range_of_next_to_nothing() -> None:
    """The scale stays a normal number of the graph's type."""
    model = shared_input()
    result = quantized(model, "int8", {"h": 1e-45}, products(model, "int8"))
    scales = [numpy_helper.to_array(t) for t in result.graph.initializer if t.name.endswith("/scale")]
    assert all((scale >= np.finfo(np.float32).tiny).all() for scale in scales)
    assert np.isfinite(run_plainly(result, np.ones((5, 16), np.float32))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad: float) -> None:
    model = shared_input()
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[2, 2] = bad
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w.weight"))
    with pytest.raises(
        ExportError, match=r"^the weight 'w\.weight' holds values that are not finite, so it has no range$"
    ):
        quantized(model, "int8", {"h": 1.0}, products(model, "int8"))


# ---------------------------------------------------------------------------------------------------- whole networks


def quantised_file(path: Path, target: Path, precision: EightBit, images: Array) -> tuple[Path, tuple[Product, ...]]:
    model = read_onnx(path)
    chosen = products(model, precision)
    result = quantized(model, precision, largest_of(path, observed(chosen), images), chosen)
    set_manifest(result, manifest_of(metadata_of(model), path))
    onnx.save(result, str(target))
    return target, chosen


def test_lit_s_in_integers(
    checkpoint_file: CheckpointFile, golden: Callable[[str], Golden], golden_input: Array, tmp_path: Path
) -> None:
    """Near to the official code, and all 43 quantised products run as integer kernels by ONNX Runtime's own profile."""
    path, chosen = quantised_file(export_of(checkpoint_file("lit_s")), tmp_path / "int8.onnx", "int8", golden_input)
    assert len(chosen) == 43
    assert path.stat().st_size < 45e6, "a third of float32"
    settings = ort.SessionOptions()
    settings.enable_profiling, settings.profile_file_prefix = True, str(tmp_path / "profile")
    if int8_saturates(cpu_flags()):
        settings.add_session_config_entry(*EXACT_INT8)
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"images": golden_input})[0]
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = {event["name"]: event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")}
    kinds = Counter(nodes.values())
    assert kinds["MatMulIntegerToFloat"] == 43
    assert kinds["MatMul"] == 1 + 2 * 8, "patch embedding and the two products inside each attention"
    assert kinds["DequantizeLinear"] == 0, "all of them went into the integer kernels"
    expected = golden("lit_s")["logits"]
    cosine = (logits * expected).sum(1) / np.linalg.norm(logits, axis=1) / np.linalg.norm(expected, axis=1)
    print(f"least cosine {cosine.min():.5f}")
    assert cosine.min() > 0.995
    assert (logits.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("batch", [None, 3])
def test_a_fixed_batch_computes_in_integers_too(
    batch: int | None, checkpoint_file: CheckpointFile, tmp_path: Path
) -> None:
    source = export_of(checkpoint_file("tiny"), **({} if batch is None else {"batch": batch}))
    images = RNG.standard_normal((3, 3, 64, 64)).astype(np.float32)
    path, chosen = quantised_file(source, tmp_path / "int8.onnx", "int8", images)
    onnx.checker.check_model(str(path), full_check=True)
    kinds = integer_products(path, tmp_path)
    assert kinds["MatMulIntegerToFloat"] == len(chosen)
    assert kinds["DequantizeLinear"] == 0
    results = []
    for file in (source, path):
        with open_session(file) as session:
            results.append(session.run({"images": images})["logits"])
    assert results[0].shape == results[1].shape
    assert 1e-4 < np.abs(results[0] - results[1]).max() / np.abs(results[0]).max() < 0.2


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [({"avx2"}, True), ({"avx2", "avx512f"}, True), ({"avx2", "avx512f", "avx512_vnni"}, False),
     ({"avx2", "avx_vnni"}, False), (set(), False)],
)  # fmt: skip
def test_sums_are_exact_on_cpus_without_dot_products(
    flags: set[str], wanted: bool, checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the flags of an x86 CPU; others (no flags) have no such kernels."""
    monkeypatch.setattr(onnxruntime, "cpu_flags", lambda: frozenset(flags))
    with open_session(export_of(checkpoint_file("tiny"))) as session:
        settings: Any = session._session.get_session_options()  # type: ignore[attr-defined]
        if wanted:
            assert settings.get_session_config_entry(EXACT_INT8[0]) == EXACT_INT8[1]
        else:
            with pytest.raises(RuntimeError, match="does not have"):
                settings.get_session_config_entry(EXACT_INT8[0])

"""RoIAlign over a pyramid: the ONNX function on ONNX Runtime and OpenVINO against the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.detection import LEVELS, Feed, Runner, on_onnxruntime, on_openvino, random_regions, roi_align_model

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.multi_level_roi_align.library import multi_level_roi_align
from lit_deploy.ops.multi_level_roi_align.onnx_function import OPSET, onnx_function
from lit_deploy.ops.multi_level_roi_align.reference import reference, roi_levels
from lit_deploy.ops.multi_level_roi_align.schema import OP_TYPE, register_onnx_schema

RUNNERS = (pytest.param(on_onnxruntime, id="onnxruntime"), pytest.param(on_openvino, id="openvino"))
Open = Callable[[onnx.ModelProto], Runner]


def tensors(feed: Feed) -> list[torch.Tensor]:
    return [torch.from_numpy(feed[name]) for name in ("rois", *LEVELS)]


def expected(feed: Feed, size: int = 7) -> np.ndarray:
    rois, *levels = tensors(feed)
    return reference(rois, levels, size).numpy()


def pyramid(*rois: tuple[float, ...], channels: int = 2, cells: int = 64, dtype: str = "float32") -> Feed:
    rng = np.random.default_rng(3)
    maps = {name: rng.standard_normal((1, channels, cells >> i, cells >> i)) for i, name in enumerate(LEVELS)}
    feed = {"rois": np.array(rois, np.float32).reshape(-1, 4)}
    return feed | {name: array.astype(dtype) for name, array in maps.items()}


@pytest.mark.parametrize("open_", RUNNERS)
@pytest.mark.parametrize("size", [7, 14])
def test_function_equals_reference(open_: Open, size: int) -> None:
    """Any map down to 1 x 1, no region, levels without one, regions across borders and without an area."""
    run = open_(roi_align_model(size))
    for seed in range(100):
        feed = random_regions(seed)
        got, want = run(feed), expected(feed, size)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * 4, err_msg=str(seed))


@pytest.mark.parametrize("open_", RUNNERS)
def test_half_precision_is_rounded_once(open_: Open) -> None:
    run = open_(roi_align_model(7, "float16"))
    for seed in range(20):
        feed = random_regions(seed, "float16")
        got, want = run(feed), expected({name: array.astype(np.float32) for name, array in feed.items()})
        assert got.dtype == np.float16
        np.testing.assert_allclose(got.astype(np.float32), want, rtol=2**-10, atol=1e-5)


@pytest.mark.parametrize("open_", RUNNERS)
def test_regions_without_an_area_are_zero(open_: Open) -> None:
    feed = pyramid((8, 8, 8, 60), (8, 8, 60, 8), (60, 60, 8, 8), (60, 8, 8, 60), (-99, -99, -90, -90), (8, 8, 60, 60))
    for got in (open_(roi_align_model())(feed), expected(feed)):
        assert (got[:5] == 0).all()
        assert (got[5] != 0).all()


def test_levels_begin_where_the_definition_says() -> None:
    """floor(log2(sqrt(w * h) / 56 + 1e-6)), held between 0 and 3, as double precision has it."""
    sides = np.array([0.0, 1, 55.9, 56, 111.9, 112, 112.1, 223.9, 224, 447.9, 448, 896, 5000])
    rois = np.stack([0 * sides, 0 * sides, sides, sides], 1).astype(np.float32)
    want = np.clip(np.floor(np.log2(sides / 56 + 1e-6)), 0, 3)
    assert roi_levels(torch.from_numpy(rois)).tolist() == want.tolist()


@pytest.mark.parametrize("open_", RUNNERS)
def test_each_region_reads_its_own_level(open_: Open) -> None:
    """Constant maps of 10, 20, 30 and 40: the regions come back in their order with the value of their level."""
    feed = pyramid((0, 0, 240, 240), (0, 0, 20, 20), (0, 0, 1000, 220), (0, 0, 120, 120), (5, 5, 9, 9))
    feed |= {name: np.full_like(feed[name], 10 * (i + 1)) for i, name in enumerate(LEVELS)}
    for got in (open_(roi_align_model())(feed), expected(feed)):
        np.testing.assert_allclose(got[:, 0, 0, 0], [30, 10, 40, 20, 10], rtol=1e-6)


def test_known_numbers() -> None:
    """A ramp in x: a bin's mean is the ramp at the bin's centre, which lies half a cell before the pixel's."""
    feed = pyramid((16, 16, 72, 72), channels=1)
    feed["level0"][:] = np.arange(64, dtype=np.float32)
    want = 16 / 4 - 0.5 + (np.arange(7) + 0.5) * 2
    np.testing.assert_allclose(expected(feed)[0, 0], np.tile(want, (7, 1)), atol=1e-5)


def test_reference_is_differentiable() -> None:
    rois, *levels = tensors(pyramid((3, 4, 25, 30), (2, 2, 2, 9), (0, 0, 60, 60), cells=16, channels=1))
    levels = [level.double().requires_grad_() for level in levels]
    assert torch.autograd.gradcheck(lambda *maps: reference(rois, maps, 3), levels, fast_mode=True)


def test_exports_as_one_operator_with_dynamic_sizes() -> None:
    class Network(torch.nn.Module):
        def forward(self, *inputs: Any) -> torch.Tensor:
            return multi_level_roi_align(*inputs, output_size=7)

    feeds = [
        tuple(tensors(pyramid((0, 0, 9, 9), *[(0, 0, 90, 90)] * n, cells=cells))) for n, cells in ((2, 48), (5, 64))
    ]
    dynamic = torch.export.Dim.DYNAMIC
    shapes = (({0: dynamic}, *({2: dynamic, 3: dynamic} for _ in LEVELS)),)
    program = torch.export.export(Network(), feeds[0], dynamic_shapes=shapes)
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.lit_deploy.multi_level_roi_align.default in calls
    rois, *levels = feeds[1]
    torch.testing.assert_close(program.module()(*feeds[1]), reference(rois, levels, 7))


def test_operator_hands_its_gradient_on() -> None:
    rois, *levels = tensors(pyramid((3, 4, 25, 30), (0, 0, 130, 130)))
    gradients = []
    for run in (
        lambda *maps: torch.ops.lit_deploy.multi_level_roi_align(rois, *maps, 7),
        lambda *maps: reference(rois, maps, 7),
    ):
        leaves = [level.clone().requires_grad_() for level in levels]
        run(*leaves).square().sum().backward()
        gradients.append([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
    torch.testing.assert_close(*gradients)
    assert gradients[0][0].abs().sum() > 0


def test_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="output_size is 0"):
        multi_level_roi_align(*tensors(pyramid()), output_size=0)


def test_body_is_standard_onnx_and_its_shape_is_known() -> None:
    function = onnx_function()
    assert (function.domain, function.name) == (DOMAIN, OP_TYPE)
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", OPSET)]
    assert {node.domain for node in function.node} == {""}
    register_onnx_schema()
    register_onnx_schema()  # a second call is harmless
    model = roi_align_model(14)
    onnx.checker.check_model(model, full_check=True)
    (output,) = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output
    dims = output.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["K", "C", 14, 14]

"""The networks against the official outputs, and the operator's reference against the official convolution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import (
    DCN_LIMIT,
    LOGITS_LIMIT,
    NAMES,
    OFFSETS_LIMIT,
    TINY,
    TINY_TI,
    TOKENS_LIMIT,
    Golden,
    dcn_cases,
    strided,
)
from support.offsets import with_explicit_offsets
from torch import Tensor, nn

from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.seeded import make_state, state_sha256
from lit_deploy.core.errors import StateDictMismatch
from lit_deploy.core.specs import ModelSpec
from lit_deploy.models import blocks
from lit_deploy.models.build import build
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.models.families import PUBLISHED as OFFICIAL
from lit_deploy.models.layout import mac_count, parameter_count, state_entries
from lit_deploy.models.recording import record_layers
from lit_deploy.ops.deformable_token_merging.library import deformable_token_merging
from lit_deploy.ops.deformable_token_merging.reference import reference, tap_major_from_conv


def seeded_model(spec: ModelSpec) -> nn.Module:
    return build(spec, {key: torch.from_numpy(value) for key, value in make_state(spec).items()})


def merge_names(spec: ModelSpec) -> list[str]:
    return [f"layers.{i}.downsample" if spec.family == "lit" else f"patch_embed{i + 2}" for i in range(3)]


def stage_names(spec: ModelSpec) -> list[str]:
    start = "layers.{}.blocks.{}" if spec.family == "lit" else "block{}.{}"
    return [start.format(i + (spec.family == "lit_ti"), depth - 1) for i, depth in enumerate(spec.depths)]


def golden_names(spec: ModelSpec) -> dict[str, str]:
    """Module name by the golden files' name of its output."""
    names = {"patch_embed": "patch_embed" if spec.family == "lit" else "patch_embed1", "norm": "norm"}
    names |= {f"stage{i + 1}": name for i, name in enumerate(stage_names(spec))}
    return names | {f"merge{i + 1}": name for i, name in enumerate(merge_names(spec))}


@pytest.fixture(scope="module")
def model_and_golden(
    request: pytest.FixtureRequest, checkpoint_file: Callable[[str], Path], golden: Callable[[str], Golden]
) -> tuple[nn.Module, Golden]:
    checkpoint = load_checkpoint(checkpoint_file(request.param))
    assert checkpoint.spec == OFFICIAL_SPECS[request.param]
    return build(checkpoint.spec, checkpoint.state), golden(request.param)


@pytest.mark.parametrize("model_and_golden", NAMES, indirect=True)
@torch.inference_mode()
def test_golden(model_and_golden: tuple[nn.Module, Golden], golden_input: np.ndarray) -> None:
    """Logits, tokens after every stage and merging, and offsets equal the official ones; faults would show."""
    model, gold = model_and_golden
    names = golden_names(gold.spec)
    image = torch.from_numpy(golden_input)
    with record_layers(model, tuple(names.values())) as record:
        logits = model(image).numpy()

    np.testing.assert_allclose(logits, gold["logits"], rtol=0, atol=LOGITS_LIMIT)
    assert (np.argsort(-logits, axis=1)[:, :5] == gold["top5"]).all()
    assert np.abs(logits[0] - logits[1]).max() > 0.5, "the output must depend on the input"
    pooled = record[names.pop("norm")]
    pooled = pooled.mean(dim=1) if gold.spec.family == "lit" else pooled[:, 0]
    np.testing.assert_allclose(pooled.numpy(), gold["pooled"], rtol=0, atol=LOGITS_LIMIT)
    assert len(names) == 8
    for key, name in names.items():
        assert gold.tokens_error(key, record[name].numpy()) <= TOKENS_LIMIT, key
    for key, name in zip(("offset1", "offset2", "offset3"), merge_names(gold.spec), strict=True):
        value = record[f"{name}.dconv.conv_offset"].numpy()
        assert tuple(gold[key + ".shape"]) == value.shape[1:]
        errors = (
            strided(value.reshape(2, -1), 256) - gold[key + ".strided256"],
            value.mean(axis=(2, 3), dtype=np.float64) - gold[key + ".mean_per_channel"],
            value.min(axis=(1, 2, 3)) - gold[key + ".min"],
            value.max(axis=(1, 2, 3)) - gold[key + ".max"],
        )
        assert max(np.abs(error).max() for error in errors) <= OFFSETS_LIMIT, key
        assert value.std() > 0.1, "offsets of zero would exercise nothing"

    # the same numbers must not come out of a network with a planted fault
    faults: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("zeroed", torch.zeros_like),
        ("dy and dx swapped", lambda t: t.unflatten(0, (4, 2)).flip(1).flatten(0, 1)),
    ]
    saved = {key: value.clone() for key, value in model.state_dict().items() if "conv_offset" in key}
    for fault, change in faults:
        model.load_state_dict({key: change(value) for key, value in saved.items()}, strict=False)
        assert np.abs(model(image).numpy() - gold["logits"]).max() > 0.5, fault
    model.load_state_dict(saved, strict=False)


@pytest.mark.parametrize("name", NAMES)
def test_seeded_weights_are_the_goldens(name: str, golden: Callable[[str], Golden]) -> None:
    state = make_state(OFFICIAL_SPECS[name])
    assert state_sha256(state) == str(golden(name)["weights_sha256"])


@pytest.mark.parametrize("name", NAMES)
def test_module_tree(name: str) -> None:
    """Parameters and buffers of the module are those of the official layout."""
    spec = OFFICIAL_SPECS[name]
    with torch.device("meta"):
        model = build(spec)
    stored = {key: shape for key, shape in state_entries(spec).items() if "relative_position_index" not in key}
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == stored
    assert sum(p.numel() for p in model.parameters()) == parameter_count(spec)


@pytest.mark.parametrize("spec", [TINY, TINY_TI], ids=["lit", "lit_ti"])
def test_macs_match_torch(spec: ModelSpec) -> None:
    """torch's own counter agrees, with the operator counted by its offset product alone."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        build(spec)(torch.zeros(1, 3, *spec.image_size))
    assert counter.get_total_flops() == 2 * mac_count(spec)


def test_attention_bias_by_definition() -> None:
    """The bias of query a and key b is the table's row for their distance, on a 2x3 map."""
    attention = blocks.Attention(8, 2, (2, 3))
    table = attention.relative_position_bias_table
    bias = attention.bias()
    assert table is not None
    assert bias is not None
    for a in range(6):
        for b in range(6):
            row = (a // 3 - b // 3 + 1) * 5 + (a % 3 - b % 3 + 2)
            assert torch.equal(bias[:, a, b], table[row])


@pytest.mark.parametrize("spec", [TINY, TINY_TI], ids=["lit", "lit_ti"])
def test_trains_one_step(spec: ModelSpec) -> None:
    """Every parameter gets a finite gradient, and a step against it lowers the loss."""
    torch.manual_seed(0)
    model = seeded_model(spec).train()
    image, label = torch.randn(4, 3, *spec.image_size), torch.arange(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = nn.functional.cross_entropy(model(image), label)
    before.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # a bias in front of BatchNorm has no effect, and neither has that of the keys under softmax
        if not name.endswith(("dconv.bias", "attn.qkv.bias")):
            assert parameter.grad.abs().max() > 0, name
    optimizer.step()
    assert nn.functional.cross_entropy(model(image), label) < before


def test_batchnorm_follows_the_mode() -> None:
    """Training uses and updates the statistics of the batch; evaluation uses the stored ones and leaves them."""
    model = seeded_model(TINY)
    image = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    norm = model.get_submodule("layers.0.downsample").norm_layer
    stored = norm.running_mean.clone()
    with torch.no_grad():
        evaluated = model(image)
        assert torch.equal(norm.running_mean, stored)
        trained = model.train()(image)
        assert not torch.equal(norm.running_mean, stored)
        assert norm.num_batches_tracked == 1
    assert (trained - evaluated).abs().max() > 1e-2


def test_folded_merging_equals_batchnorm() -> None:
    """In evaluation the folded projection equals convolution, BatchNorm and GELU one after the other."""
    merge = seeded_model(TINY).get_submodule("layers.1.downsample")
    tokens = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        folded = merge(tokens)
        merge.train()  # the path that folds nothing ...
        merge.norm_layer.eval()  # ... with the stored statistics
        assert (merge(tokens) - folded).abs().max() < 1e-5


def test_build_is_strict() -> None:
    state = {key: torch.from_numpy(value) for key, value in make_state(TINY).items()}
    assert not build(TINY, state).training
    del state["head.bias"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(StateDictMismatch) as caught:
        build(TINY, state)
    assert caught.value.missing == ("head.bias",)
    assert caught.value.unexpected == ("extra",)


def test_registry() -> None:
    assert list(OFFICIAL)[:4] == list(NAMES)
    assert list(OFFICIAL)[4:] == [
        f"{head}_lit_{size}" for head in ("retinanet", "mask_rcnn", "sem_fpn") for size in ("ti", "s")
    ]
    assert OFFICIAL["lit_s"].url == "https://github.com/ziplab/LIT/releases/download/v1.0/lit_s.pth"
    assert [round(OFFICIAL[name].scores["top-1"], 1) for name in NAMES] == [81.1, 81.5, 83.0, 83.4]
    assert OFFICIAL["mask_rcnn_lit_s"].scores == {"box AP": 42.9, "mask AP": 39.6}
    assert OFFICIAL["retinanet_lit_ti"].url.endswith("v2.0/retina_lit_ti.pth")
    assert mac_count(OFFICIAL["lit_ti"].spec) == 3_613_743_104


@pytest.mark.parametrize("name", sorted(dcn_cases()))
def test_dcn_golden(name: str) -> None:
    """Operator and projection together are the official deformable convolution."""
    case = dcn_cases()[name]
    tokens, offset_weight = with_explicit_offsets(case["input"], case["offset"])
    sampled = reference(tokens, offset_weight, torch.zeros(8)).unflatten(-1, (4, -1))
    patches = sampled[..., : case["input"].shape[1]].flatten(-2)
    projection = tap_major_from_conv(torch.from_numpy(case["weight"]))
    got = nn.functional.linear(patches, projection, torch.from_numpy(case["bias"])).permute(0, 3, 1, 2).numpy()
    assert got.shape == case["output"].shape
    assert np.abs(got - case["output"]).max() <= DCN_LIMIT * np.abs(case["output"]).max()


def test_operator_gradient() -> None:
    """Autograd through the operator equals finite differences, for tokens, weights and bias."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(1, 4, 5, 2)), 0.1 * rng.normal(size=(8, 8)), 0.3 * rng.normal(size=8)
    inputs = tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values)
    assert torch.autograd.gradcheck(deformable_token_merging, inputs)
    assert torch.autograd.gradcheck(torch.ops.lit_deploy.deformable_token_merging, inputs)


def test_operator_is_well_formed() -> None:
    """torch's own checks of schema, fake implementation and autograd registration."""
    x = torch.randn(2, 5, 6, 3)
    torch.library.opcheck(
        torch.ops.lit_deploy.deformable_token_merging.default, (x, 0.1 * torch.randn(8, 12), 0.3 * torch.randn(8))
    )


def by_definition(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """The operator's text, word by word, in float64 loops."""
    batch, height, width, channels = x.shape
    out = np.zeros((batch, height // 2, width // 2, 4, channels))
    for b, r, s in np.ndindex(out.shape[:3]):
        patch = x[b, 2 * r : 2 * r + 2, 2 * s : 2 * s + 2].reshape(-1)
        offset = weight @ patch + bias
        for tap in range(4):
            y, x_ = 2 * r + tap // 2 + offset[2 * tap], 2 * s + tap % 2 + offset[2 * tap + 1]
            if not (-1 < y < height and -1 < x_ < width):
                continue
            for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                for col in (int(np.floor(x_)), int(np.floor(x_)) + 1):
                    if 0 <= row < height and 0 <= col < width:
                        out[b, r, s, tap] += (1 - abs(y - row)) * (1 - abs(x_ - col)) * x[b, row, col]
    return out.reshape(*out.shape[:3], 4 * channels)


sizes = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(1, 5))
offsets = st.lists(
    st.one_of(st.floats(-4, 4, width=32), st.sampled_from((np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, -1.0, 0.5))),
    min_size=8,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(sizes, offsets, st.integers(0, 2**31))
def test_operator_by_definition(shape: tuple[int, int, int, int], bias: list[float], seed: int) -> None:
    """Any size and any offset, NaN and infinite too: the loops of the definition, and never a non-finite output."""
    rng = np.random.default_rng(seed)
    # multiples of 1/64 keep the offsets exact in float32, so that both sides take the same side of every border
    x = rng.integers(-64, 65, size=shape) / 64
    weight = rng.integers(-8, 9, size=(8, 4 * shape[3])) / 64
    exact_bias = np.array([np.round(b * 64) / 64 if abs(b) < 100 else b for b in bias])
    got = reference(*(torch.tensor(a, dtype=torch.float32) for a in (x, weight, exact_bias))).numpy()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, by_definition(x, weight, exact_bias), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_operator_rounds_once(dtype: torch.dtype) -> None:
    """Half types are computed in float32 and rounded at the end."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 6, 8, 16, generator=generator).to(dtype)
    weight, bias = (
        (0.05 * torch.randn(8, 64, generator=generator)).to(dtype),
        torch.randn(8, generator=generator).to(dtype),
    )
    expected = reference(x.float(), weight.float(), bias.float()).to(dtype)
    assert torch.equal(reference(x, weight, bias), expected)


def test_offset_weight_layout() -> None:
    """Column t*C + c of the operator is entry (c, i, j) of the convolution."""
    weight = torch.randn(8, 3, 2, 2)
    flat = tap_major_from_conv(weight)
    for tap, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        assert torch.equal(flat[:, 3 * tap : 3 * tap + 3], weight[:, :, i, j])

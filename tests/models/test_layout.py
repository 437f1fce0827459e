"""The state-dict layout, the dimensions told from shapes, and the counts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import NAMES, TINY, TINY_TI, load_manifest

from lit_deploy.core.errors import CheckpointError, StateDictMismatch
from lit_deploy.core.specs import ModelSpec
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.models.keys import INDEX, TABLE, relative_position_index
from lit_deploy.models.layout import check_keys, mac_count, parameter_count, spec_from_shapes, state_entries


@pytest.mark.parametrize("name", NAMES)
def test_official_manifest(name: str) -> None:
    """Keys, shapes and order equal those of the official code."""
    manifest = load_manifest(name)
    assert list(state_entries(OFFICIAL_SPECS[name]).items()) == list(manifest.items())
    assert spec_from_shapes(manifest) == OFFICIAL_SPECS[name]


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("lit_ti", 19_886_272, 3_613_743_104),
        ("lit_s", 27_973_720, 4_076_614_656),
        ("lit_m", 49_372_264, 8_592_454_656),
        ("lit_b", 87_292_384, 15_027_531_776),
    ],
)
def test_counts(name: str, parameters: int, macs: int) -> None:
    """Measured on the official modules with torch's counters."""
    assert parameter_count(OFFICIAL_SPECS[name]) == parameters
    assert mac_count(OFFICIAL_SPECS[name]) == macs


def test_index_known_values() -> None:
    assert relative_position_index(2, 2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    index = relative_position_index(2, 3)
    assert index[0].tolist() == [7, 6, 5, 2, 1, 0]
    assert index[5].tolist() == [14, 13, 12, 9, 8, 7]


multiples = st.integers(1, 4)
lit_specs = st.builds(
    lambda dims, depths, heads, ratios, sides, classes, channels, patch: ModelSpec(
        "custom",
        "lit",
        (8 * dims[0], 8 * dims[1], 12 * dims[2], 24 * dims[3]),
        depths,
        heads,
        ratios,
        (patch * 4 * sides[0], patch * 4 * sides[1]),
        classes,
        channels,
        patch,
    ),
    st.tuples(multiples, multiples, multiples, multiples),
    st.tuples(multiples, multiples, multiples, multiples),
    st.tuples(st.sampled_from((1, 2, 3, 4, 6, 12)), st.sampled_from((1, 2, 3, 4, 8, 24))),
    st.tuples(multiples, multiples, multiples, multiples),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.integers(1, 30),
    st.integers(1, 4),
    st.sampled_from((2, 4, 8)),
)


@settings(deadline=None, max_examples=40)
@given(lit_specs)
def test_lit_round_trip(spec: ModelSpec) -> None:
    """Any LIT, square or not, is told from its own shapes (and index values)."""
    column = relative_position_index(*spec.map_sizes[2])[:, 0].tolist()
    assert spec_from_shapes(state_entries(spec), column) == spec


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(multiples, multiples, multiples, multiples),
    st.tuples(multiples, multiples, multiples, multiples),
    st.integers(8, 40),
    st.integers(1, 30),
)
def test_lit_ti_round_trip(
    dims: tuple[int, int, int, int], depths: tuple[int, int, int, int], side: int, classes: int
) -> None:
    widths = (8 * dims[0], 8 * dims[1], 64 * dims[2], 64 * dims[3])
    heads = (dims[2], dims[3])
    spec = ModelSpec("custom", "lit_ti", widths, depths, heads, (8, 8, 4, 4), (4 * side, 4 * side), classes)
    assert spec_from_shapes(state_entries(spec)) == spec


def test_name_survives_other_classes_and_size() -> None:
    """A fine-tuned LIT-S is still a LIT-S; a narrower one is not."""
    spec = replace(OFFICIAL_SPECS["lit_s"], num_classes=10, image_size=(384, 384))
    assert spec_from_shapes(state_entries(spec)) == spec
    spec = replace(spec, name="custom", mlp_ratios=(2, 4, 4, 4))
    assert spec_from_shapes(state_entries(spec)) == spec


def test_square_map_without_index() -> None:
    shapes = {key: shape for key, shape in state_entries(TINY).items() if not key.endswith(INDEX)}
    spec = spec_from_shapes(shapes)
    assert spec == TINY
    check_keys(shapes, spec)


def test_non_square_map_needs_the_index() -> None:
    spec = replace(TINY, image_size=(64, 96))
    with pytest.raises(CheckpointError, match=r"4x6 or a 6x4 map"):
        spec_from_shapes(state_entries(spec))
    with pytest.raises(CheckpointError, match=r"rows and its index"):
        spec_from_shapes({key: shape for key, shape in state_entries(spec).items() if not key.endswith(INDEX)})


def test_stages_must_agree() -> None:
    shapes = state_entries(TINY)
    shapes["layers.3.blocks.0." + TABLE] = (25, 4)
    with pytest.raises(StateDictMismatch) as caught:
        check_keys(shapes, spec_from_shapes(shapes))
    assert caught.value.misshapen == (("layers.3.blocks.0." + TABLE, (25, 4), (9, 4)),)

    shapes = state_entries(TINY_TI)
    shapes["pos_embed3"] = (1, 25, 64)
    with pytest.raises(StateDictMismatch) as caught:
        check_keys(shapes, spec_from_shapes(shapes))
    assert caught.value.misshapen == (("pos_embed3", (1, 25, 64), (1, 16, 64)),)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (replace(TINY_TI, embed_dims=(8, 16, 96, 128)), "96 channels, expected a multiple of 64"),
        (replace(TINY_TI, image_size=(64, 96)), "384 positions, expected a square number"),
        (replace(TINY, num_heads=(5, 4)), "5 attention heads, expected a divisor of its 32 channels"),
        (replace(TINY, image_size=(16, 16)), "map of stage 1 is 4x4 tokens, expected at least 8x8"),
    ],
)
def test_impossible_dimensions(change: ModelSpec, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        spec_from_shapes(state_entries(change))


def test_uneven_mlp() -> None:
    shapes = {key: (17, *shape[1:]) if "0.mlp.fc1" in key else shape for key, shape in state_entries(TINY).items()}
    with pytest.raises(CheckpointError, match="17 wide, expected a multiple of its 8 channels"):
        spec_from_shapes({key: (8, 17) if key.endswith("0.mlp.fc2.weight") else s for key, s in shapes.items()})


@settings(deadline=None, max_examples=60)
@given(st.sampled_from((TINY, TINY_TI)), st.data())
def test_one_wrong_key_is_named(spec: ModelSpec, data: st.DataObject) -> None:
    """Renaming or reshaping any one weight is always reported, and with its own name."""
    shapes = state_entries(spec)
    key = data.draw(st.sampled_from([k for k in shapes if not k.endswith((INDEX, "num_batches_tracked"))]))
    if data.draw(st.booleans()):
        shapes["renamed"] = shapes.pop(key)
    else:
        shapes[key] = data.draw(
            st.lists(st.integers(0, 2**40), max_size=5).map(tuple).filter(lambda s: s != shapes[key])
        )
    with pytest.raises(CheckpointError) as caught:
        check_keys(shapes, spec_from_shapes(shapes))
    assert caught.type is not StateDictMismatch or (
        key in caught.value.missing
        or any(key == wrong[0] for wrong in caught.value.misshapen)
        or key in str(caught.value)
    )


def test_forged_block_number_costs_nothing() -> None:
    """A key that claims block 10^18 must not make the layout that long."""
    shapes = state_entries(TINY) | {"layers.2.blocks.1000000000000000000.norm2.weight": (32,)}
    with pytest.raises(StateDictMismatch) as caught:
        check_keys(shapes, spec_from_shapes(shapes))
    assert "layers.2.blocks.1000000000000000000.norm2.weight" in caught.value.unexpected
    assert len(caught.value.missing) < 20


def test_message_lists_a_few_and_attributes_all() -> None:
    shapes = {("x" + key if "mlp" in key else key): shape for key, shape in state_entries(TINY).items()}
    with pytest.raises(StateDictMismatch) as caught:
        check_keys(shapes, TINY)
    assert len(caught.value.missing) == len(caught.value.unexpected) == 4 * 5
    assert "20 missing (layers.0.blocks.0.mlp.fc1.weight" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_needs_no_torch() -> None:
    count = "import lit_deploy.models.layout as r; r.mac_count(r.PUBLISHED['lit_s'].spec)"
    code = f"import sys; {count}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"

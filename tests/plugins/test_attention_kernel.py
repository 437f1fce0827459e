"""RelativePositionAttention's kernel inside ONNX Runtime, against the reference and the functions in the file."""

from __future__ import annotations

import functools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper
from support.attention import (
    TYPES,
    Array,
    assert_attention_equal,
    attention_expected,
    attention_inputs,
    attention_model,
)
from support.native_build import environment_without, needs_compiler, run_tool

from lit_deploy.machine.native import BUILD_COMMAND, find_library
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE

ort = pytest.importorskip("onnxruntime")

_FOUND = find_library()
needs_library = pytest.mark.skipif(_FOUND is None, reason=f"the custom-op library is not built: {BUILD_COMMAND}")
LIBRARY = str(_FOUND)
KERNELS = Path(__file__).resolve().parents[2] / "plugins" / "kernels"
HEADS = 3
SCALE = 0.3
RANDOM_CASES = int(os.environ.get("LIT_DEPLOY_RANDOM_CASES", "60"))
"""Of test_random_cases(). Each is told by its number, so a failure of a long run is a case of a short one."""

# A function of the node's name that is wrong on purpose: what computes right is the kernel.
WRONG = helper.make_function(
    DOMAIN,
    OP_TYPE,
    ["qkv", "table"],
    ["y"],
    [helper.make_node("Sub", ["qkv", "qkv"], ["y"])],
    [helper.make_opsetid("", 20)],
    ["num_heads", "scale"],
)


def session(model: onnx.ModelProto, threads: int = 2) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # refusals are what is tested: their log lines are noise
    options.register_custom_ops_library(LIBRARY)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def kernel(heads: int = HEADS, scale: float = SCALE, dtype: str = "float32", threads: int = 2, **shapes: Any) -> Any:
    return session(attention_model(heads, scale, dtype=dtype, functions=[WRONG], **shapes), threads)


def assert_kernel_equal(got: Array, want: Array, feed: dict[str, Array], heads: int, dtype: str, sharp: float) -> None:
    """As the other implementations; but the kernel may round weights to bfloat16 before it multiplies such values."""
    if dtype == "bfloat16":
        qkv = feed["qkv"].copy()
        values = qkv[..., qkv.shape[-1] // 3 * 2 :]
        np.abs(values, out=values)
        allowed = 2.0**-8 * attention_expected({**feed, "qkv": qkv}, heads, SCALE)
        difference = got - want
        got = want + np.copysign(np.maximum(np.abs(difference) - allowed, 0), difference)
    assert_attention_equal(got, want, dtype=dtype, sharp=sharp)


@pytest.fixture(scope="module", params=sorted(TYPES))
def typed(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A session of the kernel that takes any shape, for each element type."""
    return request.param, kernel(dtype=request.param)


@needs_library
@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(0, 3),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    dim=st.one_of(st.sampled_from((32, 64)), st.integers(1, 80)),
    biased=st.booleans(),
    sharp=st.floats(0, 20),
    seed=st.integers(0, 2**31),
)
@example(batch=1, size=(14, 14), dim=32, biased=True, sharp=1.0, seed=1)
@example(batch=2, size=(1, 500), dim=32, biased=True, sharp=4.0, seed=1)
@example(batch=1, size=(500, 1), dim=64, biased=True, sharp=4.0, seed=1)
@example(batch=1, size=(27, 41), dim=32, biased=True, sharp=2.0, seed=1)
@example(batch=1, size=(27, 41), dim=64, biased=False, sharp=2.0, seed=1)
@example(batch=1, size=(1, 1), dim=8, biased=True, sharp=1.0, seed=1)
@example(batch=1, size=(4, 5), dim=512, biased=True, sharp=1.0, seed=1)
def test_equals_reference(
    typed: tuple[str, Any], batch: int, size: tuple[int, int], dim: int, biased: bool, sharp: float, seed: int
) -> None:
    dtype, target = typed
    feed = attention_inputs(batch, HEADS, *size, dim, biased=biased, seed=seed, sharp=sharp)
    want = attention_expected(feed, HEADS, SCALE, dtype)
    assert_kernel_equal(target.run(None, feed)[0], want, feed, HEADS, dtype, sharp)


@needs_library
def test_random_cases() -> None:
    """Maps of 1 x 1 to 40 x 40, heads of 8 to 128 channels, every type; in some a value that is not finite.

    LIT_DEPLOY_RANDOM_CASES=100000 makes it a long run.
    """
    cached = functools.cache(kernel)
    for seed in range(RANDOM_CASES):
        rng = np.random.default_rng(seed)
        rows, columns = (int(40 ** rng.random() + 0.5) for _ in range(2))
        batch, heads, dim = (int(rng.integers(low, high)) for low, high in ((1, 3), (1, 5), (8, 129)))
        dtype, sharp = str(rng.choice(sorted(TYPES))), float(8 * rng.random())
        feed = attention_inputs(batch, heads, rows, columns, dim, biased=rng.random() < 0.8, seed=seed, sharp=sharp)
        want = attention_expected(feed, heads, SCALE, dtype).reshape(batch, -1, heads, dim)
        spoilt = np.zeros((batch, heads), bool)
        spoilt_feed = feed
        if rng.random() < 0.3:
            name = "table" if feed["table"].size and rng.random() < 0.3 else "qkv"
            array = feed[name].copy()
            at = tuple(int(rng.integers(size)) for size in array.shape)
            array[at] = rng.choice((np.nan, np.inf, -np.inf))
            spoilt[(slice(None), at[0]) if name == "table" else (at[0], at[2] // dim % heads)] = True
            spoilt_feed = {**feed, name: array}
        got = cached(heads=heads, dtype=dtype).run(None, spoilt_feed)[0].reshape(want.shape)
        got = np.where(spoilt[:, None, :, None], want, got).reshape(batch, rows * columns, -1)
        try:
            assert_kernel_equal(got, want.reshape(got.shape), feed, heads, dtype, sharp)
        except AssertionError as error:
            raise AssertionError(f"case {seed}: {dtype}, {batch}x{rows}x{columns}, {heads} heads of {dim}") from error


@needs_library
@pytest.mark.parametrize("dtype", sorted(TYPES))
@pytest.mark.parametrize("biased", [True, False], ids=["table", "no table"])
def test_equals_the_functions_in_the_file(biased: bool, dtype: str) -> None:
    """One file, with the library and without it, plain and in blocks."""
    feed = attention_inputs(2, HEADS, 9, 14, 32, biased=biased, seed=5, sharp=2.0)
    got = kernel(dtype=dtype).run(None, feed)[0]
    for blocks in (True, False):
        model = attention_model(HEADS, SCALE, biased=biased, blocks=blocks, dtype=dtype)
        function = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        assert_kernel_equal(got, function.run(None, feed)[0], feed, HEADS, dtype, 2.0)


@needs_library
@pytest.mark.parametrize("empty", [(0, 1, 1), (HEADS, 0, 7), (HEADS, 7, 0), (0, 0, 0)], ids=str)
def test_any_table_without_elements_is_no_bias(empty: tuple[int, ...]) -> None:
    feed = attention_inputs(1, HEADS, 4, 6, 16, biased=False)
    want = attention_expected(feed, HEADS, SCALE)
    assert_attention_equal(kernel().run(None, {**feed, "table": np.zeros(empty, np.float32)})[0], want)


@needs_library
def test_output_shape_is_inferred() -> None:
    def inferred(**shapes: Any) -> list[Any]:
        model = attention_model(HEADS, SCALE, functions=[WRONG], **shapes)
        del model.graph.node[2:], model.graph.node[:1]  # no casts: the output is the operator's own
        (node,) = model.graph.node
        node.input[0], node.output[0] = "qkv", "y"
        model.graph.output[0].type.tensor_type.ClearField("shape")
        shape: list[Any] = session(model).get_outputs()[0].shape
        return shape

    assert inferred(qkv=(2, 35, 144)) == [2, 35, 48]
    assert inferred(qkv=("n", "t", 72)) == ["n", "t", 24]
    assert inferred(qkv=("n", "t", "c")) == ["n", "t", "floor(c/3)"]
    batch, tokens, _ = inferred(qkv=(None, None, 72))  # equal names would promise equal sizes
    assert batch != tokens


BAD_SHAPES = [
    ("qkv", (12, 72), r"qkv has shape \[12, 72\], expected \[batch, tokens, 3 \* channels\]"),
    ("qkv", (1, 12, 48), r"qkv has shape \[1, 12, 48\], expected .* channels a multiple of num_heads = 3"),
    ("qkv", (1, 12, 70), r"qkv has shape \[1, 12, 70\], expected .* channels a multiple of num_heads = 3"),
    ("qkv", (1, 12, 9 * 513), r"qkv has shape .* expected at most 512 channels a head .* --no-library"),
    ("table", (3, 5), r"table has shape \[3, 5\], expected \[3, 2 \* height - 1, 2 \* width - 1\]"),
    ("table", (2, 5, 7), r"table has shape \[2, 5, 7\], expected \[3, .* height \* width = 12 tokens"),
    ("table", (3, 5, 9), r"table has shape \[3, 5, 9\], expected"),
    ("table", (3, 6, 7), r"table has shape \[3, 6, 7\], expected"),
    ("table", (3, 7, 6), r"table has shape \[3, 7, 6\], expected"),
]


@needs_library
@pytest.mark.parametrize(("name", "shape", "message"), BAD_SHAPES, ids=str)
def test_bad_shape_is_refused_in_words(name: str, shape: tuple[int, ...], message: str) -> None:
    """At run time, whatever the model declares; the declared ranks are left open, so nothing else refuses first."""
    feed = attention_inputs(1, HEADS, 3, 4, 8)
    feed[name] = np.zeros(shape, np.float32)
    declared: dict[str, Any] = {key: (None,) * array.ndim for key, array in feed.items()}
    with pytest.raises(Exception, match=message):
        kernel(**declared).run(None, feed)


@needs_library
def test_bad_number_of_heads_is_refused_in_words() -> None:
    with pytest.raises(Exception, match="num_heads is 0, expected at least 1"):
        kernel(heads=0)


@needs_library
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    feed = attention_inputs(2, HEADS, 17, 31, 32)
    results = [kernel(threads=threads).run(None, feed)[0] for threads in (1, 2, 5)]
    assert all((result == results[0]).all() for result in results)


@needs_library
def test_sessions_and_threads_do_not_disturb_each_other() -> None:
    sessions = [kernel(), kernel(dtype="float16"), kernel()]
    feeds = [attention_inputs(1, HEADS, rows, 9, 32, seed=rows) for rows in (5, 11, 20)]
    alone = [run.run(None, feed)[0] for run, feed in zip(sessions, feeds, strict=True)]

    def repeat(index: int) -> bool:
        return all((sessions[index].run(None, feeds[index])[0] == alone[index]).all() for _ in range(20))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(repeat, [0, 1, 2, 0, 1, 2]))


@needs_library
def test_values_that_are_not_finite_stay_in_their_head() -> None:
    """A NaN in a head's keys spoils that head of that image, visibly, and no other."""
    feed = attention_inputs(2, HEADS, 5, 6, 16)
    want = attention_expected(feed, HEADS, SCALE).reshape(2, 30, HEADS, 16)
    feed["qkv"][1, 7, (HEADS + 1) * 16 + 3] = np.nan  # key of head 1
    got = kernel().run(None, feed)[0].reshape(2, 30, HEADS, 16)
    assert np.isnan(got[1, :, 1]).all()
    for image, head in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2)):
        assert_attention_equal(got[image, :, head], want[image, :, head])


ISAS = {"portable": [], "avx2": ["-mavx2", "-mfma", "-mf16c"], "avx512": ["-mavx512f", "-mavx2", "-mfma", "-mf16c"]}
ISAS["amx"] = ["-mamx-tile", "-mamx-bf16", "-mavx512bf16", "-mavx512bw", *ISAS["avx512"]]


@needs_compiler
@pytest.mark.parametrize("isa", ISAS)
def test_no_code_for_one_instruction_set_can_replace_another(isa: str, tmp_path: Path) -> None:
    """Each compilation defines its own entry point and no weak function that the linker could share."""

    def tool(*command: str | Path) -> Any:
        return run_tool(*command, environment=environment_without("CPATH"))

    source = KERNELS / "relative_position_attention" / f"{isa}.cc"
    options = ("-std=c++17", "-O1", "-w", "-fno-exceptions", "-I", KERNELS, *ISAS[isa])
    compiled = tool("c++", *options, "-c", source, "-o", tmp_path / "isa.o")
    if compiled.returncode != 0 and re.search(r"(unrecognized|unsupported|unknown).*option", compiled.stdout):
        pytest.skip(f"this compiler does not target {isa}")
    assert compiled.returncode == 0, compiled.stdout
    symbols = tool("nm", "-C", "--defined-only", tmp_path / "isa.o").stdout
    shared = [line for line in symbols.splitlines() if re.search(r" [TWVBDu] ", line)]
    assert len(shared) == 1, symbols
    assert f" T lit_deploy::{isa}::attend(" in shared[0], symbols


def test_wrong_function_is_wrong() -> None:
    """What the tests above rely on: where nothing else runs, WRONG gives zeros of the wrong shape."""
    feed: dict[str, Array] = attention_inputs(1, HEADS, 3, 4, 8)
    model = attention_model(HEADS, SCALE, functions=[WRONG])
    got = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
    assert (got == 0).all()
    assert got.shape == (1, 12, 72)

"""The operator as an ONNX model-local function made of standard operators only.

A runtime without the lit-deploy library runs this body; one with it runs the kernel. Standard operators of
opset 20, any batch and map. Source: ``docs/relative_position_attention.md``.

There are several bodies, and a file carries the one it needs:

* with a bias or without one: a body for both would add zeros where there is none;
* plain or in blocks. Plain is MatMul, Add, Softmax, MatMul over all tokens, which optimisers know and fuse; at 3,800
  tokens and 12 heads it makes ONNX Runtime hold 4 GiB. In blocks, a Loop does the same for some queries at a time.

Everything is float32 whatever T, but in a plain body that is narrow: in a half type that one is what GPUs are made for,
products of T and a softmax in float32.

The queries of a plain map or of a block are taken column by column. So the bias of a block is one Gather of whole runs
of a small array (table rows, expanded over pairs of columns), and never a Transpose of something that large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.function import parsed
from lit_deploy.ops.relative_position_attention.schema import OP_TYPE

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""Opset of the ai.onnx domain that the body needs."""

BLOCK = 1 << 22
"""Logits of a block, at most, unless one row of queries has more: 16 MiB of them."""

_HEAD = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{OP_TYPE} <num_heads, scale> (qkv, table) => (y)
{{
"""

# What the products are computed in.
_NARROW = "x = Identity (qkv)"
_WIDE = "x = Cast <to: int = 1> (qkv)"

_BEGIN = """
    batch = Shape <start: int = 0, end: int = 1> (qkv)
    tokens = Shape <start: int = 1, end: int = 2> (qkv)
    packed = Shape <start: int = 2, end: int = 3> (qkv)
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    three = Constant <value_ints: ints = [3]> ()
    heads_scalar = Constant <value_int: int = @num_heads> ()
    heads = Reshape (heads_scalar, one)
    channels = Div (packed, three)
    head_dim = Div (channels, heads)
    factor32 = Constant <value_float: float = @scale> ()
    factor = CastLike (factor32, x)
    q_packed, k_packed, v_packed = Split <axis: int = 2, num_outputs: int = 3> (x)
    q_scaled = Mul (q_packed, factor)
    split = Concat <axis: int = 0> (batch, tokens, heads, head_dim)
    k_split = Reshape <allowzero: int = 1> (k_packed, split)
    v_split = Reshape <allowzero: int = 1> (v_packed, split)
    k = Transpose <perm: ints = [0, 2, 3, 1]> (k_split)
    v = Transpose <perm: ints = [0, 2, 1, 3]> (v_split)
"""

# column_first[h, c, y, c'] = table[h, y, c - c' + W - 1], row_index[r, r'] = r - r' + H - 1.
_TABLE = """
    two = Constant <value_ints: ints = [2]> ()
    zero_scalar = Constant <value_int: int = 0> ()
    one_scalar = Constant <value_int: int = 1> ()
    table_rows = Shape <start: int = 1, end: int = 2> (table)
    table_columns = Shape <start: int = 2, end: int = 3> (table)
    rows_doubled = Add (table_rows, one)
    columns_doubled = Add (table_columns, one)
    rows = Div (rows_doubled, two)
    columns = Div (columns_doubled, two)
    rows_scalar = Squeeze (rows)
    columns_scalar = Squeeze (columns)
    row = Range (zero_scalar, rows_scalar, one_scalar)
    column = Range (zero_scalar, columns_scalar, one_scalar)
    last_row = Sub (rows, one)
    last_column = Sub (columns, one)
    row_reversed = Sub (last_row, row)
    column_reversed = Sub (last_column, column)
    row_tall = Unsqueeze (row, one)
    column_tall = Unsqueeze (column, one)
    row_index = Add (row_tall, row_reversed)
    column_index = Add (column_tall, column_reversed)
    table_x = CastLike (table, x)
    by_column = Gather <axis: int = 2> (table_x, column_index)
    column_first = Transpose <perm: ints = [0, 2, 1, 3]> (by_column)
"""

# Without a table the tokens lie in one column. That table of no elements is read all the same: tools drop an input of a
# function that nothing reads, and its calls then have one too many.
_NO_TABLE = """
    none = Size (table)
    rows = Add (tokens, none)
    columns = Identity (one)
"""

_PLAIN = """
    map_split = Concat <axis: int = 0> (batch, rows, columns, heads, head_dim)
    q_map = Reshape <allowzero: int = 1> (q_scaled, map_split)
    q_columns = Transpose <perm: ints = [0, 3, 2, 1, 4]> (q_map)
    q_shape = Concat <axis: int = 0> (batch, heads, tokens, head_dim)
    q = Reshape <allowzero: int = 1> (q_columns, q_shape)
    bias_shape = Concat <axis: int = 0> (heads, tokens, tokens)
    {products}
    logits32 = Cast <to: int = 1> (logits)
    weights32 = Softmax <axis: int = -1> (logits32)
    weights = CastLike (weights32, x)
    attended = MatMul (weights, v)
    attended_shape = Concat <axis: int = 0> (batch, heads, columns, rows, head_dim)
    attended_map = Reshape <allowzero: int = 1> (attended, attended_shape)
    tokens_first = Transpose <perm: ints = [0, 3, 2, 1, 4]> (attended_map)
"""

# Blocks of whole rows, equally large: the last one is filled up with rows of zeros, whose results are cut off.
_BLOCKS = f"""
    most = Constant <value_ints: ints = [{BLOCK}]> ()
    row_logits_each = Mul (tokens, columns)
    row_logits_heads = Mul (row_logits_each, heads)
    row_logits_batch = Mul (row_logits_heads, batch)
    row_logits = Max (row_logits_batch, one)
    rows_that_fit = Div (most, row_logits)
    rows_at_most = Max (rows_that_fit, one)
    rows_and_most = Add (rows, rows_at_most)
    rows_rounded = Sub (rows_and_most, one)
    blocks = Div (rows_rounded, rows_at_most)
    rows_and_blocks = Add (rows, blocks)
    rows_rounded_again = Sub (rows_and_blocks, one)
    block_rows = Div (rows_rounded_again, blocks)
    all_rows = Mul (block_rows, blocks)
    more_rows = Sub (all_rows, rows)
    padding = Concat <axis: int = 0> (zero, more_rows)
    map_split = Concat <axis: int = 0> (batch, rows, columns, heads, head_dim)
    q_map = Reshape <allowzero: int = 1> (q_scaled, map_split)
    q_padded = Pad (q_map, padding, , one)
    q_split_shape = Concat <axis: int = 0> (batch, blocks, block_rows, columns, heads, head_dim)
    q_split = Reshape <allowzero: int = 1> (q_padded, q_split_shape)
    q_columns = Transpose <perm: ints = [1, 0, 4, 3, 2, 5]> (q_split)
    block_tokens = Mul (block_rows, columns)
    q_shape = Concat <axis: int = 0> (blocks, batch, heads, block_tokens, head_dim)
    q_blocks = Reshape <allowzero: int = 1> (q_columns, q_shape)
    bias_shape = Concat <axis: int = 0> (heads, block_tokens, tokens)
    {{index}}
    blocks_scalar = Squeeze (blocks)
    always = Constant <value = bool {{{{1}}}}> ()
    attended = Loop (blocks_scalar, always) <body = block
        (int64 i, bool more) => (bool go_on, float[batch, heads, tokens, head_dim] part) {{{{
        go_on = Identity (more)
        q = Gather <axis: int = 0> (q_blocks, i)
        {{products}}
        weights = Softmax <axis: int = -1> (logits)
        part = MatMul (weights, v)
    }}}}>
    attended_shape = Concat <axis: int = 0> (blocks, batch, heads, columns, block_rows, head_dim)
    attended_map = Reshape <allowzero: int = 1> (attended, attended_shape)
    rows_first = Transpose <perm: ints = [1, 0, 4, 3, 2, 5]> (attended_map)
    all_rows_shape = Concat <axis: int = 0> (batch, all_rows, columns, channels)
    every_row = Reshape <allowzero: int = 1> (rows_first, all_rows_shape)
    tokens_first = Slice (every_row, zero, rows, one)
"""

_INDEX_OF_BLOCKS = """
    index_padded = Pad (row_index, padding, , zero)
    index_shape = Concat <axis: int = 0> (blocks, block_rows, rows)
    row_index_blocks = Reshape <allowzero: int = 1> (index_padded, index_shape)
"""

_BIASED_PRODUCTS = """
        by_row = Gather <axis: int = 2> (column_first, row_index)
        bias = Reshape <allowzero: int = 1> (by_row, bias_shape)
        products = MatMul (q, k)
        logits = Add (products, bias)
"""

_PRODUCTS = "logits = MatMul (q, k)"

_END = """
    flat = Concat <axis: int = 0> (batch, tokens, channels)
    y_x = Reshape <allowzero: int = 1> (tokens_first, flat)
    y = CastLike (y_x, qkv)
}
"""


def onnx_function(biased: bool = True, blocks: bool = False, narrow: bool = False) -> onnx.FunctionProto:
    """Build the function ``lit_deploy::RelativePositionAttention``.

    Inputs ``qkv`` T [B, N, 3*C] and ``table`` float32 [num_heads, 2H-1, 2W-1], output ``y`` T [B, N, C]; T is
    float32, float16 or bfloat16. Attributes ``num_heads`` and ``scale``. All bodies compute the same, but for where
    a half type is rounded.

    Args:
        biased: for networks whose tables hold a bias; False for those whose tables are empty. No network mixes them.
        blocks: some queries at a time, in memory that hardly grows with the map: for maps of many tokens, or of any
            size. False for one pass that runtimes fuse: for small maps.
        narrow: of a half type T, compute the products in T; not in blocks.
    """
    assert not (blocks and narrow)
    products = _BIASED_PRODUCTS if biased else _PRODUCTS
    if blocks:
        if biased:  # the loop's own name for its rows
            products = "row_index_block = Gather <axis: int = 0> (row_index_blocks, i)" + products.replace(
                "row_index)", "row_index_block)"
            )
        body = _BLOCKS.format(products=products, index=_INDEX_OF_BLOCKS if biased else "")
    else:
        body = _PLAIN.format(products=products)
    return parsed(
        _HEAD + (_NARROW if narrow else _WIDE) + _BEGIN + (_TABLE if biased else _NO_TABLE) + body + _END,
        "Attention with a relative position bias, version 1 (docs/relative_position_attention.md).",
    )

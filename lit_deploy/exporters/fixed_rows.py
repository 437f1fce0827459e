"""A mask for every row of the result, instead of one for each that counts: engines have no sizes that data decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lit_deploy.artifacts.folding import fold_constants
from lit_deploy.core.errors import ExportError

if TYPE_CHECKING:
    import onnx

COUNT = "num"
"""Name of the output that tells how many rows count."""


def with_fixed_rows(model: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    """Let Mask R-CNN compute as many masks as its result has rows.

    Those of rows that do not count are set to 0 behind it, as the graph does with what it fills up with; so the results
    are the same. ``MaskRcnn`` slices its rows by ``max(num, 1)``, which becomes the constant ``rows``.

    Args:
        model: an exported Mask R-CNN; it stays as it is.
        rows: of the result, ``DenseSpec.max_detections``.

    Raises:
        ExportError: the graph chooses its rows in another way, as one from somewhere else.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    limits = [node for node in graph.node if COUNT in node.input and node.op_type in ("Max", "Clip")]
    if len(limits) != 1:
        raise ExportError(
            f"the graph limits the number of its rows in {len(limits)} places, expected 1; export the checkpoint again"
        )
    (limit,) = limits
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([rows], np.int32), limit.output[0]))
    graph.node.remove(limit)
    fold_constants(fixed)  # the sizes that follow from it are then plain numbers, which every builder takes
    return fixed

"""The graph of a file with our operators replaced by their functions of standard operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_deploy.artifacts.folding import fold_constants
from lit_deploy.artifacts.onnx_file import lost_functions, lost_sentence
from lit_deploy.core.errors import ArtifactError
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.nms.onnx_function import inclusive_iou_threshold
from lit_deploy.ops.relative_position_attention.small_maps import decomposed

if TYPE_CHECKING:
    import onnx


def inlined(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Put the body of every function where it is called, for runtimes that know no model-local functions.

    Args:
        graph: an exported model; it stays as it is.

    Returns:
        The same network in standard operators alone; what is known beforehand is worked out, and stands in it as an
        initializer.

    Raises:
        ArtifactError: another tool has dropped the functions.
    """
    import onnx
    import onnx.inliner

    proto = onnx.ModelProto()
    proto.CopyFrom(decomposed(graph))  # what is known of small maps beforehand, no runtime has to find out
    if lost := lost_functions(proto):
        raise ArtifactError(lost_sentence(lost))
    _suppress_from_threshold_on(proto)
    proto = onnx.inliner.inline_local_functions(proto)
    kept = [entry for entry in proto.opset_import if entry.domain != DOMAIN]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    fold_constants(proto)
    return proto


def _suppress_from_threshold_on(proto: onnx.ModelProto) -> None:
    """Raise the IoU threshold of inlined files by its last bit.

    OpenVINO drops a box whose overlap is the threshold, where ONNX Runtime and the official code keep it. With the next
    larger number both keep it.
    """
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.domain == DOMAIN and attribute.name == "iou_threshold":
                attribute.f = inclusive_iou_threshold(attribute.f)

"""What a file is, from its first bytes, and what a network is, from its keys.

Somebody who passes the wrong file should be told which file it is, in words. Nothing is unpickled here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.text import shown_key

ContainerKind = Literal["zip", "legacy", "safetensors", "sharded safetensors"]
INDEX_SUFFIX = ".safetensors.index.json"
"""What the name of an index of several safetensors files ends in."""

_EXPECTED = "expected a LIT checkpoint (.pth from torch.save, or .safetensors)"

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x7fELF", "a compiled library or program"),
    (b"ftrt", "a TensorRT engine, which is an exported file and no checkpoint"),
)


def container_of(head: bytes, what: str, size: int | None = None) -> ContainerKind:
    """Tell how a checkpoint file is packed, from its first bytes alone.

    Args:
        head: the first 512 bytes, or all.
        what: names the file in a sentence.
        size: of the file in bytes, None when it is not known yet.

    Raises:
        CheckpointError: a file of another kind; the message names the kind.
    """
    if not head:
        raise CheckpointError(f"{what} is empty (0 bytes), {_EXPECTED}; download or copy it again")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{" and (size is None or int.from_bytes(head[:8], "little") <= size - 8):
        return "safetensors"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "legacy"
    if head.lstrip().startswith(b"{") and (b'"weight_map"' in head or what.endswith(INDEX_SUFFIX)):
        return "sharded safetensors"
    raise CheckpointError(f"{what} is {_kind_of(head)}, {_EXPECTED}")


def _kind_of(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML or XML page (often a download that failed); download the checkpoint again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer and not the file itself; run 'git lfs pull'"
    # an ONNX file is a protobuf that opens with the IR version, then the producer's name, the domain or the graph
    if head[0] == 0x08 and len(head) > 2 and 1 <= head[1] <= 64 and head[2] in (0x12, 0x22, 0x3A, 0x42):
        return "an ONNX model, which is an exported file and no checkpoint"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    if text.startswith((b"{", b"[")):
        return "a JSON text"
    return f"of an unknown kind (it begins with {head[:8].hex(' ')})"


def other_network(keys: Collection[str]) -> str | None:
    """Name the network that these keys belong to when it is no LIT; None when it may be one.

    Args:
        keys: state-dict keys without a prefix of a wrapper (``module.``).

    Returns:
        A noun phrase such as ``"a Swin Transformer"``, with the reason it cannot be used.
    """

    def has(*parts: str) -> bool:
        return any(part in key for key in keys for part in parts)

    def starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    lit = has("dconv.conv_offset.")
    foreign = " with a foreign backbone, which is another architecture"
    if not lit and starts("roi_head.", "rpn_head."):
        return "a Mask R-CNN detector" + foreign
    if not lit and starts("bbox_head."):
        return "a RetinaNet detector" + foreign
    if not lit and starts("decode_head."):
        return "a segmentation network" + foreign
    if has("attn.h_qkv", "attn.l_kv", "attn.l_q."):
        return "a LITv2 network (HiLo attention), which is another architecture"
    if lit and starts("roi_head.", "rpn_head.", "bbox_head.", "decode_head."):
        return None
    if lit:
        stems = {key.removeprefix("backbone.") for key in keys}
        norms = {"norm1.weight", "norm2.weight", "norm3.weight"} <= stems
        headless = not any(stem.startswith(("head.", "norm.", "cls_token")) for stem in stems)
        if norms or headless or starts("backbone."):
            return "the backbone of a LIT detector without neck and head"
        return None
    if starts("layers.") and has("relative_position_bias_table", "downsample.reduction"):
        return "a Swin Transformer, which is another architecture"
    if starts("patch_embed1.") and starts("block1."):
        return "a Pyramid Vision Transformer (PVT), which is another architecture"
    if starts("blocks.0.", "encoder.layers.encoder_layer_0.") and has("cls_token", "class_token", "pos_embed"):
        return "a Vision Transformer (ViT or DeiT), which is another architecture"
    if starts("layer1.0.conv", "layer1.0.bn"):
        return "a ResNet, which is another architecture"
    if starts("features.0.") and starts("classifier."):
        return "a convolutional network of the torchvision kind, which is another architecture"
    if not starts("layers.0.blocks.", "block1.", "patch_embed"):
        first = ", ".join(map(shown_key, sorted(keys)[:3]))
        return f"an unknown network (its keys begin {first})" if keys else "a file without any tensor"
    return None

"""Frozen descriptions that every part of lit-deploy shares; no third-party import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

TaskName = Literal["classification", "detection", "instance_segmentation", "semantic_segmentation"]
FamilyName = Literal[
    "lit", "lit_ti", "retinanet_lit", "retinanet_lit_ti", "mask_rcnn_lit", "mask_rcnn_lit_ti", "sem_fpn_lit",
    "sem_fpn_lit_ti",
]  # fmt: skip
PrecisionName = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
PrecisionHint = Literal["f32", "bf16"]
"""What OpenVINO computes in."""
EightBit = Literal["int8", "fp8"]
CalibrationMethod = Literal["minmax", "percentile", "entropy"]
InputKind = Literal["float", "uint8"]
OutputKind = Literal["logits", "probabilities", "top5", "results", "features"]
Interpolation = Literal["bicubic", "bilinear"]
ResizeRule = Literal["centre_crop", "keep_ratio"]

IMAGES = "images"
"""Name of a classifier's input."""

IMAGE, ORIGINAL_SIZE = "image", "original_size"
"""Names of the inputs of detectors and segmentation networks."""

BEST_CLASSES = 5
"""Classes that a ``top5`` output holds, and that top-5 accuracy looks at."""

EIGHT_BIT: tuple[EightBit, ...] = get_args(EightBit)

MAX_BATCH = 1024
"""Largest batch that is exported or measured; beyond it a batch is a typing mistake."""

MAX_JSON_BYTES = 4 << 20
"""Largest manifest or sidecar; one of 21,000 classes has 1 MiB."""

MAX_NESTING = 32
"""Most objects and lists inside one another in a manifest or sidecar; ours have five."""

MAX_THREADS = 1024
"""Most threads of one inference, and most that prepare its images; more is a typing mistake."""

MAX_IMAGES = 10_000_000
"""Most images that are taken from a folder."""

SHARD_SIZE, MAX_SHARD_SIZE = 1024, 1 << 20
"""Images a file of scores, when nothing is said and at most; their rows are in memory together."""

MAX_CALIBRATION_IMAGES = 1 << 16
"""Most images that ranges are chosen with; they are in memory together."""

MAX_TOP = 1_000_000
"""Most classes or detections that are told of an image."""

MAX_ROUNDS = 10_000
"""Most turns of a contender in a benchmark."""

MAX_WORKSPACE_MIB = 1 << 20
"""Most scratch memory of an engine's layer: a TiB."""

MAX_SIDE = 1 << 14
"""Largest height and width of an input in pixels."""

MAX_DETECTIONS = 1000
"""Largest number of detections of one image."""

MAX_RESIZE = 16
"""Largest ``resize``, as a multiple of the input's longer side."""

MAX_MEAN, MIN_STD, MAX_STD = 1e4, 1e-4, 1e4
"""Limits of the normalisation, which keep its arithmetic in float32; anything near them is a typing mistake already."""

OP_VERSION = 1
"""Version of the operator: ONNX domain version, TensorRT plugin version, and what a manifest records."""


@dataclass(frozen=True)
class ModelSpec:
    """The dimensions of a LIT network.

    Attributes:
        name: official name (``lit_s``) or ``custom``.
        family: backbone and head; ``lit`` (S, M, B: relative position bias, mean pooling) and ``lit_ti`` (position
            embeddings, class token) classify, the others add a neck and a head to one of these backbones.
        embed_dims: channels of the four stages.
        depths: blocks of the four stages.
        num_heads: attention heads of stages 3 and 4.
        mlp_ratios: hidden width of the MLP over the channels, per stage.
        image_size: input height and width in pixels, multiples of ``patch_size``; of detectors and segmentation
            networks, which take any size, that at which bias tables or position embeddings are stored.
        num_classes: classes of the classifier or head, without background.
        in_channels: image channels.
        patch_size: pixels per side of one input token.
        neck_channels: channels of the feature pyramid; 0 where there is none.
        head_channels: width of the head: of RetinaNet's convolutions, of Mask R-CNN's hidden layers, of Semantic
            FPN's branches; 0 for a classifier.

    Source: paper table 1; official configurations at commit 742e961.
    """

    name: str
    family: FamilyName
    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int]
    mlp_ratios: tuple[int, int, int, int]
    image_size: tuple[int, int] = (224, 224)
    num_classes: int = 1000
    in_channels: int = 3
    patch_size: int = 4
    neck_channels: int = 0
    head_channels: int = 0

    def __post_init__(self) -> None:
        if min(self.num_classes, self.in_channels) < 1:
            raise ValueError(f"{self.num_classes} classes of {self.in_channels} channels, expected at least 1 of each")

    @property
    def map_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width in tokens of the four stages; every merge halves and drops an odd last row or column."""
        height, width = (side // self.patch_size for side in self.image_size)
        return tuple((height >> stage, width >> stage) for stage in range(4))

    @property
    def features(self) -> int:
        """Length of a classifier's feature vector: the channels of the last stage, which its head projects."""
        return self.embed_dims[-1]

    @property
    def mergings(self) -> int:
        """Deformable token mergings: one between each stage and the next."""
        return len(self.depths) - 1


@dataclass(frozen=True)
class InputSpec:
    """How an exported file wants its pixels.

    Attributes:
        kind: ``float`` (float32 ``[B, 3, H, W]``, normalised) or ``uint8`` (``[B, H, W, 3]``, raw RGB; the
            normalisation is inside the graph).
        height, width: network input size in pixels; None where the file takes any.
        resize: shorter side in pixels after resizing, before the centre crop; for ``keep_ratio``, what the shorter side
            may have at most.
        mean, std: per RGB channel, for pixel values scaled to 0..1.
        interpolation: resize filter; for ``centre_crop`` always antialiased, as Pillow does, for ``keep_ratio`` never,
            as OpenCV does.
        rule: ``centre_crop`` ignores EXIF, resizes the shorter side and cuts out the centre; ``keep_ratio`` turns a
            picture as EXIF says and makes it as large as ``resize`` and ``longest`` allow.
        longest: what the longer side may have at most, for ``keep_ratio``; else None.
        pad_multiple: zeros that the graph adds, right and below, make both sides a multiple of this; pictures come
            without them.

    Raises:
        ValueError: a size that is no size, or a mean or std that is not usable.

    Source: official code at commit 742e961.
    """

    kind: InputKind
    height: int | None
    width: int | None
    resize: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"
    rule: ResizeRule = "centre_crop"
    longest: int | None = None
    pad_multiple: int = 1

    def __post_init__(self) -> None:
        sides = [side for side in (self.height, self.width, self.longest) if side is not None]
        if min(*sides, self.resize, self.pad_multiple) < 1:
            raise ValueError(f"input {self.height} x {self.width} with resize {self.resize}, expected at least 1 pixel")
        if max(sides) > MAX_SIDE:
            raise ValueError(f"input {self.height} x {self.width}, expected at most {MAX_SIDE} pixels a side")
        if (self.rule == "keep_ratio") != (self.longest is not None):
            raise ValueError(f"the rule {self.rule} with a longest side of {self.longest}, expected one for keep_ratio")
        if self.rule == "centre_crop" and (self.height is None or self.width is None):
            raise ValueError("the rule centre_crop without height and width, expected both")
        if self.resize > MAX_RESIZE * max(sides):
            raise ValueError(f"resize is {self.resize} pixels, expected at most {MAX_RESIZE} times the input's size")
        if not all(abs(m) <= MAX_MEAN for m in self.mean) or not all(MIN_STD <= s <= MAX_STD for s in self.std):
            raise ValueError(
                f"mean {self.mean} and std {self.std} are unusable; expected values for pixels in 0..1, std above 0"
            )

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width in pixels, of a file that takes one size only."""
        if self.height is None or self.width is None:
            raise ValueError("the input has no fixed size")
        return self.height, self.width


@dataclass(frozen=True)
class DenseSpec:
    """What a detector or segmentation network does with what it finds; see ``docs/dense.md``.

    Attributes:
        category_ids: the data set's number of every label, e.g. COCO's, which have gaps, or ADE20K's, from 1 on.
        palette: colour of every label, RGB 0..255.
        score_threshold: detections score above this.
        iou_threshold: of two boxes of one class that overlap more, the lower score is dropped.
        max_detections: most detections of an image, and the fixed number of rows of the outputs.
        candidates: most candidates of every pyramid level, and, in Mask R-CNN, most proposals of an image.
        mask_size: rows and columns of a mask inside its box; 0 where there are none.

    The thresholds say nothing for semantic segmentation.
    """

    category_ids: tuple[int, ...]
    palette: tuple[tuple[int, int, int], ...]
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100
    candidates: int = 1000
    mask_size: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.score_threshold < 1 and 0 < self.iou_threshold <= 1):
            raise ValueError(
                f"score threshold {self.score_threshold} and IoU threshold {self.iou_threshold}, expected both within "
                "0 to 1"
            )
        if not 1 <= self.max_detections <= MAX_DETECTIONS or not 1 <= self.candidates <= MAX_DETECTIONS:
            raise ValueError(
                f"at most {self.max_detections} detections of {self.candidates} candidates, expected 1 to "
                f"{MAX_DETECTIONS} of each"
            )


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a session.

    Attributes:
        name: the tensor's name.
        dtype: NumPy dtype name, e.g. ``float32``.
        shape: sizes; a string is a dynamic dimension's name.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.name} [{', '.join(map(str, self.shape))}]"

    def agrees(self, other: TensorSpec) -> bool:
        """Whether name, type, rank and all sizes that both fix agree."""
        return (self.name, self.dtype, len(self.shape)) == (other.name, other.dtype, len(other.shape)) and all(
            a == b for a, b in zip(self.shape, other.shape, strict=True) if isinstance(a, int) and isinstance(b, int)
        )


@dataclass(frozen=True)
class Quantization:
    """How a file of 8 bits was made, so that it can be made again.

    Attributes:
        method: how the range of every activation was chosen; ``percentile``: which one, for that method, else None.
        images: number of calibration images; ``source``: where they came from; ``images_sha256``: of their pixels.
        base: type of everything that is not quantised.
        kept: patterns of module names that were asked to stay in ``base``.
        products: matrix products that compute in 8 bits.
        agreement: share of the calibration images whose first class is that of the unquantised file.
        speedup: over the fp32 file, by ONNX Runtime on the machine that wrote the file; None where not measured.
    """

    method: CalibrationMethod
    percentile: float | None
    images: int
    source: str
    images_sha256: str
    base: PrecisionName
    kept: tuple[str, ...]
    products: int
    agreement: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Tolerance:
    """Fixed limits of parity for one precision; printed beside every result, never raised to fit one.

    Attributes:
        relative: largest absolute error over the largest magnitude of the reference (logits or layer).
        cosine: least cosine similarity of one image's logits with the reference.

    A changed top-1 or top-5 counts only where the reference itself separates the classes by more than twice
    the allowed error: nearer classes are tied as far as this precision can tell.
    """

    relative: float
    cosine: float


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(relative=1e-5, cosine=0.999999),
    "fp16": Tolerance(relative=1e-2, cosine=0.9995),
    "bf16": Tolerance(relative=8e-2, cosine=0.995),
    "int8": Tolerance(relative=2e-1, cosine=0.99),
    "fp8": Tolerance(relative=4e-1, cosine=0.97),
}
"""Limits per precision, about four times what an honest conversion reaches: reordered float32 sums differ by up to
3e-6 of a layer's scale, rounding to float16 (2**-11) after every operation by up to 3e-3, and to bfloat16 (2**-8) by up
to 2.2e-2. What 8 bits do depends on weights and images too; their limits lie above the worst that
benchmarks/precision.py sees on five networks, as far as that lets faults be told (its results stand beside the limits
in results/precision_cpu.md)."""

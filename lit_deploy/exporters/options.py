"""What an exported ONNX file is to be, and what that means for one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import (
    EIGHT_BIT,
    MAX_BATCH,
    MAX_DETECTIONS,
    MAX_RESIZE,
    MAX_SIDE,
    DenseSpec,
    InputKind,
    InputSpec,
    OutputKind,
    PrecisionName,
)
from lit_deploy.images.keep_ratio import MIN_SIDE
from lit_deploy.images.labels import label_fault, read_labels
from lit_deploy.models.families import default_input
from lit_deploy.tasks.table import TASKS

if TYPE_CHECKING:
    from lit_deploy.checkpoints.load import Checkpoint

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class OnnxOptions:
    """What to write.

    Attributes:
        input: ``float`` (float32 NCHW, normalised) or ``uint8`` (raw RGB NHWC, normalised inside the graph); None for
            the task's usual one: ``float`` for a classifier, ``uint8`` for the others.
        output: of a classifier ``logits``, ``probabilities`` (softmax), ``top5`` (probabilities and class indices) or
            ``features`` (the pooled vector before the head); ``results`` of the others, or ``logits`` of a segmentation
            network. None for the first of these.
        precision: type of weights and activations; inputs and outputs stay float32. ``int8`` and ``fp8`` need images as
            well, and are made by the export workflow from a graph of fp32 or fp16.
        batch: a fixed batch size, or None for a dynamic one; only classifiers have more than one.
        portable: inline the operators, for runtimes that do not know model-local functions.
        labels: class names, or the path of a file of them; None for the checkpoint's own, those of the data set with as
            many classes (ImageNet, COCO, ADE20K), or numbers.
        resize, mean, std: preprocessing the network was trained with; None for the official evaluation's.
        size: fixed height and width in pixels of the input; only for detectors and segmentation networks, which take
            any otherwise.
        score_threshold, iou_threshold, max_detections: see ``DenseSpec``; for detectors, None for the official ones.
    """

    input: InputKind | None = None
    output: OutputKind | None = None
    precision: PrecisionName = "fp32"
    batch: int | None = None
    portable: bool = False
    labels: tuple[str, ...] | Path | str | None = None
    resize: int | None = None
    mean: Triple | None = None
    std: Triple | None = None
    size: tuple[int, int] | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None

    def __post_init__(self) -> None:
        for name, kind in (("input", InputKind), ("output", OutputKind), ("precision", PrecisionName)):
            value, allowed = getattr(self, name), get_args(kind)
            if value not in allowed and not (value is None and name != "precision"):
                raise UsageError(f"{name} is '{value}', expected one of {', '.join(allowed)}")
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"batch is {self.batch}, expected 1 to {MAX_BATCH}, or a dynamic one")
        ranges = {
            "resize": (1, MAX_RESIZE * MAX_SIDE), "max_detections": (1, MAX_DETECTIONS), "score_threshold": (0, 1),
            "iou_threshold": (0, 1),
        }  # fmt: skip
        for name, (least, most) in ranges.items():
            number = getattr(self, name)
            if number is not None and not least <= number <= most:
                raise UsageError(f"{name.replace('_', ' ')} is {number}, expected {least} to {most}")
        if self.size is not None and not all(MIN_SIDE <= side <= MAX_SIDE for side in self.size):
            raise UsageError(
                f"size is {self.size[0]}x{self.size[1]}, expected {MIN_SIDE} to {MAX_SIDE} pixels for height and width"
            )


def described(checkpoint: Checkpoint, options: OnnxOptions) -> Manifest:
    """The manifest of the file that these options make of a checkpoint, as far as it is known before it is made.

    Raises:
        UsageError: options that contradict each other or the checkpoint.
    """
    spec = checkpoint.spec
    usual = manifest_from_checkpoint(checkpoint)
    if spec.in_channels != 3:
        raise UsageError(f"the checkpoint takes {spec.in_channels} channels; only RGB (3) is exported")
    outputs = TASKS[usual.task].OUTPUTS
    output = options.output or outputs[0]
    if output not in outputs:
        raise UsageError(f"output is '{output}', but {usual.task.replace('_', ' ')} has {' and '.join(outputs)} only")
    if usual.task == "classification" and spec.num_classes == 1 and output not in ("logits", "features"):
        raise UsageError(f"the network has one class, so {output} say nothing; use --output logits")
    if output == "features" and options.precision in EIGHT_BIT:
        raise UsageError(
            f"{options.precision} is held to the classes of the calibration images, and features name none; use "
            "--precision fp16 or bf16, or --output logits"
        )
    fields: dict[str, Any] = {"output": output, "precision": options.precision, "portable": options.portable}
    if usual.dense is None:
        _refuse_dense(options)
        fields["batch"] = options.batch
    else:
        if options.batch not in (None, 1):
            raise UsageError(
                f"batch is {options.batch}, expected 1: pictures of several sizes cannot share one without changing "
                "their numbers"
            )
        if options.precision == "bf16":
            raise UsageError("bf16 is for classifiers, as ONNX's convolutions do not take it; use --precision fp16")
        fields["dense"] = _dense(usual.dense, usual.task, options)
    labels = _labels(options, spec.num_classes)
    if labels is not None:
        fields["labels"] = labels
    fault = label_fault(usual.labels if labels is None else labels)
    if fault:
        raise UsageError(f"{fault}; name a file of class names with --labels")
    return replace(usual, input=input_spec(checkpoint, options), **fields)


def input_spec(checkpoint: Checkpoint, options: OnnxOptions) -> InputSpec:
    """The input that the exported file will have; UsageError when the options make none."""
    usual = manifest_from_checkpoint(checkpoint).input
    given: dict[str, Any] = {"resize": options.resize, "mean": options.mean, "std": options.std}
    if options.size is not None:
        given["height"], given["width"] = options.size
    for name in ("mean", "std"):
        _refuse_byte_scale(name, given[name])
    try:
        spec = replace(
            default_input(checkpoint.spec, options.input or usual.kind),
            **{k: v for k, v in given.items() if v is not None},
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if spec.rule == "centre_crop" and spec.resize < min(spec.crop):
        raise UsageError(
            f"resize is {spec.resize} pixels, below the input of {spec.crop[0]} x {spec.crop[1]}, which is cut out "
            f"of what was resized; give {min(spec.crop)} or more, or leave it out for the official evaluation's "
            f"{usual.resize}"
        )
    return spec


def _refuse_byte_scale(name: str, values: Triple | None) -> None:
    """Refuse a mean or deviation of pixels in 0..255, and say what it is for those in 0..1."""
    if values is not None and max(values) > 1:
        shown = " ".join(f"{value:g}" for value in values)
        scaled = " ".join(f"{value / 255:.3g}" for value in values)
        raise UsageError(
            f"{name} is {shown}, expected one for pixels in 0..1; of pixels in 0..255 it is --{name} {scaled}"
        )


def _refuse_dense(options: OnnxOptions) -> None:
    for name in ("size", "score_threshold", "iou_threshold", "max_detections"):
        if getattr(options, name) is not None:
            shown = "max-det" if name == "max_detections" else name.replace("_", "-")
            raise UsageError(
                f"--{shown} is for detectors and segmentation networks, but the checkpoint is a classifier"
            )


def _dense(usual: DenseSpec, task: str, options: OnnxOptions) -> DenseSpec:
    names = ("score_threshold", "iou_threshold", "max_detections")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if given and task == "semantic_segmentation":
        raise UsageError("score and IoU thresholds and --max-det are for detectors; a label map has none")
    try:
        return replace(usual, **given)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _labels(options: OnnxOptions, classes: int) -> tuple[str, ...] | None:
    if isinstance(options.labels, str | Path):
        return read_labels(options.labels, classes)
    if options.labels is not None and len(options.labels) != classes:
        raise UsageError(f"got {len(options.labels)} labels for {classes} classes; give one name for each class")
    return options.labels

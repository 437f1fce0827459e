"""What an ensemble on Triton does around the network of a task: what it is given, what it answers, which code it needs.

A classifier's outputs are the answer. What a detector or segmentation network returns is fit for machines: rows that do
not count, masks inside boxes, numbers of classes. A last step makes of it what a client can use at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.core.specs import ORIGINAL_SIZE, TaskName, TensorSpec
from lit_deploy.images.keep_ratio import MAX_SEGMENTATION_PIXELS
from lit_deploy.ops.nms.matrix_form import COMPLETE

MAX_PIXELS = 50_000_000
"""Of an image that the server decodes. Requests come from anywhere, and a small file may claim many pixels: the memory
that this takes, in every process, has to be there."""

_CORE = ("__init__.py", "core/__init__.py", "core/errors.py", "core/specs.py", "images/__init__.py",
         "images/picture.py")  # fmt: skip
_DECODING = (*_CORE, "images/containers.py", "images/decoding.py")
_CROPPING = (*_DECODING, "images/preprocessing.py")
_RESIZING = (*_DECODING, "images/keep_ratio.py", "images/synthetic.py", "tasks/__init__.py", "tasks/arrays.py",
             "tasks/dense/__init__.py", "tasks/dense/tensors.py")  # fmt: skip
# Without the packages' own __init__ of each task, which imports all of it: to Python such folders are packages, too.
_BOXES = (*_CORE, "tasks/__init__.py", "tasks/unusable.py", "tasks/detection/predictions.py",
          "tasks/detection/results.py")  # fmt: skip
_MASKS = (*_BOXES, *(f"tasks/instance_segmentation/{name}.py" for name in ("pasting", "predictions", "rle")))
_LABELS = (*_CORE, "tasks/__init__.py", "tasks/unusable.py", "tasks/semantic_segmentation/predictions.py")

_OBJECTS = (
    TensorSpec("boxes", "float32", ("objects", 4)),
    TensorSpec("scores", "float32", ("objects",)),
    TensorSpec("labels", "int32", ("objects",)),
    TensorSpec("category_ids", "int32", ("objects",)),
    TensorSpec("names", "object", ("objects",)),
)


@dataclass(frozen=True)
class Steps:
    """What surrounds the networks of a task.

    Attributes:
        max_pixels: largest width x height of an image.
        preprocessing, postprocessing: modules of ours that the python models import, and all that these import.
        results: what the postprocessing gives, of the network's outputs and the picture's size; without any there is no
            such step. The type ``object`` is NumPy's of strings.
        rows: those of ``results`` that tell of one object or class each, the most telling first.
    """

    max_pixels: int
    preprocessing: tuple[str, ...]
    postprocessing: tuple[str, ...] = ()
    results: tuple[TensorSpec, ...] = ()
    rows: tuple[str, ...] = ()


STEPS: dict[TaskName, Steps] = {
    "classification": Steps(MAX_PIXELS, _CROPPING),
    "detection": Steps(MAX_PIXELS, _RESIZING, _BOXES, _OBJECTS, ("scores", "names", "boxes")),
    "instance_segmentation": Steps(
        MAX_PIXELS,
        _RESIZING,
        _MASKS,
        (*_OBJECTS, TensorSpec("areas", "int64", ("objects",)), TensorSpec("masks", "object", ("objects",))),
        ("scores", "names", "boxes", "masks"),
    ),
    "semantic_segmentation": Steps(
        MAX_SEGMENTATION_PIXELS,
        _RESIZING,
        _LABELS,
        (
            TensorSpec("labels", "uint8", ("rows", "columns")),
            TensorSpec("category_ids", "int32", ("classes",)),
            TensorSpec("names", "object", ("classes",)),
            TensorSpec("pixels", "int64", ("classes",)),
        ),
        ("pixels", "names", "category_ids"),
    ),
}


@dataclass(frozen=True)
class Ensemble:
    """The tensors of an ensemble by the names that they have in it.

    Attributes:
        prepared: what the preprocessing gives, in the order of the network's inputs.
        found: what the network gives, in the order of its outputs.
        judged: what the postprocessing takes, of both.
        results: what it gives; none where ``found`` is the answer.
        answer: what the ensemble gives.
    """

    prepared: tuple[TensorSpec, ...]
    found: tuple[TensorSpec, ...]
    judged: tuple[TensorSpec, ...]
    results: tuple[TensorSpec, ...]
    answer: tuple[TensorSpec, ...]


def ensemble_of(manifest: Manifest, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Ensemble:
    """The tensors around a network with these inputs and outputs.

    ``image`` is a client's, and ``boxes`` and so on are an answer; what the network calls so gets ``network_`` before
    it. The picture's size, and whether a detector's engine considered all candidates, are passed on as they are.
    """
    results = STEPS[manifest.task].results
    if not results:
        return Ensemble(inputs, outputs, (), (), outputs)
    passed = (ORIGINAL_SIZE, COMPLETE)
    prepared, found = (
        tuple(spec if spec.name in passed else replace(spec, name=f"network_{spec.name}") for spec in specs)
        for specs in (inputs, outputs)
    )
    told = tuple(spec for spec in (*prepared, *found) if spec.name in passed)
    judged = (*(spec for spec in found if spec not in told), *(spec for spec in prepared if spec in told))
    return Ensemble(prepared, found, judged, results, (*results, *told))

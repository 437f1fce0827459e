"""Golden outputs of the official detectors and segmentation networks, and what ours have to have in common with them.

Limits: ``data/README.md``. Detections are matched by label and nearest box, as scores that agree may swap places.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.checkpoints.seeded import DEFAULT_SEED, make_state, save_checkpoint, synthetic_image
from lit_deploy.exporters.onnx import onnx_from_checkpoint, portable
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.images.picture import Picture
from lit_deploy.models.build import build
from lit_deploy.models.convolutions import padded
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.tasks.dense.tensors import dense_of
from lit_deploy.tasks.detection.results import Detections, detections_of
from lit_deploy.tasks.instance_segmentation.pasting import pasted
from lit_deploy.tasks.table import task_of
from support.exported import needs_extension, needs_library
from support.golden import DATA, strided
from support.shared import EVERYTHING, later

PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "flower.jpg"
FEATURES = 5e-5
SIZES = {"net": (147, 201), "odd": (131, 214), "wide": (112, 448)}
"""Height and width of the synthetic pictures."""


@dataclass(frozen=True)
class Limits:
    """Of boxes in pixels and of scores."""

    box: float
    score: float


RETINANET, MASK_RCNN = Limits(5e-3, 1e-5), Limits(1e-2, 2e-4)


@cache
def gold(name: str) -> dict[str, NDArray[Any]]:
    """Stored numbers of the official network."""
    with np.load(DATA / "golden" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def picture(name: str, case: str) -> Picture:
    """A synthetic picture with the size it is to be reported at; the backbone's cases report at their own."""
    size = SIZES[case]
    original = gold(name).get(f"{case}.ori_shape", np.array(size))
    return Picture(synthetic_image(DEFAULT_SEED, case, *size), (int(original[0]), int(original[1])))


def as_input(shown: Picture) -> tuple[Tensor, Tensor]:
    """The network's inputs by the goldens' own normalisation, ``(pixel - 128) / 64``."""
    image = (shown.pixels.astype(np.float32) - 128) / 64
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(), torch.tensor(shown.original_size)


@cache
def network(name: str) -> nn.Module:
    """The network with its seeded weights."""
    state = {key: torch.from_numpy(value) for key, value in make_state(OFFICIAL_SPECS[name]).items()}
    return build(OFFICIAL_SPECS[name], state)


def checkpoint_of(name: str, folder: Path) -> Path:
    """The same as a file."""
    path = folder / f"{name}.pth"
    if not path.exists():
        save_checkpoint(make_state(OFFICIAL_SPECS[name]), path, "state_dict")
    return path


def files_of(name: str, folder: Path) -> dict[str, Path]:
    """The exported file and its portable form, for official pictures and, as ``net``, for the goldens' own ones.

    One conversion serves them all: they differ in two constants of the graph.
    """
    loaded = load_checkpoint(checkpoint_of(name, folder))
    artifact = onnx_from_checkpoint(loaded, OnnxOptions())
    net = replace(artifact.manifest, input=replace(artifact.manifest.input, mean=(128 / 255,) * 3, std=(64 / 255,) * 3))
    graph = type(artifact.graph)()
    graph.CopyFrom(artifact.graph)
    constants = {item.name: item for item in graph.graph.initializer}
    for constant, value in (("mean", 128.0), ("factor", 1 / 64)):
        constants[constant].raw_data = np.full(3, value, np.float32).tobytes()
    paths = {}
    for form, each in (("photo", artifact), ("net", OnnxArtifact(graph, net))):
        for kind, made in (("file", each), ("portable", portable(each))):
            paths[f"{form}-{kind}"] = folder / f"{name}-{form}-{kind}.onnx"
            made.write(paths[f"{form}-{kind}"])
    return paths


def ran(path: Path, shown: list[Picture] | Path, options: SessionOptions) -> list[dict[str, NDArray[Any]]]:
    """Outputs of a file for pictures, or for a photo prepared by the path that ``predict`` takes."""
    with open_session(path, options) as session:
        task, manifest = task_of(session.manifest), session.manifest
        pictures = task.pictures([shown], manifest) if isinstance(shown, Path) else shown
        return [session.run(task.feed([each], manifest)) for each in pictures]


@torch.inference_mode()
def check_features(name: str, case: str, *, pad: int) -> None:
    """Backbone, and the pyramid where it was stored."""
    image, _ = as_input(picture(name, case))
    image = padded(image, pad)
    stored, model = gold(name), network(name)
    maps = model.backbone(image)
    assert len(maps) == 4
    for index, value in enumerate(maps, 1):
        check_samples(stored, f"{case}.feat{index}", value)
    if f"{case}.fpn1.strided" in stored:
        levels = model.neck(maps[1:] if name.startswith("retinanet") else maps)
        for index, value in enumerate(levels, 1):
            check_samples(stored, f"{case}.fpn{index}", value)


def check_samples(stored: dict[str, NDArray[Any]], key: str, value: Tensor) -> None:
    """A tensor ``[1, ...]`` against the samples of it that are stored."""
    samples = stored[f"{key}.strided"]
    got = strided(value.reshape(1, -1).numpy(), 2048 if "feat" in key or "logits" in key else 512)[0]
    assert got.shape == samples.shape
    np.testing.assert_allclose(got, samples, rtol=0, atol=FEATURES, err_msg=key)


def check_detections(name: str, case: str, found: Detections, limits: Limits, *, long: bool = False) -> None:
    """Every stored detection has a counterpart, and there are no others; a few of a thousand may be missing."""
    stored, prefix = gold(name), f"{case}.{'long_' if long else ''}"
    boxes, scores, labels = (stored[prefix + part] for part in ("boxes", "scores", "labels"))
    assert len(found) == len(boxes) >= 100
    assert (np.diff(found.scores) <= 0).all()
    pairs = match(found, boxes, scores, labels, limits)
    assert len(pairs) >= len(boxes) - (3 if long else 0), f"{len(boxes) - len(pairs)} of {len(boxes)} are missing"
    if found.masks is None or long:
        return
    size = tuple(int(side) for side in stored[f"{case}.mask_size"])
    differing = seen = 0
    for row, index in enumerate(stored[f"{case}.mask_index"]):
        bits = np.unpackbits(stored[f"{case}.mask_bits"][row], count=size[0] * size[1]).reshape(size).astype(bool)
        mask = pasted(found.masks[pairs[int(index)]], found.boxes[pairs[int(index)]], (size[0], size[1]))
        whole = np.zeros(size, bool)
        rows, cols = mask.bits.shape
        whole[mask.top : mask.top + rows, mask.left : mask.left + cols] = mask.bits
        seen += int(bits.sum())
        differing += int((whole != bits).sum())
    assert seen > 0
    assert differing <= 1e-5 * size[0] * size[1] * len(stored[f"{case}.mask_index"])


def match(
    found: Detections, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], limits: Limits
) -> dict[int, int]:
    """For every stored detection the nearest of ours with the same label, where both are within the limits."""
    pairs: dict[int, int] = {}
    free = np.ones(len(found), bool)
    for index, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
        apart = np.abs(found.boxes - box).max(axis=1)
        fits = free & (found.labels == label) & (np.abs(found.scores - score) <= limits.score) & (apart <= limits.box)
        if fits.any():
            nearest = int(np.where(fits, apart, np.inf).argmin())
            free[nearest] = False
            pairs[index] = nearest
    return pairs


@torch.inference_mode()
def check_network(name: str, case: str, limits: Limits) -> None:
    """A detector in PyTorch, with the official maximum of detections and with a thousand."""
    image, original = as_input(picture(name, case))
    usual = dense_of(manifest_of(name))
    names = ("boxes", "scores", "labels", "num", "masks")
    for most in (100, 1000):
        outputs = network(name)(image, original, replace(usual, max_detections=most))
        found = detections_of({key: value.numpy() for key, value in zip(names, outputs, strict=False)})
        check_detections(name, case, found, limits, long=most == 1000)


@cache
def manifest_of(name: str) -> Any:
    """What a checkpoint's session says about itself."""
    from lit_deploy.checkpoints.load import Checkpoint

    checkpoint = Checkpoint(Path(name), "", "", OFFICIAL_SPECS[name], {}, {}, None)
    return manifest_from_checkpoint(checkpoint)


def check_photo_pixels(name: str, path: Path) -> None:
    """The photo, decoded and resized by the path that ``predict`` takes, to the last bit."""
    with open_session(path, SessionOptions(library=False)) as session:
        (shown,) = task_of(session.manifest).pictures([PHOTO], session.manifest)
    stored = gold(name)
    assert hashlib.sha256(PHOTO.read_bytes()).hexdigest() == str(stored["photo.file_sha256"])
    assert hashlib.sha256(shown.pixels.tobytes()).hexdigest() == str(stored["photo.resized_rgb_sha256"])


def check_labels(name: str, case: str, labels: NDArray[Any]) -> None:
    """A label map ``[1, h, w]``: at most as many pixels differ as are tied within 1e-4."""
    stored = gold(name)
    assert labels.shape == (1, *stored[f"{case}.label_shape"])
    tied = int(stored[f"{case}.pixels_margin_below"][1])
    whole = stored.get(f"{case}.labels")
    expected, got = (whole, labels[0]) if whole is not None else (stored[f"{case}.labels_sub4"], labels[0, ::4, ::4])
    assert (expected != got).sum() <= tied
    histogram = np.bincount(labels.ravel(), minlength=len(stored[f"{case}.label_hist"]))
    assert np.abs(histogram - stored[f"{case}.label_hist"]).sum() <= 2 * tied


SESSIONS = {
    "function": ("file", SessionOptions(library=False)),
    "library": ("file", SessionOptions(library=True)),
    "extension": ("file", SessionOptions(backend="openvino", library=True)),
    "portable": ("portable", SessionOptions(library=False)),
    "openvino": ("portable", SessionOptions(backend="openvino")),
}
"""What an exported detector or segmentation network runs on."""

WAYS = [
    pytest.param("function"),
    pytest.param("library", marks=needs_library),
    pytest.param("extension", marks=needs_extension),
    pytest.param("portable"),
    pytest.param("openvino"),
]
"""The same, as parameters of a test."""

_USUALLY_EXPORTED = ("retinanet_lit_s", "mask_rcnn_lit_ti", "sem_fpn_lit_ti")
"""Of each kind one, with either backbone: the conversion of one takes a minute."""


def exported(names: tuple[str, ...]) -> list[Any]:
    """Networks as parameters of the tests of files; the others are checked in PyTorch alone in a usual run."""
    return [pytest.param(name, marks=() if name in _USUALLY_EXPORTED else later) for name in names]


def with_photo(way: str) -> bool:
    """Whether the photo is run, too, which takes up to a minute.

    In a usual run what users run sees it; the small pictures have gone through everything else.
    """
    return EVERYTHING or way == "library"

"""The data set of the example, drawn as it is needed: circles, squares, triangles and rings on shaded paper.

``python shapes_data.py DIR`` writes 100 pictures for validation: ``DIR/images/*.png``, the objects as COCO's
``DIR/instances.json``, and label maps as ADE20K's, ``DIR/labels/*.png``. With ``--training``, pictures that the
networks were trained on. A picture is a function of its number: the same wherever it is drawn.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.tasks.instance_segmentation.rle import encoded

NAMES = ("circle", "square", "triangle", "ring")
CATEGORY_IDS = (2, 3, 5, 9)  # with gaps, as COCO's: a label is not its number
COLOURS = ((230, 60, 60), (60, 110, 230), (240, 190, 40), (60, 180, 90))
PAPER = "paper"  # a class of the label maps, as ADE20K's walls and skies are
PAPER_COLOUR = (190, 190, 190)
IGNORED, PAPER_VALUE, FIRST_VALUE = 0, 1, 2  # pixels of a label map: a class's number is 1 less

SEED = 2105
TRAINING, VALIDATION = 0, 1
SIDES = (96, 112, 128, 144, 160)  # shorter side in pixels
FORMATS = ((4, 4), (4, 5), (5, 4))  # height to width
RUN = 16  # so many pictures in a row have one format, and can be a batch
MOST = 4  # shapes in a picture
TURN = 0.4  # radians that a shape is turned at most

Bits = NDArray[np.bool_]


@dataclass(frozen=True)
class Drawing:
    """A picture and what is to be found in it.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, RGB.
        labels: int64 ``[n]``, indices of ``NAMES``; at least one shape.
        masks: bool ``[n, H, W]``: the pixels of each shape that no other covers.
        boxes: float32 ``[n, 4]``: x1 y1 x2 y2 around them, in pixels.
        label_map: uint8 ``[H, W]``: 0 along all outlines, 1 for paper, 2, 3, ... for the shapes.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: Bits
    boxes: NDArray[np.float32]
    label_map: NDArray[np.uint8]


def drawn(part: int, index: int) -> Drawing:
    """Draw a picture.

    Args:
        part: ``TRAINING`` or ``VALIDATION``; ``index``: from 0, without end.
    """
    rng = np.random.default_rng((SEED, part, index))
    side = int(rng.choice(SIDES))
    height, width = (side * units // 4 for units in FORMATS[index // RUN % len(FORMATS)])
    pixels = _paper(rng, height, width)
    paper = pixels.mean(axis=(0, 1))
    label_map = np.full((height, width), PAPER_VALUE, dtype=np.uint8)
    places = _places(rng, height, width)
    labels = rng.integers(len(NAMES), size=len(places))
    masks = np.zeros((len(places), height, width), dtype=bool)
    for shape, (label, place) in enumerate(zip(labels, places, strict=True)):
        window, distance = _distance(NAMES[label], place, rng.uniform(-TURN, TURN), height, width)
        opacity = np.clip(0.5 - distance, 0, 1)[:, :, None]  # a pixel on the edge is partly covered
        pixels[window] += opacity * (_ink(rng, paper) - pixels[window])
        inside = distance < 0
        masks[:shape, *window] &= ~inside
        masks[shape, *window] = inside
        label_map[window][inside] = FIRST_VALUE + label
        label_map[window][np.abs(distance) < 1] = IGNORED
    pixels += 6 * rng.standard_normal((height, width, 1), dtype=np.float32)  # grain
    return Drawing(
        pixels=pixels.clip(0, 255).round().astype(np.uint8),
        labels=labels,
        masks=masks,
        boxes=np.stack([_box(mask) for mask in masks]),
        label_map=label_map,
    )


def _paper(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """A colour that changes evenly from one corner to another."""
    first, last = rng.uniform(40, 215, (2, 3)).astype(np.float32)
    share = np.linspace(0, 0.5, height, dtype=np.float32)[:, None] + np.linspace(0, 0.5, width, dtype=np.float32)
    return first + share[:, :: rng.choice((-1, 1)), None] * (last - first)


def _ink(rng: np.random.Generator, paper: NDArray[np.float32]) -> NDArray[np.float32]:
    """A colour that is not the paper's."""
    while True:
        ink = rng.uniform(0, 255, 3).astype(np.float32)
        if np.abs(ink - paper).max() > 70:
            return ink


def _places(rng: np.random.Generator, height: int, width: int) -> list[tuple[float, float, float]]:
    """Centre and size of one to ``MOST`` shapes, in pixels; they may overlap, and none covers most of another."""
    places: list[tuple[float, float, float]] = []
    wanted = int(rng.integers(1, MOST + 1))
    for _ in range(8 * wanted):
        size = rng.uniform(0.14, 0.3) * min(height, width)
        x, y = rng.uniform(size, width - size), rng.uniform(size, height - size)
        if all(np.hypot(x - left, y - top) > 0.85 * (size + other) for left, top, other in places):
            places.append((x, y, size))
        if len(places) == wanted:
            break
    return places


def _distance(
    name: str, place: tuple[float, float, float], angle: float, height: int, width: int
) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """The part of a picture that a shape lies in, and by how many pixels each of its pixels is outside the shape."""
    x, y, size = place
    window = tuple(
        slice(max(0, int(centre - size) - 2), min(side, int(centre + size) + 3))
        for centre, side in ((y, height), (x, width))
    )
    down = (np.arange(height, dtype=np.float32)[window[0], None] + 0.5 - y) / size
    right = (np.arange(width, dtype=np.float32)[window[1]] + 0.5 - x) / size
    x, y = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    radius = np.hypot(x, y)
    if name == "circle":
        outside = radius - 0.9
    elif name == "square":
        outside = np.maximum(np.abs(x), np.abs(y)) - 0.7
    elif name == "triangle":
        outside = np.maximum(y, np.abs(x) * np.sqrt(0.75) - y / 2) - 0.5
    else:
        outside = np.abs(radius - 0.7) - 0.2
    return window, outside * size


def _box(mask: Bits) -> NDArray[np.float32]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)


def write(directory: Path, part: int, count: int) -> None:
    """Write the first ``count`` pictures of a part, their objects and their label maps."""
    for name in ("images", "labels"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    images, objects = [], []
    for index in range(count):
        drawing, name = drawn(part, index), f"{index:04d}.png"
        Image.fromarray(drawing.pixels).save(directory / "images" / name)
        Image.fromarray(drawing.label_map).save(directory / "labels" / name)
        height, width = drawing.label_map.shape
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for label, mask, (x1, y1, x2, y2) in zip(drawing.labels, drawing.masks, drawing.boxes.tolist(), strict=True):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": index + 1,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": encoded(mask, height, width),
                }
            )
    categories = [{"id": number, "name": name} for number, name in zip(CATEGORY_IDS, NAMES, strict=True)]
    content = {"images": images, "categories": categories, "annotations": objects}
    (directory / "instances.json").write_text(json.dumps(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the pictures of the example.")
    parser.add_argument("directory", type=Path, help="folder to write to")
    parser.add_argument("--training", action="store_true", help="pictures for training instead of validation")
    parser.add_argument("--count", type=int, default=100, help="how many pictures (default: 100)")
    arguments = parser.parse_args()
    write(arguments.directory, TRAINING if arguments.training else VALIDATION, arguments.count)
    print(f"{arguments.count} pictures written below {arguments.directory}")

"""Drawings of results: inside the picture, on any ground, at any size. What they look like was looked at."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from support.dense_results import dense_manifest, found, picture_of

from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.tasks import classification, detection, instance_segmentation, semantic_segmentation
from lit_deploy.tasks.classification.predictions import Prediction as Classes
from lit_deploy.tasks.dense import lettering

SIZES = [(1, 1), (1, 400), (400, 1), (9, 9), (40, 32), (30, 300), (640, 427), (1200, 900)]


def inside(width: int, height: int) -> tuple[tuple[int, float, tuple[float, float, float, float]], ...]:
    """Objects at every edge and beyond, one of no size, and one with its corners the wrong way round."""
    return (
        (0, 0.9, (0, 0, width, height)),
        (10, 0.8, (width * 0.9, height * 0.9, width * 1.1, height * 1.1)),
        (60, 0.7, (-5, -5, width * 0.2, height * 0.2)),
        (74, 0.6, (width / 2, height / 2, width / 2, height / 2)),
        (20, 0.5, (width * 0.8, height * 0.7, width * 0.3, height * 0.1)),
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("ground", [0, 255])
def test_boxes_of_every_size_of_picture(size: tuple[int, int], ground: int) -> None:
    image = Image.new("RGB", size, (ground,) * 3)
    manifest = dense_manifest("detection")
    (prediction,) = detection.predictions(found(*inside(*size)), manifest, ["x"], picture_of(image), 99)
    drawn = detection.drawn(prediction, image, manifest)
    assert drawn.size == size
    assert (np.asarray(image) == ground).all(), "the picture that was given is left as it is"
    assert (np.asarray(drawn) != ground).any()


def test_boxes_are_where_they_were_found() -> None:
    image = Image.new("RGB", (400, 300), (90, 90, 90))
    manifest = dense_manifest("detection")
    (prediction,) = detection.predictions(found((16, 0.9, (50, 60, 250, 200))), manifest, ["x"], picture_of(image), 9)
    pixels = np.asarray(detection.drawn(prediction, image, manifest))
    colour = manifest.dense.palette[16]  # type: ignore[union-attr]
    for row, column in ((60, 150), (200, 150), (130, 50), (130, 250)):
        assert tuple(pixels[row, column]) == colour
    for row, column in ((130, 150), (130, 30), (250, 150), (130, 270)):
        assert tuple(pixels[row, column]) == (90, 90, 90)
    rows, columns = np.nonzero((pixels != 90).any(axis=2))
    assert (rows.max(), columns.min(), columns.max()) == (201, 49, 251), "a hairline around the box"


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("label", range(0, 80, 7))
def test_the_best_stands_out_from_any_ground(ground: int, label: int) -> None:
    """Letters from their plate, and the frame from the ground, by at least a third of the range of brightness."""
    image = Image.new("RGB", (400, 300), (ground,) * 3)
    manifest = dense_manifest("detection")
    (prediction,) = detection.predictions(
        found((label, 0.9, (50, 60, 250, 200))), manifest, ["x"], picture_of(image), 9
    )
    pixels = np.asarray(detection.drawn(prediction, image, manifest).convert("L")).astype(int)
    frame = pixels[58:64, 150]
    assert np.abs(frame - ground).max() >= 50
    plate = pixels[44:59, 52:120]
    assert np.ptp(plate) >= 85


def letters_outside(size: tuple[int, int], place: tuple[float, float]) -> NDArray[np.bool_]:
    """What a plate changes on a larger canvas than the picture it is told of; true outside the picture."""
    image = Image.new("RGB", size, (1, 2, 3))
    style = lettering.style_for(*size)
    lettering.tag(ImageDraw.Draw(image), style, "traffic light 0.93", place, (0, 255, 0))
    return (np.asarray(image) == (0, 255, 0)).all(axis=2)


@pytest.mark.parametrize("place", [(0, 0), (-50, -50), (390, 290), (500, 500), (200, 5), (395, 150)])
def test_plates_are_whole_wherever_the_box_is(place: tuple[float, float]) -> None:
    """A plate that left the picture would be cut: all have the size of the one in the middle."""
    whole = letters_outside((400, 300), (150, 150))
    assert whole.sum() > 500
    got = letters_outside((400, 300), place)
    assert got.sum() == whole.sum()


def test_plates_lie_above_their_box_where_there_is_room() -> None:
    above, below = (np.nonzero(letters_outside((400, 300), (150, y)).any(axis=1))[0] for y in (150, 3))
    assert above.max() == 149
    assert below.min() == 3


def test_words_that_do_not_fit_are_cut_between_words() -> None:
    draw, style = ImageDraw.Draw(Image.new("RGB", (45, 300))), lettering.style_for(45, 300)
    for room, expected in ((200, "traffic light 0.93"), (45, "traffic light"), (30, "traffic"), (2, "")):
        font, text = lettering._fitted(draw, style, "traffic light 0.93", room)
        assert text == expected
        assert draw.textlength(text, font=font) <= room


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_of_every_size_of_picture(size: tuple[int, int]) -> None:
    image = Image.fromarray(synthetic_image(3, "drawing", size[1], size[0]))
    manifest = dense_manifest("instance_segmentation")
    outputs = found(*inside(*size), masks=True)
    (prediction,) = instance_segmentation.predictions(outputs, manifest, ["x"], picture_of(image), 99)
    drawn = instance_segmentation.drawn(prediction, image, manifest)
    assert drawn.size == size
    np.testing.assert_array_equal(np.asarray(image), synthetic_image(3, "drawing", size[1], size[0]))


def test_masks_are_tinted_and_outlined() -> None:
    image = Image.new("RGB", (400, 300), (100, 100, 100))
    manifest = dense_manifest("instance_segmentation")
    outputs = found((16, 0.9, (50, 60, 250, 200)), masks=True)
    (prediction,) = instance_segmentation.predictions(outputs, manifest, ["x"], picture_of(image), 9)
    pixels = np.asarray(instance_segmentation.drawn(prediction, image, manifest))
    colour = np.array(manifest.dense.palette[16])  # type: ignore[union-attr]
    np.testing.assert_allclose(pixels[130, 150], 0.55 * 100 + 0.45 * colour, atol=1)
    assert tuple(pixels[70, 60]) == (100, 100, 100), "a corner of the box is outside the disc"
    # 12 of 28 cells, in each direction of the box: the outline of the disc
    edge = 150 - round(12 / 28 * 200)
    assert (pixels[130, edge - 3 : edge + 4] == colour).all(axis=1).any()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_segments_of_every_size_of_picture(size: tuple[int, int]) -> None:
    image = Image.fromarray(synthetic_image(3, "drawing", size[1], size[0]))
    manifest = dense_manifest("semantic_segmentation", 150)
    labels = (np.arange(size[0] * size[1]) % 7 * 20).astype(np.uint8).reshape(size[1], size[0])
    (prediction,) = semantic_segmentation.predictions({"labels": labels[None]}, manifest, ["x"], picture_of(image), 99)
    drawn = semantic_segmentation.drawn(prediction, image, manifest)
    assert drawn.width >= size[0]
    assert drawn.height > size[1], "the legend lies below the picture"
    colours = np.array(manifest.dense.palette)[labels]  # type: ignore[union-attr]
    part = np.asarray(drawn)[: size[1], : size[0]]
    np.testing.assert_allclose(part, 0.4 * np.asarray(image) + 0.6 * colours, atol=1)
    legend = np.asarray(drawn)[size[1] :]
    for each in prediction.classes:
        colour = manifest.dense.palette[each.category_id - 1]  # type: ignore[union-attr]
        assert (legend == colour).all(axis=2).sum() >= 60, f"the legend shows {each.label}"
    margin = np.concatenate([legend[:, -1], legend[-1]])
    assert (margin == 255).all(), "no name is cut"


def test_stray_pixels_are_counted_and_not_named() -> None:
    """A hundred classes of a pixel each: their legend is a line."""
    image = Image.new("RGB", (400, 300))
    manifest = dense_manifest("semantic_segmentation", 150)
    labels = np.zeros((300, 400), dtype=np.uint8)
    heights = []
    for stray in (0, 1, 100):
        labels[0, :stray] = np.arange(1, stray + 1)
        outputs = {"labels": labels[None]}
        (prediction,) = semantic_segmentation.predictions(outputs, manifest, ["x"], picture_of(image), 149)
        assert len(prediction.classes) == 1 + stray
        heights.append(semantic_segmentation.drawn(prediction, image, manifest).height)
    assert heights[0] == heights[1] == heights[2]


def test_a_legend_of_nothing() -> None:
    image = Image.new("RGB", (40, 30))
    assert lettering.with_legend(image, []).size == (40, 30)


def test_classes_below_a_picture() -> None:
    manifest = dense_manifest("detection")  # of which nothing is needed
    image = Image.new("RGB", (300, 200), (9, 9, 9))
    drawn = classification.drawn(Classes("x", (1, 0), ("tabby cat", "dog"), (0.75, 0.25)), image, manifest)
    assert drawn.height > 200
    assert (np.asarray(drawn)[:200, :300] == 9).all()
    assert (np.asarray(drawn)[200:] < 100).any(), "letters"

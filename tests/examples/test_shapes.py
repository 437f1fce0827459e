"""The drawn shapes of examples/03_shapes: the data set, the losses, and that every network learns from them.

Its README's commands run in documentation/test_commands.py.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.documentation import ROOT

from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.images.coco import annotated_images
from lit_deploy.images.label_maps import NO_CLASS, mapped_images, read_label_map
from lit_deploy.models.boxes import decoded
from lit_deploy.models.build import build
from lit_deploy.tasks.instance_segmentation import rle

TASKS = ("detection", "instance_segmentation", "semantic_segmentation")
MODULES = ("shapes_data", "losses", "train")


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """The modules of the example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "03_shapes"))
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        for name in MODULES:
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def data(example: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures for validation, in two formats."""
    folder = tmp_path_factory.mktemp("shapes")
    example.shapes_data.write(folder, example.shapes_data.VALIDATION, 20)
    return folder


def test_a_picture_is_a_function_of_its_number(example: Any) -> None:
    drawn = example.shapes_data.drawn
    first, again, other, training = drawn(1, 3), drawn(1, 3), drawn(1, 4), drawn(0, 3)
    assert (first.pixels == again.pixels).all()
    for different in (other, training):
        assert first.pixels.shape != different.pixels.shape or (first.pixels != different.pixels).any()


def test_boxes_masks_and_label_maps_say_the_same(example: Any) -> None:
    seen = set()
    for index in range(0, 96, 4):
        drawing = example.shapes_data.drawn(1, index)
        seen |= set(drawing.labels.tolist())
        assert drawing.masks.sum(axis=0).max() == 1  # a pixel shows one shape
        for label, mask, box in zip(drawing.labels, drawing.masks, drawing.boxes.astype(int), strict=True):
            x1, y1, x2, y2 = box
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 100
            assert all(edge.any() for edge in (mask[y1], mask[y2 - 1], mask[:, x1], mask[:, x2 - 1]))
            assert set(np.unique(drawing.label_map[mask])) == {0, label + 2}
        assert set(np.unique(drawing.label_map[~drawing.masks.any(axis=0)])) == {0, 1}
    assert seen == {0, 1, 2, 3}


def test_the_written_set_is_read_as_it_was_drawn(example: Any, data: Path) -> None:
    names = example.shapes_data.NAMES
    found = annotated_images(data / "images", data / "instances.json", names, range(1, 5), masks=True)
    assert found.category_ids == example.shapes_data.CATEGORY_IDS != tuple(range(1, 5))
    maps = mapped_images(data / "images", data / "labels", range(1, 6))
    assert len(found.files) == len(maps.files) == 20
    for index, (objects, path) in enumerate(zip(found.objects, maps.maps, strict=True)):
        drawing = example.shapes_data.drawn(1, index)
        pixels = np.asarray(Image.open(data / "images" / found.files[index]))
        assert (pixels == drawing.pixels).all()
        for entry, mask in zip(objects, drawing.masks, strict=True):
            assert (rle.decoded(entry["segmentation"]) == mask).all()
        classes = read_label_map(maps.labels_root / path, range(1, 6), pixels.shape[:2])
        assert (classes == drawing.label_map.astype(int) - 1).all()
        assert (classes == NO_CLASS).any()


def test_an_image_is_prepared_as_the_file_will_prepare_it(example: Any) -> None:
    train, drawing = example.train, example.shapes_data.drawn(1, 17)  # 4 to 5
    image, target = train.prepared(drawing, train.small("detection"))
    assert image.shape[1:] == target.classes.shape == target.masks.shape[1:] == (128, 160)
    for box, mask in zip(target.boxes, target.masks, strict=True):
        rows, columns = (torch.nonzero(mask.any(dim=axis)) for axis in (1, 0))
        around = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        assert (around - box).abs().max() <= 1.5  # the mask is of whole pixels


def test_deltas_are_what_is_decoded(example: Any) -> None:
    boxes = torch.tensor([[10.0, 20, 50, 40], [0, 0, 32, 32]])
    wanted = torch.tensor([[14.0, 10, 40, 60], [1, 2, 99, 12]])
    moved = decoded(boxes, example.losses.deltas(boxes, wanted), torch.tensor([100.0] * 4), (1.0,) * 4)
    torch.testing.assert_close(moved, wanted)


def test_anchors_stand_for_boxes(example: Any) -> None:
    assigned = example.losses.assigned
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 70, 70]])
    # IoU with the first box 1, 0.6, 0.45, 0; with the second nothing but the last one's 0.25
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 4.5], [20, 20, 30, 30], [50, 50, 60, 60]])
    assert assigned(anchors, boxes, 0.4, 0.5).tolist() == [0, 0, -2, -1, -1]
    assert assigned(anchors, boxes, 0.4, 0.5, rescue=0.0).tolist() == [0, 0, -2, -1, 1]
    assert assigned(anchors, boxes, 0.4, 0.5, rescue=0.3).tolist() == [0, 0, -2, -1, -1]


def test_masks_are_cut_out_of_their_boxes(example: Any) -> None:
    mask = torch.zeros(2, 40, 60, dtype=torch.bool)
    mask[0, 10:20, 30:40] = mask[1, 10:20, 30:50] = True
    boxes = torch.tensor([[30.0, 10, 40, 20], [20.0, 10, 40, 30]])
    cut = example.losses.inside(mask, boxes, 4)
    assert cut[0].tolist() == [[1.0] * 4] * 4
    assert cut[1].tolist() == [[0.0, 0, 1, 1]] * 2 + [[0.0] * 4] * 2


@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_learns_and_the_loss_falls(example: Any, task: str, tmp_path: Path) -> None:
    """On four pictures, over and over; what the networks reach in earnest is told by the README."""
    train = example.train
    torch.manual_seed(0)
    spec, recipe = train.small(task), train.TASKS[task]
    model = train.network(spec)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = train.optimizer_for(model, recipe.rate)
    images, targets = zip(*(train.prepared(example.shapes_data.drawn(0, i), spec) for i in range(4)), strict=True)
    losses = []
    for _ in range(16):
        loss = recipe.loss(model, torch.stack(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3]), losses
    unmoved = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert unmoved == []

    train.save(model, task, 1, tmp_path / "shapes.pth")
    checkpoint = load_checkpoint(tmp_path / "shapes.pth")
    assert checkpoint.spec == spec
    assert checkpoint.classes[-4:] == example.shapes_data.NAMES
    assert len(checkpoint.palette) == spec.num_classes
    with torch.no_grad():
        again = build(checkpoint.spec, checkpoint.state).backbone(torch.stack(images))
        expected = model.eval().backbone(torch.stack(images))
    for one, other in zip(again, expected, strict=True):
        torch.testing.assert_close(one, other)

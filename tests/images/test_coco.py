"""COCO's annotations: what is read, how categories are told, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.images import coco
from lit_deploy.images.coco import AnnotatedImages, annotated_images

LABELS, IDS = ("cat", "traffic light", "dog"), (1, 10, 17)

TRUTH: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [
        {"id": 5, "file_name": "b.png", "width": 8, "height": 6, "license": 3},
        {"id": 2, "file_name": "a.png"},
        {"id": 9, "file_name": "sub/c.png", "width": 8, "height": 6},
    ],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 10, "name": "Traffic light"},
                   {"id": 17, "name": "dog"}],
    "annotations": [
        {"id": 0, "image_id": 5, "category_id": 10, "bbox": [1, 2, 3.5, 2], "area": 4.5, "iscrowd": 1,
         "segmentation": {"size": [6, 8], "counts": [10, 8, 30]}},
        {"id": 0, "image_id": 2, "category_id": 1, "bbox": [0, 0, 4, 3], "segmentation": [[0, 0, 4, 0, 4, 3]]},
    ],
}  # fmt: skip

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "val2017"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        Image.new("RGB", (8, 6)).save(root / name)
    return root


def read(folder: Path, change: Change | None = None, *, masks: bool = False, **more: Any) -> AnnotatedImages:
    told = copy.deepcopy(TRUTH)
    if change is not None:
        change(told)
    path = folder.parent / "instances.json"
    path.write_text(json.dumps(told))
    options = {"labels": LABELS, "category_ids": IDS, **more}
    return annotated_images(folder, path, **options, masks=masks)


def test_what_is_read(folder: Path) -> None:
    found = read(folder)
    assert found.files == ("a.png", "b.png", "sub/c.png")
    assert found.ids == (2, 5, 9)
    assert found.sizes == (None, (6, 8), (6, 8))
    assert found.objects == (
        ({"category_id": 1, "bbox": [0, 0, 4, 3], "area": 12, "iscrowd": 0},),
        ({"category_id": 10, "bbox": [1, 2, 3.5, 2], "area": 4.5, "iscrowd": 1},),
        (),
    )
    assert found.categories == ((1, "cat"), (10, "Traffic light"), (17, "dog"))
    assert found.category_ids == IDS
    assert found.mapping == "annotations instances.json, categories by id"
    assert (found.skipped, found.unlisted) == ((), 0)
    assert read(folder, masks=True).objects[0][0]["segmentation"] == [[0, 0, 4, 0, 4, 3]]


def test_limited(folder: Path) -> None:
    found = read(folder).limited(2)
    assert found.files == ("a.png", "b.png")
    assert found.ids == (2, 5)
    assert [len(objects) for objects in found.objects] == [1, 1]
    assert read(folder).limited(None) == read(folder)


def test_places_of_files(folder: Path) -> None:
    """As the path below the folder, or, where that is enough, by the last part; never outside."""

    def rename(told: dict[str, Any]) -> None:
        told["images"][0]["file_name"] = "/data/coco/val2017/b.png"
        told["images"][1]["file_name"] = "../other/x.png"
        told["images"][2]["file_name"] = "c.png"

    Image.new("RGB", (8, 6)).save(folder.parent / "x.png")
    Image.new("RGB", (8, 6)).save(folder / "more.png")
    found = read(folder, rename)
    assert found.files == ("b.png", "sub/c.png")
    assert [(entry.image, entry.reason) for entry in found.skipped] == [
        ("../other/x.png", "is in the annotations and not in the folder")
    ]
    assert found.unlisted == 2


@pytest.mark.parametrize(
    ("categories", "ids", "how"),
    [
        (["cat", "Traffic  light", "dog"], IDS, "by id"),
        (["Katze", "Ampel", "Hund"], IDS, "by id"),
        (["cat", "traffic light", "hound"], IDS, "by id (1 of their names are not the network's)"),
        (["cat", "traffic light", "dog"], (1, 2, 3), "by name"),
        (["dog", "cat", "traffic light"], IDS, "by name"),
        (["dog"], (1,), "by name, 1 of the network's 3 classes"),
        (["cat"], (1,), "by id, 1 of the network's 3 classes"),
    ],
)
def test_categories(categories: list[str], ids: tuple[int, ...], how: str, folder: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        told["categories"] = [{"id": number, "name": name} for number, name in zip(ids, categories, strict=True)]
        told["annotations"] = []

    found = read(folder, change)
    assert found.mapping == f"annotations instances.json, categories {how}"
    if how.startswith("by name"):
        table = dict(zip(categories, ids, strict=True))
        assert found.category_ids == tuple(table.get(label) for label in LABELS)
    else:
        assert found.category_ids == tuple(number if number in ids else None for number in IDS)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([(2, "zebra")], "'zebra' has the id 2; expected ids of 1 to 17 or names such as 'cat'"),
        ([(1, "dog"), (10, "Ampel")], "'dog' has the id 1"),  # by id it is the cat
        ([(1, "cat"), (10, "traffic light"), (17, "dog"), (18, "horse")], "'horse' has the id 18"),
        ([(2, "cat"), (3, "CAT")], "two categories of one name"),
    ],
)
def test_categories_that_are_not_the_networks(categories: list[tuple[int, str]], message: str, folder: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        told["categories"] = [{"id": number, "name": name} for number, name in categories]
        told["annotations"] = []

    with pytest.raises(UsageError, match=re.escape(message)):
        read(folder, change)


def test_labels_that_share_a_name_are_told_by_id_only(folder: Path) -> None:
    assert read(folder, labels=("a", "a", "b")).category_ids == IDS
    with pytest.raises(UsageError, match="neither by id nor by name"):
        read(folder, lambda told: told["categories"][0].update(id=2, name="a"), labels=("a", "a", "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("images"), r"not in COCO's format \(Object missing required field `images`\)"),
        (lambda t: t["annotations"][1].pop("bbox"), r"missing required field `bbox` - at `\$.annotations\[1\]`"),
        (lambda t: t["annotations"][0].update(bbox=[1, 2, 3]), "not in COCO's format"),
        (lambda t: t["images"][0].update(id="5"), "not in COCO's format"),
        (lambda t: t.update(images=[], annotations=[]), "have no images"),
        (lambda t: t.update(categories=[], annotations=[]), "have no categories"),
        (lambda t: t["images"][1].update(id=5), "two images with the id 5"),
        (lambda t: t["categories"][1].update(id=1), "two categories with the id 1"),
        (lambda t: t["images"][1].update(file_name="b.png"), r"name b.png twice \(images 5 and 2\)"),
        (lambda t: t["annotations"][1].update(image_id=77), "annotation 1 .* is of image 77, which 'images'"),
        (lambda t: t["annotations"][0].update(category_id=4), "annotation 0 .* is of category 4, which 'categories'"),
        (lambda t: t["annotations"][0].update(bbox=[1, 2, -3, 4]), r"has the box \[1, 2, -3, 4\], expected x, y"),
        (lambda t: [e.update(file_name="no.png") for e in t["images"]], "none of the 3 images of .*, e.g. 'no.png'"),
    ],
)  # fmt: skip
def test_what_is_refused(change: Change, message: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(folder, change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "has no 'segmentation'"),
        ([], "no list of polygons"),
        ([[1, 2, 3, 4]], "no list of polygons"),  # COCO's tools would take it for a box
        ([[1, 2, 3, 4, "5", 6]], "no list of polygons"),
        ({"size": [6, 8]}, "without 'size' and 'counts'"),
        ({"size": [8, 6], "counts": [48]}, r"has a mask of \[8, 6\] pixels where its image is \[6, 8\]"),
        ({"size": [6, 8], "counts": [10, 8]}, "run lengths that are not those of its mask"),
        ({"size": [6, 8], "counts": [-10, 58]}, "run lengths that are not those of its mask"),
        ({"size": [6, 8], "counts": "\x01"}, "run lengths that are not those of its mask"),
    ],
)
def test_masks_that_are_refused(segmentation: Any, message: str, folder: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        told["annotations"][0]["segmentation"] = segmentation

    with pytest.raises(UsageError, match=f"annotation 0 .* {message}"):
        read(folder, change, masks=True)
    assert len(read(folder, change).objects[1]) == 1, "nobody asks a detector for it"


def test_files_that_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    for content, message in (
        (b"", "are no JSON"),
        (b'{"images": [', "are no JSON"),
        (b"\xff\xfe{}", "are no JSON"),
        (b"[]", "are not in COCO's format"),
        (b"null", "are not in COCO's format"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message) as caught:
            annotated_images(folder, path, LABELS, IDS, masks=False)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="do not exist"):
        annotated_images(folder, tmp_path / "none.json", LABELS, IDS, masks=False)
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        annotated_images(folder, tmp_path, LABELS, IDS, masks=False)
    with pytest.raises(ImageError, match="does not exist"):
        annotated_images(tmp_path / "none", path, LABELS, IDS, masks=False)
    monkeypatch.setattr(coco, "MAX_ANNOTATIONS_BYTES", 3)
    with pytest.raises(UsageError, match="are larger than"):
        annotated_images(folder, path, LABELS, IDS, masks=False)


def test_the_hash_tells_changes(folder: Path) -> None:
    first = read(folder).sha256()
    assert read(folder).sha256() == first
    assert read(folder).limited(2).sha256() != first
    assert read(folder, lambda told: told["annotations"].pop()).sha256() != first
    assert read(folder, category_ids=(1, 10, 18), labels=("cat", "traffic light", "dog")).sha256() == first, "by name"
    assert read(folder, labels=("dog", "cat", "traffic light")).sha256() != first
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    assert read(folder).sha256() != first

"""Annotations as COCO writes them (``instances_val2017.json``): pictures, categories, objects.

The file is checked whole before anything runs, so that an evaluation does not end in the middle.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from lit_deploy.core.errors import UsageError
from lit_deploy.core.text import first_line, shown_name
from lit_deploy.images.datasets import Skipped, evenly, file_state, place_of, places_of
from lit_deploy.images.folders import images_in

MAX_ANNOTATIONS_BYTES = 2 << 30
"""Size above which annotations are refused: four times those of COCO's training pictures."""

Number = float | int


class _Image(msgspec.Struct):
    id: int
    file_name: str
    height: int | None = None
    width: int | None = None


class _Category(msgspec.Struct):
    id: int
    name: str = ""


class _Object(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[Number, Number, Number, Number]
    area: Number | None = None
    iscrowd: int | bool = 0
    segmentation: Any = None


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object]


@dataclass(frozen=True)
class AnnotatedImages:
    """Pictures of a folder and the objects in them.

    Attributes:
        root: the folder.
        files: paths below ``root``, in sorted order.
        ids: COCO's number of each; ``sizes``: height and width as the annotations say, None where they do not.
        objects: of each, as COCO's JSON has them: ``category_id``, ``bbox`` (x, y, width, height in pixels), ``area``,
            ``iscrowd``, and, where asked for, ``segmentation``.
        categories: number and name of each, in the order of the file.
        category_ids: the annotations' number of each of the network's labels; None for one that they do not have.
        mapping: how that was told, in words.
        skipped: pictures that are annotated and not there.
        unlisted: pictures of the folder that are not annotated.
        content: SHA-256 of the annotations.
    """

    root: Path
    files: tuple[str, ...]
    ids: tuple[int, ...]
    sizes: tuple[tuple[int, int] | None, ...]
    objects: tuple[tuple[dict[str, Any], ...], ...]
    categories: tuple[tuple[int, str], ...]
    category_ids: tuple[int | None, ...]
    mapping: str
    skipped: tuple[Skipped, ...]
    unlisted: int
    content: str

    def limited(self, limit: int | None) -> AnnotatedImages:
        """At most ``limit`` pictures, evenly spaced."""
        taken = evenly(len(self.files), limit)
        return replace(
            self,
            files=tuple(self.files[i] for i in taken),
            ids=tuple(self.ids[i] for i in taken),
            sizes=tuple(self.sizes[i] for i in taken),
            objects=tuple(self.objects[i] for i in taken),
        )

    def sha256(self) -> str:
        """Hash of the annotations, how labels are numbered, and names, sizes and times of change of the pictures."""
        digest = hashlib.sha256(f"{self.content} {self.category_ids}\n".encode())
        for name in self.files:
            digest.update(os.fsencode(name) + f"\0{file_state(self.root / name)}\n".encode())
        return digest.hexdigest()


def annotated_images(
    images: str | Path, annotations: str | Path, labels: Sequence[str], category_ids: Sequence[int], *, masks: bool
) -> AnnotatedImages:
    """Read annotations and find their pictures.

    Args:
        images: folder of the pictures; a ``file_name`` is looked for below it, by its last part where that is enough.
        annotations: JSON file in COCO's format. ``area`` may be missing (then it is that of the box), and ``iscrowd``.
        labels, category_ids: of the network: name and number of every class. Categories are told by their numbers
            where names do not speak against it, else by their names.
        masks: objects need a ``segmentation``; without, it is left out, as it is most of the file.

    Raises:
        ImageError: there is no such folder, or no image in it.
        UsageError: the file cannot be read, is not in that format, has other categories than the network, or none of
            its pictures is there.
    """
    root, path = Path(images), Path(annotations)
    present = [found.relative_to(root).as_posix() for found in images_in(root)]
    file, content = _read(path)
    ids, mapping = _categories(path, file.categories, labels, category_ids)
    objects = _objects(path, file, masks=masks)
    places = places_of(present)
    taken: dict[str, _Image] = {}
    missing = []
    for image in file.images:
        place = place_of(image.file_name, places)
        if place is None:
            missing.append(Skipped(shown_name(image.file_name), "is in the annotations and not in the folder"))
        elif taken.setdefault(place, image) is not image:
            raise UsageError(
                f"annotations {path} name {shown_name(place)} twice (images {taken[place].id} and {image.id}); "
                "keep one of them"
            )
    if not taken:
        raise UsageError(
            f"none of the {len(file.images)} images of {path} is in {root}, e.g. "
            f"'{shown_name(file.images[0].file_name)}'; expected paths below that folder, e.g. "
            f"'{shown_name(present[0])}'"
        )
    listed = [(name, taken[name]) for name in present if name in taken]
    return AnnotatedImages(
        root=root,
        files=tuple(name for name, _ in listed),
        ids=tuple(image.id for _, image in listed),
        sizes=tuple(
            None if image.height is None or image.width is None else (image.height, image.width) for _, image in listed
        ),
        objects=tuple(tuple(objects[image.id]) for _, image in listed),
        categories=tuple((category.id, category.name) for category in file.categories),
        category_ids=ids,
        mapping=f"annotations {path.name}, categories {mapping}",
        skipped=tuple(missing),
        unlisted=len(present) - len(listed),
        content=content,
    )


def _read(path: Path) -> tuple[_File, str]:
    remedy = "give COCO's JSON of instances, with 'images', 'categories' and 'annotations'"
    try:
        if path.stat().st_size > MAX_ANNOTATIONS_BYTES:
            raise UsageError(f"annotations {path} are larger than {MAX_ANNOTATIONS_BYTES >> 30} GiB; {remedy}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"annotations {path} do not exist; {remedy}") from None
    except OSError as error:
        raise UsageError(f"annotations {path} cannot be read ({error.strerror}); {remedy}") from None
    try:
        file = msgspec.json.decode(content, type=_File)
    except msgspec.ValidationError as error:
        raise UsageError(f"annotations {path} are not in COCO's format ({first_line(error)}); {remedy}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # the last of nesting without an end
        raise UsageError(f"annotations {path} are no JSON ({first_line(error)}); {remedy}") from None
    for name, entries in (("images", file.images), ("categories", file.categories)):
        if not entries:
            raise UsageError(f"annotations {path} have no {name}; {remedy}")
        twice = _twice([entry.id for entry in entries])
        if twice is not None:
            raise UsageError(f"annotations {path} have two {name} with the id {twice}; every one needs its own")
    return file, hashlib.sha256(content).hexdigest()


def _twice(numbers: Sequence[int]) -> int | None:
    seen: set[int] = set()
    return next((number for number in numbers if number in seen or seen.add(number)), None)  # type: ignore[func-returns-value]


def _objects(path: Path, file: _File, *, masks: bool) -> dict[int, list[dict[str, Any]]]:
    """The objects of every image, with nothing missing."""
    found: dict[int, list[dict[str, Any]]] = {image.id: [] for image in file.images}
    sizes = {image.id: (image.height, image.width) for image in file.images}
    known = {category.id for category in file.categories}
    for index, entry in enumerate(file.annotations):
        name = f"annotation {index} (counted from 0) of {path}"
        if entry.image_id not in found:
            raise UsageError(f"{name} is of image {entry.image_id}, which 'images' do not have; add it there")
        if entry.category_id not in known:
            raise UsageError(f"{name} is of category {entry.category_id}, which 'categories' do not have; add it there")
        *_, width, height = entry.bbox
        if not all(map(math.isfinite, entry.bbox)) or width < 0 or height < 0:
            raise UsageError(f"{name} has the box {list(entry.bbox)}, expected x, y, width and height in pixels")
        area = width * height if entry.area is None else entry.area
        plain: dict[str, Any] = {
            "category_id": entry.category_id, "bbox": [float(side) for side in entry.bbox], "area": float(area),
            "iscrowd": int(entry.iscrowd),
        }  # fmt: skip
        if masks:
            fault = _fault_of_segmentation(entry.segmentation, sizes[entry.image_id])
            if fault:
                raise UsageError(f"{name} {fault}; masks are scored against polygons or run lengths")
            plain["segmentation"] = entry.segmentation
        found[entry.image_id].append(plain)
    return found


def _fault_of_segmentation(value: Any, size: tuple[int | None, int | None]) -> str:
    """What is wrong with the mask of an object, or nothing."""
    if isinstance(value, list):
        polygons = value and all(
            isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0
            and all(isinstance(number, int | float) and math.isfinite(number) for number in part)
            for part in value
        )  # fmt: skip
        return "" if polygons else "has a 'segmentation' that is no list of polygons [x1, y1, x2, y2, x3, y3, ...]"
    if not isinstance(value, dict):
        return "has no 'segmentation'"
    counts, written = value.get("counts"), value.get("size")
    if not isinstance(counts, str | list) or not isinstance(written, list) or len(written) != 2:
        return "has a 'segmentation' without 'size' and 'counts'"
    if None not in size and written != list(size):
        return f"has a mask of {written} pixels where its image is {list(size)} (height, width)"
    if isinstance(counts, str):
        whole = counts and all("0" <= letter <= "o" for letter in counts)  # five bits and a flag, from the letter 0 on
    else:
        whole = all(isinstance(run, int) and run >= 0 for run in counts) and sum(counts) == written[0] * written[1]
    return "" if whole else "has run lengths that are not those of its mask"


def _categories(
    path: Path, categories: Sequence[_Category], labels: Sequence[str], category_ids: Sequence[int]
) -> tuple[tuple[int | None, ...], str]:
    """The file's number of every label, and how it was told."""
    by_id = {number: index for index, number in enumerate(category_ids)}
    by_name = {_plain(label): index for index, label in enumerate(labels)}
    known = [category for category in categories if category.id in by_id]
    named = [category for category in categories if _plain(category.name) in by_name]
    moved = [category for category in named if by_id.get(category.id) != by_name[_plain(category.name)]]
    if len(known) == len(categories) and not moved:
        index = {by_id[category.id]: category.id for category in categories}
        strangers = len(categories) - len(named)
        how = "by id" + (f" ({strangers} of their names are not the network's)" if named and strangers else "")
    elif len(named) == len(categories) and len(by_name) == len(labels):
        index = {by_name[_plain(category.name)]: category.id for category in categories}
        if len(index) < len(categories):
            raise UsageError(f"annotations {path} have two categories of one name; every class needs its own")
        how = "by name"
    else:
        stranger = next((c for c in categories if c.id not in by_id), None) or next(c for c in categories if c in moved)
        called = f"'{stranger.name}' has the id {stranger.id}"
        raise UsageError(
            f"annotations {path} have {len(categories)} categories that are not the network's {len(labels)} classes, "
            f"neither by id nor by name, e.g. {called}; expected ids of {_shown_ids(category_ids)} or names such as "
            f"'{labels[0]}'"
        )
    if len(categories) < len(labels):
        how += f", {len(categories)} of the network's {len(labels)} classes"
    return tuple(index.get(label) for label in range(len(labels))), how


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _shown_ids(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])

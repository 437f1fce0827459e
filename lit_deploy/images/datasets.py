"""Which class every image of a folder belongs to: class sub-folders, or a flat folder with a labels file.

Class indices are those of the network's outputs. How names were turned into indices is said in
``LabelledImages.mapping``, because a wrong guess looks like a bad network.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.text import shown_name
from lit_deploy.images.folders import SUFFIXES, images_in, listed

Folders = Literal["auto", "name", "index", "order"]

MAX_LABELS_BYTES = 256 << 20
"""Size above which a labels file is refused: far above ImageNet's, and a video given by mistake stays on the disk."""

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True)
class Skipped:
    """An image that does not count, or a class folder (its name ends in ``/``) without images, and why."""

    image: str
    reason: str


def even_parts(total: int, limit: int) -> list[range]:
    """Split ``range(total)`` into at most ``limit`` parts of nearly equal length; their starts are evenly spaced."""
    parts = min(total, limit)
    return [range(index * total // parts, (index + 1) * total // parts) for index in range(parts)]


def evenly(total: int, limit: int | None) -> list[int]:
    """At most ``limit`` of the indices below ``total``, evenly spaced; all of them for None."""
    return list(range(total)) if limit is None else [part.start for part in even_parts(total, limit)]


def file_state(path: Path) -> str:
    """Size and time of change of a file, which differ when it was written anew; ``absent`` where there is none."""
    try:
        status = path.stat()
    except OSError:
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"


@dataclass(frozen=True)
class LabelledImages:
    """The images of a folder and their classes.

    Attributes:
        root: the folder.
        files: paths below ``root``, in sorted order; ``classes``: the class index of each.
        mapping: how classes were told, e.g. ``class folders by name``.
        skipped: images without a class, class folders without images, and files that are listed but not there.
    """

    root: Path
    files: tuple[str, ...]
    classes: tuple[int, ...]
    mapping: str
    skipped: tuple[Skipped, ...] = ()

    def limited(self, limit: int | None) -> LabelledImages:
        """At most ``limit`` images, evenly spaced, so that all classes of a sorted list are among them."""
        taken = evenly(len(self.files), limit)
        return replace(
            self, files=tuple(self.files[i] for i in taken), classes=tuple(self.classes[i] for i in taken)
        )  # fmt: skip

    def sha256(self) -> str:
        """Hash of names, classes, sizes and times of change; where ``root`` lies does not count."""
        digest = hashlib.sha256()
        for name, index in zip(self.files, self.classes, strict=True):
            digest.update(os.fsencode(name) + f"\0{index} {file_state(self.root / name)}\n".encode())
        return digest.hexdigest()


def labelled_images(
    images: str | Path, labels: Sequence[str], labels_file: str | Path | None = None, folders: Folders = "auto"
) -> LabelledImages:
    """List the images of a folder with their classes.

    Args:
        images: a folder with one sub-folder per class (images may lie deeper inside), or, with ``labels_file``, one
            with images anywhere.
        labels: the network's class names, in order of its outputs.
        labels_file: text, UTF-8: ``file class`` on every line, separated by a tab, a comma, a semicolon or blanks, with
            or without a heading; or only the class, one a line, for the images in sorted order. Classes are names or
            indices from 0.
        folders: how names of class folders are read: as ``labels`` (``name``; case and ``_`` for blanks do not
            matter), as indices from 0 (``index``), or by their place in sorted order (``order``, as torchvision's
            ImageFolder does; there must be as many as classes, empty ones count). ``auto`` takes what fits, in this
            order, and refuses where two readings differ.

    Raises:
        ImageError: there is no such folder, or no image in it.
        UsageError: the classes cannot be told; the message says what was found and what mends it.
    """
    root = Path(images)
    if labels_file is not None:
        if folders != "auto":
            raise UsageError(f"folders are read by {folders} and there is a labels file, expected one of both")
        return _from_labels_file(root, labels, Path(labels_file))
    listing = listed(root)
    names = list(listing.folders)
    if not names:
        images_in(root)  # says what is wrong where there are none
        raise UsageError(
            f"{root} holds {len(listing.files)} images and no class folders; put them into one folder per class, or "
            "name their classes in a labels file (--labels-file)"
        )
    inside: dict[str, list[str]] = {name: [] for name in names}
    skipped = []
    for file in (path.relative_to(root).as_posix() for path in listing.files):
        if "/" in file:
            inside[file.partition("/")[0]].append(file)
        else:
            skipped.append(Skipped(shown_name(file), "stands in no class folder"))
    unreadable = dict(listing.unreadable)
    for name in names:
        if not inside[name]:
            reason = f"cannot be read ({unreadable[name]})" if name in unreadable else "holds no image"
            skipped.append(Skipped(f"{shown_name(name)}/", reason))
    if not any(inside.values()):
        raise ImageError(
            f"{root} holds {len(names)} folders and no image in them, e.g. {skipped[-1].image} {skipped[-1].reason}; "
            "give a folder of images."
        )
    classes, how = _classes_of_folders(root, names, labels, folders)
    pairs = sorted((file, classes[name]) for name, files in inside.items() for file in files)
    listing.tell()
    return LabelledImages(
        root=root,
        files=tuple(file for file, _ in pairs),
        classes=tuple(index for _, index in pairs),
        mapping=f"{len(names)} class folders {how}",
        skipped=tuple(skipped),
    )


class _Names:
    """Class names and the index of each; case and underscores count only where two names differ in nothing else."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._exact = _unique(labels)
        self._loose = _unique([_loose(label) for label in labels])

    def index(self, name: str) -> int | None:
        exact = self._exact.get(name)
        return self._loose.get(_loose(name)) if exact is None else exact


def _unique(names: Sequence[str]) -> dict[str, int]:
    count = Counter(names)
    return {name: index for index, name in enumerate(names) if count[name] == 1}


def _loose(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _classes_of_folders(
    root: Path, names: list[str], labels: Sequence[str], folders: Folders
) -> tuple[dict[str, int], str]:
    """The class index of every folder name, and how it was told."""
    known = _Names(labels)
    by_name = {name: index for name in names if (index := known.index(name)) is not None}
    strangers = [shown_name(name) for name in names if name not in by_name]
    if folders in ("auto", "name"):
        if not strangers:
            return by_name, "by name"
        if folders == "name" or by_name:
            raise UsageError(
                f"{len(by_name)} of the {len(names)} class folders of {root} are labels of the network and "
                f"'{strangers[0]}' is not; rename it, or say how folders are read with --folders index or order"
            )
    numbers = {name: int(name) for name in names if name.isdecimal()}
    numeric = len(numbers) == len(names) == len(set(numbers.values()))
    in_range = numeric and max(numbers.values()) < len(labels)
    # 0, 1, 10, 2: the place in sorted order is another class than the number
    torn = numeric and names != sorted(names, key=int)
    if folders == "index" or (folders == "auto" and in_range and not (torn and len(names) == len(labels))):
        if in_range:
            return numbers, "by index"
        first: dict[int, str] = {}
        wrong = next(
            name for name in names
            if name not in numbers or numbers[name] >= len(labels) or first.setdefault(numbers[name], name) != name
        )  # fmt: skip
        raise UsageError(
            f"class folders of {root} cannot be indices ('{shown_name(wrong)}' is among them): expected distinct whole "
            f"numbers from 0 to {len(labels) - 1}; use --folders name or order"
        )
    if len(names) == len(labels) and folders == "auto" and torn:
        raise UsageError(
            f"class folders of {root} are numbers whose sorted order ({', '.join(names[:3])}, ...) is not their order "
            "as numbers; use --folders index when they are class indices, order when torchvision's ImageFolder gave "
            "the indices in training"
        )
    if len(names) != len(labels):
        unknown = f", and '{strangers[0]}' is none of its labels" if strangers else ""
        raise UsageError(
            f"{root} has {len(names)} class folders where the network has {len(labels)} classes{unknown}; name the "
            "folders as the labels, have one folder per class (empty ones count), or give --labels-file"
        )
    if folders == "auto" and {name.casefold() for name in names} <= _SPLITS:
        raise UsageError(f"{root} holds the parts {', '.join(names)} of a data set; give one of them")
    return {name: index for index, name in enumerate(names)}, "in sorted order"


def _from_labels_file(root: Path, labels: Sequence[str], file: Path) -> LabelledImages:
    present = [path.relative_to(root).as_posix() for path in images_in(root)]
    lines = _lines_of(file)
    rows: list[tuple[int, str, str]]
    known, places = _Names(labels), places_of(present)
    if all(known.index(text) is not None or text.isdecimal() for _, text in lines):
        if len(lines) != len(present):
            raise UsageError(
                f"labels file {file} has {len(lines)} classes, one a line, where {root} holds {len(present)} images; "
                "give as many, or the file's name before every class"
            )
        rows = [(number, name, text) for name, (number, text) in zip(present, lines, strict=True)]
        form = "one a line, images in sorted order"
    else:
        rows = _rows(file, lines, places, known)
        form = "by file name"
    classes, how = _classes_of_rows(file, rows, labels, known)
    found: dict[str, int] = {}
    missing: list[Skipped] = []
    for (number, name, text), index in zip(rows, classes, strict=True):
        place = place_of(name, places)
        if place is None:
            missing.append(Skipped(shown_name(name), f"is listed on line {number} of the labels file and not there"))
        elif found.setdefault(place, index) != index:
            raise UsageError(
                f"line {number} of labels file {file} gives {shown_name(place)} the class {text}, an earlier line "
                "another one; keep one of them"
            )
    if not found:
        raise UsageError(
            f"none of the {len(rows)} files listed in {file} is in {root}, e.g. '{shown_name(rows[0][1])}'; expected "
            f"paths below that folder, e.g. '{shown_name(present[0])}'"
        )
    unlisted = [Skipped(shown_name(name), "is not in the labels file") for name in present if name not in found]
    files = tuple(name for name in present if name in found)
    return LabelledImages(
        root=root,
        files=files,
        classes=tuple(found[name] for name in files),
        mapping=f"labels file {file.name} ({form}), classes {how}",
        skipped=tuple(missing + unlisted),
    )


def _lines_of(file: Path) -> list[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1, stripped."""
    remedy = "give a UTF-8 text file with a file name and a class on every line"
    try:
        if file.stat().st_size > MAX_LABELS_BYTES:
            raise UsageError(f"labels file {file} is larger than {MAX_LABELS_BYTES >> 20} MiB; {remedy}")
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"labels file {file} does not exist; {remedy}") from None
    except OSError as error:
        raise UsageError(f"labels file {file} cannot be read ({error.strerror}); {remedy}") from None
    except UnicodeDecodeError:
        raise UsageError(f"labels file {file} is not UTF-8 text; {remedy}") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UsageError(f"labels file {file} is empty; {remedy}")
    return lines


def _rows(
    file: Path, lines: list[tuple[int, str]], places: Mapping[str, str], known: _Names
) -> list[tuple[int, str, str]]:
    """Line number, file name and class of every line; a heading is left out."""
    mark = next((mark for mark in "\t,;" if all(mark in line for _, line in lines)), None)
    rows = []
    for number, line in lines:
        fields = _words(line, places) if mark is None else next(csv.reader([line], delimiter=mark))
        if len(fields) < 2:
            raise UsageError(
                f"line {number} of labels file {file} is '{shown_name(line[:80])}', expected a file name and a class, "
                "separated by a tab, a comma or a blank"
            )
        if len(fields) > 2:
            raise UsageError(
                f"line {number} of labels file {file} has {len(fields)} columns, expected a file name and a class; "
                "remove the others, and put a name that holds a separator in double quotes"
            )
        rows.append((number, fields[0].strip(), fields[1].strip()))
    _, name, text = rows[0]
    heading = Path(name).suffix.lower() not in SUFFIXES and not text.isdecimal() and known.index(text) is None
    return rows[1:] if heading and len(rows) > 1 else rows


def _words(line: str, places: Mapping[str, str]) -> list[str]:
    """Name and class of a line without separators: both may contain blanks, so the files that are there decide."""
    parts = line.split(" ")
    for cut in range(1, len(parts)):
        if place_of(" ".join(parts[:cut]), places) is not None:
            return [" ".join(parts[:cut]), " ".join(parts[cut:])]
    return line.split(None, 1)


def _classes_of_rows(
    file: Path, rows: list[tuple[int, str, str]], labels: Sequence[str], known: _Names
) -> tuple[list[int], str]:
    """The class of every row, all by name or all by index."""
    by_name = [known.index(text) for _, _, text in rows]
    if None not in by_name:
        return [index for index in by_name if index is not None], "by name"
    numbers = [int(text) for _, _, text in rows if text.isdecimal()]
    if len(numbers) < len(rows):
        neither = [row for row in rows if known.index(row[2]) is None and not row[2].isdecimal()]
        if not neither:
            name = next(row for row in rows if not row[2].isdecimal())
            index = next(row for row in rows if known.index(row[2]) is None)
            raise UsageError(
                f"labels file {file} mixes class names and indices ('{shown_name(name[2])}' on line {name[0]}, "
                f"{index[2]} on line {index[0]}); write all classes in one of the two ways"
            )
        number, _, text = neither[0]
        raise UsageError(
            f"line {number} of labels file {file} has the class '{shown_name(text)}', expected one of the network's "
            f"{len(labels)} labels or an index from 0 to {len(labels) - 1}"
        )
    if max(numbers) >= len(labels):
        number, _, text = next(row for row in rows if int(row[2]) >= len(labels))
        counted = min(numbers) == 1 and max(numbers) == len(labels)
        kit = "; ImageNet's development kit counts from 1 and in an order of its own, so convert its numbers first"
        raise UsageError(
            f"line {number} of labels file {file} has the class {text}, expected an index from 0 to {len(labels) - 1}"
            f"{kit if counted else ''}"
        )
    return numbers, "by index"


def places_of(present: Sequence[str]) -> Mapping[str, str]:
    """The path of every image by itself and, where that is one file's only, by its last part."""
    last = [name.rpartition("/")[2] for name in present]
    count = Counter(last)
    return {**{part: name for part, name in zip(last, present, strict=True) if count[part] == 1},
            **{name: name for name in present}}  # fmt: skip


def place_of(name: str, places: Mapping[str, str]) -> str | None:
    """The image that a labels file means: lists often carry a folder in front that is another one here."""
    tidy = name.replace("\\", "/").removeprefix("./")
    return places.get(tidy, places.get(tidy.rpartition("/")[2]))

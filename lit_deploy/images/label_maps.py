"""Label maps: pictures whose pixels are numbers of classes, as ADE20K's PNG files are.

A picture ``val/a.jpg`` belongs to ``val/a.png`` of the other folder, or to ``a.png`` anywhere in it where only one file
has that name.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.core.errors import ImageError, UsageError, refuse_for_memory
from lit_deploy.core.text import shown_name
from lit_deploy.images.containers import PNG, pixels_of
from lit_deploy.images.datasets import Skipped, evenly, file_state, place_of, places_of
from lit_deploy.images.decoding import MAX_BYTES
from lit_deploy.images.folders import images_in
from lit_deploy.images.keep_ratio import MAX_SEGMENTATION_PIXELS

SUFFIX = ".png"
"""Label maps need a lossless format of one number a pixel."""

IGNORED = (0, 255)
"""Values of pixels that do not count, unless a class has that number: ADE20K's rest of 0, and everyone's 255."""

NO_CLASS = -1


@dataclass(frozen=True)
class MappedImages:
    """Pictures of a folder, and the label map of each.

    Attributes:
        root: folder of the pictures; ``labels_root``: of the label maps.
        files: paths below ``root``, in sorted order; ``maps``: below ``labels_root``, of each.
        mapping: what the pixels mean, in words.
        skipped: pictures without a label map.
    """

    root: Path
    labels_root: Path
    files: tuple[str, ...]
    maps: tuple[str, ...]
    mapping: str
    skipped: tuple[Skipped, ...]

    def limited(self, limit: int | None) -> MappedImages:
        """At most ``limit`` pictures, evenly spaced."""
        taken = evenly(len(self.files), limit)
        return replace(
            self, files=tuple(self.files[i] for i in taken), maps=tuple(self.maps[i] for i in taken)
        )  # fmt: skip

    def sha256(self) -> str:
        """Hash of what pixels mean, and of names, sizes and times of change of all files."""
        digest = hashlib.sha256(self.mapping.encode())
        for folder, names in ((self.root, self.files), (self.labels_root, self.maps)):
            for name in names:
                digest.update(os.fsencode(name) + f"\0{file_state(folder / name)}\n".encode())
        return digest.hexdigest()


def mapped_images(images: str | Path, label_maps: str | Path, category_ids: Sequence[int]) -> MappedImages:
    """Find the pictures of a folder and their label maps.

    Args:
        images: folder of pictures; ``label_maps``: another one, of PNG files.
        category_ids: the value that a pixel of every class has.

    Raises:
        ImageError: one of the folders does not exist, or holds no image.
        UsageError: both are the same, or no picture has a label map.
    """
    root, labels_root = Path(images), Path(label_maps)
    if root.resolve() == labels_root.resolve():
        raise UsageError(f"{root} is given for pictures and for label maps; put the label maps into another folder")
    present = [path.relative_to(root).as_posix() for path in images_in(root)]
    written = [path.relative_to(labels_root).as_posix() for path in images_in(labels_root)]
    places = places_of([name for name in written if name.lower().endswith(SUFFIX)])
    found = [(name, place_of(os.path.splitext(name)[0] + SUFFIX, places)) for name in present]
    pairs = [(name, place) for name, place in found if place is not None]
    if not pairs:
        raise UsageError(
            f"none of the {len(present)} pictures in {root} has a label map in {labels_root}, e.g. "
            f"'{shown_name(os.path.splitext(present[0])[0] + SUFFIX)}'; expected PNG files of the same names"
        )
    return MappedImages(
        root=root,
        labels_root=labels_root,
        files=tuple(name for name, _ in pairs),
        maps=tuple(place for _, place in pairs),
        mapping=_mapping(category_ids),
        skipped=tuple(
            Skipped(shown_name(name), f"has no label map in {labels_root}") for name, place in found if place is None
        ),
    )


def _mapping(category_ids: Sequence[int]) -> str:
    first = category_ids[0]
    in_order = tuple(category_ids) == tuple(range(first, first + len(category_ids)))
    values = f"value - {first}" if in_order and first else "value" if in_order else "looked up by value"
    ignored = " and ".join(str(value) for value in IGNORED if value not in category_ids)
    return f"label maps, class = {values}" + (f", {ignored} ignored" if ignored else "")


def read_label_map(path: Path, category_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.int16]:
    """Read the classes of a picture's pixels.

    Args:
        path: PNG of one number a pixel: grayscale, or a palette, whose colours do not matter.
        category_ids: the value that a pixel of every class has.
        size: height and width that are expected, in pixels.

    Returns:
        int16 ``[height, width]``: indices of classes, -1 for pixels that do not count.

    Raises:
        ImageError: the file cannot be read, is of another kind or size, or has a value that is no class.
    """
    values = _values(path)
    if values.shape != size:
        raise ImageError(
            f"its label map {path} is {values.shape[1]} x {values.shape[0]} pixels where the picture, turned as EXIF "
            f"says, is {size[1]} x {size[0]}: give one of the same size."
        )
    table = np.full(max(256, *category_ids, int(values.max(initial=0))) + 1, -2, dtype=np.int16)
    table[list(IGNORED)] = NO_CLASS
    table[list(category_ids)] = np.arange(len(category_ids))
    classes: NDArray[np.int16] = table[values]
    if (classes == -2).any():
        raise ImageError(
            f"its label map {path} has the value {int(values[classes == -2][0])}, expected {min(category_ids)} to "
            f"{max(category_ids)}, and {' or '.join(map(str, IGNORED))} where pixels do not count."
        )
    return classes


def _values(path: Path) -> NDArray[np.int64]:
    try:
        _check_size(path)
        content = path.read_bytes()
        if not content.startswith(PNG):
            raise OSError
        with Image.open(io.BytesIO(pixels_of(content)[0]), formats=("PNG",)) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise ImageError(
                    f"its label map {path} is {image.mode}, expected one number a pixel: a grayscale or palette PNG."
                )
            return np.asarray(image).astype(np.int64)
    except ImageError:
        raise
    except OSError as error:
        refuse_for_memory(error)
        raise ImageError(f"its label map {path} cannot be read ({error.strerror or 'no PNG, or damaged'}).") from None
    except Exception as error:  # Pillow's decoders raise whatever a damaged file provokes
        refuse_for_memory(error)
        raise ImageError(f"its label map {path} is damaged ({type(error).__name__}): replace the file.") from None


def _check_size(path: Path) -> None:
    """Before Pillow opens it: it warns of large pictures in a way that threads cannot switch off."""
    with path.open("rb") as file:
        header = file.read(24)
    width, height = int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")
    if width * height > MAX_SEGMENTATION_PIXELS:
        raise ImageError(
            f"its label map {path} claims {width} x {height} pixels, at most {MAX_SEGMENTATION_PIXELS} are accepted: "
            "scale both down."
        )
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(f"its label map {path} has more than {MAX_BYTES >> 20} MiB: replace the file.")

"""Images that activations are observed on before a network is quantised: a folder, or the arrays of an ``.npz`` file.

They are prepared like those that the exported file will be given; the same ones give the same hash and ranges. Those of
a classifier have one size, and lie in memory. Pictures of detectors and segmentation networks have any size, and are
read from their files whenever they are needed, so that memory holds one of them, whatever their number.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lit_deploy.core.errors import ImageError, UsageError, refuse_for_memory
from lit_deploy.core.specs import InputSpec
from lit_deploy.core.text import first_line, shown_name
from lit_deploy.images.datasets import Skipped, even_parts
from lit_deploy.images.folders import images_in
from lit_deploy.images.keep_ratio import keep_ratio_picture
from lit_deploy.images.picture import Picture
from lit_deploy.images.preprocessing import crops_from_images, normalize

MIN_IMAGES = 4
"""Least number of different images with anything on them; fewer say more about themselves than about a network."""

ADVISED_IMAGES = 128
"""What is taken by default, and advised in messages."""

MAX_IMAGES = 4096
"""Most images that are taken: 0.6 GiB of pixels at 224 x 224, and the ranges have long come to rest by then."""

Batch = NDArray[Any] | list[Picture]
"""Images of one size as an array in the network's layout, or pictures of any size."""

Prepare = Callable[[Path], Picture]
"""From a file to the picture that a network takes; ImageError where it cannot be used."""

_NAMED = 5  # unreadable files that a note names

MAX_NPZ_BYTES = 4 << 30
"""Size, unpacked, above which the array of an ``.npz`` file is refused rather than read."""


@dataclass(frozen=True)
class CalibrationImages:
    """Images for calibration, ready for one network.

    Attributes:
        images: uint8 ``[N, H, W, 3]`` raw RGB, or float32 ``[N, 3, H, W]`` normalised; of pictures of any size, what
            reads them one by one.
        spec: the network's input; its ``kind`` decides what ``feeds`` gives.
        source: where they came from, e.g. ``photos (128 of 5000)``.
        sha256: hash of ``images``, whatever their order and files' names.
        skipped: files that could not be read, and why; others were taken in their place where there were any.
    """

    images: NDArray[Any] | Pictures = field(repr=False, compare=False)  # the hash compares them
    spec: InputSpec
    source: str
    sha256: str
    skipped: tuple[Skipped, ...] = ()

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a result should know about them: the files that could not be read."""
        names = [entry.image for entry in self.skipped[:_NAMED]]
        if not names:
            return ()
        further = f" and {len(self.skipped) - _NAMED} more" if len(self.skipped) > _NAMED else ""
        return (f"left out, as they cannot be read as images: {', '.join(names)}{further}",)

    def feeds(self, batch: int) -> Iterator[Any]:
        """Batches as the network, or its task, takes them.

        Args:
            batch: images per batch, at least 1; the last batch holds what is left.

        Yields:
            uint8 ``[B, H, W, 3]`` for ``kind="uint8"``, normalised float32 ``[B, 3, H, W]`` for ``kind="float"``;
            lists of ``Picture`` where they have any size.
        """
        for start in range(0, self.count, batch):
            part = self.images[start : start + batch]
            yield normalize(part, self.spec) if _is_raw(part) and self.spec.kind == "float" else part

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels of one of the pictures, the middle one; None where all images have one size."""
        if not isinstance(self.images, Pictures):
            return None
        middle = self.count // 2
        (picture,) = self.images[middle : middle + 1]
        return picture.pixels.shape[0], picture.pixels.shape[1]

    def at(self, positions: NDArray[np.int_]) -> CalibrationImages:
        """Some of the images, by position; source and hash stay those of all."""
        if isinstance(self.images, Pictures):
            files = tuple(self.images.files[position] for position in positions)
            return replace(self, images=replace(self.images, files=files))
        return replace(self, images=self.images[positions])


@dataclass(frozen=True)
class Pictures:
    """Pictures of any size, read and prepared when they are asked for.

    Attributes:
        files: where they lie; ``prepare``: how one of them is read.
    """

    files: tuple[Path, ...]
    prepare: Prepare

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, part: slice) -> list[Picture]:
        return [self.prepare(file) for file in self.files[part]]


def calibration_images(
    source: str | Path, spec: InputSpec, limit: int = ADVISED_IMAGES, prepare: Prepare | None = None
) -> CalibrationImages:
    """Read the images to calibrate a network with.

    Args:
        source: a folder of images, searched with its sub-folders; or, for classifiers, an ``.npz`` file with an array
            ``images`` (or a single array of any name): uint8 ``[N, H, W, 3]`` raw RGB, or float32 ``[N, 3, H, W]``
            normalised.
        spec: the network's input: size, preparation and layout.
        limit: most images, evenly spaced over the sorted files or over the array.
        prepare: how a file becomes a picture; by the rule in ``spec`` when left out.

    Raises:
        ImageError: the source is missing or damaged, or too few of its images can be read or differ from each other.
        UsageError: a limit that is none, or an array that does not fit the network.
    """
    if not MIN_IMAGES <= limit <= MAX_IMAGES:
        raise UsageError(
            f"at most {limit} calibration images were asked for, expected {MIN_IMAGES} to {MAX_IMAGES}; "
            f"{ADVISED_IMAGES} are usual (--calib-limit)"
        )
    path = Path(source)
    images: NDArray[Any] | Pictures
    if path.is_dir():
        images, looks, total, skipped = _from_folder(path, spec, limit, prepare or _by_rule(spec))
    elif path.suffix.lower() == ".npz" and path.is_file():
        if spec.rule == "keep_ratio":
            raise UsageError(
                f"{shown_name(str(path))} holds arrays of one size, expected a folder of images: this network takes "
                "pictures of any size, and the sizes they had before"
            )
        images, total = _from_npz(path, spec, limit)
        looks, skipped = [_look(image) for image in images], ()
    else:
        kind = "is neither" if path.exists() else "does not exist"
        raise ImageError(
            f"{shown_name(str(path))} {kind}: expected a folder of images for calibration, or an .npz file of "
            "prepared ones"
        )
    name = shown_name(str(source))
    digests = [look.digest for look in looks]
    _check_variety(name, looks, skipped)
    told = f"{name} ({len(images)} of {total})" if len(images) < total else name
    return CalibrationImages(
        images=images,
        spec=spec,
        source=told,
        sha256=hashlib.sha256(b"".join(sorted(digests))).hexdigest(),
        skipped=skipped,
    )


@dataclass(frozen=True)
class _Look:
    """What is remembered of an image: its hash, and whether it is of one colour."""

    digest: bytes
    flat: bool


def _look(image: NDArray[Any]) -> _Look:
    """Look at an image, uint8 ``[H, W, 3]`` or float32 ``[3, H, W]``."""
    sides = (0, 1) if _is_raw(image) else (1, 2)
    digest = hashlib.sha256(f"{image.dtype} {image.shape}".encode() + image.tobytes()).digest()
    return _Look(digest, bool((image.min(axis=sides) == image.max(axis=sides)).all()))  # a colour: a value per channel


def _by_rule(spec: InputSpec) -> Prepare:
    if spec.rule == "keep_ratio":
        return lambda file: keep_ratio_picture(file, spec)
    return lambda file: crops_from_images([file], spec)[0]


def _from_folder(
    root: Path, spec: InputSpec, limit: int, prepare: Prepare
) -> tuple[NDArray[Any] | Pictures, list[_Look], int, tuple[Skipped, ...]]:
    """The images, what they look like, the number of files, and those that cannot be read."""
    files = images_in(root)
    taken: list[Path] = []
    pixels: list[NDArray[np.uint8]] = []
    looks: list[_Look] = []
    skipped = []
    kept = spec.rule == "centre_crop"  # all of one size: 128 of 224 x 224 take 18 MiB
    for part in even_parts(len(files), limit):
        for file in files[part.start : part.stop]:  # the first that can be read stands for its neighbours
            try:
                picture = prepare(file)
            except ImageError as error:
                reason = str(error).removeprefix(f"{file} ").removeprefix(f"{file}: ")
                skipped.append(Skipped(shown_name(file.relative_to(root).as_posix()), shown_name(reason)))
                continue
            taken.append(file)
            looks.append(_look(picture.pixels))
            pixels += [picture.pixels] if kept else []
            break
    if not taken:
        raise ImageError(
            f"none of the {len(files)} images of {shown_name(str(root))} can be read, e.g. {skipped[0].image} "
            f"{skipped[0].reason.rstrip('.')}; give a folder of photos like those the network will see"
        )
    return np.stack(pixels) if kept else Pictures(tuple(taken), prepare), looks, len(files), tuple(skipped)


def _from_npz(path: Path, spec: InputSpec, limit: int) -> tuple[NDArray[Any], int]:
    """The images that are taken from an ``.npz`` file, and how many it holds."""
    name = shown_name(str(path))
    images = _array_of_npz(path)
    raw, normalised = (*spec.crop, 3), (3, *spec.crop)
    expected = f"uint8 {['N', *raw]} of raw RGB".replace("'", "")
    if spec.kind == "float":
        expected += f" or float32 {['N', *normalised]} of normalised pixels".replace("'", "")
    got = f"{name} holds {images.dtype} {list(images.shape)}"
    if images.dtype == np.float32 and images.shape[1:] == normalised and spec.kind == "uint8":
        raise UsageError(f"{got}, but this network normalises raw pixels itself; expected {expected}")
    fits = images.shape[1:] == (raw if _is_raw(images) else normalised)
    if not fits or images.dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
        raise UsageError(f"{got}, expected {expected}; prepare the images for this network's input size")
    taken = np.ascontiguousarray(images[[part.start for part in even_parts(len(images), limit)]])
    if not _is_raw(taken):
        _check_normalised(name, taken, spec)
    return taken, len(images)


def _array_of_npz(path: Path) -> NDArray[Any]:
    """The array ``images`` of an ``.npz`` file, or its only one; nothing is ever unpickled."""
    name = shown_name(str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        key = "images" if "images" in sizes else next(iter(sizes), "")
        if "images" not in sizes and len(sizes) != 1:
            among = f" ({shown_name(', '.join(sorted(sizes)[:5]))})" if sizes else ""
            raise UsageError(f"{name} holds {len(sizes)} arrays{among}, expected one, or one that is named images")
        if sizes[key] > MAX_NPZ_BYTES:
            raise UsageError(
                f"the array {shown_name(key)} of {name} has {sizes[key] / 2**30:.1f} GiB, expected at most "
                f"{MAX_NPZ_BYTES >> 30} GiB; save fewer images, {ADVISED_IMAGES} are enough, or give a folder"
            )
        with np.load(path, allow_pickle=False) as arrays:
            array = arrays[key]
    except UsageError:
        raise
    except PermissionError:
        raise ImageError(f"{name} may not be read; give read permission or another file") from None
    except OSError as error:
        refuse_for_memory(error)
        raise ImageError(f"{name} cannot be read ({error.strerror or error}); give another file") from None
    except Exception as error:  # zipfile, zlib and NumPy raise whatever a damaged file provokes
        if _claimed_bytes(error) <= MAX_NPZ_BYTES:  # beyond it the header lies: the array is not larger, see above
            refuse_for_memory(error)
        raise ImageError(
            f"{name} is damaged or no .npz file of numbers ({first_line(error)}); write it with numpy.savez"
        ) from error
    if not isinstance(array, np.ndarray):  # a member of the archive that is no array is handed on as bytes
        raise UsageError(f"{shown_name(key)} in {name} is no array; write the file with numpy.savez")
    return array


def _claimed_bytes(error: Exception) -> int:
    """What NumPy could not allocate; 0 for other errors."""
    shape, dtype = getattr(error, "shape", ()), getattr(error, "dtype", None)
    return 0 if dtype is None else math.prod(map(int, shape)) * int(dtype.itemsize)


def _check_normalised(name: str, images: NDArray[Any], spec: InputSpec) -> None:
    bound = max(max(mean, 1 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True))
    least = float(images.min(initial=0))
    largest = float(max(images.max(initial=0), -least))
    plain = least >= 0 < min(spec.mean)  # pixels on the scale 0..1: what is normalised has negative numbers
    if largest <= 2 * bound and not plain:  # twice: a filter may overshoot a little, 0..255 does so by far
        return
    if plain and largest <= 1:
        got = "numbers from 0 to 1 only"
    elif np.isfinite(largest):
        got = f"numbers up to {largest:g}"
    else:
        got = f"{np.count_nonzero(~np.isfinite(images))} numbers that are not finite"
    raise UsageError(
        f"{name} holds {got}, expected pixels normalised as (pixel / 255 - mean) / std with mean "
        f"{', '.join(f'{m:g}' for m in spec.mean)} and std {', '.join(f'{s:g}' for s in spec.std)}; save raw RGB as "
        "uint8 instead"
    )


def _check_variety(name: str, looks: Sequence[_Look], skipped: tuple[Skipped, ...]) -> None:
    """Refuse images that cannot show which activations a network has."""
    count, different = len(looks), len({look.digest for look in looks})
    advice = f"expected at least {MIN_IMAGES} different photos, better {ADVISED_IMAGES}, of what the network will see"
    if count < MIN_IMAGES:
        unread = f"; {len(skipped)} more cannot be read, e.g. {skipped[0].image}" if skipped else ""
        noun = "image" if count == 1 else "images"
        raise ImageError(f"{name} gives {count} {noun} for calibration{unread}; {advice}")
    flat = sum(look.flat for look in looks)
    if count - flat >= MIN_IMAGES and different >= MIN_IMAGES:
        return
    if flat == count:
        raise ImageError(f"each of the {count} images of {name} is of one colour, such as black; {advice}")
    if different == 1:
        raise ImageError(f"the {count} images of {name} are identical to the last pixel; {advice}")
    raise ImageError(
        f"of the {count} images of {name}, {different} differ from each other and {flat} are of one colour; {advice}"
    )


def _is_raw(images: NDArray[Any] | list[Picture]) -> TypeGuard[NDArray[np.uint8]]:
    """Whether these are raw pixels, uint8 and channels last."""
    return isinstance(images, np.ndarray) and images.dtype == np.uint8

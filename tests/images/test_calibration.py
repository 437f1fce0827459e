"""Images for calibration: what is taken from folders and .npz files, and what is refused in which words."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.specs import InputSpec
from lit_deploy.images import calibration
from lit_deploy.images.calibration import MAX_IMAGES, MIN_IMAGES, Pictures, calibration_images
from lit_deploy.images.folders import images_in
from lit_deploy.images.keep_ratio import keep_ratio_picture
from lit_deploy.images.picture import Picture
from lit_deploy.images.preprocessing import batch_from_images, normalize

RAW = InputSpec(kind="uint8", height=16, width=24, resize=28)
FLOAT = InputSpec(kind="float", height=16, width=24, resize=28)
FREE = InputSpec(
    "uint8", None, None, resize=40, interpolation="bilinear", rule="keep_ratio", longest=64, pad_multiple=32
)
Pixels = NDArray[np.uint8]


def pixels(count: int, seed: int = 0) -> Pixels:
    """Different images of the network's size."""
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


def folder_of(root: Path, images: Pixels, name: str = "{:03}.png") -> Path:
    for index, image in enumerate(images):
        file = root / name.format(index)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return root


def saved(path: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images of another size than the network's, in two sub-folders."""
    images = np.random.default_rng(5).integers(0, 256, (10, 40, 50, 3), dtype=np.uint8)
    folder_of(tmp_path / "photos", images[:6], "cats/{:03}.png")
    return folder_of(tmp_path / "photos", images[6:], "dogs/{:03}.png")


@pytest.mark.parametrize("spec", [RAW, FLOAT], ids=["uint8", "float"])
def test_a_folder_is_prepared_like_the_inputs_of_the_network(photos: Path, spec: InputSpec) -> None:
    found = calibration_images(photos, spec)
    expected = batch_from_images(images_in(photos), spec)
    feeds = list(found.feeds(4))
    assert [len(feed) for feed in feeds] == [4, 4, 2]
    joined = np.concatenate(feeds)
    assert joined.dtype == expected.dtype
    np.testing.assert_array_equal(joined, expected)
    assert (found.count, found.source, found.skipped) == (10, str(photos), ())


def test_the_limit_takes_evenly_spaced_images(photos: Path) -> None:
    found = calibration_images(photos, RAW, limit=5)
    np.testing.assert_array_equal(found.images, batch_from_images(images_in(photos)[::2], RAW))
    assert found.source == f"{photos} (5 of 10)"


def test_the_hash_is_that_of_the_pixels_alone(photos: Path, tmp_path: Path) -> None:
    found = calibration_images(photos, RAW)
    assert found.sha256 == calibration_images(photos, FLOAT).sha256
    renamed = folder_of(tmp_path / "renamed", found.images[::-1], "{:03}.bmp")
    as_cut = InputSpec("uint8", 16, 24, resize=16)
    assert found.sha256 == calibration_images(renamed, as_cut).sha256
    array = saved(tmp_path / "same.npz", images=found.images)
    assert found.sha256 == calibration_images(array, FLOAT).sha256
    changed = found.images.copy()
    changed[3, 2, 1, 0] ^= 1
    assert found.sha256 != calibration_images(saved(tmp_path / "changed.npz", images=changed), RAW).sha256
    assert found.sha256 != calibration_images(photos, RAW, limit=9).sha256


def test_unreadable_images_are_named_and_their_neighbours_taken(photos: Path) -> None:
    (photos / "cats" / "000.png").write_bytes(b"no image")
    (photos / "dogs" / "003.png").write_bytes(b"")
    found = calibration_images(photos, RAW, limit=5)
    files = images_in(photos)
    np.testing.assert_array_equal(found.images, batch_from_images([files[i] for i in (1, 2, 4, 6, 8)], RAW))
    assert [(skipped.image, skipped.reason) for skipped in found.skipped] == [
        ("cats/000.png", "is not an image that can be read here: convert it to JPEG, PNG, WebP, BMP, GIF, TIFF or PPM.")
    ]
    everything = calibration_images(photos, RAW)
    assert everything.count == 8
    assert everything.source == f"{photos} (8 of 10)"
    assert [skipped.image for skipped in everything.skipped] == ["cats/000.png", "dogs/003.png"]


def test_bytes_in_file_names_do_not_break_the_report(photos: Path) -> None:
    with open(os.fsencode(photos) + b"/\xff.png", "wb") as file:
        file.write(b"no image")
    (skipped,) = calibration_images(photos, RAW).skipped
    assert skipped.image == r"\udcff.png"
    skipped.reason.encode()


def test_raw_arrays_serve_both_kinds_of_network(tmp_path: Path) -> None:
    images = pixels(9)
    path = saved(tmp_path / "raw.npz", anything=images)
    raw = calibration_images(path, RAW, limit=4)
    np.testing.assert_array_equal(np.concatenate(list(raw.feeds(3))), images[[0, 2, 4, 6]])
    assert raw.source == f"{path} (4 of 9)"
    normalised = np.concatenate(list(calibration_images(path, FLOAT).feeds(9)))
    np.testing.assert_array_equal(normalised, normalize(images, FLOAT))


def test_normalised_arrays_are_fed_as_they_are(tmp_path: Path) -> None:
    floats = normalize(pixels(6), FLOAT)
    path = saved(tmp_path / "floats.npz", images=floats, labels=np.arange(6))
    found = calibration_images(path, FLOAT)
    np.testing.assert_array_equal(np.concatenate(list(found.feeds(4))), floats)
    with pytest.raises(
        UsageError, match=r"float32 \[6, 3, 16, 24\], but this network normalises raw pixels itself; ex"
    ):
        calibration_images(path, RAW)


def black(count: int) -> Pixels:
    return np.zeros((count, 16, 24, 3), np.uint8)


FULL = r"; expected at least 4 different photos, better 128, of what the network will see$"

POOR: dict[str, tuple[Callable[[], Pixels], str]] = {
    "one image": (lambda: pixels(1), "gives 1 image for calibration" + FULL),
    "three images": (lambda: pixels(3), "gives 3 images for calibration" + FULL),
    "all black": (lambda: black(9), r"each of the 9 images of .* is of one colour, such as black" + FULL),
    "one colour each": (
        lambda: black(9) + np.random.default_rng(6).integers(0, 256, (9, 1, 1, 3), dtype=np.uint8),
        r"each of the 9 images of .* is of one colour",
    ),
    "all identical": (lambda: np.repeat(pixels(1), 8, 0), r"the 8 images of .* are identical to the last pixel" + FULL),
    "two different": (
        lambda: np.repeat(pixels(2), 8, 0),
        r"of the 16 images of .*, 2 differ .* and 0 are of one colour",
    ),
    "mostly black": (
        lambda: np.concatenate([pixels(3), black(9)]),
        "12 images .*, 4 differ .* and 9 are of one colour",
    ),
}


@pytest.mark.parametrize("form", ["folder", "raw", "floats"])
@pytest.mark.parametrize("case", POOR)
def test_images_that_show_too_little_are_refused(tmp_path: Path, case: str, form: str) -> None:
    images, sentence = POOR[case][0](), POOR[case][1]
    if form == "folder":
        source = folder_of(tmp_path / "poor", images)
    else:
        array: NDArray[Any] = images if form == "raw" else normalize(images, FLOAT)
        source = saved(tmp_path / "poor.npz", images=array)
    with pytest.raises(ImageError, match=sentence) as caught:
        calibration_images(source, FLOAT)
    assert str(source) in str(caught.value)


def test_just_enough_images_are_accepted(tmp_path: Path) -> None:
    some = np.concatenate([pixels(MIN_IMAGES), black(30)])
    assert calibration_images(folder_of(tmp_path / "enough", some), FLOAT).count == MIN_IMAGES + 30


def test_folders_without_a_readable_image_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ImageError, match="empty holds no image: put"):
        calibration_images(empty, RAW)
    broken = tmp_path / "broken"
    broken.mkdir()
    for index in range(5):
        (broken / f"{index}.jpg").write_bytes(b"\xff\xd8 and no more")
    with pytest.raises(
        ImageError, match=r"none of the 5 images of .*broken can be read, e\.g\. 0\.jpg .*; give a fold"
    ):
        calibration_images(broken, RAW)
    folder_of(broken, pixels(2))
    with pytest.raises(
        ImageError, match=r"gives 2 images for calibration; 5 more cannot be read, e\.g\. 0\.jpg; expect"
    ):
        calibration_images(broken, RAW)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "nowhere does not exist: expected a folder of images for calibration, or an .npz"),
        ("nowhere.npz", r"nowhere\.npz does not exist"),
        ("000.png", r"000\.png is neither: expected a folder of images for calibration, or an \.npz"),
    ],
)
def test_paths_that_are_no_source_are_refused(tmp_path: Path, name: str, sentence: str) -> None:
    folder_of(tmp_path, pixels(1))
    with pytest.raises(ImageError, match=sentence):
        calibration_images(tmp_path / name, RAW)


@pytest.mark.parametrize("limit", [-1, 0, 1, MIN_IMAGES - 1, MAX_IMAGES + 1])
def test_limits_that_are_none_are_refused(photos: Path, limit: int) -> None:
    with pytest.raises(UsageError, match=rf"at most {limit} calibration images were asked for, expected 4 to 4096"):
        calibration_images(photos, RAW, limit=limit)


UNFIT: dict[str, tuple[Callable[[], dict[str, NDArray[Any]]], str]] = {
    "another size": (
        lambda: {"images": np.zeros((9, 32, 32, 3), np.uint8)},
        r"holds uint8 \[9, 32, 32, 3\], expected uint8 \[N, 16, 24, 3\] of raw RGB or float32 \[N, 3, 16, 24\] of norm",
    ),
    "channels first": (lambda: {"images": pixels(9).transpose(0, 3, 1, 2)}, r"holds uint8 \[9, 3, 16, 24\], expected"),
    "floats channels last": (
        lambda: {"images": pixels(9).astype(np.float32)},
        r"holds float32 \[9, 16, 24, 3\], expec",
    ),
    "float64": (lambda: {"images": normalize(pixels(9), FLOAT).astype(np.float64)}, r"holds float64 \[9, 3, 16, 24\]"),
    "one image": (lambda: {"images": pixels(1)[0]}, r"holds uint8 \[16, 24, 3\], expected"),
    "a number": (lambda: {"images": np.float32(1)}, r"holds float32 \[\], expected"),
    "not normalised": (
        lambda: {"images": pixels(9).transpose(0, 3, 1, 2).astype(np.float32)},
        r"holds numbers up to 255, expected pixels normalised as \(pixel / 255 - mean\) / std with mean 0\.485, 0\.456",
    ),
    "NaN": (lambda: {"images": normalize(pixels(9), FLOAT) * np.float32(np.nan)}, "10368 numbers that are not finite"),
    "no array": (dict, r"holds 0 arrays, expected one, or one that is named images"),
    "two arrays": (
        lambda: {"a": pixels(9), "b": pixels(9)},
        r"holds 2 arrays \(a, b\), expected one, or one that is n",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, case: str) -> None:
    path = saved(tmp_path / "unfit.npz", **UNFIT[case][0]())
    with pytest.raises(UsageError, match=UNFIT[case][1]) as caught:
        calibration_images(path, FLOAT)
    assert str(path) in str(caught.value)


def test_an_empty_array_holds_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="gives 0 images for calibration"):
        calibration_images(saved(tmp_path / "none.npz", images=pixels(0)), FLOAT)


def test_arrays_that_would_not_fit_in_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "large.npz", images=pixels(9))
    monkeypatch.setattr(calibration, "MAX_NPZ_BYTES", 1 << 10)
    monkeypatch.setattr(np, "load", None)  # a call would raise
    with pytest.raises(
        UsageError, match=r"array images of .*large\.npz has 0\.0 GiB, expected at most .*128 are enough"
    ):
        calibration_images(path, RAW)


def damaged_files() -> dict[str, bytes]:
    """Bytes of .npz files that are none, by what is wrong with them."""
    whole = io.BytesIO()
    np.savez_compressed(whole, images=pixels(9))
    data = whole.getvalue()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    objects = io.BytesIO()
    np.savez(objects, images=np.array([{"a": 1}], dtype=object))
    lying = io.BytesIO()
    with zipfile.ZipFile(lying, "w") as archive:  # claims 2**50 images in a file of a few bytes
        header = io.BytesIO()
        claim = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 16, 24, 3)}
        np.lib.format.write_array_header_1_0(header, claim)
        archive.writestr("images.npy", header.getvalue())
    return {
        "empty": b"", "text": b"no archive", "cut": data[: len(data) // 2], "flipped": bytes(flipped),
        "objects": objects.getvalue(), "lying": lying.getvalue(),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "flipped", "objects", "lying"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "damaged.npz"
    path.write_bytes(damaged_files()[kind])
    with pytest.raises(ImageError, match=r"damaged\.npz is damaged or no \.npz file of numbers \(.+\); write it with"):
        calibration_images(path, RAW)


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", "a note")
    with pytest.raises(UsageError, match=r"images in .*notes\.npz is no array; write the file with numpy\.savez"):
        calibration_images(path, RAW)


# ------------------------------------------------------------------------------------------------ pictures of any size


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Seven pictures, no two of one size, and two files that are none."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for index in range(7):
        image = np.random.default_rng(index).integers(0, 256, (30 + 9 * index, 70 - 5 * index, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{index}.png")
    (folder / "2b.png").write_bytes(b"no image")
    (folder / "4b.png").write_bytes(b"")
    return folder


def test_pictures_keep_their_proportions(mixed: Path) -> None:
    found = calibration_images(mixed, FREE)
    batches = list(found.feeds(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    files = [file for file in images_in(mixed) if "b" not in file.name]
    pictures = [picture for batch in batches for picture in batch]
    assert len({picture.pixels.shape for picture in pictures}) > 4
    for picture, file in zip(pictures, files, strict=True):
        expected = keep_ratio_picture(file, FREE)
        np.testing.assert_array_equal(picture.pixels, expected.pixels)
        assert picture.original_size == expected.original_size
    assert (found.count, found.source) == (7, f"{mixed} (7 of 9)")
    assert [skipped.image for skipped in found.skipped] == ["2b.png", "4b.png"]
    assert found.notes == ("left out, as they cannot be read as images: 2b.png, 4b.png",)


def test_no_more_pictures_are_read_than_a_batch_holds(mixed: Path) -> None:
    """Neither are they kept: of a folder of large ones only paths are in memory."""
    read: list[Path] = []

    def prepare(file: Path) -> Picture:
        read.append(file)
        return keep_ratio_picture(file, FREE)

    found = calibration_images(mixed, FREE, prepare=prepare)
    read.clear()
    feeds = found.feeds(2)
    assert read == []
    next(feeds)
    assert len(read) == 2
    assert [file.name for file in read] == ["0.png", "1.png"]


def test_pictures_are_chosen_by_position(mixed: Path) -> None:
    found = calibration_images(mixed, FREE)
    (some,) = found.at(np.array([5, 1])).feeds(9)
    (every,) = found.feeds(9)
    assert [picture.original_size for picture in some] == [every[index].original_size for index in (5, 1)]
    assert found.size == every[3].pixels.shape[:2], "the middle one's"
    crops = calibration_images(mixed, RAW)
    assert crops.size is None
    np.testing.assert_array_equal(crops.at(np.array([5, 1])).images, crops.images[[5, 1]])


def test_the_hash_of_pictures_is_that_of_their_pixels(mixed: Path, tmp_path: Path) -> None:
    found = calibration_images(mixed, FREE)
    other = tmp_path / "other"
    other.mkdir()
    for index in range(7):
        Image.open(mixed / f"{index}.png").save(other / f"{9 - index}.bmp")
    assert calibration_images(other, FREE).sha256 == found.sha256
    assert calibration_images(other, replace(FREE, resize=39)).sha256 != found.sha256


@pytest.mark.parametrize(("limit", "names"), [(4, "0135"), (7, "0123456")])
def test_the_limit_goes_for_pictures_too(mixed: Path, limit: int, names: str) -> None:
    for broken in ("2b.png", "4b.png"):
        (mixed / broken).unlink()
    found = calibration_images(mixed, FREE, limit)
    assert isinstance(found.images, Pictures)
    assert "".join(file.stem for file in found.images.files) == names


def test_pictures_that_show_too_little_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"each of the 9 images of .* is of one colour, such as black"):
        calibration_images(folder_of(tmp_path / "black", black(9)), FREE)
    with pytest.raises(ImageError, match="are identical to the last pixel"):
        calibration_images(folder_of(tmp_path / "same", np.repeat(pixels(1), 8, 0)), FREE)


def test_arrays_are_for_classifiers(tmp_path: Path) -> None:
    path = saved(tmp_path / "raw.npz", images=pixels(9))
    with pytest.raises(
        UsageError, match=r"raw\.npz holds arrays of one size, expected a folder of images: this network"
    ):
        calibration_images(path, FREE)

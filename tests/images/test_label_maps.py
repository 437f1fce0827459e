"""Label maps: which file belongs to which picture, and what their pixels mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import broken_images, png_header

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.images.label_maps import mapped_images, read_label_map


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(folder / name)
    return folder


def test_pairs(tmp_path: Path) -> None:
    """The same path first; else the name, where only one file has it."""
    images = make(tmp_path / "images", "val/a.png", "val/b.jpg", "train/b.jpg", "c.png", "d.png", "twice.jpg")
    maps = make(
        tmp_path / "maps", "val/a.png", "a.png", "val/b.png", "train/b.png", "deep/c.png", "x/twice.png", "y/twice.png"
    )
    make(maps, "d.gif")
    found = mapped_images(images, maps, (1, 2))
    assert dict(zip(found.files, found.maps, strict=True)) == {
        "c.png": "deep/c.png", "train/b.jpg": "train/b.png", "val/a.png": "val/a.png", "val/b.jpg": "val/b.png",
    }  # fmt: skip
    assert [entry.image for entry in found.skipped] == ["d.png", "twice.jpg"]
    assert found.limited(2).files == ("c.png", "val/a.png")
    assert found.limited(2).maps == ("deep/c.png", "val/a.png")


def test_folders_that_are_refused(tmp_path: Path) -> None:
    images, maps = make(tmp_path / "images", "a.png"), make(tmp_path / "maps", "b.png")
    with pytest.raises(UsageError, match=r"none of the 1 pictures in .* has a label map in .*, e.g. 'a.png'"):
        mapped_images(images, maps, (1,))
    with pytest.raises(UsageError, match="is given for pictures and for label maps"):
        mapped_images(images, images / ".." / "images", (1,))
    with pytest.raises(ImageError, match="does not exist"):
        mapped_images(images, tmp_path / "none", (1,))


def test_the_hash_tells_changes(tmp_path: Path) -> None:
    images, maps = make(tmp_path / "images", "a.png", "b.png"), make(tmp_path / "maps", "a.png", "b.png")
    first = mapped_images(images, maps, (1, 2)).sha256()
    assert mapped_images(images, maps, (1, 2)).sha256() == first
    assert mapped_images(images, maps, (0, 1)).sha256() != first
    assert mapped_images(images, maps, (1, 2)).limited(1).sha256() != first
    Image.new("L", (4, 4)).save(maps / "b.png")
    assert mapped_images(images, maps, (1, 2)).sha256() != first


def test_values(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [3, 255, 2]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    for ids, expected in (
        ((1, 2, 3), [[-1, 0, 1], [2, -1, 1]]),
        ((3, 2, 1), [[-1, 2, 1], [0, -1, 1]]),
        ((0, 1, 2, 3), [[0, 1, 2], [3, -1, 2]]),
        ((1, 2, 3, 255), [[-1, 0, 1], [2, 3, 1]]),
    ):
        found = read_label_map(tmp_path / "a.png", ids, (2, 3))
        assert (found.dtype, found.tolist()) == (np.int16, expected)


def test_every_kind_of_one_number_a_pixel(tmp_path: Path) -> None:
    values = np.array([[0, 1, 1], [1, 1, 0]], dtype=np.uint8)
    gray = Image.fromarray(values)
    coloured = gray.convert("P")
    coloured.putdata(values.reshape(-1).tolist())
    kinds = {"1": Image.fromarray(values.astype(bool)), "L": gray, "P": coloured,
             "I;16": Image.fromarray(values.astype(np.uint16))}  # fmt: skip
    for mode, image in kinds.items():
        assert image.mode == mode
        image.save(tmp_path / "a.png")
        assert read_label_map(tmp_path / "a.png", (0, 1), (2, 3)).tolist() == values.tolist(), mode
    Image.fromarray(values.astype(np.uint16) * 300).save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png", (300,), (2, 3)).tolist() == (values.astype(int) - 1).tolist()
    for mode in ("RGB", "RGBA", "LA"):
        gray.convert(mode).save(tmp_path / "a.png")
        with pytest.raises(ImageError, match=f"is {mode}, expected one number a pixel"):
            read_label_map(tmp_path / "a.png", (0, 1), (2, 3))


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1, 9]], dtype=np.uint8)).save(path)
    with pytest.raises(ImageError, match="has the value 9, expected 1 to 2, and 0 or 255 where pixels do not count"):
        read_label_map(path, (1, 2), (1, 3))
    with pytest.raises(ImageError, match="is 3 x 1 pixels where the picture, turned as EXIF says, is 1 x 3"):
        read_label_map(path, (1, 2, 9), (3, 1))
    path.write_bytes(png_header(60000, 60000))
    with pytest.raises(ImageError, match="claims 60000 x 60000 pixels"):
        read_label_map(path, (1,), (60000, 60000))
    for broken in broken_images(tmp_path):
        with pytest.raises(ImageError, match="its label map") as caught:
            read_label_map(broken, (1,), (20, 20))
        assert "\n" not in str(caught.value)

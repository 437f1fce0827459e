"""Classes of images: folders by name, index and order, labels files of every form, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lit_deploy.core.errors import ImageError, LitDeployError, UsageError
from lit_deploy.core.text import shown_name
from lit_deploy.images.datasets import Folders, Skipped, labelled_images
from lit_deploy.images.labels import imagenet_labels

ANIMALS = ("tree frog", "Crane", "night_heron", "ox")


def folder_of(root: Path, *files: str) -> Path:
    """Empty files: whoever lists images does not open them. A name that ends in ``/`` is an empty folder."""
    for name in files:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def found(
    root: Path, labels: tuple[str, ...], labels_file: str | None = None, folders: Folders = "auto"
) -> dict[str, int]:
    file = None
    if labels_file is not None:
        file = root.parent / "classes.txt"
        file.write_text(labels_file)
    images = labelled_images(root, labels, file, folders)
    return dict(zip(images.files, images.classes, strict=True))


# ------------------------------------------------------------------------------------------------------ class folders


def test_folders_by_name(tmp_path: Path) -> None:
    """Case and underscores do not matter, depth does not, and classes without a folder are all right."""
    root = folder_of(tmp_path / "a", "tree_frog/1.png", "crane/deep/2.JPG", "Night Heron/3.png", "Night Heron/notes.md")
    assert found(root, ANIMALS) == {"tree_frog/1.png": 0, "crane/deep/2.JPG": 1, "Night Heron/3.png": 2}
    assert labelled_images(root, ANIMALS).mapping == "3 class folders by name"


def test_names_that_differ_in_case_only_are_two_classes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "ox/1.png", "OX/2.png")
    assert found(root, ("OX", "ox")) == {"OX/2.png": 0, "ox/1.png": 1}
    with pytest.raises(UsageError, match="'Ox' is none of its labels"):
        found(folder_of(tmp_path / "b", "Ox/1.png"), ("OX", "ox"))


def test_labels_that_are_numbers_go_before_indices(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "0/a.png", "1/b.png")
    assert found(root, ("1", "0", "2")) == {"0/a.png": 1, "1/b.png": 0}


def test_folders_in_sorted_order(tmp_path: Path) -> None:
    """Folders of synsets, as ImageNet has them; an empty one counts, hidden ones do not."""
    root = folder_of(tmp_path / "a", "n02/b.png", "n01/a.png", "n03/", "n04/c.png", ".cache/x.png")
    assert found(root, ANIMALS) == {"n01/a.png": 0, "n02/b.png": 1, "n04/c.png": 3}
    images = labelled_images(root, ANIMALS)
    assert images.mapping == "4 class folders in sorted order"
    assert images.skipped == (Skipped("n03/", "holds no image"),)


def test_class_folders_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path / "a", "crane/1.png", "ox/2.png")
    scandir = os.scandir

    def refusing(path: str | Path) -> object:  # permissions do not bind root, who may run this
        if Path(path).name == "crane":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    images = labelled_images(root, ANIMALS)
    assert images.files == ("ox/2.png",)
    assert images.skipped == (Skipped("crane/", "cannot be read (Permission denied)"),)
    (root / "ox" / "2.png").unlink()
    (root / "ox").rmdir()
    with pytest.raises(ImageError, match=r"1 folders and no image in them, e.g. crane/ cannot be read .Permission"):
        labelled_images(root, ANIMALS)


def test_folders_by_index(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "3/a.png", "1/b.png")
    assert found(root, ANIMALS) == {"1/b.png": 1, "3/a.png": 3}
    digits = folder_of(tmp_path / "b", *(f"{i}/x.png" for i in range(10)))
    assert list(found(digits, tuple("abcdefghij")).values()) == list(range(10))
    padded = folder_of(tmp_path / "c", *(f"{i:02}/x.png" for i in range(12)))
    assert list(found(padded, tuple("abcdefghijkl")).values()) == list(range(12))
    from_one = folder_of(tmp_path / "d", *(f"{i:02}/x.png" for i in range(1, 13)))
    assert list(found(from_one, tuple("abcdefghijkl")).values()) == list(range(12)), "in sorted order, then"


def test_numbers_with_two_readings_are_refused(tmp_path: Path) -> None:
    """0, 1, 10, 11, 2: torchvision's place in sorted order is not the number."""
    root = folder_of(tmp_path / "a", *(f"{i}/x.png" for i in range(12)))
    labels = tuple("abcdefghijkl")
    with pytest.raises(UsageError, match="--folders index when they are class indices, order when"):
        found(root, labels)
    assert found(root, labels, folders="index")["10/x.png"] == 10
    assert found(root, labels, folders="order")["10/x.png"] == 2


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    store = folder_of(tmp_path / "store", "1.png")
    root = folder_of(tmp_path / "a", "crane/2.png")
    (root / "ox").symlink_to(store)
    assert found(root, ANIMALS) == {"crane/2.png": 1, "ox/1.png": 3}


def test_images_beside_class_folders_are_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "ox/1.png", "stray.jpg", "readme.txt", ".hidden.png")
    assert labelled_images(root, ANIMALS).skipped == (Skipped("stray.jpg", "stands in no class folder"),)


FOLDERS_REFUSED = [
    (["1.png", "2.png"], "auto", "holds 2 images and no class folders; put them into one folder per class"),
    (["ox/", "crane/"], "auto", "2 folders and no image in them"),
    (["notes.txt"], "auto", "holds no image"),
    (["n01/1.png", "n02/2.png"], "auto", "2 class folders where the network has 4 classes, and 'n01' is none of its"),
    (["ox/1.png", "cow/2.png"], "auto", "1 of the 2 class folders .* are labels of the network and 'cow' is not"),
    (["a/1.png", "b/1.png", "c/1.png", "d/1.png"], "name", "0 of the 4 class folders .* and 'a' is not"),
    (["a/1.png", "b/1.png", "c/1.png", "d/1.png"], "index", "cannot be indices .'a' is among them"),
    (["1/1.png", "4/1.png"], "index", "'4' is among them.: expected distinct whole numbers from 0 to 3"),
    (["1/1.png", "01/1.png"], "index", "'1' is among them.: expected distinct whole numbers"),
    (["ox/1.png", "crane/1.png"], "index", "cannot be indices .'crane' is among them"),
    (["1/1.png", "ox/1.png", "zebra/1.png"], "index", "cannot be indices .'ox' is among them"),
    (["1/1.png", "4/1.png"], "order", "2 class folders where the network has 4 classes, and '1' is none of its"),
    (["ox/1.png", "crane/1.png"], "order", "2 class folders where the network has 4 classes; name the folders"),
]


@pytest.mark.parametrize(("files", "folders", "message"), FOLDERS_REFUSED, ids=lambda value: str(value)[:40])
def test_refused_folders(files: list[str], folders: Folders, message: str, tmp_path: Path) -> None:
    with pytest.raises(LitDeployError, match=message) as caught:
        found(folder_of(tmp_path / "a", *files), ANIMALS, folders=folders)
    assert "\n" not in str(caught.value)


def test_parts_of_a_data_set_are_no_classes(tmp_path: Path) -> None:
    """Two classes and two folders, which only look as if they fitted."""
    root = folder_of(tmp_path / "a", "train/1.png", "val/1.png")
    with pytest.raises(UsageError, match="holds the parts train, val of a data set"):
        found(root, ("cat", "dog"))
    assert found(root, ("cat", "dog"), folders="order") == {"train/1.png": 0, "val/1.png": 1}


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_no_folder(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match="a directory of images is expected"):
        found(tmp_path / kind, ANIMALS)


# -------------------------------------------------------------------------------------------------------- labels file

LABELS_FILES = [
    "a.png 2\nb.png 0\nsub/c d.png 3\n",
    "a.png\t2\nb.png\t0\nsub/c d.png\t3",
    "file,class\na.png,2\nb.png,0\n\nsub/c d.png,3\n",
    "file;class\r\n./a.png;2\r\nb.png; 0 \r\nsub\\c d.png;3\r\n",
    "\ufeffa.png night heron\nb.png tree frog\nsub/c d.png ox\n",
    '"a.png","Night_Heron"\n"b.png","TREE FROG"\n"sub/c d.png","ox"\n',
    "val/b.png 0\nval/a.png 2\nc d.png 3\n",
    "2\n0\n3\n",
    "night_heron\ntree frog\nox\n",
]


@pytest.mark.parametrize("text", LABELS_FILES)
def test_labels_files(text: str, tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "b.png", "a.png", "sub/c d.png", "notes.txt")
    assert found(root, ANIMALS, text) == {"a.png": 2, "b.png": 0, "sub/c d.png": 3}


def test_mapping_of_a_labels_file_is_told(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "a.png", "b.png")
    file = tmp_path / "val.txt"
    for text, told in (
        ("a.png ox\nb.png crane\n", "labels file val.txt (by file name), classes by name"),
        ("3\n1\n", "labels file val.txt (one a line, images in sorted order), classes by index"),
    ):
        file.write_text(text)
        assert labelled_images(root, ANIMALS, file).mapping == told


def test_images_without_a_line_and_lines_without_an_image(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "a.png", "b.png")
    (tmp_path / "val.txt").write_text("b.png 1\nc.png 2\n")
    images = labelled_images(root, ANIMALS, tmp_path / "val.txt")
    assert (images.files, images.classes) == (("b.png",), (1,))
    assert images.skipped == (
        Skipped("c.png", "is listed on line 2 of the labels file and not there"),
        Skipped("a.png", "is not in the labels file"),
    )


def test_a_base_name_that_two_images_share_is_none_of_them(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "x/1.png", "y/1.png", "y/2.png")
    assert found(root, ANIMALS, "1.png 0\n2.png 1\n") == {"y/2.png": 1}


REFUSED_FILES = [
    ("", "is empty"),
    ("1\n2\n3\n", "has 3 classes, one a line, where .* holds 2 images"),
    ("a.png 4\nb.png 0\n", "line 1 .* has the class 4, expected an index from 0 to 3$"),
    ("1\n4\n", "line 2 .* ImageNet's development kit counts from 1 and in an order of its own"),
    ("a.png 1\nb.png cow\n", "line 2 .* has the class 'cow', expected one of the network's 4 labels"),
    ("a.png 1\na.png 2\n", "line 2 .* gives a.png the class 2, an earlier line another one"),
    ("c.png 1\nd.png 2\n", "none of the 2 files listed in .*, e.g. 'c.png'; expected paths .* e.g. 'a.png'"),
    ("a.png\nb.png\n", "line 1 .* is 'a.png', expected a file name and a class"),
    ("a.png -1\nb.png 1\n", "line 1 .* has the class '-1'"),
    ("a.png 1\nb.png ox\n", "mixes class names and indices .'ox' on line 2, 1 on line 1.; write all"),
    ("crane\n3\n", "mixes class names and indices .'crane' on line 1, 3 on line 2"),
    ("a.png,1\nb.png,ox,3\n", "line 2 .* has 3 columns, expected a file name and a class"),
    ("file\tclass\tsplit\na.png\t1\tval\nb.png\t2\tval\n", "line 1 .* has 3 columns"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED_FILES)
def test_refused_labels_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        found(folder_of(tmp_path / "a", "a.png", "b.png"), ANIMALS, text)
    assert "\n" not in str(caught.value)


def test_unreadable_labels_files(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "a.png")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    for name, message in (("absent", "does not exist"), ("binary", "is not UTF-8 text"), ("a", "cannot be read")):
        with pytest.raises(UsageError, match=message):
            labelled_images(root, ANIMALS, tmp_path / name)
    (tmp_path / "good").write_text("1\n")
    with pytest.raises(UsageError, match="expected one of both"):
        labelled_images(root, ANIMALS, tmp_path / "good", "order")


def test_classes_of_imagenet_by_name(tmp_path: Path) -> None:
    """Names with blanks, in every form, resolve to the class they name."""
    labels = imagenet_labels()
    root = folder_of(tmp_path / "a", *(f"{index:04}.png" for index in range(1000)))
    text = "".join(f"{index:04}.png {label}\n" for index, label in enumerate(labels))
    assert list(found(root, labels, text).values()) == list(range(1000))
    folders = folder_of(tmp_path / "b", *(f"{label.replace(' ', '_')}/1.png" for label in labels[::50]))
    assert sorted(found(folders, labels).values()) == list(range(0, 1000, 50))


# ------------------------------------------------------------------------------------------------------ list of images


def test_limit_takes_from_all_classes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", *(f"{label}/{i}.png" for label in ANIMALS for i in range(5)))
    images = labelled_images(root, ANIMALS)
    assert sorted(images.limited(4).classes) == [0, 1, 2, 3]
    assert images.limited(None) == images.limited(20) == images.limited(99) == images
    assert len(set(images.limited(19).files)) == 19


def test_hash_is_of_names_classes_and_contents(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "crane/1.png", "ox/2.png")
    before = labelled_images(root, ANIMALS)
    same = before.sha256()
    assert labelled_images(root, ANIMALS).sha256() == same
    assert labelled_images(root, ANIMALS[::-1]).sha256() != same
    assert before.limited(1).sha256() != same
    moved = root.rename(tmp_path / "moved")
    assert labelled_images(moved, ANIMALS).sha256() == same
    (moved / "ox" / "2.png").write_bytes(b"x")
    assert labelled_images(moved, ANIMALS).sha256() != same
    (moved / "ox" / "2.png").unlink()
    assert before.sha256() != same, "absent"


def test_file_names_of_any_bytes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "a", "ox/a\nb.png")
    (root / "ox" / os.fsdecode(b"\xff.png")).touch()
    images = labelled_images(root, ANIMALS)
    assert len(images.sha256()) == 64
    assert [shown_name(name) for name in images.files] == ["ox/a\\nb.png", "ox/\\udcff.png"]

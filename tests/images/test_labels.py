"""Class names: ImageNet's facts, and label files as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_deploy.core.errors import UsageError
from lit_deploy.images.labels import LABEL_PATTERN, default_labels, imagenet_labels, label_fault, read_labels


def test_imagenet_names_stand_at_their_indices() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert len({label.lower() for label in labels}) == 1000
    assert all(label == label.strip() and label and label.isascii() for label in labels)
    known = {
        0: "tench",
        1: "goldfish",
        207: "golden retriever",
        281: "tabby",
        285: "Egyptian cat",
        388: "giant panda",
        504: "coffee mug",
        620: "laptop",
        817: "sports car",
        954: "banana",
        999: "toilet tissue",
    }
    assert {index: labels[index] for index in known} == known


def test_homonyms_are_told_apart() -> None:
    labels = imagenet_labels()
    assert labels[134] == "crane (bird)"
    assert labels[517] == "crane (machine)"
    assert labels[264] == "Cardigan Welsh corgi"
    assert labels[474] == "cardigan"
    assert labels[638] != labels[639]


def test_defaults() -> None:
    assert default_labels(1000) == imagenet_labels()
    assert default_labels(3) == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\nbig bird\n",
        b"cat\ndog\nbig bird",
        b"\xef\xbb\xbfcat\r\ndog\r\nbig bird\r\n",
        b" cat \ndog\t\nbig bird\n\n",
    ],
)
def test_files_as_editors_write_them(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    assert read_labels(path, 3) == ("cat", "dog", "big bird")


def test_names_are_unicode(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("猫\nživotinja\n", encoding="utf-8")
    assert read_labels(str(path), 2) == ("猫", "životinja")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"cat\n\ndog\n", "line 2 .* is empty"),
        (b"cat\ndog\n", "has 2 names where the model has 3"),
        (b"a\nb\nc\nd\n", "has 4 names where the model has 3"),
        (b"\x80\x02ctorch\nload\n", "not UTF-8"),
        (b"cat\nd\x00g\nbird\n", "control characters"),
        ("cat\nd\u202eog\nbird\n".encode(), "line 2 .* control characters"),
        ("cat\ndög\nbird\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_unusable_files(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_labels(path, 3)
    assert str(path) in str(caught.value)
    assert "3 class names, one a line" in str(caught.value)


@pytest.mark.parametrize(
    "label", ["\x1b[31mred", "a\nb", "a\x7f", "a\x85b", "a\u2028b", "\u202egnp", "a\u2066b", "\ud800", "", "  "]
)
def test_names_that_no_class_can_have(label: str) -> None:
    fault = label_fault(("cat", label))
    assert fault is not None
    assert fault.startswith("the label of class 1 ")
    assert fault.isascii()
    assert fault.isprintable()


@pytest.mark.parametrize(
    "label", ["cat", " cat ", "ice cream", "\u732b", "caf\u00e9", "a\u00a0b", "\u06cc\u200c\u0647", "\U0001f408"]
)
def test_names_that_a_class_can_have(label: str) -> None:
    assert label_fault((label,)) is None


def test_labels_that_ship_are_names() -> None:
    assert label_fault(imagenet_labels()) is None
    assert LABEL_PATTERN.isascii()  # it stands in the JSON Schema


def test_unusable_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_labels(tmp_path / "nowhere.txt", 3)
    with pytest.raises(UsageError, match="cannot be read"):
        read_labels(tmp_path, 3)
    huge = tmp_path / "huge.bin"
    with huge.open("wb") as stream:
        stream.truncate(64 << 20)
    with pytest.raises(UsageError, match="larger than 8 MiB"):
        read_labels(huge, 3)

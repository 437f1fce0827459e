"""What is taken from folders and patterns, and the line that counts what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.images.folders import images_in, images_like, is_pattern, listed


def folder_of(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names(root: Path, files: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in files]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    store = folder_of(tmp_path / "store", "far.png", "deep/further.jpg")
    root = folder_of(tmp_path / "root", "a/1.png", "b/2.png")
    (root / "a" / "file.png").symlink_to(root / "b" / "2.png")
    (root / "link").symlink_to(store)
    (root / "a" / "up").symlink_to(root)
    (root / "again").symlink_to(root / "b")
    (store / "back").symlink_to(root / "link")
    listing = listed(root)
    expected = ["a/1.png", "a/file.png", "b/2.png", "link/deep/further.jpg", "link/far.png"]
    assert names(root, list(listing.files)) == expected
    assert listing.summary == "left out 3 entries: 3 leading to a folder read already"


def test_what_is_left_out_is_counted_in_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder_of(tmp_path / "root", "a.png", "b.txt", "c.TXT", "none", ".d.png", ".e/f.png", "sub/g.xml")
    assert names(root, images_in(root)) == ["a.png"]
    (line,) = caplog.messages
    assert line == f"{root}: left out 6 entries: 2 hidden, 4 of an unknown kind (.txt, no ending, .xml)"
    caplog.clear()
    images_in(folder_of(tmp_path / "clean", "a.png"))
    assert caplog.messages == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path / "root", "a.png", "sub/secret/b.png")
    scandir, closed = os.scandir, "secret"

    def refusing(path: str | Path) -> object:  # permissions do not bind root, who may run this
        if Path(path).name == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = listed(root)
    assert names(root, list(listing.files)) == ["a.png"]
    assert listing.summary == "left out 1 entry: 1 unreadable (sub/secret: Permission denied)"
    closed = "root"
    with pytest.raises(ImageError, match=r"root cannot be read \(Permission denied\): give read permission"):
        listed(root)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ImageError, match=r"holds no image \(left out 1 entry: 1 of an unknown kind \(\.txt\)\): put"):
        images_in(folder_of(tmp_path / "root", "a.txt"))
    assert caplog.messages == [], "the sentence says it"


def test_what_has_the_name_of_an_image_is_taken(tmp_path: Path) -> None:
    """Links to nothing, and pipes: they are named when they are decoded, which no count would do."""
    root = folder_of(tmp_path / "root")
    root.mkdir()
    (root / "nowhere.png").symlink_to(tmp_path / "nothing")
    (root / "self.png").symlink_to(root / "self.png")
    os.mkfifo(root / "pipe.png")
    assert names(root, images_in(root)) == ["nowhere.png", "pipe.png", "self.png"]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(
        tmp_path, "p/1.jpg", "p/2.png", "p/x/3.jpg", "p/x/y/4.jpg", "p/.h/5.jpg", "p/.6.jpg", "p/n.txt", "q/[1].jpg"
    )
    (root / "p" / "loop").symlink_to(root / "p")
    assert names(root, images_like(root / "p/*.jpg")) == ["p/1.jpg"]
    assert names(root, images_like(root / "p/**/*.jpg")) == ["p/1.jpg", "p/x/3.jpg", "p/x/y/4.jpg"]
    every = ["p/1.jpg", "p/2.png", "p/x/3.jpg", "p/x/y/4.jpg"]
    for pattern in ("p/**", "p/**/*"):
        assert names(root, images_like(root / pattern)) == every
    assert names(root, images_like(root / "?")) == [*every, "q/[1].jpg"], "folders that it matches, with all in them"
    monkeypatch.chdir(root)
    assert images_like("[pq]/*.jpg") == [Path("p/1.jpg"), Path("q/[1].jpg")]
    assert is_pattern("p/*.jpg")
    assert not is_pattern("q/[1].jpg"), "a file that is there"
    assert not is_pattern("p/none.jpg")


def test_patterns_that_match_nothing(tmp_path: Path) -> None:
    folder_of(tmp_path, "p/n.txt")
    for pattern, words in (
        ("p/*.jpg", "matches no image: give"),
        ("p/*", r"matches no image \(left out 1 entry: 1 of an unknown kind \(\.txt\)\)"),
        ("nowhere/*", "matches no image"),
    ):
        with pytest.raises(ImageError, match=words):
            images_like(tmp_path / pattern)
    with pytest.raises((ImageError, UsageError), match=r"matches no image|is no pattern"):  # as Python's version has it
        images_like(tmp_path / "p**" / "x")

"""Folders of images: one rule on what is taken from them, and a line that counts what is left out.

Sub-folders are read, too. Links are followed, but no folder is read twice, so that loops end. Hidden files and folders,
files of an unknown kind and folders that cannot be read are left out. Whatever has the name of an image is taken: where
it is none, or a link to nothing, that is said, by its name, when it is decoded.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path

from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.text import shown_name
from lit_deploy.images.decoding import FORMATS_TEXT

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File name endings, in lower case, that are taken for images."""

_MAGIC = frozenset("*?[")
_NAMED = 3  # kinds, and folders, that the line names

_log = logging.getLogger(__name__)  # without a handler, Python prints warnings on stderr


@dataclass(frozen=True)
class Listing:
    """What a folder, or a pattern, holds.

    Attributes:
        root: the folder, or the folder in which the pattern begins.
        files: image files, in sorted order.
        folders: names of the folders directly in ``root``, but for hidden ones, in sorted order.
        unreadable: of folders that cannot be read, the path below ``root`` and the reason.
        left_out: how many files and folders, by the reason; ``kinds``: endings of unknown kinds.
    """

    root: Path
    files: tuple[Path, ...]
    folders: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    left_out: Counter[str]
    kinds: Counter[str]

    @property
    def summary(self) -> str:
        """What was left out and why, as the rest of a sentence; empty where nothing was."""
        if not self.left_out:
            return ""
        parts = []
        for reason, count in self.left_out.items():
            among: list[str] = []
            if reason == _UNKNOWN:
                among = [shown_name(kind) for kind in self.kinds]
            elif reason == _UNREADABLE:
                among = [f"{shown_name(folder)}: {why}" for folder, why in self.unreadable]
            more = [f"{len(among) - _NAMED} more"] if len(among) > _NAMED else []
            named = f" ({', '.join([*among[:_NAMED], *more])})" if among else ""
            parts.append(f"{count} {reason}{named}")
        total = sum(self.left_out.values())
        return f"left out {total} {'entry' if total == 1 else 'entries'}: {', '.join(parts)}"

    def tell(self) -> None:
        """Say in one line what was left out, where anything was."""
        if self.left_out:
            _log.warning("%s: %s", shown_name(str(self.root)), self.summary)


_HIDDEN = "hidden"
_UNKNOWN = "of an unknown kind"
_TWICE = "leading to a folder read already"
_UNREADABLE = "unreadable"


class _Found:
    """A listing in the making."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: set[Path] = set()
        self.folders: list[str] = []
        self._read: set[tuple[int, int]] = set()
        self._unreadable: list[tuple[str, str]] = []
        self._left_out: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()

    def take(self, path: Path) -> bool:
        """Take an image, told by its name; True for a folder, which is left to the caller."""
        if path.name.startswith("."):
            self._left_out[_HIDDEN] += 1
            return False
        if os.path.isdir(path):
            return True
        suffix = path.suffix.lower()
        if suffix in SUFFIXES:
            self.files.add(path)
        else:
            self._left_out[_UNKNOWN] += 1
            self._kinds[suffix or "no ending"] += 1
        return False

    def walk(self, top: Path) -> None:
        """Take what is in a folder and below it; links last, as what is there itself comes first."""
        waiting, links = deque([top]), deque[Path]()
        while waiting or links:
            folder = waiting.popleft() if waiting else links.popleft()
            try:
                names = self._names(folder)
            except OSError as error:
                reason = error.strerror or str(error)
                if folder == self.root:
                    raise ImageError(
                        f"{folder} cannot be read ({reason}): give read permission or another folder."
                    ) from None
                self._left_out[_UNREADABLE] += 1
                self._unreadable.append((folder.relative_to(self.root).as_posix(), reason))
                continue
            below = [folder / name for name in names if self.take(folder / name)]
            if folder == self.root:
                self.folders = [path.name for path in below]
            for path in below:
                (links if path.is_symlink() else waiting).append(path)

    def _names(self, folder: Path) -> list[str]:
        """What is in a folder, sorted; nothing the second time."""
        status = folder.stat()
        key = (status.st_dev, status.st_ino)
        if key in self._read and status.st_ino:  # some file systems number nothing
            self._left_out[_TWICE] += 1
            return []
        self._read.add(key)
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)

    def listing(self) -> Listing:
        return Listing(
            self.root, tuple(sorted(self.files)), tuple(self.folders), tuple(self._unreadable), self._left_out,
            self._kinds,
        )  # fmt: skip


def listed(directory: str | Path) -> Listing:
    """List the image files of a directory and its subdirectories.

    Raises:
        ImageError: there is no such directory, or it cannot be read.
    """
    root = Path(directory)
    if not os.path.isdir(root):
        kind = "is a file" if os.path.isfile(root) else "does not exist"
        raise ImageError(f"{root} {kind} where a directory of images is expected: give the path of a folder.")
    found = _Found(root)
    found.walk(root)
    return found.listing()


def images_in(directory: str | Path) -> list[Path]:
    """List the image files of a directory and its subdirectories; what is left out is said in a line.

    Args:
        directory: a folder.

    Returns:
        Paths in sorted order, at least one.

    Raises:
        ImageError: there is no such directory, it cannot be read, or there is no image in it.
    """
    return _images(listed(directory), "holds no image", f"put {FORMATS_TEXT} files there, or give another folder")


def _images(listing: Listing, fault: str, remedy: str) -> list[Path]:
    if not listing.files:
        reason = f" ({listing.summary})" if listing.left_out else ""
        raise ImageError(f"{listing.root} {fault}{reason}: {remedy}.")
    listing.tell()
    return list(listing.files)


def is_pattern(path: str | Path) -> bool:
    """Whether this is no file, but a pattern as a shell knows it: ``photos/**/*.jpg``."""
    return not _MAGIC.isdisjoint(str(path)) and not os.path.lexists(path)


def images_like(pattern: str | Path) -> list[Path]:
    """The image files that a pattern matches, by the rule of folders; and those in the folders that it matches.

    Args:
        pattern: ``*`` and ``?`` stand for letters of a name, ``[...]`` for one of some letters, ``**`` for any folders,
            but not for links to folders.

    Raises:
        ImageError: it matches no image.
        UsageError: it is no pattern.
    """
    parts = Path(pattern).parts
    start = next(index for index, part in enumerate(parts) if not _MAGIC.isdisjoint(part))
    root, rest = Path(*parts[:start]), [*parts[start:], *(["*"] if parts[-1] == "**" else [])]
    found = _Found(root)
    try:
        matched = sorted(set(root.glob("/".join(rest))))
    except ValueError as error:
        raise UsageError(f"{pattern} is no pattern: {error}") from None
    inside = rest[-2:] != ["**", "*"]  # which matches by itself what is in folders
    for path in matched:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts[:-1])
        if not hidden and found.take(path) and inside:
            found.walk(path)
    return _images(
        replace(found.listing(), root=Path(pattern)), "matches no image", f"give one of {FORMATS_TEXT} files"
    )

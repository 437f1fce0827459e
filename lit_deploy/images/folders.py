"""Folders of images."""

from __future__ import annotations

import os
from pathlib import Path

from lit_deploy.core.errors import ImageError
from lit_deploy.images.decoding import FORMATS_TEXT

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File name endings, in lower case, that ``images_in`` takes for images."""


def images_in(directory: str | Path) -> list[Path]:
    """List the image files of a directory and its subdirectories, by file name ending.

    Args:
        directory: a folder; hidden files and folders are left out, links to folders are not followed.

    Returns:
        Paths in sorted order, at least one.

    Raises:
        ImageError: there is no such directory, or no image in it.
    """
    root = Path(directory)
    if not os.path.isdir(root):
        kind = "is a file" if os.path.isfile(root) else "does not exist"
        raise ImageError(f"{root} {kind} where a directory of images is expected: give the path of a folder.")
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if _is_image_name(name)]
    if not found:
        raise ImageError(f"{root} holds no image: put {FORMATS_TEXT} files there, or give another folder.")
    return sorted(found)


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES

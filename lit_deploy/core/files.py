"""Files: written whole or not at all, hashed, and kept in one cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lit_deploy.core.errors import LitDeployError, UsageError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of this package."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


_NOT_REGULAR = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular_file(path: Path, expected: str = "a regular file", error: type[LitDeployError] = UsageError) -> None:
    """Raise ``error`` for a directory, a pipe, a socket or a device: opening those may wait for ever, or never end.

    A path that does not exist passes: opening it says so.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    for test, kind in _NOT_REGULAR:
        if test(mode):
            raise error(f"{path} is {kind}, expected {expected}")


def check_target(final: Path) -> None:
    """Raise UsageError, before minutes of work, when a file cannot be written there; leaves nothing behind."""
    if final.is_dir():
        raise UsageError(f"cannot write {final}: it is a directory, expected a file name")
    if not final.parent.is_dir():
        raise UsageError(f"cannot write {final}: the directory {final.parent} does not exist; create it first")
    part = _part_of(final)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {final}: {error.strerror or error}") from None


def _part_of(final: Path) -> Path:
    return final.with_name(f".{final.stem}.{os.getpid()}.part{final.suffix}")


@contextlib.contextmanager
def atomic_path(final: Path, part: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; renamed on success, deleted on any exception.

    The temporary name keeps the suffix, unless ``part`` names another. A process killed in between leaves only that
    hidden file, never one under the final name.
    """
    check_target(final)
    part = part or _part_of(final)
    try:
        part.touch()
        yield part
        os.replace(part, final)
    except OSError as error:
        if error.errno in _DISK_ERRORS or error.filename in (str(part), part):
            raise UsageError(f"cannot write {final}: {error.strerror or error}") from None
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_text(text: str, path: Path) -> None:
    """Write a text to a file, whole or not at all; raises UsageError when that is impossible."""
    with atomic_path(path) as part:
        part.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """Folder of everything downloaded or kept: ``$XDG_CACHE_HOME/lit-deploy``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lit-deploy"

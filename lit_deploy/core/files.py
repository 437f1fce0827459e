"""Files: written whole or not at all, hashed, and kept in one cache folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lit_deploy.core.errors import LitDeployError, UsageError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of this package."""

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}

_LEFT_OVER = re.compile(r"\..*\.lit-[0-9a-f]{16}\.part(\.[^/]*)?", re.DOTALL)
"""Names of temporary files, as ``_part_of`` gives them."""

_temporary: dict[Path, None] = {}
"""Files and folders of this process that go when it ends, in the order they were made; see ``remove_temporary``."""


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
    if final.exists() and not final.is_file():  # to put a file in the place of /dev/null helps nobody
        raise UsageError(f"cannot write {final}: it is a device or a pipe, expected a file name")
    if not final.parent.is_dir():
        raise UsageError(f"cannot write {final}: the directory {final.parent} does not exist; create it first")
    part = _part_of(final)
    try:
        os.close(_made(part))
        part.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {final}: {error.strerror or error}") from None


def _part_of(final: Path) -> Path:
    return final.with_name(f".{final.stem}.lit-{secrets.token_hex(8)}.part{final.suffix}")


def _made(part: Path) -> int:
    """Make a file that was not there, which no link can stand in for, and lock it; a descriptor of it."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks, where nobody sweeps either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(part):
            return descriptor
        os.close(descriptor)  # swept in the moment before it was locked


@contextlib.contextmanager
def atomic_path(final: Path, *companions: Callable[[Path], Path]) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; renamed on success, deleted on any exception.

    The temporary name is random and this writer's alone, and keeps the suffix. Whoever renames last gives ``final`` its
    content: of several writers, threads, processes or machines, one has its whole file there. A process killed in
    between leaves only that hidden file, never one under the final name. As long as the writer lives it holds a lock on
    it, so what a dead one has left is deleted by the next that writes into the folder.

    Args:
        final: the file.
        companions: names of files that belong to it, made from its own. They lie beside the temporary path as they will
            lie beside ``final``, and get their names just before it does, the last one first.

    Raises:
        UsageError: there is no place to write, or the disk refuses.
    """
    finals = [final, *(name(final) for name in companions)]
    for path in finals:
        check_target(path)
    _sweep(os.path.realpath(final.parent))
    part = _part_of(final)
    parts = [part, *(name(part) for name in companions)]
    try:
        with contextlib.ExitStack() as stack:
            for path in parts:
                stack.enter_context(_held(path))
            yield part
            if companions:  # with a second writer of the same names they must not mix
                stack.enter_context(_locked_folder(final.parent))
            for path, name in zip(reversed(parts), reversed(finals), strict=True):
                os.replace(path, name)
    except OSError as error:
        if error.errno in _DISK_ERRORS or error.filename in {name for path in parts for name in (path, str(path))}:
            raise UsageError(f"cannot write {final}: {error.strerror or error}") from None
        raise


@contextlib.contextmanager
def _held(part: Path) -> Iterator[None]:
    """A temporary file that exists, locked, until the context is left or it has got another name."""
    descriptor = _made(part)
    _temporary[part] = None
    try:
        yield
    except BaseException:
        _discard(part)
        raise
    finally:
        _temporary.pop(part, None)
        os.close(descriptor)


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _discard(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()


@functools.lru_cache(maxsize=256)
def _sweep(folder: str) -> None:
    """Delete what dead writers have left in a folder; once in a process, as folders of results may be large.

    That they are dead is proven by their lock: it is gone with the process, whatever its number was, in whatever
    container. Where there are no locks, and where a file is somebody else's, it stays.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.path for entry in entries if _LEFT_OVER.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found, there = os.fstat(descriptor), os.lstat(name)
                if found.st_uid == os.geteuid() and (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
                    os.unlink(name)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder for files that nobody keeps; gone when the context is left or a signal ends the process."""
    folder = Path(tempfile.mkdtemp(prefix="lit-deploy-"))
    _temporary[folder] = None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _temporary.pop(folder, None)


def remove_temporary() -> None:
    """Delete what this process has not finished writing, for an end in which no context is left any more."""
    for path in list(_temporary):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _discard(path)


def made_folder(folder: Path) -> Path:
    """A folder for results, made where it is missing; raises UsageError when that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"cannot write into {folder}: it is a file, expected a folder") from None
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    return folder


def to_disk(path: Path) -> None:
    """Wait until a file is on the disk: a rename may be there before what it names, should the power go."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(text: str, path: Path) -> None:
    """Write a text to a file, whole or not at all; raises UsageError when that is impossible."""
    with atomic_path(path) as part:
        part.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def why_unreadable(path: Path) -> str:
    """What the system says when a file cannot be opened, such as ``Permission denied``; empty when it can be."""
    try:
        path.open("rb").close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """Folder of everything downloaded or kept: ``$XDG_CACHE_HOME/lit-deploy``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lit-deploy"

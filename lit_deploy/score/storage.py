"""Files and folders wherever they are: of this machine by their path, of a store by URL.

pyarrow reads ``s3://``, ``gs://`` and ``hdfs://`` by itself; ``https://`` and all others are fsspec's, which names the
package that it lacks.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol, cast

from lit_deploy.core.errors import LitDeployError, MissingDependency, UsageError, refuse_for_memory
from lit_deploy.core.text import first_line
from lit_deploy.machine.packages import require

Kind = Literal["file", "folder", "absent"]

_BY_PYARROW = ("s3", "gs", "gcs", "hdfs", "viewfs", "file")


@dataclass(frozen=True)
class Item:
    """What is directly in a folder.

    Attributes:
        name: in the folder; ``folder``: whether it is one itself.
        state: size and time of change, which differ when it was written anew; empty where a store does not tell.
    """

    name: str
    folder: bool
    state: str


class Store(Protocol):
    """Where files are."""

    def kind(self, path: str) -> Kind:
        """What is there."""

    def state(self, path: str) -> str:
        """``Item.state`` of a file."""

    def items(self, folder: str) -> Iterator[Item]:
        """What is in a folder, by name; OSError where it cannot be read."""

    def open(self, path: str) -> BinaryIO:
        """A file to read at any place; OSError where it cannot be."""

    def identity(self, folder: str) -> tuple[int, int] | None:
        """The same for two names of one folder; None where a folder has one name only."""


def is_url(name: str) -> bool:
    """Whether this names a place in a store, ``s3://bucket/key``, and no file of this machine."""
    scheme, mark, _ = name.partition("://")
    return bool(mark) and scheme.replace("+", "").isalnum()


def store_of(name: str) -> Store:
    """Where a path or URL points to.

    Raises:
        UsageError: a scheme that nobody knows, or a URL with a password in it.
        MissingDependency: a package that its scheme needs.
    """
    if not is_url(name):
        return _LOCAL
    scheme, _, rest = name.partition("://")
    host = rest.partition("/")[0]
    if "@" in host:
        raise UsageError(
            f"a URL of {scheme}:// carries a user or password, and results would name it; leave it out, and give "
            "credentials as the store's own tools take them (AWS_ACCESS_KEY_ID ..., files of a profile)"
        )
    return _remote(scheme, host)


def join(folder: str, name: str) -> str:
    """The path or URL of something in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


class _Local:
    """The files of this machine."""

    def kind(self, path: str) -> Kind:
        return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else "absent"

    def state(self, path: str) -> str:
        try:
            return _state(os.stat(path))
        except (OSError, ValueError):  # no name holds a NUL
            return "absent"

    def items(self, folder: str) -> Iterator[Item]:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)  # names alone: a folder may hold a million files
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:
                yield Item(name, False, "absent")
            else:
                yield Item(name, stat.S_ISDIR(status.st_mode), _state(status))

    def open(self, path: str) -> BinaryIO:
        if os.path.lexists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise OSError("it is no regular file")
        return open(path, "rb")

    def identity(self, folder: str) -> tuple[int, int] | None:
        status = os.stat(folder)
        return (status.st_dev, status.st_ino) if status.st_ino else None  # some file systems number nothing


def _state(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"


_LOCAL = _Local()


class _Remote:
    """A store behind a scheme and host, by pyarrow's interface."""

    def __init__(self, scheme: str, host: str) -> None:
        self._root = f"{scheme}://{host}"
        self._strip: Any = None
        try:
            self._open(scheme)
        except LitDeployError:
            raise
        except ImportError as error:
            raise MissingDependency(
                f"reading {scheme}:// needs a package that is not installed ({first_line(error)}); install it"
            ) from None
        except Exception as error:  # each scheme's own: a region that cannot be asked for, credentials, a build
            refuse_for_memory(error)
            raise UsageError(
                f"{self._root} cannot be opened ({first_line(error)}); expected a URL such as s3://bucket/folder, "
                "gs://bucket/folder or https://host/file.tar"
            ) from None

    def _open(self, scheme: str) -> None:
        from pyarrow import fs

        if scheme in _BY_PYARROW:
            self._fs, self._base = fs.FileSystem.from_uri(self._root + ("/" if scheme == "file" else ""))
            return
        if scheme in ("https", "http"):
            require(f"reading {scheme}://", "aiohttp", "fsspec")
        import fsspec

        inner, _ = fsspec.core.url_to_fs(self._root)
        self._strip = inner._strip_protocol
        self._fs = fs.PyFileSystem(fs.FSSpecHandler(inner))

    def _path(self, url: str) -> str:
        if self._strip is not None:
            return cast(str, self._strip(url))
        return f"{self._base.rstrip('/')}/{url[len(self._root) :].strip('/')}"

    def _info(self, url: str) -> Any:
        with _told():
            return self._fs.get_file_info(self._path(url))

    def kind(self, path: str) -> Kind:
        from pyarrow import fs

        if path.startswith(("https://", "http://")):
            return "file"  # a server lists nothing, and to ask for every picture would take as long as to read it
        found = self._info(path).type
        return "folder" if found == fs.FileType.Directory else "absent" if found == fs.FileType.NotFound else "file"

    def state(self, path: str) -> str:
        return _state_of(self._info(path))

    def items(self, folder: str) -> Iterator[Item]:
        from pyarrow import fs

        with _told():
            found = self._fs.get_file_info(fs.FileSelector(self._path(folder)))
        found.sort(key=lambda info: info.base_name)
        for info in found:
            yield Item(info.base_name, info.type == fs.FileType.Directory, _state_of(info))

    def open(self, path: str) -> BinaryIO:
        with _told():
            return cast(BinaryIO, self._fs.open_input_file(self._path(path)))

    def identity(self, folder: str) -> tuple[int, int] | None:
        return None


def _state_of(info: Any) -> str:
    return " ".join(str(value) for value in (info.size, info.mtime_ns) if value is not None)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Around what a store does: whatever goes wrong becomes an OSError, as of a file of this machine."""
    try:
        yield
    except Exception as error:  # each store's own
        refuse_for_memory(error)
        raise OSError(first_line(error)) from None


@functools.lru_cache(maxsize=64)
def _remote(scheme: str, host: str) -> Store:
    return _Remote(scheme, host)


def why(error: Exception) -> str:
    """What went wrong with a file, in a few words."""
    return getattr(error, "strerror", None) or first_line(error)

"""What is to be scored: pictures one after the other, in a stable order, without a list of all of them in memory.

A source is a folder, a pattern, a picture, or a file that holds many: a list of names (``.txt``), a table
(``.parquet``) or an archive (``.tar``, as WebDataset has them). Each may be a path or a URL.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, BinaryIO, NamedTuple, cast

from lit_deploy.core.errors import ImageError, LitDeployError, UsageError, refuse_for_memory
from lit_deploy.core.text import first_line, shown_path
from lit_deploy.images.decoding import FORMATS_TEXT
from lit_deploy.images.folders import SUFFIXES
from lit_deploy.score.patterns import Parts, Pattern, holds_magic
from lit_deploy.score.storage import Store, is_url, join, store_of, why

LIST, TABLE, ARCHIVE = ".txt", ".parquet", ".tar"
_COMPRESSED = (".tgz", ".gz", ".bz2", ".xz", ".zst")
_HIDDEN, _UNREADABLE, _TWICE = "hidden", "in unreadable folders", "leading to a folder read already"
_USUAL_COLUMN = "image"
_ROWS = 1024  # names of a table that are read at a time


class Entry(NamedTuple):
    """A picture that is to be scored.

    Attributes:
        path: what results call it.
        file: path or URL of the file that holds it; ``state``: ``Item.state`` of that file.
        column: of a table, that holds pictures.
        place: where in the file: offset and size in an archive, row group and row in a table; None for a file that is
            the picture.
    """

    path: str
    file: str
    state: str
    column: str = ""
    place: tuple[int, int] | None = None


class Sources:
    """The pictures of several sources.

    Args:
        names: paths, URLs and patterns.
        column: of tables; ``image`` when None, or the only one that can be.
        leave: a folder of this machine that is not read: where results are written.

    Attributes:
        left_out: how many files and folders were left out, by the reason.
    """

    def __init__(self, names: Sequence[str], column: str | None = None, leave: str | None = None) -> None:
        self._names, self._column = names, column
        self._leave = None if leave is None else os.path.realpath(leave)
        self.left_out: Counter[str] = Counter()

    def entries(self) -> Iterator[Entry]:
        """Pictures, in the order of the sources and of the paths in each.

        Raises:
            ImageError: a source that is not there or cannot be read, or one without a picture.
            UsageError: a table or archive of another kind, or an unknown scheme.
            MissingDependency: a package that a scheme needs.
        """
        for name in self._names:
            count = 0
            for entry in self._of_source(name):
                count += 1
                yield entry
            if not count:
                told = f" (left out {self.summary})" if self.left_out else ""
                raise ImageError(
                    f"{name} holds no image{told}; give {FORMATS_TEXT} files, a {LIST} list of them, or {TABLE} and "
                    f"{ARCHIVE} files by their names or a pattern"
                )

    @property
    def summary(self) -> str:
        """What was left out, for a sentence."""
        return ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())

    def _of_source(self, name: str) -> Iterator[Entry]:
        if holds_magic(name):
            pattern = Pattern(name)
            yield from self._below(store_of(pattern.root), pattern.root, pattern)
            return
        store = store_of(name)
        try:
            kind = store.kind(name)
        except OSError as error:
            raise _unreadable(name, error) from None
        if kind == "absent":
            raise ImageError(f"{name} does not exist; give pictures, folders, lists, tables or archives that do")
        if kind == "folder":
            yield from self._below(store, name, None)
        else:
            yield from self._of_file(name, None)

    def _of_file(self, file: str, state: str | None) -> Iterator[Entry]:
        """The pictures that a file holds, or itself."""
        suffix = PurePath(file).suffix.lower()
        holds = {LIST: self._of_list, TABLE: self._of_table, ARCHIVE: _of_archive}.get(suffix)
        if suffix in _COMPRESSED:
            raise UsageError(
                f"{file} is compressed, and pictures are read from any place of an archive; unpack it once"
            )
        if holds is None:
            yield _picture(file, state)
            return
        store = store_of(file)
        try:
            with store.open(file) as opened:
                yield from holds(file, store.state(file) if state is None else state, opened)
        except LitDeployError:
            raise
        except ValueError as error:
            raise UsageError(
                f"{file} is damaged or of another kind ({first_line(error)}); replace it or leave it out"
            ) from None
        except Exception as error:  # each store's own, such as a transfer that broke off
            raise _unreadable(file, error) from None

    def _of_list(self, file: str, state: str, opened: BinaryIO) -> Iterator[Entry]:
        """A path or URL a line, as the system has it: names of files need not be text."""
        for line in io.BufferedReader(cast(io.RawIOBase, opened)):  # pyarrow's files know no lines
            name = os.fsdecode(line.rstrip(b"\r\n"))
            if name:
                yield from self._named(name)

    def _named(self, name: str) -> Iterator[Entry]:
        """What a line of a list names; lists in lists might never end."""
        yield from [_picture(name, None)] if PurePath(name).suffix.lower() == LIST else self._of_file(name, None)

    def _of_table(self, file: str, state: str, opened: BinaryIO) -> Iterator[Entry]:
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.ParquetFile(opened)
            column = _column_of(file, table.schema_arrow, self._column)
            kind = table.schema_arrow.field(column).type
            if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
                for batch in table.iter_batches(_ROWS, columns=[column]):
                    for name in batch.column(0).to_pylist():
                        yield from [_picture(name, None)] if name else ()
                return
            row = 0
            for group in range(table.num_row_groups):
                for place in range(table.metadata.row_group(group).num_rows):
                    yield Entry(f"{shown_path(file)}#{row}", file, state, column, (group, place))
                    row += 1
        except pyarrow.ArrowInvalid as error:
            raise UsageError(
                f"{file} is no whole Parquet file ({first_line(error)}); replace or leave it out"
            ) from None

    def _below(self, store: Store, root: str, pattern: Pattern | None) -> Iterator[Entry]:
        """The pictures in a folder and below it, or the files that match a pattern and the pictures in folders that do.

        What is in a folder comes by name, files and folders alike: that is the order of sorted paths.
        """
        seen: set[tuple[int, int]] = set()

        def walk(folder: str, parts: Parts) -> Iterator[Entry]:
            if not self._enters(store, folder, root if pattern is None else None, seen):
                return
            try:
                yield from inside(folder, parts)
            except OSError as error:
                if not parts:
                    raise _unreadable(root, error) from None
                self.left_out[_UNREADABLE] += 1

        def inside(folder: str, parts: Parts) -> Iterator[Entry]:
            for item in store.items(folder):
                path, below = join(folder, item.name), (*parts, item.name)
                if item.name.startswith("."):
                    self.left_out[_HIDDEN] += 1
                elif item.folder:
                    if pattern is None or pattern.may_hold(below):
                        yield from walk(path, below)
                elif pattern is None or pattern.matches_folder_of(below):
                    yield from self._taken(path, item.state)
                elif pattern.matches(below):
                    yield from self._matched(path, item.state)

        yield from walk(root, ())

    def _taken(self, path: str, state: str) -> Iterator[Entry]:
        suffix = PurePath(path).suffix.lower()
        if suffix in SUFFIXES:
            yield _picture(path, state)
        else:
            self.left_out[suffix or "without an ending"] += 1

    def _matched(self, path: str, state: str) -> Iterator[Entry]:
        held = PurePath(path).suffix.lower() in (LIST, TABLE, ARCHIVE)
        yield from self._of_file(path, state) if held else self._taken(path, state)

    def _enters(self, store: Store, folder: str, root: str | None, seen: set[tuple[int, int]]) -> bool:
        """Whether a folder is to be read: once, by its own name where that is in ``root``, too; so loops end."""
        try:
            identity = store.identity(folder)
        except OSError:
            return True  # reading it says what is wrong
        if identity is None:
            return True
        real = os.path.realpath(folder)
        if real == self._leave:
            return False
        linked = root is not None and folder != root and os.path.islink(folder)
        if identity in seen or (linked and real.startswith(os.path.join(os.path.realpath(root or ""), ""))):
            self.left_out[_TWICE] += 1
            return False
        seen.add(identity)
        return True


def _picture(file: str, state: str | None) -> Entry:
    """A file that is a picture. A store is not asked for the state of each: that costs as much as reading it."""
    if state is None:
        store = store_of(file)  # which refuses a scheme that nobody knows, before anything runs
        state = "" if is_url(file) else store.state(file)
    return Entry(shown_path(file), file, state)


def _of_archive(file: str, state: str, opened: BinaryIO) -> Iterator[Entry]:
    """The pictures of an archive: their headers are read, and their content is passed over."""
    try:
        with tarfile.open(fileobj=opened, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if member.size < 0:
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                name = PurePath(member.name)
                if member.isreg() and not name.name.startswith(".") and name.suffix.lower() in SUFFIXES:
                    path = shown_path(f"{file}/{member.name}")
                    yield Entry(path, file, state, place=(member.offset_data, member.size))
    except (tarfile.TarError, EOFError) as error:
        raise UsageError(f"{file} is no whole tar archive ({first_line(error)}); replace it or leave it out") from None


def _column_of(file: str, schema: Any, wanted: str | None) -> str:
    """The column of a table that holds pictures or their names."""
    import pyarrow

    def is_bytes(kind: Any) -> bool:
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    def can_be(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):  # as the datasets of Hugging Face have it: bytes and path
            return kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)
        return is_bytes(kind) or pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)

    able = [field.name for field in schema if can_be(field.type)]
    asked = wanted or (able[0] if len(able) == 1 else _USUAL_COLUMN)
    if asked not in able:
        had = f"has {', '.join(able)}" if able else "has none"
        raise UsageError(
            f"{file} has no column '{asked}' of pictures (bytes) or their paths; of columns that can be, it {had}; "
            "name one with --column"
        )
    if schema.names.count(asked) > 1:
        raise UsageError(f"{file} has several columns '{asked}'; give each a name of its own")
    return asked


def _unreadable(name: str, error: Exception) -> ImageError:
    refuse_for_memory(error)
    return ImageError(f"{name} cannot be read ({why(error)}); mend that, or leave it out")

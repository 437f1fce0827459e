"""The bytes of pictures, from wherever sources say that they are."""

from __future__ import annotations

from typing import Any, BinaryIO

from lit_deploy.core.errors import ImageError, LitDeployError, refuse_for_memory
from lit_deploy.images.decoding import MAX_BYTES
from lit_deploy.score.sources import Entry
from lit_deploy.score.storage import store_of, why


class Reader:
    """Reads pictures one after the other. Of what holds many, the last file of each kind is kept open."""

    def __init__(self) -> None:
        self._archive: tuple[tuple[str, str], BinaryIO] | None = None
        self._table: tuple[tuple[str, str], Any] | None = None
        self._group: tuple[tuple[str, str, str, int], Any] | None = None

    def content(self, entry: Entry) -> bytes:
        """The file of a picture.

        Raises:
            ImageError: it is not there, cannot be read, or is too large to be held in memory.
        """
        try:
            content = self._content(entry)
        except LitDeployError:
            raise
        except (ValueError, LookupError) as error:  # a table that was damaged or written anew since it was listed
            raise ImageError(f"the image cannot be read ({why(error)}): replace the file.") from None
        except Exception as error:  # each store's own, such as a transfer that broke off
            refuse_for_memory(error)
            raise ImageError(f"the image cannot be read ({why(error)}): mend that, and try again.") from None
        if len(content) > MAX_BYTES:
            raise _too_large()
        return content

    def _content(self, entry: Entry) -> bytes:
        if entry.place is None:
            with store_of(entry.file).open(entry.file) as file:
                return file.read(MAX_BYTES + 1)
        if entry.column:
            return self._of_table(entry, *entry.place)
        offset, size = entry.place
        if not 0 <= size <= MAX_BYTES:
            raise _too_large()
        archive = self._opened_archive(entry)
        archive.seek(offset)
        content = archive.read(size)
        if len(content) < size:
            raise ImageError("the image is cut off, as its archive ends before it does: replace the archive.")
        return content

    def _opened_archive(self, entry: Entry) -> BinaryIO:
        key = (entry.file, entry.state)
        if self._archive is None or self._archive[0] != key:
            if self._archive is not None:
                self._archive[1].close()
                self._archive = None
            self._archive = key, store_of(entry.file).open(entry.file)
        return self._archive[1]

    def _of_table(self, entry: Entry, group: int, row: int) -> bytes:
        import pyarrow.parquet

        key = (entry.file, entry.state)
        if self._table is None or self._table[0] != key:
            self._table = self._group = None
            self._table = key, pyarrow.parquet.ParquetFile(store_of(entry.file).open(entry.file))
        place = (*key, entry.column, group)
        if self._group is None or self._group[0] != place:
            self._group = None  # before the next one is read: two would be in memory
            read = self._table[1].read_row_group(group, columns=[entry.column])
            self._group = place, read.column(entry.column)
        value = self._group[1][row].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ImageError("the row holds no image: fill it, or leave it out.")
        return content


def _too_large() -> ImageError:
    return ImageError(f"the image has more than the {MAX_BYTES >> 20} MiB that are accepted: scale it down.")

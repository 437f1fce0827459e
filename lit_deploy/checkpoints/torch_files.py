"""What torch.save writes: a zip of stored records since torch 1.6, a row of pickles and numbers before.

Nothing that the file claims is believed before it is compared with the bytes that are there.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from typing import IO, Any, BinaryIO, cast

from lit_deploy.checkpoints.pickles import MAX_BYTES, read_pickle
from lit_deploy.checkpoints.stored import ITEM_SIZES, Ranges, Read, Storage, filled
from lit_deploy.core.errors import CheckpointError
from lit_deploy.core.text import shown_key

_MAX_DIRECTORY = 4 << 20  # bytes of a zip's directory, some 60,000 records
_LOCAL_HEADER = 30  # bytes in front of a record's name
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_COPY_AGAIN = "download or copy it again"
_DAMAGED = f"the file is truncated, damaged or no torch.save file; {_COPY_AGAIN}"
_EXPECTED = "expected a checkpoint as torch.save writes it"


def read_zip(file: BinaryIO) -> tuple[Any, Read]:
    """The content of a ``torch.save`` zip, and how its storages are read; checksums are verified as they are.

    Raises:
        CheckpointError: damaged, unsafe (see ``read_pickle``), compressed, overlapping, or another kind of zip.
    """
    try:
        archive = zipfile.ZipFile(cast("IO[bytes]", _Bounded(file)))
        members = _checked(archive)
        (pickled,) = [name for name in members if name.endswith("/data.pkl")]
        folder = pickled.removesuffix("data.pkl")

        def record(name: str, size: int | None = None) -> bytearray:
            member = members.get(folder + name)
            if member is None or size not in (None, member.file_size):
                raise CheckpointError(_DAMAGED)
            try:
                with archive.open(member) as stream:
                    data = filled(cast("BinaryIO", stream), member.file_size, member.filename)
                    stream.read(1)  # the checksum is compared at the end
                    return data
            except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, EOFError) as error:
                raise CheckpointError(_damaged(error)) from error

        if members[pickled].file_size > MAX_BYTES:
            raise CheckpointError(_too_large(members[pickled].file_size))
        if folder + "byteorder" in members and record("byteorder") != b"little":
            raise CheckpointError("the file was written on a big-endian machine; save its state_dict on another")
        content = read_pickle(io.BytesIO(record("data.pkl")))
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # zipfile raises a dozen types on damaged bytes
        raise CheckpointError(_damaged(error)) from error
    return content, lambda storage: record(f"data/{storage.key}", storage.size)


class _Bounded:
    """A file of which zipfile takes no more at a time than a directory may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_MAX_DIRECTORY + 1 if size < 0 else min(size, _MAX_DIRECTORY + 1))
        if len(data) > _MAX_DIRECTORY:
            raise CheckpointError(
                f"the file's list of records is larger than {_MAX_DIRECTORY >> 20} MiB, expected those of a network of "
                "at most some 20,000 tensors; save only the state_dict"
            )
        return data


def _checked(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The records by name: stored as they are, one after the other, and those of a checkpoint."""
    members = {member.filename: member for member in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in members) and any("/code/" in name for name in members):
        raise CheckpointError(
            f"the file is a TorchScript archive, {_EXPECTED}; save the state_dict of the original model instead"
        )
    if sum(name.endswith("/data.pkl") for name in members) != 1:
        arrays = bool(members) and all(name.endswith(".npy") for name in members)
        kind = "a NumPy .npz archive" if arrays else "a zip without one PyTorch checkpoint inside"
        raise CheckpointError(f"the file is {kind}, {_EXPECTED}")
    compressed = next((m for m in members.values() if m.compress_type != zipfile.ZIP_STORED), None)
    if compressed is not None:
        raise CheckpointError(
            f"the file holds the compressed record {shown_key(compressed.filename)}, {_EXPECTED}; load and save it "
            "again with torch"
        )
    end = 0
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        if member.header_offset < end or member.file_size != member.compress_size:
            raise CheckpointError(
                f"the file's records overlap ({shown_key(member.filename)}), expected one after the other; the file is "
                "forged"
            )
        end = member.header_offset + _LOCAL_HEADER + len(member.orig_filename) + member.compress_size
    if end > archive.start_dir:
        raise CheckpointError(_DAMAGED)
    return members


def read_legacy(file: BinaryIO) -> tuple[Any, Read]:
    """The same of the format before torch 1.6: three small pickles, the content, the storages' keys, their numbers.

    Raises:
        CheckpointError: damaged, or unsafe.
    """
    stream = io.BytesIO(file.read(MAX_BYTES))
    storages: dict[str, Storage] = {}
    first = read_pickle(stream)
    if first != _LEGACY_MAGIC or read_pickle(stream) != _LEGACY_PROTOCOL:
        raise CheckpointError(_DAMAGED)
    machine = read_pickle(stream)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("the file was written on a big-endian machine; save its state_dict on another")
    content, keys = read_pickle(stream, storages), read_pickle(stream)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or len(keys) != len(storages) or set(keys) != storages.keys():
        raise CheckpointError(_DAMAGED)
    return content, _placed(file, stream.tell(), keys, storages).read


def _placed(file: BinaryIO, position: int, keys: Iterable[str], storages: dict[str, Storage]) -> Ranges:
    """Where the storages lie: each is its count of numbers (int64) and then the numbers."""
    size, ranges = file.seek(0, io.SEEK_END), Ranges()
    for key in keys:
        storage = storages[key]
        file.seek(position)
        (count,) = struct.unpack("<q", filled(file, 8, "a storage's length"))
        begin = position + 8
        position = begin + storage.size
        if count != storage.numel or position > size:
            raise CheckpointError(
                f"the file is truncated or damaged: a tensor's {count} numbers of {ITEM_SIZES[storage.dtype]} bytes "
                f"are not in its {size} bytes; {_COPY_AGAIN}"
            )
        ranges.places[key] = (file, begin, storage.size)
    return ranges


def _damaged(error: Exception) -> str:
    return f"the file is truncated or damaged ({shown_key(str(error))}); {_COPY_AGAIN}"


def _too_large(size: int) -> str:
    return f"the file's pickle has {size} bytes, expected at most {MAX_BYTES}; save only the state_dict"

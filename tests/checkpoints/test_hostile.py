"""Checkpoints that mean harm: refused in one sentence, before anything is built or allocated for them."""

from __future__ import annotations

import os
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch
from support.checkpoints import peak_memory, tensors, write, write_pickle

from lit_deploy.checkpoints.containers import opened
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.checkpoints.pickles import MAX_DEPTH
from lit_deploy.core.errors import CheckpointError, StateDictMismatch
from lit_deploy.report.errors import MAX_LISTED, error_details

SECONDS = 5.0
"""Far above the hundredths that every refusal here takes, far below the minutes that they took once."""


def refusal(path: Path) -> str:
    """The one sentence with which a file is refused, soon."""
    begin = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert time.monotonic() - begin < SECONDS
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- pickles by hand


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def long(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def item(value: bytes, key: bytes | None = None) -> bytes:
    return b"}" + (text("x") if key is None else key) + value + b"s"


ENCODE = name("_codecs", "encode")
TENSOR = name("torch._utils", "_rebuild_tensor_v2")
STORAGE = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
DICT = name("collections", "OrderedDict")


def nested_encode() -> bytes:
    body = call(ENCODE, text("A" * 64), text("latin1"))
    for _ in range(24):
        body = call(ENCODE, body, text("hex_codec"))
    return item(body)


def nested(value: bytes, levels: int) -> bytes:
    return value + b"\x85" * levels


def doubling(levels: int) -> bytes:
    """A pair of a pair twice, of a pair twice ...: a few bytes a level, and endless to print."""
    return b"N" + b"".join(b"q%ch%c\x86" % (level, level) for level in range(levels))


PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bytearray": (lambda: item(call(name("builtins", "bytearray"), long(1 << 40))), "wants to call builtins.bytearray"),
    "python2 names": (lambda: item(call(name("__builtin__", "eval"), text("1"))), "wants to call __builtin__.eval"),
    "getattr": (lambda: item(call(name("builtins", "getattr"), text("a"), text("b"))), "call builtins.getattr"),
    "lookalike": (lambda: item(name("torch.storage", "_load_from_bytes")), "call torch.storage._load_from_bytes"),
    "long name": (lambda: item(name("a" * 10**6, "b")), "wants to call aaa"),
    "hex": (nested_encode, "wants to call _codecs.encode with hex_codec"),
    "nested latin1": (
        lambda: item(call(ENCODE, call(ENCODE, text("a"), text("latin1")), text("latin1"))),
        "_codecs.encode",
    ),
    "endless codec": (lambda: item(call(ENCODE, text("a"), doubling(90))), "encode with other things than texts"),
    "endless argument": (lambda: item(call(ENCODE, doubling(90), text("latin1"))), "_codecs.encode"),
    "endless key of a storage": (
        lambda: item(b"(" + text("storage") + name("torch", "FloatStorage") + doubling(80) + text("cpu") + b"K\x04tQ"),
        "damaged",
    ),
    "endless entry": (lambda: item(doubling(90), text("a.b")), "the entry a.b is a tuple"),
    "endless whole": (lambda: doubling(90), "it holds a tuple"),
    "punycode": (lambda: item(call(ENCODE, text("\u4e00" * 40_000), text("punycode"))), "encode with punycode"),
    "deep tuples": (lambda: item(b"N", nested(b"N", 10**5)), f"more than {MAX_DEPTH} deep"),
    "deep lists": (lambda: item(b"]" * 10**5 + b"a" * (10**5 - 1)), f"more than {MAX_DEPTH} deep"),
    "deep calls": (lambda: item(DICT * 200 + b"\x85R" * 200), "more than|damaged"),
    "tuples as keys": (lambda: item(b"N", b"K\x01K\x02\x86"), "keys that are no texts or numbers"),
    "colliding integers": (
        lambda: b"}(" + b"".join(long(i * (2**61 - 1)) + b"N" for i in range(2**10, 2**16)) + b"u",
        "thousands of integers beyond 64 bits",
    ),
    "far memo": (lambda: b"}r\xff\xff\xff\x7f", "truncated, damaged"),
    "unknown memo": (lambda: item(b"h\x05"), "truncated, damaged"),
    "empty stack": (lambda: b"s", "truncated, damaged"),
    "mark as value": (lambda: b"}" + text("x") + b"(s", "truncated, damaged"),
    "many steps": (lambda: b"]" + b"N0" * 600_000, "another protocol|steps"),
    "too many steps": (lambda: b"](" + b"N" * 1_100_000 + b"e", "more than 1000000 steps"),
    "shadowed methods": (
        lambda: DICT + b")R" + text("a") + b"K\x01s" + item(b"K\x05", text("items")) + b"b",
        "the attribute items, which would take the place of its method",
    ),
    "changed function": (lambda: item(TENSOR + b"N" + item(b")", text("__defaults__")) + b"\x86b"), "damaged"),
    "one list for many dicts": (lambda: item(call(DICT, b"]" + text("a") + b"K\x01\x86a")), "Python 2"),
    "newer protocol": (lambda: b"\x95" + bytes(8) + b"}", "with another protocol"),
    "extension": (lambda: item(b"\x82\x01"), "with another protocol"),
    "huge shape": (lambda: item(call(TENSOR, STORAGE, b"K\x00", long(2**40) + b"\x85", b"K\x01\x85")), "claims"),
    "expanded": (lambda: item(call(TENSOR, STORAGE, b"K\x00", long(2**40) + b"\x85", b"K\x00\x85")), "claims"),
    "negative shape": (lambda: item(call(TENSOR, STORAGE, b"K\x00", long(-4) + b"\x85", b"K\x01\x85")), "whole"),
    "negative offset": (lambda: item(call(TENSOR, STORAGE, long(-4), b"K\x01\x85", b"K\x01\x85")), "whole"),
    "no storage": (lambda: item(call(TENSOR, b"K\x01", b"K\x00", b"K\x01\x85", b"K\x01\x85")), "damaged"),
    "many dimensions": (
        lambda: item(call(TENSOR, STORAGE, b"K\x00", *[b"(" + b"K\x01" * 100_000 + b"t"] * 2)),
        "whole",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PICKLES)
def test_hostile_pickles(tmp_path: Path, kind: str) -> None:
    body, words = PICKLES[kind]
    sentence = refusal(write_pickle(tmp_path / "a.pth", body()))
    assert any(word in sentence for word in words.split("|")), sentence


def test_hostile_pickles_take_no_memory(tmp_path: Path) -> None:
    paths = [write_pickle(tmp_path / f"{kind}.pth", body()) for kind, (body, _) in PICKLES.items()]
    peak, sentences = peak_memory(*paths)
    assert [sentence.split(" ")[0] for sentence in sentences] == ["CheckpointError"] * len(paths)
    assert peak < 200e6


def test_storages_are_compared_with_their_records(tmp_path: Path) -> None:
    """A tensor of a whole network whose storage claims more numbers than its record has."""
    write(tmp_path / "a.pth", tensors())
    with zipfile.ZipFile(tmp_path / "a.pth") as old, zipfile.ZipFile(tmp_path / "b.pth", "w") as new:
        for member in old.infolist():
            content = old.read(member)
            new.writestr(member.filename, content[:-4] if member.filename == "a/data/0" else content)
    assert "truncated, damaged" in refusal(tmp_path / "b.pth")


def test_a_storage_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tensors view it: a buffer of all weights is not read for each of them."""
    state = tensors()
    own = [key for key, value in state.items() if value.dtype == torch.float32]
    flat, at = torch.cat([state[key].reshape(-1) for key in own]), 0
    for key in own:
        state[key], at = flat[at : at + state[key].numel()].view(state[key].shape), at + state[key].numel()
    write(tmp_path / "a.pth", state)
    reads: list[str] = []
    real = zipfile.ZipFile.open

    def noting(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
        reads.append(member.filename)
        return real(archive, member)

    monkeypatch.setattr(zipfile.ZipFile, "open", noting)
    load_checkpoint(tmp_path / "a.pth")
    assert reads.count("a/data/0") == 1
    assert max(map(reads.count, reads)) <= 2, "the first index tells the map's orientation before all are compared"


def test_endless_keys_of_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({}, path, _use_new_zipfile_serialization=False)
    assert path.read_bytes().endswith(b"\x80\x02]q\x00.")
    path.write_bytes(path.read_bytes().removesuffix(b"q\x00.") + doubling(90) + b"a.")
    assert "truncated, damaged" in refusal(path)


# ------------------------------------------------------------------------------------------------------------- zips


def test_overlapping_records(tmp_path: Path) -> None:
    """Thousands of directory entries over one record."""
    first, second = b"archive/data.pkl", b"archive/data/0"

    def header(entry: bytes, data: bytes) -> bytes:
        fields = (0x04034B50, 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(entry), 0)
        return struct.pack("<IHHHHHIIIHH", *fields) + entry + data

    def listed(entry: bytes, data: bytes, at: int) -> bytes:
        sizes = (zlib.crc32(data), len(data), len(data), len(entry), 0, 0, 0, 0, 0, at)
        return struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, *sizes) + entry

    pickled, blob = b"\x80\x02}.", bytes(1 << 20)
    content = header(first, pickled) + header(second, blob)
    directory = listed(first, pickled, 0) + listed(second, blob, len(header(first, pickled))) * 20_000
    end = (0x06054B50, 0, 0, 20_001, 20_001, len(directory), len(content), 0)
    (tmp_path / "a.pth").write_bytes(content + directory + struct.pack("<IHHHHIIH", *end))
    assert "records overlap" in refusal(tmp_path / "a.pth")


def test_too_many_records(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        for number in range(1000):
            archive.writestr(f"archive/data/{number}{'0' * 5000}", b"")
    assert "list of records is larger than 4 MiB" in refusal(tmp_path / "a.pth")


# ------------------------------------------------------------------------------------------------- keys and listings


def test_a_listing_says_how_many_more(tmp_path: Path) -> None:
    extra = dict.fromkeys((f"extra.{i}" for i in range(2000)), torch.zeros(1))
    with pytest.raises(StateDictMismatch, match="2000 unexpected") as caught:
        load_checkpoint(write(tmp_path / "a.pth", {"model": {**tensors(), **extra}}))
    assert error_details(caught.value).row_count == MAX_LISTED + 1


def test_too_many_keys(tmp_path: Path) -> None:
    state = {**tensors(), **dict.fromkeys((f"extra.{i}" for i in range(21_000)), torch.zeros(1))}
    assert "expected at most 20000" in refusal(write(tmp_path / "a.pth", {"model": state}))


# --------------------------------------------------------------------------------------------- what is no file at all


def test_pipes_sockets_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe, expected a checkpoint file" in refusal(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "is a socket" in refusal(tmp_path / "socket")
    assert "is a device" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, legacy: bool) -> None:
    """An error, and no signal: nothing is mapped."""
    path = tmp_path / "a.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=not legacy)
    with opened(path) as content:
        os.truncate(path, 100)
        for tensor in content.value.values():
            with pytest.raises(CheckpointError, match="truncated"):
                content.read(tensor.storage)

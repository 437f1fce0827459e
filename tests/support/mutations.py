"""Files that were whole once: bytes flipped, cut, repeated and replaced, by a seed."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator

NASTY = (
    b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"null", b"true", b'""', b"[]", b"{}", b"[" * 3000, b'{"a":' * 3000,
    b"\x1b[31m", b"\x1b]0;owned\x07", b"\xed\xa0\x80", b"\x00", b"\n", b"\xff\xfe", b"../../etc/passwd", b"[bold red]",
)  # fmt: skip
"""Texts that readers stumble over."""


def mutated(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """``count`` variants of a file, the same for the same seed; members of a zip are changed below its checksums."""
    chance = random.Random(seed)
    for index in range(count):
        if content.startswith(b"PK") and index % 2:
            yield _in_a_member(content, chance)
        else:
            yield _changed(content, chance)


def _changed(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        kind = chance.choice(("flip", "flip", "cut", "drop", "repeat", "noise", "same", "text", "text"))
        at = _place(len(data), chance)
        length = min(chance.choice((1, 2, 4, 16, 200)), len(data) - at)
        if kind == "flip" and data:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 50))
        elif kind == "noise":
            data[at : at + length] = chance.randbytes(length)
        elif kind == "same":
            data[at : at + length] = bytes([chance.choice((0, 255))]) * length
        elif kind == "text":
            data[at : at + length] = chance.choice(NASTY)
    return bytes(data)


def _place(size: int, chance: random.Random) -> int:
    """Anywhere, but more often where files keep their structure: at both ends."""
    if size == 0:
        return 0
    end = min(size, 4096)
    return chance.choice((chance.randrange(size), chance.randrange(end), size - 1 - chance.randrange(end)))


def _in_a_member(content: bytes, chance: random.Random) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        names = old.namelist()
        # the pickle and the headers of arrays say more than the numbers
        chosen = chance.choice([*names, *(name for name in names if name.endswith((".pkl", ".npy")))])
        for name in names:
            data = old.read(name)
            new.writestr(name, _changed(data, chance) if name == chosen else data)
    return written.getvalue()

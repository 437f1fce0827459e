"""What pixels are made of in a JPEG or PNG file, and the orientation beside them; other metadata is never read.

Texts, colour profiles, thumbnails and comments change no pixel here, and a small file can hold much of them: a PNG's
unpack to a thousand times their size. So they are left out of what the decoder gets. No third-party import.
"""

from __future__ import annotations

import re
import zlib

MAX_SCANS = 100
"""Scans of a JPEG file; more than any encoder writes. Each costs a pass over the whole picture, and takes a few bytes
of the file. ``examples/02_cpp_service/decode_jpeg.cc`` has the same limit."""

MAX_SEGMENTS = 2000
"""Segments of a JPEG file. A profile or depth map of the largest size takes a few hundred, and the decoder's first pass
is slow."""

MAX_TABLES = 1 << 20
"""Bytes of a JPEG file's tables and headers, which take a few thousand; the decoder reads some of them slowly."""

MAX_CHUNKS = 1 << 17
"""Chunks of a PNG file; in chunks of 8 KiB, as libpng writes them, more than 1 GiB."""

MAX_EXIF = 1 << 16
"""Bytes of an EXIF block, as many as a JPEG segment can hold; what is beyond is not looked at."""

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
"""How files of these formats begin."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # but for stuffed bytes, restarts and what stands alone
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
# All application segments, but JFIF's and Adobe's, which say what the components are; and comments.
_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}
_EXIF = 0xE1

_ORIENTATION, _SHORT = 0x0112, 3


def pixels_of(content: bytes) -> tuple[bytes, bytes]:
    """Leave out of a JPEG or PNG file what is no part of its pixels.

    Args:
        content: a whole file, which begins with ``JPEG`` or ``PNG``.

    Returns:
        A file of the same pixels, and its EXIF block for ``orientation_of``, empty where there is none.

    Raises:
        ValueError: the file is damaged or costs more than it can be worth; the text says why, as part of a sentence.
    """
    return _jpeg(content) if content.startswith(JPEG) else _png(content)


def _jpeg(content: bytes) -> tuple[bytes, bytes]:
    kept, exif, scans, tables, place = [content[:2]], b"", 0, 0, 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(content, place)
        begin = len(content) if found is None else found.start()
        if scans:  # between segments lies what a scan has coded, before the first one junk
            kept.append(content[place:begin])
        if found is None:
            return b"".join(kept), exif
        marker = content[begin + 1]
        if marker == _END:  # what follows are other pictures: previews, depth maps
            return b"".join([*kept, content[begin : begin + 2]]), exif
        length = 0 if marker == _START else max(2, int.from_bytes(content[begin + 2 : begin + 4], "big"))
        place = begin + 2 + length
        if marker not in _METADATA:
            kept.append(content[begin:place])
            tables += length
        elif marker == _EXIF and not exif and content.startswith(b"Exif\0\0", begin + 4):
            exif = content[begin + 10 : place]
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise ValueError(f"more than {MAX_SCANS} scans")
        if tables > MAX_TABLES:
            raise ValueError(f"more than {MAX_TABLES >> 20} MiB of tables")
    raise ValueError(f"more than {MAX_SEGMENTS} segments")


def _png(content: bytes) -> tuple[bytes, bytes]:
    kept, exif, previous, place = [PNG], b"", b"", len(PNG)
    pixels: list[bytes] = []
    for _ in range(MAX_CHUNKS):
        kind, end = content[place + 4 : place + 8], place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            raise ValueError("the file ends too early")
        if zlib.crc32(memoryview(content)[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"a wrong checksum of {kind.decode('latin-1')!a}")
        if kind == b"IDAT":
            if pixels and previous != kind:
                raise ValueError("its pixels are torn apart")
            pixels.append(content[place + 8 : end])
        elif kind == b"IEND":
            # One chunk for all: the decoder takes long for many small ones.
            return b"".join([*kept, _chunk(b"IDAT", b"".join(pixels)), _chunk(kind, b"")]), exif
        elif kind in (b"IHDR", b"PLTE") and not pixels:
            kept.append(content[place : end + 4])
        elif kind == b"eXIf":
            exif = content[place + 8 : min(end, place + 8 + MAX_EXIF)]
        previous, place = kind, end + 4
    raise ValueError(f"more than {MAX_CHUNKS} chunks")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")


def orientation_of(exif: bytes) -> int:
    """The orientation that an EXIF block gives to the picture beside it.

    Args:
        exif: the block, with or without the words before it; damaged or empty where it may be.

    Returns:
        1 to 8, as EXIF counts; 1, upright, where nothing that can be read says otherwise.
    """
    block = exif[:MAX_EXIF].removeprefix(b"Exif\0\0")
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(block[:4])
    if order is None:
        return 1

    def number(place: int, size: int) -> int:
        return int.from_bytes(block[place : place + size], order)  # type: ignore[arg-type]

    first = number(4, 4)
    for entry in range(first + 2, min(first + 2 + 12 * number(first, 2), len(block) - 11), 12):
        if (number(entry, 2), number(entry + 2, 2)) == (_ORIENTATION, _SHORT):
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1

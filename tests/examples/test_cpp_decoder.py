"""The decoder of the HTTP service by itself: pixels, orientations and limits are those of ``lit_deploy.images``."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lit_deploy.core.errors import ImageError
from lit_deploy.images.containers import MAX_SCANS, MAX_SEGMENTS, MAX_TABLES
from lit_deploy.images.decoding import load_image
from lit_deploy.images.synthetic import synthetic_image

SERVICE = Path(__file__).parents[2] / "examples" / "02_cpp_service"

# Of every file: an error's sentence, or the size that was asked for, the picture's own, and its pixels.
PROGRAM = r"""
#include <cstdio>
#include <fstream>
#include <iterator>
#include "decode.h"
int main(int count, char** words) {
  const bool upright = std::string(words[1]) == "upright";
  for (int i = 2; i < count; ++i) {
    std::ifstream file(words[i], std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    std::ofstream out(std::string(words[i]) + ".out", std::ios::binary);
    int asked[2] = {};
    try {
      const auto check = [&](int width, int height) { asked[0] = width, asked[1] = height; };
      const lit_service::Picture picture = lit_service::decode(bytes, {1 << 20, check, upright});
      out << asked[0] << ' ' << asked[1] << ' ' << picture.width << ' ' << picture.height << '\n';
      out.write(reinterpret_cast<const char*>(picture.rgb.get()), 3l * picture.width * picture.height);
    } catch (const lit_service::DecodeError& error) {
      out << error.what();
    }
  }
}
"""

Decode = Callable[[Literal["upright", "stored"], dict[str, bytes]], dict[str, "NDArray[np.uint8] | str"]]


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    """Decodes files by name; a refusal is its sentence."""
    folder = tmp_path_factory.mktemp("decoder")
    compiler, program = shutil.which("c++"), folder / "decode"
    (folder / "main.cc").write_text(PROGRAM)
    words = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{SERVICE}", "-o", str(program)]
    sources = [folder / "main.cc", *sorted(SERVICE.glob("decode*.cc"))]
    if compiler is None or not Path("/usr/include/jpeglib.h").is_file() or not Path("/usr/include/png.h").is_file():
        pytest.skip("no C++ compiler, libjpeg or libpng: apt-get install g++ libjpeg-dev libpng-dev")
    subprocess.run([compiler, *words, *map(str, sources), "-ljpeg", "-lpng"], check=True)

    def decoded(how: str, files: dict[str, bytes]) -> dict[str, NDArray[np.uint8] | str]:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        subprocess.run([program, how, *(folder / name for name in files)], check=True)
        found: dict[str, NDArray[np.uint8] | str] = {}
        for name in files:
            head, _, pixels = (folder / f"{name}.out").read_bytes().partition(b"\n")
            if not pixels:
                found[name] = head.decode()
                continue
            *asked, width, height = map(int, head.split())
            assert asked == [width, height], "whether a picture is taken is asked of it as it is seen"
            found[name] = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        return found

    return decoded


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A block with another entry before the orientation."""
    begin = b"II*\0" if order == "<" else b"MM\0*"
    entries = [(0x010E, 2, 1, b"a\0\0\0"), (0x0112, kind, 1, struct.pack(f"{order}HH", orientation, 0))]
    packed = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    return begin + struct.pack(f"{order}IH", 8, len(entries)) + packed + bytes(4)


def saved(form: str, block: bytes | None = None) -> bytes:
    """A picture of 37 x 53 pixels as a file with an EXIF block."""
    target = BytesIO()
    how = {} if block is None else {"exif": b"Exif\0\0" + block if form == "JPEG" else block}
    Image.fromarray(synthetic_image(5, "orientation", 53, 37)).save(target, form, **how)
    return target.getvalue()


def test_orientations_are_those_of_python(decode: Decode) -> None:
    files = {}
    for form in ("JPEG", "PNG"):
        files |= {f"{form} {n} {order}": saved(form, exif(n, order)) for n in range(1, 9) for order in "<>"}
        files[f"{form} none"] = saved(form)
        odd = {"nine": exif(9), "another type": exif(6, kind=4), "cut": exif(6)[:-8], "cut early": exif(6)[:5]}
        odd["far away"] = b"II*\0" + b"\xff" * 8
        files |= {f"{form} {name}": saved(form, block) for name, block in odd.items()}
    shapes = set()
    for how in ("upright", "stored"):
        for name, pixels in decode(how, files).items():  # type: ignore[arg-type]
            expected = np.asarray(load_image(files[name], exif=how == "upright"))
            np.testing.assert_array_equal(pixels, expected, err_msg=f"{name} {how}")
            shapes.add((how, expected.shape))
    assert shapes == {("upright", (53, 37, 3)), ("upright", (37, 53, 3)), ("stored", (53, 37, 3))}


def test_the_first_block_of_a_jpeg_and_the_last_of_a_png_count(decode: Decode) -> None:
    jpeg, png = saved("JPEG", exif(6)), saved("PNG", exif(3))
    second = b"\xff\xe1" + struct.pack(">H", 8 + len(exif(3))) + b"Exif\0\0" + exif(3)
    place = jpeg.index(b"\xff\xdb")
    chunk = saved("PNG", exif(8))
    begin = chunk.index(b"eXIf") - 4
    other = chunk[begin : begin + 12 + len(exif(8))]
    files = {"a.jpg": jpeg[:place] + second + jpeg[place:], "a.png": png[:-12] + other + png[-12:]}
    for name, pixels in decode("upright", files).items():
        np.testing.assert_array_equal(pixels, np.asarray(load_image(files[name], exif=True)), err_msg=name)
        assert isinstance(pixels, np.ndarray)
        assert pixels.shape == (37, 53, 3)


@pytest.mark.parametrize("over", [False, True], ids=["at the limit", "beyond it"])
def test_limits_of_jpeg_are_those_of_python(over: bool, decode: Decode) -> None:
    jpeg = saved("JPEG")
    place, own = jpeg.index(b"\xff\xdb"), 0
    parts = jpeg[2 : jpeg.index(b"\xff\xda")]
    while parts:  # those that the file has itself: the ones before its scan, this one, the end
        parts, own = parts[2 + int.from_bytes(parts[2:4], "big") :], own + 1
    comment, table = b"\xff\xfe\0\2", b"\xff\xf0" + struct.pack(">H", 2**16 - 1) + bytes(2**16 - 3)
    files = {
        "segments.jpg": jpeg[:place] + comment * (MAX_SEGMENTS - own - 2 + over) + jpeg[place:],
        "scans.jpg": jpeg[:-2] + b"\xff\xda\0\2" * (MAX_SCANS - 1 + over) + jpeg[-2:],
        "tables.jpg": jpeg[:place] + table * (MAX_TABLES // (2**16 - 1) - 1 + 2 * over) + jpeg[place:],
    }
    words = {
        "segments.jpg": "more than 2000 segments",
        "scans.jpg": "more than 100 scans",
        "tables.jpg": "MiB of tables",
    }
    for name, found in decode("stored", files).items():
        refusal = found if isinstance(found, str) else ""
        assert (words[name] in refusal) == over, (name, refusal)
        if over:
            with pytest.raises(ImageError, match=words[name]):
                load_image(files[name])

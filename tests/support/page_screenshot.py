"""Writes what the service's page shows of a picture; docs/images/service_page.png was made by it.

    PYTHONPATH=tests python -m support.page_screenshot http://127.0.0.1:8080/ photo.jpg page.png

A fourth word is the least score, in percent.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from support.chromium import Browser


def main(address: str, picture: Path, out: Path, least: int = 50) -> None:
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as browser:
        browser.show(1280, 800)
        browser.open(address)
        browser.choose("#choose", picture.resolve())
        browser.wait_for("result && document.getElementById('busy').hidden")
        browser.evaluate(f"least.value = {least}; least.oninput(); scrollTo(0, 0)")
        few = Image.Quantize.MAXCOVERAGE  # colours that cover little keep theirs: those of the boxes
        browser.screenshot().quantize(256, few, kmeans=1, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))

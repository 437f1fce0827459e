"""Fixtures of the evaluation of detectors and segmentation networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_dense import draw_pictures, fakes, write_annotations

__all__ = ["fakes", "pictures", "truth"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Folder of the pictures of ``fake_dense``."""
    draw_pictures(tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Their annotations in COCO's JSON."""
    write_annotations(tmp_path / "truth.json")
    return tmp_path / "truth.json"

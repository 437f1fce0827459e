"""The golden cases of preprocessing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from lit_deploy.core.specs import InputSpec

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "preprocess.npz")
RAW = InputSpec(kind="uint8", height=224, width=224, resize=256)
PHOTOS = ("china", "flower")
NAMES = (*PHOTOS, "gray", "rgba", "palette", "exif6")


def golden_file(name: str, folder: Path) -> Path:
    """The image file behind a golden case; the two photos are scikit-learn's own sample files."""
    if name in PHOTOS:
        datasets = pytest.importorskip("sklearn.datasets")
        path = Path(datasets.__file__).parent / "images" / str(GOLDEN[f"{name}.file_name"])
    else:
        path = folder / str(GOLDEN[f"{name}.file_name"])
        path.write_bytes(GOLDEN[f"{name}.file"].tobytes())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == str(GOLDEN[f"{name}.file_sha256"])
    return path

"""examples/04_search: the README's commands, and that neighbours are alike."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import Run
from support.documentation import ROOT, blocks, run_in_shell


def test_neighbours_are_alike(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "demo").mkdir()
    readme = (ROOT / "examples" / "04_search" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    for command in "".join(blocks(readme, "sh")).splitlines():
        if command.startswith("lit-deploy "):  # in this process, where PyTorch is loaded already
            assert run(*shlex.split(command)[1:]).code == 0
        else:
            printed = run_in_shell(command, tmp_path)
    (expected,) = blocks(readme, "text")
    assert printed.splitlines()[0] == expected.splitlines()[0] == "420 pictures, 128 features each"
    nearest, eight = (float(share) for share in re.findall(r"([\d.]+)%", printed))
    assert nearest > 90
    assert eight > 90
    sheet = np.asarray(Image.open(tmp_path / "demo" / "neighbours.png").convert("RGB")).astype(int)
    assert sheet.shape[0] > 11 * 100
    frames = (sheet == (42, 157, 92)).all(axis=-1).sum() / (104**2 - 96**2)
    assert 75 <= frames <= 11 * 8, "most neighbours have the frame of the same class"

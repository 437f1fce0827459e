"""The Python of docs/python.md is run as it is written, on smaller pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from support.documentation import ROOT, blocks, run_in_shell


def test_page(checkpoint_file: Callable[[str], Path], tmp_path: Path) -> None:
    """Build, train, export, verify with what was saved, predict: LIT-S for pictures of 64 pixels."""
    code = "".join(blocks((ROOT / "docs" / "python.md").read_text(), "python")).replace("160", "64")
    (tmp_path / "lit_s.pth").symlink_to(checkpoint_file("lit_s"))
    printed = run_in_shell([sys.executable, "-c", code], tmp_path, OMP_WAIT_POLICY="PASSIVE").splitlines()
    assert printed[0].startswith("pass ")
    assert printed[1] == "['head.bias', 'head.weight']"
    assert printed[2] == "pass"
    assert printed[-1].startswith("breed ")
    assert "(4, 37)" in printed

"""ONNX Runtime keeps no book on its users through us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import ROOT

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install 'lit-deploy[ort]'")

OPEN = "from lit_deploy import open_session\nimport sys\nwith open_session(sys.argv[1]): pass"
PLAIN = "import onnxruntime"
TOLD = "import os, lit_deploy\nprint(os.environ['ORT_DISABLE_TELEMETRY'])"


def left_by(script: str, file: Path, home: Path) -> list[str]:
    """Files that a process leaves in a home of its own."""
    home.mkdir()
    # Nothing of this process's own environment: ONNX Runtime also keeps quiet where a variable speaks of CI.
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, file], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [path.name for path in home.rglob("*") if path.is_file()]


def test_a_session_leaves_nothing_in_the_home_of_its_user(exported: Path, tmp_path: Path) -> None:
    if not left_by(PLAIN, exported, tmp_path / "its own"):
        pytest.skip("this ONNX Runtime writes no telemetry")
    assert left_by(OPEN, exported, tmp_path / "ours") == []


def test_what_the_user_has_said_counts() -> None:
    for said in ("0", "1"):
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": said}
        done = subprocess.run([sys.executable, "-c", TOLD], env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout.strip() == said

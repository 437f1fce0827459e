"""What worker processes do alike: the import path, their end, and the words for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.engines import ROOT, needs_rtx
from support.exported import export_of

from lit_deploy.bench import worker as bench_worker
from lit_deploy.core.processes import ending, worker_command, worker_environment
from lit_deploy.exporters import engine_process

TRAP = "raise SystemExit('the json.py of the folder was imported')"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of somebody who calls their files like modules of Python's and ours."""
    for name in ("json.py", "typing.py", "numpy.py", "lit_deploy.py"):
        (tmp_path / name).write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_of_the_working_folder_are_not_imported(folder: Path) -> None:
    """``python -m`` alone would import them in place of the real modules."""
    environment = worker_environment({"PATH": os.environ["PATH"]})
    for module in ("json.tool", "lit_deploy.bench.worker"):
        command = worker_command(module)
        arguments = [str(os.getpid())] if module.startswith("lit_deploy") else []
        done = subprocess.run(
            [*command, *arguments], input="", env=environment, capture_output=True, text=True, timeout=60
        )
        assert "was imported" not in done.stderr
        trapped = subprocess.run(
            [word for word in command if word != "-P"], input="", env=environment, capture_output=True, text=True
        )
        assert "was imported" in trapped.stderr, "the trap works"
    assert done.returncode == 0, done.stderr
    assert worker_command("lit_deploy.bench.worker") == bench_worker.COMMAND
    assert worker_command("lit_deploy.exporters.tensorrt_builder") == engine_process.COMMAND


@needs_rtx
def test_an_engine_is_built_in_such_a_folder(folder: Path, checkpoint_file: object) -> None:
    source = export_of(checkpoint_file("tiny"))  # type: ignore[operator]
    command = [sys.executable, "-P", "-m", "lit_deploy.cli", "export", "--format", "trt", "--no-plugin"]
    done = subprocess.run(
        [*command, "--ckpt", str(source)],
        env=worker_environment(dict(os.environ)), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "tiny.engine").is_file()


def test_environment() -> None:
    """This very package comes first, so that parent and worker are of one release."""
    assert worker_environment({"A": "b"}) == {"A": "b", "PYTHONPATH": str(ROOT)}
    given = {"PYTHONPATH": "/one:/two"}
    assert worker_environment(given) == {"PYTHONPATH": f"{ROOT}:/one:/two"}
    assert worker_environment({"PYTHONPATH": ""}) == {"PYTHONPATH": str(ROOT)}, "an empty entry is the working folder"
    assert given == {"PYTHONPATH": "/one:/two"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGSEGV, "was ended by SIGSEGV"),
        (-signal.SIGKILL, "was killed, most often for lack of memory; try a smaller batch"),
    ],
)
def test_endings(code: int, words: str) -> None:
    assert ending(code) == words


PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
CHILD = """
import sys, time
from lit_deploy.core.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can be asked for that")
def test_a_worker_dies_with_its_parent() -> None:
    environment = worker_environment(dict(os.environ))
    done = subprocess.run(
        [sys.executable, "-c", PARENT, CHILD], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    status, end = Path(f"/proc/{int(done.stdout)}/stat"), time.monotonic() + 20
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "it lives on"
        time.sleep(0.01)
    late = subprocess.run([sys.executable, "-c", CHILD, "1"], env=environment, capture_output=True, text=True)
    assert (late.returncode, late.stdout) == (1, ""), "the parent was gone before it could be watched"

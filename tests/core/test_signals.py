"""Signals end a process within seconds, and its temporary files with it, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command import ROOT

from lit_deploy.core.signals import ended_by_signals

PROGRAM = """
import ctypes, os, sys, threading, time
from pathlib import Path
from lit_deploy.core.files import atomic_path, scratch_folder
from lit_deploy.core.signals import ended_by_signals
with ended_by_signals(grace=0.3), scratch_folder() as scratch, atomic_path(Path("out")) as part:
    (scratch / "weights").write_text("x")
    part.write_text("half")
    threading.Timer(0.3, print, ["ready"], {"flush": True}).start()  # by then it is deep in what follows
    %s
    print("done", flush=True)
"""
PYTHON = "time.sleep(60)"
NATIVE = (
    "lock = ctypes.create_string_buffer(64); take = ctypes.CDLL(None).pthread_mutex_lock\n    take(lock); take(lock)"
)
"""The second time it never comes back, and no signal interrupts it: as deep in native code as one can be."""


def started(folder: Path, work: str, *before: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    (folder / "work").mkdir()
    process = subprocess.Popen(
        [*before, sys.executable, "-c", PROGRAM % work], cwd=folder / "work", env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(os.listdir(folder / "work")) == len(os.listdir(folder / "tmp")) == 1
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("work", [PYTHON, NATIVE], ids=["python", "native code"])
def test_a_signal_ends_it(work: str, number: signal.Signals, tmp_path: Path) -> None:
    process = started(tmp_path, work)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert os.listdir(tmp_path / "work") == os.listdir(tmp_path / "tmp") == []


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup: the terminal may go."""
    process = started(tmp_path, "time.sleep(1.5)", "nohup")
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n")
    assert os.listdir(tmp_path / "work") == ["out"]


def test_a_second_signal_does_not_break_off_the_end(tmp_path: Path) -> None:
    work = "try: time.sleep(60)\n    finally: print('leaving', flush=True); time.sleep(0.2)"
    process = started(tmp_path, work)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "leaving\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert os.listdir(tmp_path / "work") == os.listdir(tmp_path / "tmp") == []


def test_a_signal_to_a_forked_process_is_its_own(tmp_path: Path) -> None:
    """It has its parent's pipe; the parent goes on."""
    work = (
        "child = os.fork()\n"
        "    if not child: time.sleep(60); os._exit(1)\n"
        "    time.sleep(0.5); os.kill(child, 15)\n"
        "    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True); time.sleep(0.8)"
    )
    process = started(tmp_path, work)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "15\ndone\n", "")


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)]
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with ended_by_signals():
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, *before)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    end = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > descriptors:
        assert time.monotonic() < end
        time.sleep(0.01)

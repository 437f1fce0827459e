"""Every number on the command line has bounds, and they are checked before any file is looked at."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import typer
from support.command import ROOT, Run

from lit_deploy import cli
from lit_deploy.artifacts.contract import header
from lit_deploy.commands.values import batch_size, height_width, share
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH, MAX_SIDE, MAX_THREADS

UNBOUNDED = {
    ("export", "mean"), ("export", "std"),  # three at once: InputSpec
    ("export", "calib_percentile"), ("quantize", "calib_percentile"),  # QuantizeOptions, which is made first
}  # fmt: skip
"""Options that are checked by what they are made into."""


def numbers() -> list[tuple[str, str, typer.models.OptionInfo]]:
    """Every option that is a number: its command, its name, and what is said about it."""
    found = []
    for command in cli.app.registered_commands:
        assert command.callback is not None
        for name, kind in typing.get_type_hints(command.callback, include_extras=True).items():
            arguments = typing.get_args(kind)
            if not arguments or not hasattr(kind, "__metadata__"):
                continue
            types = {arguments[0], *typing.get_args(arguments[0])}
            inner = {part for each in types for part in (each, *typing.get_args(each))}
            if inner & {int, float}:
                found.append((command.callback.__name__, name, kind.__metadata__[0]))
    return found


def test_every_number_has_bounds() -> None:
    found = numbers()
    assert len(found) > 20, "the walk sees them"
    assert {(command, name) for command, name, _ in found} >= UNBOUNDED
    loose = [(c, n) for c, n, option in found if option.min is None or option.max is None]
    assert set(loose) == UNBOUNDED


@pytest.mark.parametrize(
    "command",
    [
        "predict a.onnx b.png --threads 100000",
        "predict a.onnx b.png --threads 1025",
        "predict a.onnx b.png --top 1000001",
        "predict a.onnx b.png --threads " + "9" * 5000,
        "predict a.onnx b.png --score-threshold 1.5",
        "export --ckpt a --threads 1025",
        "export --ckpt a --max-det 1001",
        "export --ckpt a --resize 262145",
        "export --ckpt a --batch 1025",
        f"export --ckpt a --batch {'9' * 5000}",
        "export --ckpt a --batch 1:2:1025 --format trt",
        "export --ckpt a --size 16385x64",
        f"export --ckpt a --size {'9' * 5000}x64",
        "export --ckpt a --size 0x64",
        "export --ckpt a --format trt --workspace 1048577",
        "export --ckpt a --score-threshold nan",
        "export --ckpt a --iou-threshold nan",
        "export --ckpt a --precision int8 --calib b --calib-limit 65537",
        "export --ckpt a --precision int8 --calib b --accuracy-budget nan",
        "export --ckpt a --precision int8 --calib b --calib-method percentile --calib-percentile nan",
        "quantize a.onnx --calib b --calib-limit 65537",
        "bench --rounds 10001",
        "bench --batch 1025",
        "bench --size 16385x16385",
        "evaluate a.onnx --images b --workers 1025",
        "evaluate a.onnx --images b --limit 10000001",
        "evaluate a.onnx --images b --batch 1025",
        "evaluate a.onnx --images b --min-top1 nan",
        "evaluate a.onnx b.onnx --images b --min-agreement nan",
        "evaluate a.onnx --images b --min-ap inf",
        "verify a.onnx --ckpt b --limit 10000001",
        "package a.onnx --target triton --workers 1025",
        "package a.onnx --target triton --max-delay-us 60000001",
    ],
    ids=lambda command: command[:80],
)
def test_beyond_them(command: str, run: Run) -> None:
    """No file of these is there; the number is what is told."""
    start = time.monotonic()
    outcome = run(*command.split())
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    said = re.sub(r"[^a-z0-9]+", "", outcome.err.lower())
    option = next(word for word in reversed(command.split()) if word.startswith("--"))
    asked = {"--accuracy-budget": "accuracybudget", "--calib-percentile": "percentile"}.get(option, option)
    assert re.sub(r"[^a-z0-9]+", "", asked) in said or "format" in option, outcome.err
    assert time.monotonic() - start < 30


def test_ranges_that_options_of_words_have() -> None:
    assert batch_size("--batch", str(MAX_BATCH), "a number") == MAX_BATCH
    assert height_width("--size", f"{MAX_SIDE}x1") == (MAX_SIDE, 1)
    assert share("--min-top1", 0) == 0
    assert share("--min-top1", 100) == 1
    for percent in (float("nan"), float("inf"), 100.5, -1, 0.5):
        with pytest.raises(UsageError, match="expected percent"):
            share("--min-top1", percent)


def test_the_same_in_c() -> None:
    assert f"kMaxThreads = {MAX_THREADS};" in header()
    assert f"kMaxBatch = {MAX_BATCH};" in header()


STUCK = """
import ctypes, functools, sys, threading
from pathlib import Path
from lit_deploy import cli
from lit_deploy.core.files import atomic_path
def stuck(*arguments, **more):
    with atomic_path(Path("tiny.onnx")):
        threading.Timer(0.3, print, ["ready"], {"flush": True}).start()
        lock, take = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
        take(lock); take(lock)  # the second time it never comes back, as a compiler that takes hours
cli.ended_by_signals = functools.partial(cli.ended_by_signals, grace=0.2)
from lit_deploy.workflows import export
export.export_checkpoint = stuck
sys.argv = ["lit-deploy", "export", "--ckpt", "tiny.pth"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_command_deep_in_native_code_ends(number: signal.Signals, tmp_path: Path) -> None:
    """Within seconds, and without a file of its own left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(os.listdir(tmp_path)) == 1
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert os.listdir(tmp_path) == []

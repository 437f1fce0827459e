"""The export as a whole: manifest, parity gate, and files that are whole or not there, whatever happens."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.exported import change_initializer, export_of

import lit_deploy
from lit_deploy.artifacts.onnx_file import OnnxArtifact, read_manifest
from lit_deploy.checkpoints.load import load_checkpoint
from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Progress, Step
from lit_deploy.workflows import export as export_module
from lit_deploy.workflows.export import export_checkpoint
from lit_deploy.workflows.verify import ParityFailed

CheckpointFile = Callable[[str], Path]


def test_manifest_of_an_export(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    tiny = checkpoint_file("tiny")
    steps: list[str] = []
    result = export_checkpoint(tiny, tmp_path / "a.onnx", progress=lambda step: steps.append(str(step)))
    assert steps == [
        "load checkpoint", "fold and lower", "trace and convert", "name and check", "verify against PyTorch"
    ]  # fmt: skip
    manifest = read_manifest(tmp_path / "a.onnx")
    assert manifest == result.manifest
    checkpoint = load_checkpoint(tiny)
    assert (manifest.source, manifest.source_sha256) == (tiny.name, checkpoint.sha256)
    assert manifest.model == checkpoint.spec
    assert manifest.op_version == 1
    assert manifest.versions.keys() == {"lit_deploy", "torch", "onnx"}
    assert result.report is not None
    assert manifest.parity == result.report.summary()
    assert manifest.parity["verdict"] == "pass"
    assert result.size == (tmp_path / "a.onnx").stat().st_size
    assert os.listdir(tmp_path) == ["a.onnx"]
    assert read_manifest(export_of(tiny)).parity is None, "skipped"


@pytest.fixture
def converted(checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose slow conversion is replaced by its result; the rest of the export is real."""
    checkpoint = checkpoint_file("tiny")
    path = export_of(checkpoint)

    def stored(checkpoint: Any, options: Any, progress: Progress) -> OnnxArtifact:
        progress(Step("trace and convert"))
        return OnnxArtifact.read(path)

    monkeypatch.setattr(export_module, "onnx_from_checkpoint", stored)
    return checkpoint


def test_output_must_be_named_onnx(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        export_checkpoint(checkpoint_file("tiny"), tmp_path / "lit.engine")


def test_unwritable_places(converted: Path, tmp_path: Path) -> None:
    """Refused in words; where that is known beforehand, before minutes of conversion."""
    steps: list[str] = []
    (tmp_path / "directory.onnx").mkdir()
    for target in (tmp_path / "absent" / "a.onnx", tmp_path / "directory.onnx"):
        with pytest.raises(UsageError, match="cannot write"):
            export_checkpoint(converted, target, progress=lambda step: steps.append(str(step)))
    assert steps == []
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    target = locked / "a.onnx" if os.geteuid() else Path("/proc/a.onnx")  # root may write anywhere but there
    with pytest.raises(UsageError, match="cannot write"):
        export_checkpoint(converted, target, verify=False)


def test_disk_full(converted: Path, tmp_path: Path) -> None:
    """The operating system itself refuses the write: a limit on the size of files."""
    out = tmp_path / "a.onnx"
    out.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UsageError, match=f"cannot write {re.escape(str(out))}: File too large"):
            export_checkpoint(converted, out, verify=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_a_file_that_fails_parity_is_not_written(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check reads the written bytes: a weight that changed on the way to the disk keeps the old file in place."""
    out = tmp_path / "a.onnx"
    out.write_text("old")
    write = OnnxArtifact.write

    def damage(artifact: OnnxArtifact, path: Path) -> None:
        damaged = onnx.ModelProto()
        damaged.CopyFrom(artifact.graph)
        change_initializer(damaged, "head.weight", lambda value: value * np.float32(1.01))
        write(replace(artifact, graph=damaged), path)

    monkeypatch.setattr(OnnxArtifact, "write", damage)
    with pytest.raises(ParityFailed, match="was not written: logits: relative error") as caught:
        export_checkpoint(converted, out)
    assert caught.value.report.verdict == "fail"
    assert caught.value.exit_code == 1
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.onnx"]


@pytest.mark.parametrize("step", ["load checkpoint", "trace and convert", "verify against PyTorch"])
def test_interrupt_leaves_nothing(converted: Path, tmp_path: Path, step: str) -> None:
    def stop(reached: Step) -> None:
        if reached.name == step:
            assert not (tmp_path / "a.onnx").exists(), "only the hidden temporary file is there"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(converted, tmp_path / "a.onnx", progress=stop)
    assert os.listdir(tmp_path) == []


KILLED = """
import os, sys, time
from pathlib import Path
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.core.progress import Step
from lit_deploy.workflows import export
moment, ckpt, done, out = sys.argv[1:]
def reached(name):
    if name == moment:
        print("reached", flush=True)
        time.sleep(600)
def write(artifact, path, whole=OnnxArtifact.write):
    data = artifact.to_bytes()
    with open(path, "wb") as file:
        file.write(data[: len(data) // 2]); file.flush(); reached("half written")
    whole(artifact, path); reached("written")
OnnxArtifact.write = write
def seal(artifact, path, whole=OnnxArtifact.seal):
    os.truncate(path, artifact.graph.ByteSize() + 10); reached("half sealed")
    whole(artifact, path)
OnnxArtifact.seal = seal
def stored(checkpoint, options, progress):
    progress(Step("trace and convert"))
    return OnnxArtifact.read(Path(done))
export.onnx_from_checkpoint = stored
replace = os.replace
def rename(a, b):
    reached("before the rename"); replace(a, b); reached("after the rename")
os.replace = rename
export.export_checkpoint(ckpt, out, progress=lambda step: reached(step.name))
print("done", flush=True)
"""
MOMENTS = (
    "trace and convert",
    "half written",
    "written",
    "verify against PyTorch",
    "half sealed",
    "before the rename",
    "after the rename",
)


def test_killed_export_leaves_no_half_file(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """SIGKILL at seven moments: the final name holds what was there before, or the whole new file."""
    checkpoint = checkpoint_file("tiny")
    environment = {**os.environ, "PYTHONPATH": str(Path(lit_deploy.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    waiting = list(enumerate(MOMENTS))
    while waiting:  # two at a time: most of it is starting up
        running = []
        for number, moment in waiting[:2]:
            out = tmp_path / str(number) / "a.onnx"
            out.parent.mkdir()
            if number % 2:
                out.write_text("old")
            command = [sys.executable, "-c", KILLED, moment, str(checkpoint), str(export_of(checkpoint)), str(out)]
            running.append((moment, out, subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)))
        waiting = waiting[2:]
        for moment, out, process in running:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert line == "reached\n", moment
            assert process.returncode == -signal.SIGKILL
            left = [name for name in os.listdir(out.parent) if not name.startswith(".")]
            if moment == "after the rename":
                assert read_manifest(out).parity is not None
                continue
            assert left == (["a.onnx"] if MOMENTS.index(moment) % 2 else [])
            if left:
                assert out.read_text() == "old", moment


def test_output_over_the_checkpoint_is_refused(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    copy = tmp_path / "tiny.onnx"
    copy.write_bytes(checkpoint_file("tiny").read_bytes())
    with pytest.raises(UsageError, match="is the checkpoint itself"):
        export_checkpoint(copy, copy)
    assert copy.read_bytes() == checkpoint_file("tiny").read_bytes()

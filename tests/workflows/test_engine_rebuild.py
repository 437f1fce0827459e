"""The command that builds an engine again, run as it stands: with TensorRT-RTX, on machines without a GPU too."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.engines import (
    PLUGIN,
    PORTABLE,
    ROOT,
    check_files,
    command_line,
    engine_of,
    family,
    host_with,
    needs_plugin,
    needs_rtx,
)
from support.exported import export_of

from lit_deploy.artifacts.preflight import preflight, rebuild_command
from lit_deploy.artifacts.sidecar import Sidecar, onnx_path, read_sidecar
from lit_deploy.core.errors import ArtifactError
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.machine.cuda import Gpu
from lit_deploy.machine.tensorrt import installed_version

CheckpointFile = Callable[[str], Path]
SETTINGS = replace(PORTABLE, layers=True, targets=("8.9", "12.0"), workspace_mib=32, optimization_level=1)


def moved(engine: Path, folder: Path, name: str = "moved engine.plan") -> Path:
    """A copy of an engine's family under another name, in a folder whose name has a space."""
    there = folder / "other place" / name
    there.parent.mkdir()
    for old, new in zip(family(engine), family(there), strict=True):
        shutil.copyfile(old, new)
    return there


def run(command: str, folder: Path) -> None:
    """Run a rebuild command as a process, in an empty folder of its own; it must write nothing there."""
    work = folder / "somewhere else"
    work.mkdir()
    program, *arguments = shlex.split(command)
    assert program == "lit-deploy"
    done = command_line(arguments, work)
    assert done.returncode == 0, done.stderr
    assert os.listdir(work) == []


def lasting(sidecar: Sidecar) -> Sidecar:
    """A sidecar without its file names, and without what differs between two builds of the same."""
    return replace(sidecar, onnx="", engine_sha256="", engine_size=0)


@needs_rtx
@pytest.mark.parametrize(
    ("build", "options"),
    [
        pytest.param(PORTABLE, {"precision": "fp16"}, id="plain"),
        pytest.param(SETTINGS, {"batch": 2}, id="every setting"),
        pytest.param(replace(PORTABLE, profile=(2, 3, 5)), {"portable": True}, id="portable"),
        pytest.param(replace(PLUGIN, plugin=None), {}, id="plugin, as it was found", marks=needs_plugin),
        pytest.param(replace(PLUGIN, plugin=None, embed_plugin=True), {}, id="embedded plugin", marks=needs_plugin),
    ],
)
def test_the_command_rebuilds(
    build: EngineOptions, options: dict[str, Any], checkpoint_file: CheckpointFile, tmp_path: Path
) -> None:
    """From another folder, for an engine that was moved and renamed: the same description, in place of the old one."""
    engine = moved(engine_of(checkpoint_file("tiny"), build, **options), tmp_path)
    before = read_sidecar(engine)
    engine.write_bytes(b"damaged")
    run(rebuild_command(engine, before), tmp_path)
    after = check_files(engine)
    assert after.onnx == onnx_path(engine).name
    assert lasting(after) == lasting(before)
    assert abs(after.engine_size - before.engine_size) < 0.01 * before.engine_size
    assert sorted(os.listdir(engine.parent)) == sorted(path.name for path in family(engine))


@needs_rtx
def test_the_command_in_a_refusal_mends_it(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Refused over a link, on a GPU that it was not built for: after the command at the end of the sentence it runs."""
    engine = moved(engine_of(checkpoint_file("tiny"), SETTINGS, batch=2), tmp_path)
    link = tmp_path / "current.engine"
    link.symlink_to(engine)
    ampere = host_with(Gpu("RTX 3090", "8.6", "13.0"), installed_version("tensorrt_rtx"))
    with pytest.raises(ArtifactError, match=r"of compute capability 8\.9, 12\.0, here is RTX 3090") as caught:
        preflight(link, read_sidecar(link), ampere)
    run(str(caught.value).partition("build it again here: ")[2], tmp_path)
    after = check_files(engine)
    assert after.build.targets == ("8.6",)
    assert link.is_symlink(), "the engine was replaced, and not the link to it"
    assert preflight(link, read_sidecar(link), ampere).name == "RTX 3090"


@needs_rtx
def test_the_onnx_file_beside_it_is_a_source(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """``--ckpt x.engine.onnx`` makes ``x.engine`` here, without PyTorch; the graph is taken as it is."""
    source = tmp_path / "from" / "net.engine.onnx"
    source.parent.mkdir()
    source.write_bytes(export_of(checkpoint_file("tiny")).read_bytes())
    script = "import sys; sys.modules['torch'] = None; from lit_deploy.cli import main; main()"
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, "export", "--ckpt", str(source), "--format", "trt", "--no-plugin"],
        cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(work)) == ["net.engine", "net.engine.json", "net.engine.onnx"]
    check_files(work / "net.engine")
    for word in ("net.engine", "TensorRT-RTX", "1:8:32", "float32", "was taken as it is"):
        assert word in done.stdout, word

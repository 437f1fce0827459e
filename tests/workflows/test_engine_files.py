"""Where an engine and its family are written: refused before the build, or all three files appear, or none."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.engines import ENGINE, H200, PORTABLE, SIDECAR, family, host_with, write_engine
from support.exported import export_of

from lit_deploy.artifacts.sidecar import Sidecar, onnx_path, read_sidecar, sidecar_path
from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Step
from lit_deploy.exporters import engine_files
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.workflows import export as export_module
from lit_deploy.workflows.export import export_engine

CheckpointFile = Callable[[str], Path]


@pytest.fixture
def prebuilt(checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ONNX file whose build is replaced by a result; the writing is real."""

    def stored(model: bytes, manifest: Any, name: str, options: Any, progress: Any) -> tuple[bytes, Sidecar]:
        progress(Step("build"))
        return ENGINE, SIDECAR

    monkeypatch.setattr(engine_files, "engine_from_onnx", stored)
    return export_of(checkpoint_file("tiny"))


def test_unwritable_places_are_refused_before_the_build(prebuilt: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    (tmp_path / "folder.engine").mkdir()
    absent = Path("/proc/a.engine")  # root may write anywhere but there
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        absent = tmp_path / "locked" / "a.engine"
    for target in (tmp_path / "absent" / "a.engine", tmp_path / "folder.engine", absent):
        for source, options in ((prebuilt, None), (prebuilt.with_suffix(".pth"), OnnxOptions())):
            with pytest.raises(UsageError, match=f"cannot write {re.escape(str(target))}: "):
                export_engine(source, target, options, progress=lambda step: steps.append(str(step)))
    assert steps == []
    assert os.listdir(tmp_path / "folder.engine") == []


@pytest.mark.parametrize("name", ["a.engine", "a.engine.json", "a.engine.onnx", "a.cache"])
def test_every_file_of_the_family_is_tried_before_the_build(
    name: str, checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the engine alone: minutes of building are not lost over its sidecar or its timing cache."""
    monkeypatch.setattr(engine_files, "engine_from_onnx", lambda *_: pytest.fail("it was built"))
    (tmp_path / name).mkdir()
    steps: list[str] = []
    options = replace(PORTABLE, backend="tensorrt", timing_cache=tmp_path / "a.cache")
    for source in (export_of(checkpoint_file("tiny")), checkpoint_file("tiny")):
        with pytest.raises(UsageError, match=rf"cannot write {re.escape(str(tmp_path / name))}: it is a directory"):
            export_engine(source, tmp_path / "a.engine", None, options, progress=lambda step: steps.append(str(step)))
    assert steps == []
    assert os.listdir(tmp_path) == [name]


def test_why_an_engine_was_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the name that it is going to have, and without a command that would build the same again."""
    part = write_engine(tmp_path)
    final = tmp_path / "final.engine"
    monkeypatch.setattr(export_module, "find_gpu", lambda: H200)
    monkeypatch.setattr(export_module, "this_host", lambda: host_with(H200))
    assert export_module._cannot_run(part, final, SIDECAR) == (
        f"the engine itself was not run: {final} was built for RTX GPUs of compute capability 8.0, 8.6, 8.9, 12.0, "
        "12.1, here is NVIDIA H200 (compute capability 9.0)"
    )
    monkeypatch.setattr(export_module, "this_host", host_with)
    assert export_module._cannot_run(part, final, SIDECAR) == ""
    monkeypatch.setattr(export_module, "find_gpu", lambda: None)
    assert export_module._cannot_run(part, final, SIDECAR) == "no GPU here, so the engine itself was not run"


def test_names(prebuilt: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "a", "engine"):
        with pytest.raises(UsageError, match=rf"the output is {name}, expected a name that ends in \.engine"):
            export_engine(prebuilt, tmp_path / name)
    export_engine(prebuilt, tmp_path / "A.PLAN")
    assert sorted(os.listdir(tmp_path)) == ["A.PLAN", "A.PLAN.json", "A.PLAN.onnx"]


def test_a_disk_that_fills_up(prebuilt: Path, tmp_path: Path) -> None:
    """The operating system refuses the second of three files: none of them gets its name."""
    out = tmp_path / "a.engine"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for path in family(out):
        path.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(ENGINE) + 1000, hard))
    try:
        with pytest.raises(UsageError, match=r"cannot write .*a\.engine.*: File too large"):
            export_engine(prebuilt, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.read_text() for path in family(out)} == {"old"}
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_a_failure_before_the_end_leaves_the_old_files(
    error: BaseException, prebuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.engine"
    for path in family(out):
        path.write_text("old")

    def fail(self: Sidecar) -> str:
        raise error

    monkeypatch.setattr(Sidecar, "to_json", fail)
    with pytest.raises(type(error)):
        export_engine(prebuilt, out)
    assert {path.read_text() for path in family(out)} == {"old"}
    assert len(os.listdir(tmp_path)) == 3


def test_the_engine_gets_its_name_last(prebuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the renames, there is no engine without its sidecar."""
    renamed: list[str] = []

    def rename(part: Path, final: Path, real: Callable[..., None] = os.replace) -> None:
        renamed.append(Path(final).name)
        real(part, final)

    monkeypatch.setattr(os, "replace", rename)
    export_engine(prebuilt, tmp_path / "a.engine")
    assert renamed[-1] == "a.engine"
    assert sorted(renamed) == sorted(os.listdir(tmp_path)) == ["a.engine", "a.engine.json", "a.engine.onnx"]
    assert read_sidecar(tmp_path / "a.engine") == SIDECAR
    assert (tmp_path / "a.engine").read_bytes() == ENGINE
    assert onnx_path(tmp_path / "a.engine").read_bytes() == prebuilt.read_bytes()
    assert sidecar_path(tmp_path / "a.engine").read_text().endswith("}\n")

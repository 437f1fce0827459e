"""Options of an engine: what is refused, in one sentence, and before a build begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.engines import PORTABLE
from support.exported import export_of

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH
from lit_deploy.exporters import engine_process
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.exporters.tensorrt import engine_from_onnx
from lit_deploy.machine.tensorrt import RTX_TARGETS
from lit_deploy.workflows.export import export_engine

CheckpointFile = Callable[[str], Path]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"profile": (8, 4, 32)}, "the batch profile is 8:4:32, expected MIN:OPT:MAX in ascending order, 1 to 1024"),
        ({"profile": (1, 33, 32)}, "the batch profile is 1:33:32"),
        ({"profile": (0, 1, 2)}, "the batch profile is 0:1:2"),
        ({"profile": (1, 8, MAX_BATCH + 1)}, "the batch profile is 1:8:1025"),
        ({"embed_plugin": True, "plugin": False}, "embedded and left out at once; drop one of the two options"),
        ({"optimization_level": -1}, "the optimisation level is -1, expected 0 to 5"),
        ({"optimization_level": 6}, "the optimisation level is 6, expected 0 to 5"),
        ({"workspace_mib": 0}, "the workspace limit is 0 MiB, expected 1 to 1048576"),
        ({"targets": ("8.6", "9.0")}, "the target is '9.0', expected compute capabilities of "),
        ({"targets": ("sm_89",)}, "the target is 'sm_89'"),
        ({"targets": ("",)}, "the target is ''"),
        ({"targets": ("8.6", " 8.9")}, "the target is ' 8.9'"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        EngineOptions(**options)
    assert words in str(caught.value)


def test_values_at_the_ends() -> None:
    EngineOptions(profile=(1, 1, 1), optimization_level=0, workspace_mib=1)
    EngineOptions(profile=(1, MAX_BATCH, MAX_BATCH), optimization_level=5, targets=RTX_TARGETS)
    EngineOptions(embed_plugin=True, plugin=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(PORTABLE, version_compatible=True), "TensorRT-RTX does not take --version-compatible: its engines"),
        (
            replace(PORTABLE, hardware_compatible=True),
            "TensorRT-RTX does not take --hardware-compatible: name the",
        ),
        (replace(PORTABLE, timing_cache=Path("a")), "TensorRT-RTX does not take --timing-cache: it measures nothing"),
        (EngineOptions("tensorrt", targets=("8.9",)), "TensorRT does not take --target: it builds for the GPU"),
    ],
)
def test_what_a_back_end_would_silently_ignore(
    options: EngineOptions, words: str, checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "COMMAND", ("/no/builder/is/started",))
    source = export_of(checkpoint_file("tiny"))
    steps: list[str] = []
    with pytest.raises(UsageError) as caught:
        engine_from_onnx(source.read_bytes(), read_manifest(source), "a.engine", options, steps.append)
    assert str(caught.value).startswith(words)
    assert steps == []


def test_a_graph_that_is_decided_already(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    source = export_of(checkpoint_file("tiny"))
    with pytest.raises(UsageError, match=r"tiny\.onnx is exported already, so what is in its graph cannot be chosen"):
        export_engine(source, tmp_path / "a.engine", OnnxOptions(precision="fp16"), PORTABLE)
    assert list(tmp_path.iterdir()) == []


def test_a_profile_for_a_fixed_batch(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be ignored; the profile of a file whose batch is dynamic has a default, and None stands for it."""
    assert EngineOptions().profile is None
    monkeypatch.setattr(engine_process, "COMMAND", ("/no/builder/is/started",))
    source = export_of(checkpoint_file("tiny"), batch=3)
    for profile in ((3, 3, 3), (1, 8, 32)):
        with pytest.raises(UsageError) as caught:
            export_engine(source, tmp_path / "a.engine", None, replace(PORTABLE, profile=profile))
        assert str(caught.value) == "the ONNX file is for batches of 3 only, so it takes no profile; drop --batch"
    assert list(tmp_path.iterdir()) == []

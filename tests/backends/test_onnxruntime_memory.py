"""How ONNX Runtime's memory is set up, by what a file's end says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.dense import DenseFile
from support.exported import export_of

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.onnxruntime import OnnxRuntimeSession
from lit_deploy.backends.protocol import SessionOptions

CLASSIFIER, SEGMENTATION = "classification", "semantic_segmentation"


@pytest.mark.parametrize("task", [CLASSIFIER, SEGMENTATION])
@pytest.mark.parametrize("in_memory", [False, True], ids=["file", "in memory"])
def test_only_classifiers_plan_where_values_lie(
    task: str, in_memory: bool, dense_file: DenseFile, checkpoint_file: Callable[[str], Path]
) -> None:
    path = export_of(checkpoint_file("tiny")) if task == CLASSIFIER else dense_file(task)
    source = OnnxArtifact.read(path) if in_memory else path
    with OnnxRuntimeSession(source, SessionOptions(library=False)) as session:
        assert session._session.get_session_options().enable_mem_pattern == (task == CLASSIFIER)

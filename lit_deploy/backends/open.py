"""``open_session``: from a file, a name or what is in memory to the back end that runs it."""

from __future__ import annotations

import importlib
from pathlib import Path

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.protocol import Session, SessionOptions, Source
from lit_deploy.backends.table import BACKENDS, BackEndRecord
from lit_deploy.checkpoints.load import Checkpoint
from lit_deploy.core.errors import UsageError


def back_end_of(source: Source, options: SessionOptions) -> BackEndRecord:
    """The back end that runs a source: ``options.backend`` where it can, else the first that runs such files."""
    if isinstance(source, Checkpoint):
        return BACKENDS["torch"]
    suffix = ".onnx" if isinstance(source, OnnxArtifact) else Path(source).suffix.lower()
    able = [record for record in BACKENDS.values() if suffix in record.suffixes]
    return next((record for record in able if record.name == options.backend), able[0] if able else BACKENDS["torch"])


def open_session(source: Source, options: SessionOptions | None = None) -> Session:
    """Open a checkpoint (PyTorch), an ``.onnx`` file (ONNX Runtime, OpenVINO), an IR (OpenVINO), an engine (TensorRT).

    Args:
        source: a checkpoint file, an official model name, an https URL, an ``.onnx`` file, an ``.xml`` file with its
            ``.bin`` beside it, or an ``.engine`` or ``.plan`` file with its sidecar; or a checkpoint or an ``.onnx``
            file's content that is in memory.
        options: device, threads, custom-op library, layers.

    Returns:
        A session that is loaded when entered, ``with open_session("lit_s.onnx") as session: ...``, or first used: in a
        notebook ``session = open_session("lit_s.onnx")`` is enough. What it holds is freed by the end of the ``with``,
        by ``close()``, or with the last reference to it.

    Raises:
        UsageError, ArtifactError, CheckpointError, MissingDependency: when entered or first used, as their names say.
    """
    options = options or SessionOptions()
    record = back_end_of(source, options)
    if options.precision_hint is not None and record.name not in ("openvino", "torch"):  # a reference is what it is
        raise UsageError(
            f"a precision hint is for OpenVINO, but {record.title} is to run {source}; add --backend openvino"
        )
    module, _, name = record.session.partition(":")
    session: Session = getattr(importlib.import_module(module), name)(source, options)
    return session

"""The files of an engine: itself, the ONNX file it was made from, its sidecar. All of them, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.artifacts.sidecar import Sidecar, onnx_path, sidecar_path
from lit_deploy.core.files import atomic_path
from lit_deploy.core.progress import Progress, unseen
from lit_deploy.exporters.engine_options import EngineOptions
from lit_deploy.exporters.tensorrt import engine_from_onnx


@contextlib.contextmanager
def written_engine(
    artifact: OnnxArtifact, out: Path, options: EngineOptions, progress: Progress = unseen
) -> Iterator[tuple[Path, Sidecar]]:
    """Build an engine of an ONNX model and yield it, whole, under a temporary name, with its sidecar.

    The files get their names when the context ends without an exception, and are gone otherwise. Nothing is on the disk
    while the engine is built. Should the process die between two renames, an older engine is left with a newer sidecar.
    That is never mistaken for a pair: a sidecar holds the hash of its engine.

    Args:
        artifact: what to build.
        out: the engine; the others are ``<out>.onnx`` and ``<out>.json``.
        options, progress: see ``engine_from_onnx``, whose errors these are, too.
    """
    model = artifact.to_bytes()
    content, sidecar = engine_from_onnx(model, artifact.manifest, out.name, options, progress)
    with atomic_path(out, onnx_path, sidecar_path) as part:
        part.write_bytes(content)
        onnx_path(part).write_bytes(model)
        write_sidecar(part, sidecar)
        yield part, sidecar


def write_sidecar(engine: Path, sidecar: Sidecar) -> None:
    """Write the sidecar of an engine that has its temporary name yet."""
    sidecar_path(engine).write_text(sidecar.to_json() + "\n", encoding="utf-8")

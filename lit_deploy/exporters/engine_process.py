"""The process that builds, from the side of the one that wants the engine: what it is told, and what it answers.

An abort inside the library becomes a message, and a killed build leaves nothing behind, because model and engine travel
through anonymous memory and not through files.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.sidecar import SizeProfile
from lit_deploy.core import errors
from lit_deploy.core.errors import BuildFailed, LitDeployError
from lit_deploy.core.files import atomic_path
from lit_deploy.core.processes import ending, worker_command, worker_environment
from lit_deploy.core.progress import Progress, Step
from lit_deploy.exporters.engine_options import EngineOptions, shapes_of
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.tensorrt import BACKENDS, BackendName
from lit_deploy.models.families import FAMILIES
from lit_deploy.ops.nms.matrix_form import NMS_PREFIX
from lit_deploy.tasks.table import task_of

COMMAND = worker_command("lit_deploy.exporters.tensorrt_builder")
LAST_LINES = 12
PLUGIN_SAYS = "lit-deploy plugin: "
"""How the plugin's messages begin on standard error."""


@contextlib.contextmanager
def _memory(name: str, content: bytes = b"") -> Iterator[int]:
    """A file descriptor of anonymous memory."""
    descriptor = os.memfd_create(name)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read(size)


def built(
    model: bytes,
    manifest: Manifest,
    options: EngineOptions,
    sizes: SizeProfile | None,
    library: Path | None,
    plugins: tuple[str, ...],
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    """Run the builder process; return the engine and what the process reported.

    Args:
        model, manifest, options, progress: see ``tensorrt.engine_from_onnx``; ``sizes``: ``engine_sizes`` of them.
        library: of the plugins, None to leave them out; ``plugins``: names of those that the network has.
    """
    backend = options.backend
    assert backend is not None
    cache, task = options.timing_cache, task_of(manifest)
    old_cache = cache.read_bytes() if cache is not None and cache.is_file() else b""
    with _memory("model", model) as model_fd, _memory("engine") as engine_fd, _memory("cache", old_cache) as cache_fd:
        request = {
            "parent": os.getpid(),
            "float32_prefixes": (FAMILIES[manifest.model.family].patch_prefix, NMS_PREFIX),
            "backend": backend,
            "model": model_fd,
            "engine": engine_fd,
            "cache": cache_fd if cache is not None else None,
            "library": str(library) if library else None,
            "plugins": plugins,
            "profile": shapes_of(manifest, options, sizes),
            "dims": {spec.name: spec.shape for spec in (*task.input_specs(manifest), *task.output_specs(manifest))},
            "embed_plugin": options.embed_plugin,
            "hardware_compatible": options.hardware_compatible,
            "version_compatible": options.version_compatible,
            "targets": options.targets,
            "workspace_mib": options.workspace_mib,
            "optimization_level": options.optimization_level,
            "layers": options.layers,
        }
        facts = _converse(request, (model_fd, engine_fd, cache_fd), backend, progress)
        if cache is not None:
            with atomic_path(cache) as part:
                part.write_bytes(_content(cache_fd))
        return _content(engine_fd), facts


def _converse(
    request: dict[str, Any], descriptors: tuple[int, ...], backend: BackendName, progress: Progress
) -> dict[str, Any]:
    """Start the builder process, pass its progress on, and return its last answer."""
    with tempfile.TemporaryFile() as log:  # anonymous: gone with this process
        process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env=worker_environment(trt.process_environment(backend)),
            pass_fds=descriptors, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # a dead process shows below, with its last words
                process.stdin.write(json.dumps(request).encode())
                process.stdin.close()
            for line in process.stdout:
                answer: dict[str, Any] = json.loads(line)
                if "refused" in answer:
                    lines = _last_lines(log)
                    ours = [line for line in lines if line.startswith(PLUGIN_SAYS)]  # TensorRT's own reason is a code
                    raise BuildFailed(f"{answer['refused']}; {ours[-1]}" if ours else answer["refused"], lines)
                if "error" in answer:
                    kind: type[LitDeployError] = getattr(errors, answer["error"])
                    raise kind(answer["message"])
                if "done" in answer:
                    facts: dict[str, Any] = answer["done"]
                    return facts
                progress(Step(answer["step"], answer["fraction"]))
            raise BuildFailed(f"the {BACKENDS[backend].title} builder {ending(process.wait())}", _last_lines(log))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


def _last_lines(log: IO[bytes]) -> tuple[str, ...]:
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    return tuple([line for line in lines if line][-LAST_LINES:])

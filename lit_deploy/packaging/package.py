"""Package an exported file for a server: a model repository of NVIDIA Triton, written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES
from lit_deploy.core.errors import UsageError
from lit_deploy.packaging import files
from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.serving import Serving, path_word, start_command
from lit_deploy.packaging.source import Source, engine_source, onnx_source
from lit_deploy.packaging.triton_configs import MAX_PIXELS, ensemble_config, network_config, preprocessing_config

_WORKER_MIB = 128 + (16 * MAX_PIXELS >> 20)
"""Memory of a preprocessing process at worst: for every pixel PNG takes 8 bytes, JPEG and resizing 12, WebP 16."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class TritonPackage:
    """What was written.

    Attributes:
        repository: folder of the model repository; ``model``: what clients ask for; ``models``: all that were written.
        command: what starts the server; ``start``: the file that says more.
        max_batch: images per batch at most, 0 where the file's own is fixed.
        library: file name of the library beside the model, or None.
        notes: sentences on what to know before it is started.
    """

    repository: str
    model: str
    models: tuple[str, ...]
    command: str
    start: str
    max_batch: int
    library: str | None
    notes: tuple[str, ...]


def package_triton(source: str | Path, repository: str | Path, options: TritonOptions | None = None) -> TritonPackage:
    """Write an exported file into a Triton model repository.

    Three models are written, ``NAME`` (the ensemble, and START.md, Dockerfile and Kubernetes manifests beside it),
    ``NAME_preprocessing`` and ``NAME_network``; or, without the ensemble, the network alone as ``NAME``. Models that
    are there already under other names stay untouched.

    Args:
        source: an ``.onnx`` file, or an engine of TensorRT with its sidecar beside it.
        repository: folder of models; made when it is not there.
        options: how to serve.

    Raises:
        ArtifactError: the file is damaged, Triton cannot run it, or its labels are not one line each.
        UsageError: options that do not fit the file, a model of that name is there, or the folder cannot be written.
        MissingDependency: the library that is needed is not built here.
    """
    options, path = options or TritonOptions(), Path(source)
    out = Path(os.path.realpath(repository))
    name = path.name.split(".")[0] if options.name is None else options.name
    if not _MODEL_NAME.fullmatch(name):
        raise UsageError(
            f"the model name is '{name}', expected up to 100 letters, digits, '.', '_' and '-', e.g. --name lit_s"
        )
    if not str(out).isprintable() or set(str(out)) & set(":;"):
        raise UsageError(f"cannot package into {str(out)!r}: ':', ';' and control characters break LD_LIBRARY_PATH")
    if path.suffix.lower() == ".onnx":
        described = onnx_source(path, options)
    elif path.suffix.lower() in ENGINE_SUFFIXES:
        described = engine_source(path, options)
    else:
        raise UsageError(f"{path} is neither an .onnx file nor an engine; make one with `lit-deploy export`")
    if described.manifest.task != "classification":
        raise UsageError(
            f"{path} is for {described.manifest.task.replace('_', ' ')}, and only classifiers are packaged; serve the "
            ".onnx file with ONNX Runtime (docs/dense.md)"
        )
    inner, preprocessing = (f"{name}_network", f"{name}_preprocessing") if options.ensemble else (name, None)
    models = tuple(dict.fromkeys(entry for entry in (preprocessing, inner, name) if entry))
    replaced = files.check_place(out, name, models, options.force)
    network, manifest = described.network, described.manifest
    serving = _serving(described, name, out.name, options)

    def build(folder: Path) -> None:
        config = network_config(inner, network)
        files.write_network(folder / inner, config, path, network.backend, manifest)
        if preprocessing is not None:
            config = preprocessing_config(preprocessing, network, options.workers)
            files.write_preprocessing(folder / preprocessing, config, manifest)
            files.write_ensemble(folder / name, ensemble_config(name, network, preprocessing, inner), manifest)
        files.write_start(folder / name, serving, described.library)

    files.install(out, models, replaced, build)
    command = start_command(serving, shlex.quote(path_word(str(repository))))
    start = path_word(str(Path(repository, name, "START.md")))
    return TritonPackage(
        repository=str(repository),
        model=name,
        models=models,
        command=command,
        start=start,
        max_batch=network.max_batch,
        library=serving.library,
        notes=serving.notes,
    )


def _serving(source: Source, name: str, repository: str, options: TritonOptions) -> Serving:
    """What the start file and the manifests say of a source."""
    network, library = source.network, source.library
    workers = options.workers if options.ensemble else 0
    size = source.path.stat().st_size >> 20
    pixels = network.inputs[0]
    crop = math.prod(size for size in pixels.shape[1:] if isinstance(size, int)) * np.dtype(pixels.dtype).itemsize
    crops = crop * (network.max_batch or network.fixed_batch) * workers >> 20
    shared = 64 * -(-max(256, 128 + crops) // 64)  # 128: the encoded images
    return Serving(
        name=name,
        repository=repository,
        release=source.release,
        image=options.image,
        device=network.device,
        ensemble=options.ensemble,
        fixed_batch=network.fixed_batch,
        library=library.name if library is not None else None,
        arguments=source.arguments,
        pillow=importlib.metadata.version("pillow"),
        # Without --threads nothing is known of the machine: what any has, and no limit.
        cpus=network.threads * network.instances + workers if network.threads else 2,
        # Triton itself; weights, their packed form and activations; images
        memory_mib=1024 + 512 * -(-4 * size * network.instances // 512) + workers * _WORKER_MIB + shared,
        shared_memory_mib=shared,
        outputs=tuple(spec.name for spec in network.outputs),
        labelled=bool(network.labelled),
        notes=source.notes,
    )

"""Package an exported file for a server: a model repository of NVIDIA Triton, written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_deploy.artifacts.openvino_file import IR_SUFFIX
from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES
from lit_deploy.core.errors import UsageError
from lit_deploy.packaging import files
from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.serving import Serving, path_word, start_command
from lit_deploy.packaging.source import Source, engine_source, onnx_source
from lit_deploy.packaging.triton_configs import (
    ensemble_config,
    network_config,
    postprocessing_config,
    preprocessing_config,
)
from lit_deploy.packaging.triton_steps import STEPS, ensemble_of

_PREPARING, _JUDGING = 16, 12
"""Bytes that a process takes for every pixel at worst: of PNG 8, of JPEG and resizing 12, of WebP 16; and to paste a
mask 4, to count labels 10."""

_ACTIVATIONS_MIB = 1024
"""Of an instance of a detector or segmentation network: half as much again as the published ones take."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class TritonPackage:
    """What was written.

    Attributes:
        repository: folder of the model repository; ``model``: what clients ask for; ``models``: all that were written.
        command: what starts the server; ``start``: the file that says more.
        max_batch: images per batch at most, 0 where Triton puts none together.
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
    ``NAME_preprocessing`` and ``NAME_network``, and of detectors and segmentation networks ``NAME_postprocessing``; or,
    without the ensemble, the network alone as ``NAME``. Models that are there already under other names stay untouched.

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
    elif path.suffix == IR_SUFFIX:
        raise UsageError(f"{path} is an IR of OpenVINO; package a portable .onnx file with --backend openvino")
    else:
        raise UsageError(f"{path} is neither an .onnx file nor an engine; make one with `lit-deploy export`")
    network, manifest = described.network, described.manifest
    steps = STEPS[manifest.task]
    ensemble = ensemble_of(manifest, network.inputs, network.outputs)
    if options.ensemble and manifest.output == "logits" and steps.results:
        raise UsageError(
            f"{path} gives logits of every pixel, and the ensemble gives labels; export it without --output logits, or "
            "package the network alone with --raw (ensemble=False)"
        )
    parts = files.PARTS if steps.results else files.PARTS[:2]
    composed = tuple(f"{name}_{part}" for part in parts) if options.ensemble else ()
    models = (*composed, name)
    replaced = files.check_place(out, name, models, options.force)
    serving = _serving(described, name, out.name, options, composed)

    def build(folder: Path) -> None:
        inner = composed[1] if composed else name
        files.write_network(folder / inner, network_config(inner, network), path, network, manifest)
        if composed:
            first = composed[0]
            config = preprocessing_config(first, network, ensemble, options.workers, steps.max_pixels)
            files.write_python(folder / first, config, manifest, "triton_preprocessing.py", steps.preprocessing)
            files.write_ensemble(folder / name, ensemble_config(name, network, ensemble, composed), manifest)
        for last in composed[2:]:
            config = postprocessing_config(last, network, ensemble, options.workers)
            files.write_python(folder / last, config, manifest, "triton_postprocessing.py", steps.postprocessing)
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


def _serving(source: Source, name: str, repository: str, options: TritonOptions, parts: tuple[str, ...]) -> Serving:
    """What the start file and the manifests say of a source."""
    network, library, manifest = source.network, source.library, source.manifest
    workers, steps, dense = options.workers if options.ensemble else 0, STEPS[manifest.task], bool(manifest.dense)
    size = source.path.stat().st_size >> 20
    height, width = manifest.input.height or manifest.input.resize, manifest.input.width or manifest.input.longest or 0
    crop = 3 * height * width * np.dtype(network.inputs[0].dtype).itemsize
    handed = crop * network.most_images + (2 * steps.max_pixels if dense else 0)
    shared = 64 * -(-max(256, 128 + (handed * workers >> 20)) // 64)  # 128: the encoded images
    bytes_a_pixel = _PREPARING + (_JUDGING if steps.results else 0)
    worker_mib = 128 * (2 if steps.results else 1) + (bytes_a_pixel * steps.max_pixels >> 20)
    activations = _ACTIVATIONS_MIB * network.instances if dense else 0
    return Serving(
        name=name,
        repository=repository,
        release=source.release,
        image=options.image,
        device=network.device,
        ensemble=options.ensemble,
        fixed_batch=network.fixed_batch or int(not network.max_batch),
        library=library.name if library is not None else None,
        arguments=source.arguments,
        pillow=importlib.metadata.version("pillow"),
        # Without --threads nothing is known of the machine: what any has, and no limit.
        cpus=network.threads * network.instances + workers if network.threads else 2,
        # Triton itself; weights, their packed form and activations; images
        memory_mib=1024 + 512 * -(-4 * size * network.instances // 512) + activations + workers * worker_mib + shared,
        shared_memory_mib=shared,
        outputs=(options.ensemble and steps.rows) or tuple(spec.name for spec in network.outputs),
        task=manifest.task,
        parts=parts,
        labelled=bool(network.labelled),
        notes=source.notes,
    )

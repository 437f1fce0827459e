"""From a checkpoint to an ONNX file: trace, convert, name, check, write."""

from __future__ import annotations

import datetime
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.core.errors import ExportError, UsageError
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import (
    EIGHT_BIT,
    MAX_BATCH,
    OP_VERSION,
    InputKind,
    InputSpec,
    ModelSpec,
    OutputKind,
    PrecisionName,
)
from lit_deploy.core.text import first_line
from lit_deploy.images.labels import read_labels
from lit_deploy.models.build import build
from lit_deploy.models.families import FAMILIES, default_input
from lit_deploy.tasks.protocol import Task
from lit_deploy.tasks.table import TASKS, task_of

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from lit_deploy.checkpoints.load import Checkpoint

OPSET = 20
"""Gelu and the GridSample of the fallback function need 20; every current runtime reads it."""

IR_VERSION = 10


Triple = tuple[float, float, float]


@dataclass(frozen=True)
class OnnxOptions:
    """What to write.

    Attributes:
        input: ``float`` (float32 NCHW, normalised) or ``uint8`` (raw RGB NHWC, normalised inside the graph).
        output: ``logits``, ``probabilities`` (softmax) or ``top5`` (probabilities and class indices).
        precision: type of weights and activations; inputs and outputs stay float32. ``int8`` and ``fp8`` need images as
            well, and are made by the export workflow from a graph of fp32 or fp16.
        batch: a fixed batch size, or None for a dynamic one.
        portable: inline the operator, for runtimes that do not know model-local functions.
        labels: class names, or the path of a file of them; None for the checkpoint's own,
            ImageNet's (1000 classes) or numbers.
        resize, mean, std: preprocessing the network was trained with; None for the official evaluation's.
    """

    input: InputKind = "float"
    output: OutputKind = "logits"
    precision: PrecisionName = "fp32"
    batch: int | None = None
    portable: bool = False
    labels: tuple[str, ...] | Path | str | None = None
    resize: int | None = None
    mean: Triple | None = None
    std: Triple | None = None

    def __post_init__(self) -> None:
        for name, kind in (("input", InputKind), ("output", OutputKind), ("precision", PrecisionName)):
            value, allowed = getattr(self, name), get_args(kind)
            if value not in allowed:
                raise UsageError(f"{name} is '{value}', expected one of {', '.join(allowed)}")
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"batch is {self.batch}, expected 1 to {MAX_BATCH}, or a dynamic one")


def input_spec(model: ModelSpec, options: OnnxOptions) -> InputSpec:
    """The input that the exported file will have; UsageError when the options make none."""
    given: dict[str, Any] = {"resize": options.resize, "mean": options.mean, "std": options.std}
    try:
        return replace(
            default_input(model, options.input),
            **{k: v for k, v in given.items() if v is not None},
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _labels(options: OnnxOptions, classes: int) -> tuple[str, ...] | None:
    if isinstance(options.labels, str | Path):
        return read_labels(options.labels, classes)
    if options.labels is not None and len(options.labels) != classes:
        raise UsageError(f"got {len(options.labels)} labels for {classes} classes; give one name for each class")
    return options.labels


def onnx_from_checkpoint(checkpoint: Checkpoint, options: OnnxOptions, progress: Progress = unseen) -> OnnxArtifact:
    """Convert a checkpoint to a checked ONNX graph with its manifest.

    Args:
        checkpoint: a loaded checkpoint.
        options: what to write.
        progress: called with the name of each step as it begins.

    Returns:
        A graph of opset 20 with the inputs and outputs of the network's task, and what is known about it.

    Raises:
        UsageError: options that contradict each other or the checkpoint.
        ExportError: the converter failed, or its result is not what was asked for.
    """
    import torch

    from lit_deploy.models import blocks

    family = FAMILIES[checkpoint.spec.family]
    if options.precision in EIGHT_BIT:
        raise UsageError(f"a checkpoint alone gives no {options.precision}: its ranges come from images")
    if checkpoint.spec.num_classes == 1 and options.output != "logits":
        raise UsageError(f"the network has one class, so {options.output} say nothing; use --output logits")
    if checkpoint.spec.in_channels != 3:
        raise UsageError(f"the checkpoint takes {checkpoint.spec.in_channels} channels; only RGB (3) is exported")
    spec = input_spec(checkpoint.spec, options)
    labels = _labels(options, checkpoint.spec.num_classes)

    progress(Step("fold and lower"))
    model = build(checkpoint.spec, checkpoint.state)
    names = blocks.layer_names(model)
    with torch.no_grad(), blocks.record_layers(model, names) as record:
        model(torch.zeros(1, 3, spec.height, spec.width))
    layers = tuple(name for name in record if name in names)  # in the order they run
    family.lower(model, spec, options.precision)
    graph = _export_graph(model, layers, TASKS[family.task], options.output)
    rows = options.batch or 2  # torch.export would take a size of 1 for a constant
    if spec.kind == "uint8":
        example = torch.zeros(1, spec.height, spec.width, 3, dtype=torch.uint8).expand(rows, -1, -1, -1)
    else:
        example = torch.zeros(1, 3, spec.height, spec.width).expand(rows, -1, -1, -1)
    fields: dict[str, Any] = {"labels": labels} if labels is not None else {}
    manifest = manifest_from_checkpoint(
        checkpoint,
        input=spec,
        output=options.output,
        precision=options.precision,
        batch=options.batch,
        portable=options.portable,
        layers=layers,
        versions=_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **fields,
    )
    progress(Step("trace and convert"))
    proto = _convert(graph, example, manifest)
    progress(Step("name and check"))
    _rename(proto, prefix="model.")
    return OnnxArtifact(_finish(proto, manifest), manifest)


def _export_graph(model: nn.Module, names: tuple[str, ...], task: Task, output: OutputKind) -> nn.Module:
    """Wrap the network so that it returns its outputs and, by module name, every layer."""
    import torch

    from lit_deploy.models.blocks import record_layers

    class ExportGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
            with record_layers(self.model, names) as layers:
                features = self.model(images).float()
            return task.graph_outputs(features, output), layers

    return ExportGraph().eval()


def _convert(graph: nn.Module, example: Tensor, manifest: Manifest) -> onnx.ModelProto:
    """Run PyTorch's exporter; layer values keep their names although they are no outputs."""
    import onnxscript
    import torch

    from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE, register_onnx_schema

    register_onnx_schema()
    operator = getattr(onnxscript.values.Opset(DOMAIN, OP_VERSION), OP_TYPE)

    def translate(x: Any, offset_weight: Any, offset_bias: Any) -> Any:
        # TensorRT finds its plugin by these two attributes.
        return operator(x, offset_weight, offset_bias, plugin_namespace=DOMAIN, plugin_version=str(OP_VERSION))

    task = task_of(manifest)
    inputs, outputs = ([spec.name for spec in specs(manifest)] for specs in (task.input_specs, task.output_specs))
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=[*outputs, *manifest.layers],
                dynamic_shapes=None if manifest.batch else ({0: torch.export.Dim("batch")},),
                custom_translation_table={torch.ops.lit_deploy.deformable_token_merging.default: translate},
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ExportError(
            f"PyTorch {torch.__version__} could not convert the network to ONNX: {first_line(error)}"
        ) from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    hidden = list(proto.graph.output[len(outputs) :])
    del proto.graph.output[len(outputs) :]
    described = {value.name for value in proto.graph.value_info}
    proto.graph.value_info.extend(value for value in hidden if value.name not in described)
    return proto


def _rename(proto: onnx.ModelProto, prefix: str) -> None:
    """Name initializers and nodes after the PyTorch modules they come from, and drop the tracer's metadata."""
    names = {value.name: value.name.removeprefix(prefix) for value in proto.graph.initializer}
    consumer = {value: node for node in reversed(proto.graph.node) for value in node.input}
    taken: dict[str, int] = {}
    for node in proto.graph.node:
        # The converter's own nodes (Split) have no scope: they belong where their result goes.
        module = _module_of(node, prefix)
        if module is None:
            module = _module_of(consumer.get(node.output[0], node), prefix)
        name = f"{module}/{node.op_type}" if module else node.op_type
        count = taken[name] = taken.get(name, -1) + 1
        node.name = f"{name}_{count}" if count else name
        for position, value in enumerate(node.input):
            if names.get(value) == value and "." not in value:  # a constant that the tracer numbered
                names[value] = f"{node.name}/constant_{position}"
        del node.metadata_props[:]
    for node in proto.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for item in (*proto.graph.initializer, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        item.name = names.get(item.name, item.name)
        del item.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]


def _module_of(node: onnx.NodeProto, prefix: str) -> str | None:
    """Name of the PyTorch module a traced node comes from: empty for the network's own forward, None if unknown."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            *modules, _ = ["", *re.findall(r"'([^']*)'", entry.value)]  # the last scope is the operation itself
            if modules and not modules[-1].startswith("_empty_nn_module_stack"):
                return f"{modules[-1]}.".removeprefix(prefix).rstrip(".")
    return None


def _finish(proto: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """Attach the function or inline it, and let the checker read everything."""
    import onnx
    import onnx.inliner

    from lit_deploy import __version__
    from lit_deploy.ops.deformable_token_merging.onnx_function import onnx_function
    from lit_deploy.ops.deformable_token_merging.schema import DOMAIN, OP_TYPE

    count, wanted = sum(node.op_type == OP_TYPE for node in proto.graph.node), manifest.model.mergings
    if count != wanted:
        raise ExportError(f"the converted graph holds {count} {OP_TYPE} nodes, expected {wanted}; this is a bug")
    proto.functions.append(onnx_function())
    if manifest.portable:
        proto = onnx.inliner.inline_local_functions(proto)
        kept = [entry for entry in proto.opset_import if entry.domain != DOMAIN]
        del proto.opset_import[:]
        proto.opset_import.extend(kept)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "lit_deploy", __version__
    proto.graph.name = manifest.model.name
    check_model(proto)
    return proto


def check_model(proto: onnx.ModelProto) -> None:
    """Let ONNX's checker read everything; ExportError when it objects."""
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the converted graph does not pass onnx.checker: {error}") from error


def _versions() -> dict[str, str]:
    import onnx
    import torch

    from lit_deploy import __version__

    return {"lit_deploy": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about absent torchvision and its own deprecations from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

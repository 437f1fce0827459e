"""From a checkpoint to an ONNX file: trace, convert, name, check, write."""

from __future__ import annotations

import datetime
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lit_deploy.artifacts.inlining import inlined
from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.checkpoints.manifest import manifest_from_checkpoint
from lit_deploy.core.errors import ExportError, UsageError, refuse_for_memory
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import EIGHT_BIT, OP_VERSION, ORIGINAL_SIZE
from lit_deploy.core.text import first_line
from lit_deploy.exporters.options import OnnxOptions, described
from lit_deploy.models.build import build
from lit_deploy.models.families import FAMILIES
from lit_deploy.ops.deformable_token_merging import schema as merging_schema
from lit_deploy.ops.domain import DOMAIN
from lit_deploy.ops.table import OPERATORS, Operator
from lit_deploy.tasks.table import task_of

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from lit_deploy.checkpoints.load import Checkpoint

OPSET = 20
"""Gelu and the GridSample of the fallback function need 20; every current runtime reads it."""

IR_VERSION = 10

EXAMPLE_SIZE = (150, 206)
"""Height and width in pixels that networks which take any are traced with: no size of a map may look like another."""


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

    from lit_deploy.models.recording import layer_names, record_layers

    family = FAMILIES[checkpoint.spec.family]
    if options.precision in EIGHT_BIT:
        raise UsageError(f"a checkpoint alone gives no {options.precision}: its ranges come from images")
    manifest = described(checkpoint, options)
    task = task_of(manifest)

    progress(Step("fold and lower"))
    model = build(checkpoint.spec, checkpoint.state)
    names = layer_names(model)
    # Before lowering, the network takes what a checkpoint's session takes.
    plain = replace(manifest, input=replace(manifest.input, kind=manifest_from_checkpoint(checkpoint).input.kind))
    with torch.no_grad(), record_layers(model, names) as record:
        task.graph(model, plain)(*_example(plain, rows=1))
    layers = tuple(name for name in record if name.partition("@")[0] in names)  # in the order they run
    family.lower(model, manifest.input, options.precision)
    manifest = replace(
        manifest,
        layers=layers,
        versions=_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    progress(Step("trace and convert"))
    # torch.export would take a size of 1 for a constant
    proto = _convert(_export_graph(model, names, manifest), _example(manifest, manifest.batch or 2), manifest)
    progress(Step("name and check"))
    _rename(proto, prefix="session.model.")
    artifact = OnnxArtifact(_finish(proto, manifest), manifest)
    return portable(artifact) if manifest.portable else artifact


def _example(manifest: Manifest, rows: int) -> tuple[Tensor, ...]:
    """Tensors as a session of this manifest takes them, with ``rows`` where the batch is dynamic."""
    import torch

    sizes = {"batch": rows, "height": EXAMPLE_SIZE[0], "width": EXAMPLE_SIZE[1]}
    return tuple(
        torch.full(
            [side if isinstance(side, int) else sizes[side] for side in spec.shape],
            1 + 89 * (spec.name == ORIGINAL_SIZE),
        ).to(getattr(torch, spec.dtype))
        for spec in task_of(manifest).input_specs(manifest)
    )


def _export_graph(model: nn.Module, names: tuple[str, ...], manifest: Manifest) -> nn.Module:
    """Wrap the network so that it returns its outputs and, by module name, every layer."""
    import torch

    from lit_deploy.models.recording import record_layers

    class ExportGraph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.session = task_of(manifest).graph(model, manifest)

        def forward(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
            with record_layers(model, names) as layers:
                outputs = self.session(*inputs)
            return outputs, layers

    return ExportGraph().eval()


def _convert(graph: nn.Module, example: tuple[Tensor, ...], manifest: Manifest) -> onnx.ModelProto:
    """Run PyTorch's exporter; layer values keep their names although they are no outputs."""
    import torch

    for operator in OPERATORS.values():
        operator.register()
    task = task_of(manifest)
    inputs, outputs = ([spec.name for spec in specs(manifest)] for specs in (task.input_specs, task.output_specs))
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=[*outputs, *manifest.layers],
                dynamic_shapes=(_dynamic(manifest),),
                custom_translation_table={
                    getattr(torch.ops.lit_deploy, operator.name).default: _translation(operator)
                    for operator in OPERATORS.values()
                    if hasattr(torch.ops.lit_deploy, operator.name)
                },
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        refuse_for_memory(error)
        raise ExportError(
            f"PyTorch {torch.__version__} could not convert the network to ONNX: {first_line(error)}"
        ) from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    hidden = list(proto.graph.output[len(outputs) :])
    del proto.graph.output[len(outputs) :]
    known = {value.name for value in proto.graph.value_info}
    proto.graph.value_info.extend(value for value in hidden if value.name not in known)
    _name_sizes(proto.graph, manifest)
    return proto


def _name_sizes(graph: onnx.GraphProto, manifest: Manifest) -> None:
    """Give sizes that are not fixed the names in the manifest, in place of the tracer's."""
    names = {
        dim.dim_param: side
        for value, spec in zip(graph.input, task_of(manifest).input_specs(manifest), strict=True)
        for dim, side in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True)
        if isinstance(side, str)
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _dynamic(manifest: Manifest) -> tuple[dict[int, Any], ...]:
    """For every input, the axes whose size is not fixed."""
    import torch

    return tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, side in enumerate(spec.shape) if isinstance(side, str)}
        for spec in task_of(manifest).input_specs(manifest)
    )


def _translation(operator: Operator) -> Any:
    """How a torch operator of ours becomes a node: its last arguments become attributes."""
    import onnxscript

    make = getattr(onnxscript.values.Opset(DOMAIN, OP_VERSION), operator.op_type)
    # TensorRT finds its plugin by these two attributes.
    plugin = {"plugin_namespace": DOMAIN, "plugin_version": str(OP_VERSION)} if operator.plugin else {}

    def translate(*arguments: Any) -> Any:
        inputs = len(arguments) - len(operator.attributes)
        return make(*arguments[:inputs], **dict(zip(operator.attributes, arguments[inputs:], strict=True)), **plugin)

    return translate


def _rename(proto: onnx.ModelProto, prefix: str) -> None:
    """Name initializers and nodes after the PyTorch modules they come from, and drop the tracer's metadata."""
    names = {value.name: _within(value.name, prefix) for value in proto.graph.initializer}
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
                return _within(f"{modules[-1]}.", prefix).rstrip(".")
    return None


def _within(name: str, prefix: str) -> str:
    """A name as the network itself has it; what prepares pictures and finishes results stands around it."""
    return name.removeprefix(prefix).removeprefix(prefix.partition(".")[0] + ".")


def _finish(proto: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """Attach the functions, and let the checker read everything."""
    from lit_deploy import __version__

    counts = Counter(node.op_type for node in proto.graph.node if node.domain == DOMAIN)
    wanted, merging = manifest.model.mergings, merging_schema.OP_TYPE
    if counts[merging] != wanted:
        raise ExportError(
            f"the converted graph holds {counts[merging]} {merging} nodes, expected {wanted}; this is a bug"
        )
    proto.functions.extend(OPERATORS[name].function(proto.graph) for name in OPERATORS if counts[name])
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "lit_deploy", __version__
    proto.graph.name = manifest.model.name
    check_model(proto)
    return proto


def portable(artifact: OnnxArtifact) -> OnnxArtifact:
    """The same file for runtimes that know neither our operators nor model-local functions: everything is inlined."""
    proto = inlined(artifact.graph)
    check_model(proto)
    return OnnxArtifact(proto, artifact.manifest).described(portable=True)


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

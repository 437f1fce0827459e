"""Configurations of Triton's models: the network, the preprocessing before it, and the ensemble of the two.

Sources: the protobuf ``inference.ModelConfig`` (triton-inference-server/common, model_config.proto), the READMEs of the
onnxruntime and tensorrt back ends and of the python back end, and what the server's own validation accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_deploy.core.specs import TensorSpec
from lit_deploy.packaging.pbtxt import Message, Name, Value, message_text

MARK = "# Written by `lit-deploy package`; written anew, not merged, when it runs again.\n"
"""First line of every configuration: how a later run knows a model for its own."""

LABELS_FILE = "labels.txt"
IMAGE_INPUT = "image"
"""Name of the input that takes encoded images: one JPEG or PNG file per element, as bytes."""

MAX_PIXELS = 50_000_000
"""Of an image that the server decodes. Requests come from anywhere, and a small file may claim many pixels: the memory
that this takes, in every process, has to be there."""

_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8", "int64": "TYPE_INT64"}

LABELLED = ("logits", "probabilities")
"""Outputs with one value per class, so that the position of a value is its class; those of a top5 file have none."""


@dataclass(frozen=True)
class Network:
    """An exported file as Triton is to serve it.

    Attributes:
        backend: Triton's back end for it.
        inputs, outputs: as the file itself has them; a string is the batch dimension.
        max_batch: largest batch that Triton puts together; 0 where the file's batch is fixed, and part of every shape.
        max_delay_us: microseconds that a request may wait for others.
        instances: copies that run at the same time, per GPU or on the CPU.
        device: where they run.
        threads: of one inference on the CPU; None for all cores.
        library: file name of ONNX Runtime's custom-op library, or None.
    """

    backend: Literal["onnxruntime", "tensorrt"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    max_delay_us: int
    instances: int
    device: Literal["cpu", "cuda"]
    threads: int | None
    library: str | None

    @property
    def fixed_batch(self) -> int:
        """Images of every request where the file fixes their number, otherwise 0."""
        batch = self.inputs[0].shape[0]
        return batch if isinstance(batch, int) and not self.max_batch else 0

    @property
    def labelled(self) -> tuple[str, ...]:
        """Outputs that Triton can answer by label: without a batch of its own it takes all values for one image's."""
        return tuple(spec.name for spec in self.outputs if spec.name in LABELLED and self.fixed_batch <= 1)


def network_config(name: str, network: Network) -> str:
    """``config.pbtxt`` of the exported file itself."""
    config: dict[str, Value] = {
        "name": name,
        "backend": network.backend,
        "max_batch_size": network.max_batch,
        "input": [_tensor(spec, network.max_batch) for spec in network.inputs],
        "output": [_output(spec, network) for spec in network.outputs],
        "instance_group": [
            {"count": network.instances, "kind": Name("KIND_GPU" if network.device == "cuda" else "KIND_CPU")}
        ],
    }
    if network.max_batch:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": network.max_delay_us}
    if network.threads is not None:
        config["parameters"] = [{"key": "intra_op_thread_count", "value": {"string_value": str(network.threads)}}]
    if network.library is not None:
        # A bare name is looked for on LD_LIBRARY_PATH, so that the repository can be mounted anywhere.
        config["model_operations"] = {"op_library_filename": [network.library]}
    # The first run of a batch size allocates and, on a GPU, picks kernels; ready means that this is over.
    config["model_warmup"] = [_warmup(network, batch) for batch in sorted({1, network.max_batch or 1})]
    return MARK + message_text(config)


def preprocessing_config(name: str, network: Network, workers: int) -> str:
    """``config.pbtxt`` of the python model that turns encoded images into the network's input."""
    config: dict[str, Value] = {
        "name": name,
        "backend": "python",
        "max_batch_size": network.max_batch,
        "input": [_image(network)],
        "output": [_tensor(spec, network.max_batch) for spec in network.inputs],
        "instance_group": [{"count": workers, "kind": Name("KIND_CPU")}],  # each is a process of its own
        "parameters": [{"key": "max_pixels", "value": {"string_value": str(MAX_PIXELS)}}],
    }
    return MARK + message_text(config)


def ensemble_config(name: str, network: Network, preprocessing: str, inner: str) -> str:
    """``config.pbtxt`` of the ensemble: encoded images in, the network's outputs out.

    Args:
        name: of the ensemble; ``preprocessing``, ``inner``: names of the models it consists of.
        network: what ``inner`` serves.
    """
    (pixels,) = (spec.name for spec in network.inputs)
    outputs = [spec.name for spec in network.outputs]
    config: dict[str, Value] = {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": network.max_batch,
        "input": [_image(network)],
        "output": [_output(spec, network) for spec in network.outputs],
        "ensemble_scheduling": {
            "step": [_step(preprocessing, [IMAGE_INPUT], [pixels]), _step(inner, [pixels], outputs)]
        },
    }
    return MARK + message_text(config)


def _dims(spec: TensorSpec, max_batch: int) -> list[Value]:
    """Sizes as Triton wants them: without the batch where it batches itself."""
    shape = spec.shape[1:] if max_batch else spec.shape
    return [size if isinstance(size, int) else -1 for size in shape]


def _tensor(spec: TensorSpec, max_batch: int) -> dict[str, Value]:
    return {"name": spec.name, "data_type": Name(_TYPES[spec.dtype]), "dims": _dims(spec, max_batch)}


def _output(spec: TensorSpec, network: Network) -> dict[str, Value]:
    labels: dict[str, Value] = {"label_filename": LABELS_FILE} if spec.name in network.labelled else {}
    return {**_tensor(spec, network.max_batch), **labels}


def _image(network: Network) -> dict[str, Value]:
    """The input of encoded images; TYPE_STRING is Triton's name for bytes of any length."""
    return {"name": IMAGE_INPUT, "data_type": Name("TYPE_STRING"), "dims": [network.fixed_batch or 1]}


def _warmup(network: Network, batch: int) -> Message:
    values: list[Value] = [
        {
            "key": spec.name,
            "value": {
                "data_type": Name(_TYPES[spec.dtype]), "dims": _dims(spec, network.max_batch), "zero_data": True,
            },
        }
        for spec in network.inputs
    ]  # fmt: skip
    return {"name": f"requests: {batch}", "batch_size": batch, "inputs": values}


def _step(model: str, inputs: Sequence[str], outputs: Sequence[str]) -> Message:
    """A model of an ensemble; its tensors keep their names, and version -1 is the latest."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": value, "value": value} for value in inputs],
        "output_map": [{"key": value, "value": value} for value in outputs],
    }

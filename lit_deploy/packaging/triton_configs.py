"""Configurations of Triton's models: the network, the python models around it, and the ensemble of them.

Sources: the protobuf ``inference.ModelConfig`` (triton-inference-server/common, model_config.proto), the READMEs of the
onnxruntime, openvino, tensorrt and python back ends, and what the server's own validation accepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lit_deploy.core.specs import ORIGINAL_SIZE, TensorSpec
from lit_deploy.packaging.pbtxt import Message, Name, Value, message_text
from lit_deploy.packaging.triton_steps import Ensemble

MARK = "# Written by `lit-deploy package`; written anew, not merged, when it runs again.\n"
"""First line of every configuration: how a later run knows a model for its own."""

MAX_IMAGES = 8
"""In one request, where a file takes any number and Triton does not count: their memory has to be there."""

LABELS_FILE = "labels.txt"
IMAGE_INPUT = "image"
"""Name of the input that takes encoded images: one JPEG or PNG file per element, as bytes."""

_TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8", "int32": "TYPE_INT32",
    "int64": "TYPE_INT64", "object": "TYPE_STRING",
}  # fmt: skip

LABELLED = ("logits", "probabilities")
"""Outputs with one value per class, so that the position of a value is its class; those of a top5 file have none."""

OPENVINO_FILE = "model.onnx"
"""What the OpenVINO back end is told to read; without that it looks for an IR."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Sample:
    """A picture that a network of any input size is warmed up with: ``resized`` as it takes it, ``original`` before."""

    resized: Size
    original: Size


@dataclass(frozen=True)
class Network:
    """An exported file as Triton is to serve it.

    Attributes:
        backend: Triton's back end for it.
        inputs, outputs: as the file itself has them; a string is a dimension of any size, the first one the batch.
        max_batch: largest batch that Triton puts together; 0 where the batch is part of every shape.
        max_delay_us: microseconds that a request may wait for others.
        instances: copies that run at the same time, per GPU or on the CPU.
        device: where they run.
        threads: of one inference on the CPU; None for all cores.
        library: file name of ONNX Runtime's custom-op library, or None.
        sample: of detectors and segmentation networks.
        bf16: whether OpenVINO computes in bfloat16.
    """

    backend: Literal["onnxruntime", "openvino", "tensorrt"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    max_delay_us: int
    instances: int
    device: Literal["cpu", "cuda"]
    threads: int | None
    library: str | None
    sample: Sample | None = None
    bf16: bool = False

    @property
    def fixed_batch(self) -> int:
        """Images of every request where the file fixes their number, otherwise 0."""
        batch = self.inputs[0].shape[0]
        return batch if isinstance(batch, int) and not self.max_batch else 0

    @property
    def most_images(self) -> int:
        """Of one request."""
        return self.max_batch or self.fixed_batch or MAX_IMAGES

    @property
    def labelled(self) -> tuple[str, ...]:
        """Outputs that Triton can answer by label: without a batch of its own it takes all values for one image's."""
        one = bool(self.max_batch) or self.fixed_batch == 1
        return tuple(spec.name for spec in self.outputs if one and spec.name in LABELLED and len(spec.shape) == 2)


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
    if parameters := _parameters(network):
        config["parameters"] = _entries(parameters)
    if network.backend == "openvino":
        config["default_model_filename"] = OPENVINO_FILE
    if network.library is not None:
        # A bare name is looked for on LD_LIBRARY_PATH, so that the repository can be mounted anywhere.
        config["model_operations"] = {"op_library_filename": [network.library]}
    # The first run of a batch size allocates and, on a GPU, picks kernels; ready means that this is over.
    config["model_warmup"] = [_warmup(network, batch) for batch in sorted({1, network.max_batch or 1})]
    return MARK + message_text(config)


def preprocessing_config(name: str, network: Network, ensemble: Ensemble, workers: int, max_pixels: int) -> str:
    """``config.pbtxt`` of the python model that turns encoded images into the network's input."""
    limits = {"max_pixels": str(max_pixels), "max_images": str(network.most_images)}
    return _python_config(name, network.max_batch, [_image(network)], ensemble.prepared, workers, limits)


def postprocessing_config(name: str, network: Network, ensemble: Ensemble, workers: int) -> str:
    """``config.pbtxt`` of the python model that turns the network's output into an answer."""
    judged = [_tensor(spec, network.max_batch) for spec in ensemble.judged]
    return _python_config(name, network.max_batch, judged, ensemble.results, workers, {})


def ensemble_config(name: str, network: Network, ensemble: Ensemble, models: Sequence[str]) -> str:
    """``config.pbtxt`` of the ensemble: encoded images in, the answer out.

    Args:
        name: of the ensemble; ``models``: that it consists of: preprocessing, network and, if any, postprocessing.
        network: what the second of them serves; ``ensemble``: the tensors between them.
    """
    prepared, found = (
        {spec.name: between.name for spec, between in zip(own, named, strict=True)}
        for own, named in ((network.inputs, ensemble.prepared), (network.outputs, ensemble.found))
    )
    steps = [
        _step(models[0], {IMAGE_INPUT: IMAGE_INPUT}, _same(ensemble.prepared)),
        _step(models[1], prepared, found),
        *(_step(model, _same(ensemble.judged), _same(ensemble.results)) for model in models[2:]),
    ]
    config: dict[str, Value] = {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": network.max_batch,
        "input": [_image(network)],
        "output": [_output(spec, network) for spec in ensemble.answer],
        "ensemble_scheduling": {"step": steps},
    }
    return MARK + message_text(config)


def _python_config(
    name: str,
    max_batch: int,
    inputs: Sequence[Message],
    outputs: Sequence[TensorSpec],
    workers: int,
    parameters: Mapping[str, str],
) -> str:
    config: dict[str, Value] = {
        "name": name,
        "backend": "python",
        "max_batch_size": max_batch,
        "input": list(inputs),
        "output": [_tensor(spec, max_batch) for spec in outputs],
        "instance_group": [{"count": workers, "kind": Name("KIND_CPU")}],  # each is a process of its own
        "parameters": _entries(parameters),
    }
    return MARK + message_text({key: value for key, value in config.items() if value != []})


def _parameters(network: Network) -> dict[str, str]:
    """Of Triton's back ends; OpenVINO's instances share one compiled network, and its threads."""
    threads = network.threads
    if network.backend != "openvino":
        return {} if threads is None else {"intra_op_thread_count": str(threads)}
    return {
        "NUM_STREAMS": str(network.instances),
        **({} if threads is None else {"INFERENCE_NUM_THREADS": str(threads * network.instances)}),
        **({"HINT_BF16": "YES"} if network.bf16 else {}),
    }


def _entries(parameters: Mapping[str, str]) -> list[Value]:
    return [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()]


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
    images = network.fixed_batch or (1 if network.max_batch else -1)
    return {"name": IMAGE_INPUT, "data_type": Name("TYPE_STRING"), "dims": [images]}


def _warmup(network: Network, batch: int) -> Message:
    values: list[Value] = [{"key": spec.name, "value": _warmup_value(spec, network)} for spec in network.inputs]
    return {"name": f"requests: {batch}", "batch_size": batch, "inputs": values}


def _warmup_value(spec: TensorSpec, network: Network) -> Message:
    """Zeros; a picture's size is a file beside the model, for none is 0."""
    dims, data = _dims(spec, network.max_batch), Name(_TYPES[spec.dtype])
    if spec.name == ORIGINAL_SIZE:
        return {"data_type": data, "dims": dims, "input_data_file": ORIGINAL_SIZE}
    sides = iter(network.sample.resized if network.sample is not None else ())
    return {"data_type": data, "dims": [next(sides, 1) if size == -1 else size for size in dims], "zero_data": True}


def _same(specs: Sequence[TensorSpec]) -> dict[str, str]:
    return {spec.name: spec.name for spec in specs}


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Message:
    """A model of an ensemble, with the ensemble's name of each of its tensors; version -1 is the latest."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": own, "value": name} for own, name in inputs.items()],
        "output_map": [{"key": own, "value": name} for own, name in outputs.items()],
    }

"""Digits, photos and stand-ins that the tests of quantisation share.

Speed is measured by a stand-in but in one test: what it takes is seconds, and what it says depends on the machine.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from PIL import Image
from rich.console import Console

from lit_deploy.artifacts.manifest import Manifest
from lit_deploy.artifacts.onnx_file import OnnxArtifact, manifest_of, metadata_of, read_onnx
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.load import Checkpoint
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.specs import InputSpec
from lit_deploy.exporters.onnx import OnnxOptions
from lit_deploy.images.preprocessing import resize_and_crop
from lit_deploy.quantize import gates
from lit_deploy.quantize import run as quantize
from lit_deploy.quantize.gates import Speed
from lit_deploy.quantize.run import QuantizeOptions, QuantizeResult
from lit_deploy.report.export import export_summary
from lit_deploy.report.quantize import quantize_summary
from lit_deploy.workflows import export as export_module
from lit_deploy.workflows.export import ExportResult, export_checkpoint
from support.exported import export_of

CheckpointFile = Callable[[str], Path]
ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "01_digits"
INT8 = OnnxOptions(precision="int8")
FASTER, SLOWER = (Speed(ratio, (ratio - 0.1, ratio + 0.1), 2.0, 2.0 * ratio, 1, 1, True) for ratio in (1.5, 0.8))
VICTIM = "layers.1.downsample.dconv"
"""No residual sum goes past the projection behind a merging: what is lost there is lost."""
measured_speed = gates.measure_speed


@dataclass(frozen=True)
class Digits:
    """The example, in a folder where files can be written beside its checkpoint.

    Attributes:
        checkpoint: trained weights. ``calib``: folder of training digits. ``held_out``: folder of the others, by class.
        images, labels: the held-out digits as the network takes them, float32 ``[360, 3, 64, 64]``, and their classes.
    """

    checkpoint: Path
    calib: Path
    held_out: Path
    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def accuracy(self, file: Path, options: SessionOptions | None = None) -> float:
        """Top-1 on the held-out digits, in percent."""
        with open_session(file, options or SessionOptions()) as session:
            parts = [session.run({"images": part})["logits"] for part in np.split(self.images, 4)]
        return float((np.concatenate(parts).argmax(axis=1) == self.labels).mean() * 100)


@functools.cache  # a fixture that two modules import is one in each of them
def digits_below(folder: Path) -> Digits:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DIGITS))
        import digits_data
    folder.mkdir()
    checkpoint = folder / "digits.pth"
    checkpoint.write_bytes((DIGITS / "digits.pth").read_bytes())
    train, held_out = digits_data.split()
    for name, indices in (("calib", train[::30]), ("held_out", held_out)):
        pictures, labels = digits_data.pictures(indices)
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            path = folder / name / str(label) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    pixels = np.stack([resize_and_crop(picture, digits_data.INPUT) for picture in pictures])
    return Digits(checkpoint, folder / "calib", folder / "held_out", normalised(pixels, digits_data.INPUT), labels)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    pytest.importorskip("sklearn")
    return digits_below(tmp_path_factory.getbasetemp() / "quantized_digits")


def normalised(pixels: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """Normalise pixels ``[N, H, W, 3]``, by hand."""
    scaled = (pixels.astype(np.float32) / 255 - np.float32(spec.mean)) / np.float32(spec.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, of which the tiny networks do not put all into one class."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(10):
        pixels = synthetic_image(6, f"quantize:{number}", 80, 90) * (0.2 + 0.08 * number)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def pretend(speed: Speed) -> Callable[..., Speed]:
    return lambda *arguments, **named: speed


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 8-bit file is faster, whatever the machine has to do."""
    monkeypatch.setattr(gates, "measure_speed", pretend(FASTER))


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions come from the files that other tests share; all that follows is real."""
    real = export_module.onnx_from_checkpoint

    def stored(checkpoint: Checkpoint, options: OnnxOptions, progress: Any) -> OnnxArtifact:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export_module, "onnx_from_checkpoint", real)
            return OnnxArtifact.read(export_of(checkpoint.path, **asdict(options)))

    monkeypatch.setattr(export_module, "onnx_from_checkpoint", stored)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go meanwhile; nothing may stay there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [name for name in os.listdir(folder) if "torchinductor" not in name] == []


def shown(result: ExportResult | QuantizeResult) -> str:
    summary = export_summary if isinstance(result, ExportResult) else quantize_summary
    console = Console(width=140)
    with console.capture() as capture:
        console.print(summary(result))  # type: ignore[operator]
    return capture.get()


def constants(path: Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in read_onnx(path).graph.initializer}


def scales(path: Path) -> dict[str, float]:
    """Scales of the activations by name; those of weights are not numbers but vectors."""
    return {name: float(value) for name, value in constants(path).items() if name.endswith("/scale") and not value.ndim}


def without_measurements(path: Path) -> tuple[onnx.ModelProto, Manifest]:
    """All of a file but what depends on the clock and on the machine."""
    model = read_onnx(path)
    manifest = manifest_of(metadata_of(model), path)
    assert manifest.quantization is not None
    del model.metadata_props[:]
    quantization = replace(manifest.quantization, agreement=None, speedup=None)
    return model, replace(manifest, created="", parity=None, quantization=quantization)


def products_in_8_bits(path: Path, kind: int = TensorProto.INT8) -> list[str]:
    """Modules of all products that read two dequantised values, told from the graph."""
    graph = read_onnx(path).graph
    producer = {value: node for node in graph.node for value in node.output}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = []
    for node in graph.node:
        sources = [producer.get(value) for value in node.input]
        if node.op_type == "MatMul" and all(s is not None and s.op_type == "DequantizeLinear" for s in sources):
            assert {types[source.input[2]] for source in sources if source is not None} == {kind}
            found.append(node.name.rpartition("/")[0])
    return found


@pytest.fixture(scope="session")
def digits_int8(digits: Digits) -> ExportResult:
    """From the trained checkpoint to an int8 file, by the real conversion and with the check against PyTorch."""
    return int8_of(digits.checkpoint, digits.calib)


@functools.cache
def int8_of(checkpoint: Path, calib: Path) -> ExportResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates, "measure_speed", pretend(FASTER))
        return export_checkpoint(checkpoint, checkpoint.with_name("int8.onnx"), INT8, quantize=QuantizeOptions(calib))


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The range of what one module reads comes out a thousand times too wide, so that almost all of it becomes 0."""
    observe = quantize.observe

    def absurd(artifact: OnnxArtifact, values: Sequence[str], *rest: Any) -> dict[str, float]:
        (victim,) = [p.activations[0] for p in quantize.qdq.products(artifact, "int8") if p.module == VICTIM]
        return {name: amax * (1000 if name == victim else 1) for name, amax in observe(artifact, values, *rest).items()}

    monkeypatch.setattr(quantize, "observe", absurd)

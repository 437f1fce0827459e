"""Files that contradict themselves get one answer from every command; outputs that say nothing become no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.command import Run, assert_one_sentence
from support.exported import edited, export_of

from lit_deploy.artifacts.manifest import MANIFEST_KEY, Manifest, check_json
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import ArtifactError
from lit_deploy.core.specs import MAX_JSON_BYTES, MAX_NESTING
from lit_deploy.evaluate.run import evaluate_artifacts
from lit_deploy.workflows.verify import verify_artifact

CheckpointFile = Callable[[str], Path]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.new("RGB", (70, 80), "navy").save(path)
    return path


def with_text(source: Path, target: Path, change: Callable[[dict[str, Any]], str | None]) -> Path:
    """A copy with another manifest: changed in place, or the text that ``change`` returns."""

    def put(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
        document = json.loads(entry.value)
        entry.value = change(document) or json.dumps(document)

    return edited(source, target, put)


def deep(member: str) -> Callable[[dict[str, Any]], str]:
    """A manifest with one more member."""
    return lambda document: f"{json.dumps(document)[:-1]},{member}}}"


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], str | None], str]] = {
    "no labels": (lambda m: m.update(labels=[]), "has 0 labels for 7 classes"),
    "few labels": (lambda m: m.update(labels=m["labels"][:2]), "has 2 labels for 7 classes"),
    "escapes": (lambda m: m.update(labels=["\x1b[31m"] * 7), "the label of class 0 has control characters"),
    "huge batch": (lambda m: m.update(batch=10**9), "batch is 1000000000, expected 1 to 1024"),
    "batch of a dynamic graph": (
        lambda m: m.update(batch=1024),
        "has float32 images [batch, 3, 64, 64], its manifest promises float32 images [1024, 3, 64, 64]",
    ),
    "other classes": (
        lambda m: m.update(labels=m["labels"] * 2, model={**m["model"], "num_classes": 14}),
        "its manifest promises float32 logits [batch, 14]",
    ),
    "deep list": (deep('"parity":' + "[" * 100_000 + "]" * 100_000), "it is nested more than 32 deep"),
    "deep object": (deep('"parity":' + '{"a":' * 100_000 + "1" + "}" * 100_000), "it is nested more than 32 deep"),
}


@pytest.mark.parametrize("command", ["inspect", "predict", "package"])
@pytest.mark.parametrize(("change", "words"), MANIFESTS.values(), ids=MANIFESTS)
def test_one_answer_from_all(
    change: Callable[[dict[str, Any]], str | None],
    words: str,
    command: str,
    photo: Path,
    checkpoint_file: CheckpointFile,
    tmp_path: Path,
    run: Run,
) -> None:
    path = with_text(export_of(checkpoint_file("tiny")), tmp_path / "x.onnx", change)
    rest = {"inspect": (), "predict": (photo,), "package": ("--target", "triton", "--out", tmp_path / "repository")}
    assert_one_sentence(run(command, path, *rest[command]), words)
    assert not (tmp_path / "repository").exists()


def test_verification_opens_what_prediction_opens(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    checkpoint = checkpoint_file("tiny")
    path = with_text(export_of(checkpoint), tmp_path / "x.onnx", lambda manifest: manifest.update(batch=1024))
    with pytest.raises(ArtifactError, match="its manifest promises"):
        verify_artifact(path, checkpoint)


def test_a_dynamic_batch_of_a_fixed_graph(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    fixed = export_of(checkpoint_file("tiny"), batch=2)
    path = with_text(fixed, tmp_path / "x.onnx", lambda manifest: manifest.update(batch=None))
    for backend in ("onnxruntime", "openvino"):
        if backend == "openvino":
            pytest.importorskip("openvino")
        with (
            pytest.raises(ArtifactError, match="its manifest promises"),
            open_session(
                path,
                SessionOptions(backend=backend),  # type: ignore[arg-type]
            ),
        ):
            pass


def test_documents_are_as_large_and_as_deep_as_both_languages_read(checkpoint_file: CheckpointFile) -> None:
    check_json("[" * MAX_NESTING + "1" + "]" * MAX_NESTING)
    with pytest.raises(ArtifactError, match=f"{MAX_JSON_BYTES + 2} bytes, expected at most {MAX_JSON_BYTES}"):
        Manifest.from_json('"' + "x" * MAX_JSON_BYTES + '"')


# ----------------------------------------------------------------------------------------------------- outputs


def last_step(output: int, operator: str, factor: Any) -> Callable[[onnx.ModelProto], None]:
    """Lead an output through one more operator with a constant."""

    def change(model: onnx.ModelProto) -> None:
        graph, name = model.graph, model.graph.output[output].name
        for node in graph.node:
            for index, value in enumerate(node.output):
                if value == name:
                    node.output[index] = f"{name}/before"
        graph.initializer.append(onnx.numpy_helper.from_array(factor, "constant"))
        graph.node.append(onnx.helper.make_node(operator, [f"{name}/before", "constant"], [name], "last"))

    return change


OUTPUTS: dict[str, tuple[str, Callable[[onnx.ModelProto], None], str]] = {
    "NaN": ("logits", last_step(0, "Mul", np.float32(np.nan)), "its logits are not finite"),
    "infinite": ("logits", last_step(0, "Mul", np.float32(np.inf)), "its logits are not finite"),
    "NaN probabilities": ("probabilities", last_step(0, "Mul", np.float32(np.nan)), "its probabilities are not finite"),
    "NaN scores": ("top5", last_step(0, "Mul", np.float32(np.nan)), "its scores are not finite"),
    "beyond": ("top5", last_step(1, "Add", np.int64(100_000)), "its class indices are outside 0 to 6"),
    "negative": ("top5", last_step(1, "Mul", np.int64(-1)), "its class indices are outside 0 to 6"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("output", "change", "words"), OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_that_name_no_class(
    output: str,
    change: Callable[[onnx.ModelProto], None],
    words: str,
    photo: Path,
    checkpoint_file: CheckpointFile,
    tmp_path: Path,
    run: Run,
) -> None:
    path = edited(export_of(checkpoint_file("tiny"), output=output), tmp_path / "x.onnx", change)
    assert_one_sentence(run("predict", path, photo), words, str(photo))


@pytest.mark.filterwarnings("error")
def test_an_evaluation_without_answers_fails(checkpoint_file: CheckpointFile, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "photos" / "class 1"
    folder.mkdir(parents=True)
    Image.new("RGB", (70, 70), "navy").save(folder / "a.png")
    path = edited(export_of(checkpoint_file("tiny")), tmp_path / "x.onnx", OUTPUTS["NaN"][1])
    assert evaluate_artifacts([path], folder.parent).scores[0].not_finite == 1
    outcome = run("evaluate", path, "--images", folder.parent)
    assert outcome.code == 1
    assert "x.onnx gives no answer for 1 of 1 images" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_verification_names_outputs_that_are_not_finite(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    checkpoint = checkpoint_file("tiny")
    path = edited(export_of(checkpoint), tmp_path / "x.onnx", OUTPUTS["infinite"][1])
    report = verify_artifact(path, checkpoint)
    assert report.verdict == "fail"
    assert "logits: not finite (NaN or infinity)" in report.reasons

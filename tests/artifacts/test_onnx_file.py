"""What an exported file says about itself, and how files come to be: whole, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bad_files import bad_files
from support.exported import edited, export_of, refused_at_most_in_one_sentence

from lit_deploy.artifacts.manifest import FORMAT, MANIFEST_KEY, Manifest
from lit_deploy.artifacts.onnx_file import manifest_of, metadata_of, read_manifest, set_manifest, with_outputs
from lit_deploy.core.errors import ArtifactError, UsageError
from lit_deploy.core.files import atomic_path, check_target, sha256_of
from lit_deploy.core.specs import InputSpec, ModelSpec
from lit_deploy.images.labels import LABEL_PATTERN
from lit_deploy.workflows.inspect import inspect_file

MODEL = ModelSpec("custom", "lit", (8, 16, 32, 32), (1, 1, 2, 1), (2, 4), (2, 2, 2, 2), (80, 48), 3)
MANIFEST = Manifest(
    MODEL, InputSpec("uint8", 80, 48, 55, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)), "top5", ("a", "Ä", "猫"), "fp16", 4, True,
    ("patch_embed", "norm"), "x.pth", "00ff", 1, {"torch": "2"}, "2026-01-01T00:00:00+00:00", {"cosine": 1.0},
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(checkpoint_file: Callable[[str], Path]) -> Path:
    return export_of(checkpoint_file("tiny"))


# ------------------------------------------------------------------------------------------------------- manifest


def test_manifest_round_trip() -> None:
    text = MANIFEST.to_json()
    assert "\n" not in text
    assert Manifest.from_json(text) == MANIFEST
    dynamic = replace(MANIFEST, batch=None, parity=None)
    assert Manifest.from_json(dynamic.to_json()) == dynamic


@settings(deadline=None)
@given(
    labels=st.lists(st.from_regex(LABEL_PATTERN, fullmatch=True), min_size=1, max_size=5), source=st.text(max_size=30)
)
def test_manifest_keeps_any_text(labels: list[str], source: str) -> None:
    model = replace(MANIFEST.model, num_classes=len(labels))
    manifest = replace(MANIFEST, model=model, labels=tuple(labels), source=source)
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_newer_manifest_is_refused() -> None:
    raw = json.loads(MANIFEST.to_json())
    raw["format"] = FORMAT + 1
    with pytest.raises(ArtifactError, match=rf"format {FORMAT + 1}, this lit-deploy reads 1 to {FORMAT}; upgrade"):
        Manifest.from_json(json.dumps(raw))


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damaged_manifest_is_refused_in_words(data: st.DataObject) -> None:
    """Cut, flipped, a part missing or replaced: read as something of the right form, or refused."""
    text = MANIFEST.to_json()
    kind = data.draw(st.sampled_from(("cut", "flip", "drop", "replace")))
    if kind == "cut":
        text = text[: data.draw(st.integers(0, len(text) - 1))]
    elif kind == "flip":
        place = data.draw(st.integers(0, len(text) - 1))
        text = text[:place] + data.draw(st.characters(max_codepoint=0x17F)) + text[place + 1 :]
    else:
        raw = json.loads(text)
        inner = data.draw(st.sampled_from([raw, raw["model"], raw["input"]]))
        key = data.draw(st.sampled_from(sorted(inner)))
        if kind == "drop":
            del inner[key]
        else:
            inner[key] = data.draw(st.sampled_from((None, [], {}, "x", -1, 1.5, [1], [[1]])))
        text = json.dumps(raw)
    with refused_at_most_in_one_sentence():
        Manifest.from_json(text)


WRONG: list[tuple[str, str, Any]] = [
    ("input", "height", "x"), ("input", "height", 0), ("input", "width", None), ("input", "resize", []),
    ("input", "resize", 0), ("input", "mean", [1, 2]), ("input", "std", "x"), ("input", "std", [1, 1, 0]),
    ("input", "kind", "video"), ("input", "interpolation", {}), ("model", "num_classes", "many"),
    ("model", "image_size", [1]), ("model", "family", "swin"), ("", "output", "masks"), ("", "precision", "int3"),
    ("", "batch", "two"), ("", "batch", 0), ("", "labels", 3), ("", "layers", [1]), ("", "source_sha256", 7),
]  # fmt: skip


@pytest.mark.parametrize(("part", "key", "value"), WRONG, ids=lambda value: str(value) or "manifest")
def test_manifest_with_an_impossible_value_is_refused(part: str, key: str, value: Any) -> None:
    """Refused when read: later it would be a traceback, in the middle of preprocessing or of a report."""
    raw = json.loads(MANIFEST.to_json())
    (raw[part] if part else raw)[key] = value
    with pytest.raises(ArtifactError, match="manifest"):
        Manifest.from_json(json.dumps(raw))


def test_manifest_in_the_file(tiny: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny)
    other = replace(manifest, labels=tuple("abcdefg"))
    path = edited(tiny, tmp_path / "other.onnx", lambda model: set_manifest(model, other))
    assert read_manifest(path) == other
    keys = [entry.key for entry in onnx.load(str(path)).metadata_props]
    assert keys.count(MANIFEST_KEY) == 1, "replaced, not added"


# ----------------------------------------------------------------------------------------------------- reading


def test_unusable_files_are_named(tiny: Path, tmp_path: Path) -> None:
    for name, path in bad_files(tmp_path, tiny).items():
        for function in (read_manifest, inspect_file):
            with pytest.raises(ArtifactError) as caught:
                function(path)
            assert str(path) in str(caught.value), name
            assert "\n" not in str(caught.value), name


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_flipped_bits_are_read_or_refused(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(tiny.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(1, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(content)
    with refused_at_most_in_one_sentence():
        read_manifest(path)
        inspect_file(path)


# ------------------------------------------------------------------------------------------------------ writing


def test_atomic_path_renames_a_whole_file(tmp_path: Path) -> None:
    final = tmp_path / "a.onnx"
    final.write_text("old")
    with atomic_path(final) as part:
        assert part.parent == final.parent, "a rename is atomic within one file system only"
        assert part.suffix == ".onnx"
        part.write_text("new")
        assert final.read_text() == "old"
    assert final.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.onnx"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_atomic_path_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    final = tmp_path / "a.onnx"
    final.write_text("old")
    expected = UsageError if isinstance(error, OSError) else type(error)

    def write() -> None:
        with atomic_path(final) as part:
            part.write_text("half")
            raise error

    with pytest.raises(expected) as caught:
        write()
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {final}: No space left on device"
    assert final.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_atomic_path_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    for final, word in (
        (tmp_path, "is a directory"),
        (tmp_path / "absent" / "a.onnx", "does not exist"),
        (tmp_path / "file" / "a.onnx", "does not exist"),
    ):
        with pytest.raises(UsageError, match=word), atomic_path(final):
            pytest.fail("the body must not run")


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_another_operator_version_is_refused() -> None:
    raw = json.loads(MANIFEST.to_json())
    raw["op_version"] = 2
    with pytest.raises(ArtifactError, match=r"version 2 of the operator, this lit-deploy implements version 1"):
        Manifest.from_json(json.dumps(raw))


def test_atomic_path_passes_on_errors_that_are_not_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.onnx"):
        (tmp_path / "absent").read_text()
    assert os.listdir(tmp_path) == []


def test_check_target_leaves_nothing(tmp_path: Path) -> None:
    check_target(tmp_path / "a.engine")
    assert os.listdir(tmp_path) == []
    (tmp_path / "old.engine").write_text("old")
    check_target(tmp_path / "old.engine")
    assert (tmp_path / "old.engine").read_text() == "old"
    for final, word in ((tmp_path, "is a directory"), (tmp_path / "absent" / "a.engine", "does not exist")):
        with pytest.raises(UsageError, match=word):
            check_target(final)


def test_files_that_belong_together(tmp_path: Path) -> None:
    """The sidecar of an engine with a temporary name is named after that name; both get their own, or neither."""

    def sidecar(path: Path) -> Path:
        return path.with_name(f"{path.name}.json")

    with atomic_path(tmp_path / "a.engine", sidecar) as part:
        assert sorted(os.listdir(tmp_path)) == [part.name, f"{part.name}.json"]
    assert sorted(os.listdir(tmp_path)) == ["a.engine", "a.engine.json"]
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "b.engine", sidecar):
        raise RuntimeError
    assert sorted(os.listdir(tmp_path)) == ["a.engine", "a.engine.json"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_layers_become_outputs(precision: str, checkpoint_file: Callable[[str], Path]) -> None:
    """Every layer of the manifest is a float32 output of a valid graph; what goes on inside keeps its type."""
    path = export_of(checkpoint_file("tiny"), precision=precision)
    model = onnx.load(str(path))
    before = [node.op_type for node in model.graph.node]
    with_outputs(model, manifest_of(metadata_of(model), path).layers, path)
    onnx.checker.check_model(model, full_check=True)
    layers = read_manifest(path).layers
    assert [value.name for value in model.graph.output] == ["logits", *layers]
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}
    added = [node.op_type for node in model.graph.node][len(before) :]
    assert added == (["Cast"] * len(layers) if precision == "fp16" else [])
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names), "ONNX Runtime refuses two nodes of one name"


def test_layers_of_a_graph_whose_names_are_damaged(checkpoint_file: Callable[[str], Path]) -> None:
    """Names that are no UTF-8 come as bytes; those that need no change are left alone, for the back end to judge."""
    path = export_of(checkpoint_file("tiny"), precision="fp16")
    model = onnx.load_from_string(path.read_bytes().replace(b"head.bias", b"head.b\xe4as"))
    with_outputs(model, manifest_of(metadata_of(model), path).layers, path)
    assert b"head.b\xe4as" in model.SerializeToString()


def test_a_layer_that_the_graph_lacks(tiny: Path) -> None:
    model = onnx.load(str(tiny))
    set_manifest(model, replace(read_manifest(tiny), layers=("patch_embed", "nowhere")))
    with pytest.raises(ArtifactError, match="lacks the value 'nowhere'; export it again"):
        with_outputs(model, manifest_of(metadata_of(model), tiny).layers, tiny)

"""Files that the C API opens on OpenVINO: those that it refuses, and in which words; OpenVINO's own IR."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.exported import export_of, relabelled
from support.runtime_library import Options, needs_runtime
from support.runtime_models import CLASSES, SIDE, UINT8, Model, micro, micro_manifest, opened, options
from support.runtime_openvino import OPENVINO, needs_openvino, opened_on_openvino, openvino, portable_micro
from support.runtime_refusals import assert_refused, opens

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.specs import PrecisionHint
from lit_deploy.machine.facts import computes_bf16, cpu_flags
from lit_deploy.machine.native import EXTENSION_VARIABLE

__all__ = ["openvino"]  # a fixture
pytestmark = [needs_runtime, needs_openvino, pytest.mark.usefixtures("openvino")]

CheckpointFile = Callable[[str], Path]
FLOATS = np.random.default_rng(3).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
SCORES = FLOATS.reshape(2, -1)[:, :CLASSES]


def test_what_is_not_run(tmp_path: Path) -> None:
    path = portable_micro(tmp_path / "micro.onnx")
    assert_refused(
        "LIT_NOT_SUPPORTED", "on the CPU alone; open it with LIT_CPU", opens(path, backend=OPENVINO, device=1)
    )
    fp8 = relabelled(path, tmp_path / "fp8.onnx", precision="fp8")
    words = "no products of 8-bit floats, which .*fp8.onnx holds; use LIT_BACKEND_ONNXRUNTIME"
    assert_refused("LIT_NOT_SUPPORTED", words, opens(fp8, backend=OPENVINO))


@pytest.mark.parametrize("hint", ["bf16", "f32"])
def test_another_precision_than_the_files(hint: PrecisionHint, checkpoint_file: CheckpointFile) -> None:
    """A float32 file in bfloat16, and one of bfloat16 in float32: the numbers of Python, or its refusal."""
    path = export_of(checkpoint_file("tiny"), portable=True, precision="fp32" if hint == "bf16" else "bf16")
    if hint == "bf16" and not computes_bf16(cpu_flags()):
        words = "this CPU does not compute in bfloat16 .* which the precision hint asks for .*tiny.*.onnx; leave"
        assert_refused("LIT_NOT_SUPPORTED", words, opens(path, backend=OPENVINO, precision_hint=b"bf16"))
        return
    images = np.random.default_rng(1).standard_normal((1, 3, *read_manifest(path).model.image_size)).astype(np.float32)
    with open_session(path, SessionOptions(backend="openvino", threads=1, precision_hint=hint)) as session:
        expected, description = session.run({"images": images}), session.description
    with opened_on_openvino(path, threads=1, precision_hint=hint.encode()) as model, model.context() as context:
        np.testing.assert_allclose(context.run(images)["logits"], expected["logits"], rtol=0, atol=1e-5)
        assert model.info.backend.decode() == description
        assert f"({hint}, inlined)" in description


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("lit.onnx", "LIT_NOT_SUPPORTED", "hint is for OpenVINO, but ONNX Runtime is to run /nowhere/lit.onnx; leave"),
        ("lit.engine", "LIT_NOT_SUPPORTED", "hint is for OpenVINO, but TensorRT is to run /nowhere/lit.engine"),
        ("lit.xml", "LIT_FILE_ERROR", "lit.xml cannot be opened"),
    ],
)
def test_a_precision_hint_for_another_back_end(name: str, status: str, words: str) -> None:
    assert_refused(status, words, opens(f"/nowhere/{name}", precision_hint=b"f32"))


def test_a_precision_hint_that_is_none(tmp_path: Path) -> None:
    path = portable_micro(tmp_path / "micro.onnx")
    words = "precision_hint is 'fp16'; expected .bf16., .f32. or NULL"
    assert_refused("LIT_INVALID_ARGUMENT", words, opens(path, backend=OPENVINO, precision_hint=b"fp16"))


def test_programs_compiled_before_there_were_hints(tmp_path: Path) -> None:
    """Where it would stand lies something else; it is at the end, in no padding of the structure before."""
    settings = options(backend=OPENVINO, precision_hint=b"what lies there by chance")
    settings.struct_size = Options.precision_hint.offset
    assert Options.precision_hint.offset % 8 == 0
    assert Options.precision_hint.offset >= Options.backend.offset + 8
    model = Model(portable_micro(tmp_path / "micro.onnx"), settings)
    assert b"(f32, inlined)" in model.info.backend
    model.close()


def test_files_that_are_not_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "micro.onnx"
    refused = opens(path, backend=OPENVINO)
    micro(path, micro_manifest(portable=True))
    assert_refused("LIT_BAD_MODEL", "carries functions, and its manifest says that it has none", refused)
    whole = portable_micro(path).read_bytes()
    for kept in range(1, len(whole), 97):
        path.write_bytes(whole[:kept])
        assert_refused("LIT_BAD_MODEL", "micro.onnx", refused)

    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchOperator"

    portable_micro(path, change=unknown)
    assert_refused("LIT_BAD_MODEL", r"^OpenVINO [\d.]+ refuses .*micro.onnx \(.*NoSuchOperator", refused)


def renamed(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "scores"


def integers(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["first"], ["logits"], to=onnx.TensorProto.INT64))
    del model.graph.node[-2]
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


def another(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["first"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["batch", CLASSES]))


@pytest.mark.parametrize("change", [renamed, integers, another])
def test_graphs_that_their_manifest_does_not_promise(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    path = portable_micro(tmp_path / "micro.onnx", change=change)
    words = "has other inputs or outputs than its manifest promises"
    assert_refused("LIT_BAD_MODEL", words, opens(path, backend=OPENVINO))


@pytest.mark.parametrize("changes", [{"input": UINT8}, {"batch": 2}, {"batch": None}, {"output": "probabilities"}])
def test_other_manifests(changes: dict[str, Any], tmp_path: Path) -> None:
    path = portable_micro(tmp_path / "micro.onnx", micro_manifest(portable=True, batch=3))
    other = relabelled(path, tmp_path / "other.onnx", **changes)
    words = "has other inputs or outputs than its manifest promises"
    assert_refused("LIT_BAD_MODEL", words, opens(other, backend=OPENVINO))


def initializer(model: onnx.ModelProto, name: str, values: list[int]) -> None:
    entry = next(entry for entry in model.graph.initializer if entry.name == name)
    entry.CopyFrom(helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values))


def test_a_graph_with_other_shapes_than_it_declares(tmp_path: Path) -> None:
    """OpenVINO computes the shapes by itself."""
    path = portable_micro(tmp_path / "micro.onnx", change=lambda model: initializer(model, "end", [CLASSES - 1]))
    words = "has other inputs or outputs than its manifest promises"
    assert_refused("LIT_BAD_MODEL", words, opens(path, backend=OPENVINO))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([1, -1], "returned results of another size than its manifest promises"),
        ([1, 48], "failed while it ran .*shape"),
    ],
)
def test_a_graph_for_other_batches_than_it_declares(shape: list[int], words: str, tmp_path: Path) -> None:
    """What shows only with the second batch size; the context stays usable."""
    path = portable_micro(tmp_path / "micro.onnx", change=lambda model: initializer(model, "flat", shape))
    with opened_on_openvino(path) as model, model.context() as context:
        for _ in range(2):
            np.testing.assert_array_equal(context.run(FLOATS[:1])["logits"], SCORES[:1])
            assert_refused("LIT_RUN_FAILED", words, lambda: context.run(FLOATS))


# --------------------------------------------------------------------------------------------------- OpenVINO's own IR


def ir(path: Path, source: Path, manifest: str | None = None) -> Path:
    """The file as OpenVINO's IR, with its manifest where lit-deploy writes it."""
    import openvino

    model = openvino.Core().read_model(str(source))
    model.set_rt_info(read_manifest(source).to_json() if manifest is None else manifest, ["lit_deploy", "manifest"])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


def test_an_ir_equals_its_onnx_file(tmp_path: Path, checkpoint_file: CheckpointFile) -> None:
    source = export_of(checkpoint_file("tiny"), portable=True)
    path, spec = ir(tmp_path / "tiny.xml", source), read_manifest(source).input
    images = np.random.default_rng(0).standard_normal((3, 3, spec.height, spec.width)).astype(np.float32)
    with opened_on_openvino(source) as model, model.context() as context:
        expected = context.run(images)["logits"]
    for backend in (0, OPENVINO):
        with opened(path, backend=backend) as model, model.context() as context:
            atol = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(context.run(images)["logits"], expected, rtol=0, atol=atol)


def test_the_manifest_of_an_ir_is_read_to_the_letter(tmp_path: Path) -> None:
    labels = ("\"'<>&", "Käfer · 甲虫", "a  b", "&quot;", "</net>", "<lit_deploy>", "]]>")
    manifest = micro_manifest(portable=True, labels=labels, source="a\tb\nc")
    source = portable_micro(tmp_path / "micro.onnx", manifest)
    with opened_on_openvino(ir(tmp_path / "micro.xml", source)) as model:
        assert model.info.manifest.decode() == manifest.to_json()


def test_irs_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXTENSION_VARIABLE, str(tmp_path / "absent.so"))
    source = portable_micro(tmp_path / "micro.onnx")
    path = ir(tmp_path / "micro.xml", source)
    refused, text = opens(path), path.read_text()
    start, manifest = text.rsplit("<lit_deploy>", 1)
    for words, changed in (
        ("is not a whole OpenVINO IR", text[: len(text) // 2]),
        ("is not a whole OpenVINO IR", ""),
        ("holds no lit-deploy manifest", text.replace("lit_deploy", "other_deploy")),
        ("is not a whole OpenVINO IR", text.replace("&quot;", "&quux;")),
        ("is damaged .it is no JSON", f"{start}<lit_deploy>{manifest.replace('&quot;', '', 3)}"),
        ("refuses", re.sub(r"type=\"(Slice|StridedSlice|Gather)\"", 'type="NoSuchOperator"', text)),
    ):
        assert changed != text
        path.write_text(changed)
        assert_refused("LIT_BAD_MODEL", words, refused)
    path.write_text(text)
    refused_plainly = opens(relabelled_ir(tmp_path, source))
    assert_refused("LIT_LIBRARY_NOT_FOUND", "extension for OpenVINO was not found", refused_plainly)
    path.with_suffix(".bin").unlink()
    assert_refused("LIT_FILE_ERROR", f"{path.with_suffix('.bin')} cannot be opened", refused)
    path.unlink()
    assert_refused("LIT_FILE_ERROR", f"{path} cannot be opened", refused)


def relabelled_ir(folder: Path, source: Path) -> Path:
    """An IR that says that it calls our operators."""
    return ir(folder / "ordinary.xml", source, replace(read_manifest(source), portable=False).to_json())

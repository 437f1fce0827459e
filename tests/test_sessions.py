"""The session protocol on PyTorch and ONNX Runtime, threads, and files that cannot be run."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from exported import KERNELS, change_initializer, edited, export_of, needs_library, refused_at_most_in_one_sentence
from golden import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from test_artifact import bad_files

from lit_deploy import native
from lit_deploy.artifact import read_manifest
from lit_deploy.checkpoints import load_checkpoint
from lit_deploy.errors import ArtifactError, CheckpointError, LitDeployError, MissingDependency, UsageError
from lit_deploy.exporters.onnx import OnnxOptions, onnx_from_checkpoint, write_onnx
from lit_deploy.runtime import onnxruntime as onnxruntime_session
from lit_deploy.runtime.session import Session, SessionOptions, open_session
from lit_deploy.seeded import synthetic_image

CheckpointFile = Callable[[str], Path]
RNG = np.random.default_rng(11)
IMAGES = RNG.standard_normal((3, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module", params=["checkpoint", "exported"])
def source(request: pytest.FixtureRequest, checkpoint_file: CheckpointFile) -> Path:
    checkpoint = checkpoint_file("tiny")
    return checkpoint if request.param == "checkpoint" else export_of(checkpoint)


# ------------------------------------------------------------------------------------------------------ protocol


def test_protocol(source: Path) -> None:
    with open_session(source) as session:
        for name, member in inspect.getmembers(Session, callable):
            if not name.startswith("_") or name in ("__enter__", "__exit__"):
                assert inspect.signature(member).parameters.keys() == (
                    {"self"} | inspect.signature(getattr(session, name)).parameters.keys()
                ), name
        (images,) = session.inputs
        assert (images.name, images.dtype, images.shape) == ("images", "float32", ("batch", 3, 64, 64))
        (logits,) = session.outputs
        assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", ("batch", 7))
        assert session.manifest.model == TINY
        assert session.manifest.output == "logits"
        result = session.run({"images": IMAGES})
        assert list(result) == ["logits"]
        assert result["logits"].shape == (3, 7)
        assert result["logits"].dtype == np.float32
        assert session.description.startswith(("PyTorch", "ONNX Runtime"))


def test_back_ends_agree(checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny_ti")
    with open_session(checkpoint) as first, open_session(export_of(checkpoint)) as second:
        a, b = (session.run({"images": IMAGES})["logits"] for session in (first, second))
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
    assert np.abs(a[0] - a[1]).max() > 0.1


def test_nothing_is_loaded_before_entering(tmp_path: Path) -> None:
    for name in ("absent.onnx", "absent.pth"):
        session = open_session(tmp_path / name)
        with pytest.raises((ArtifactError, CheckpointError), match="absent"):
            session.__enter__()


@pytest.mark.parametrize("library", KERNELS)
def test_layers(library: bool, checkpoint_file: CheckpointFile) -> None:
    """Both back ends return the same layers under the same names; the manifest lists them in order."""
    checkpoint = checkpoint_file("tiny")
    with (
        open_session(checkpoint, SessionOptions(layers=True)) as reference,
        open_session(export_of(checkpoint), SessionOptions(layers=True, library=library)) as session,
    ):
        expected, got = (s.run({"images": IMAGES}) for s in (reference, session))
        assert tuple(list(got)[1:]) == session.manifest.layers == reference.manifest.layers
    for name in got:
        scale = np.abs(expected[name]).max()
        assert np.abs(got[name] - expected[name]).max() <= 1e-5 * scale, name
    offsets = {name.removesuffix(".dconv.conv_offset") for name in expected if name.endswith("conv_offset")}
    assert offsets == {f"layers.{i}.downsample" for i in range(3)}


@pytest.mark.parametrize("library", KERNELS)
def test_layers_of_half_precision(library: bool, checkpoint_file: CheckpointFile) -> None:
    """Layers are float32 whatever the file computes in, so that nobody compares them in ten bits."""
    checkpoint = checkpoint_file("tiny")
    half = SessionOptions(layers=True, library=library)
    with (
        open_session(checkpoint, SessionOptions(layers=True)) as reference,
        open_session(export_of(checkpoint, precision="fp16"), half) as session,
    ):
        expected, got = (s.run({"images": IMAGES}) for s in (reference, session))
        assert list(got) == ["logits", *session.manifest.layers]
        assert {spec.dtype for spec in session.outputs} == {"float32"}
    for name, value in got.items():
        assert value.dtype == np.float32, name
        difference = np.abs(value - expected[name]).max() / np.abs(expected[name]).max()
        assert difference < 1e-2, name
    assert np.abs(got["norm"] - expected["norm"]).max() > 1e-6 * np.abs(expected["norm"]).max(), "it is half precision"


def test_threads_at_once(source: Path) -> None:
    """Eight callers share one session: each gets exactly what it gets alone."""
    feeds = [np.roll(IMAGES, shift, axis=0)[: 1 + shift % 3] for shift in range(8)] * 3
    with open_session(source) as session:
        alone = [session.run({"images": feed})["logits"] for feed in feeds]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda feed: session.run({"images": feed})["logits"], feeds))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_threads_with_layers(source: Path) -> None:
    """Recording layers must not mix up the callers either."""
    with open_session(source, SessionOptions(layers=True)) as session:
        alone = [session.run({"images": IMAGES[i : i + 1]}) for i in range(3)]
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(lambda i: session.run({"images": IMAGES[i % 3 : i % 3 + 1]}), range(18)))
    for index, result in enumerate(together):
        for name, value in alone[index % 3].items():
            assert np.array_equal(result[name], value), name


def test_thread_count_is_taken(checkpoint_file: CheckpointFile) -> None:
    with open_session(export_of(checkpoint_file("tiny")), SessionOptions(threads=1)) as session:
        options: Any = session._session.get_session_options()  # type: ignore[attr-defined]
        assert options.intra_op_num_threads == 1
    with pytest.raises(UsageError, match="threads is 0, expected at least 1"):
        open_session("x.onnx", SessionOptions(threads=0))


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "got inputs [], expected ['images']"),
        ({"image": IMAGES}, "got inputs ['image'], expected ['images']"),
        ({"images": IMAGES, "more": IMAGES}, "got inputs ['images', 'more'], expected ['images']"),
        ({"images": IMAGES.astype(np.float64)}, "input 'images' is float64 [3, 3, 64, 64], expected float32"),
        ({"images": IMAGES[0]}, "is float32 [3, 64, 64], expected float32 [batch x 3 x 64 x 64]"),
        ({"images": IMAGES.transpose(0, 2, 3, 1)}, "is float32 [3, 64, 64, 3], expected float32 [batch x 3 x 64 x 64]"),
        ({"images": IMAGES[..., :60]}, "is float32 [3, 3, 64, 60], expected"),
        ({"images": IMAGES[:, :0]}, "is float32 [3, 0, 64, 64], expected"),
    ],
    ids=str,
)
def test_bad_feeds(source: Path, feeds: dict[str, Any], words: str) -> None:
    with open_session(source) as session:
        with pytest.raises(UsageError) as caught:
            session.run(feeds)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        session.run({"images": IMAGES})  # and the session lives on


def test_array_in_any_memory_order(source: Path) -> None:
    turned = np.asfortranarray(IMAGES)
    with open_session(source) as session:
        expected = session.run({"images": IMAGES})["logits"]
        np.testing.assert_allclose(session.run({"images": turned})["logits"], expected, rtol=0, atol=1e-5)


def test_empty_batch(source: Path) -> None:
    """No image, no row: neither a crash nor an error from the depths of a back end."""
    with open_session(source) as session:
        assert session.run({"images": IMAGES[:0]})["logits"].shape == (0, 7)


# ----------------------------------------------------------------------------------------------- kernel and device


def test_float32_products_on_cuda_are_float32() -> None:
    """TensorFloat-32 is off in both back ends, and cuDNN stays on."""
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    loaded: list[bool] = []
    ort: Any = SimpleNamespace(get_available_providers=lambda: [cuda, cpu], preload_dlls=lambda: loaded.append(True))
    assert onnxruntime_session._providers(ort, "cpu") == [cpu]
    assert loaded == []
    assert onnxruntime_session._providers(ort, "cuda") == [(cuda, {"use_tf32": "0"}), cpu]
    assert loaded == [True], "CUDA's libraries, which nobody else has loaded where PyTorch is not"

    program = (
        "import torch; from lit_deploy.runtime.torch import _float32_only; "
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'; _float32_only(); "
        "print(torch.backends.cudnn.enabled, torch.backends.cudnn.conv.fp32_precision, "
        "torch.backends.cuda.matmul.fp32_precision)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "ieee", "ieee"]


def test_a_provider_that_does_not_start(checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would go on with the CPU; asked for CUDA, that is no session."""
    monkeypatch.setattr(onnxruntime_session, "_providers", lambda ort, device: ["CPUExecutionProvider"])
    session = open_session(export_of(checkpoint_file("tiny")), SessionOptions(device="cuda", library=False))
    with pytest.raises(MissingDependency, match="could not start CUDAExecutionProvider "):
        session.__enter__()


@needs_library
def test_a_library_named_by_a_relative_path(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare file name is one of this folder; the dynamic linker alone would look for it everywhere else."""
    path, library = export_of(checkpoint_file("tiny")), native.find_library()
    assert library is not None
    (tmp_path / "copy.so").write_bytes(library.read_bytes())
    monkeypatch.chdir(tmp_path)
    for name in ("copy.so", "./copy.so"):
        monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, name)
        assert native.searched_paths() == (tmp_path / "copy.so",)
        with open_session(path) as session:
            assert session.description.endswith("(lit-deploy kernel)")


@needs_library
def test_which_kernel_runs(checkpoint_file: CheckpointFile) -> None:
    checkpoint = checkpoint_file("tiny")
    for path, library, word in (
        (export_of(checkpoint), True, "(lit-deploy kernel)"),
        (export_of(checkpoint), None, "(lit-deploy kernel)"),
        (export_of(checkpoint), False, "(built-in function)"),
        (export_of(checkpoint, portable=True), None, "(inlined)"),
    ):
        with open_session(path, SessionOptions(library=library)) as session:
            assert session.description.endswith(word)


def test_missing_library(checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, by option or by variable, and not there: every path searched and the command."""
    path = export_of(checkpoint_file("tiny"))
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, str(tmp_path / "none.so"))
    for library in (True, None):
        session = open_session(path, SessionOptions(library=library))
        with pytest.raises(MissingDependency) as caught:
            session.__enter__()
        assert str(tmp_path / "none.so") in str(caught.value)
        assert native.BUILD_COMMAND in str(caught.value)
    monkeypatch.delenv(native.ENVIRONMENT_VARIABLE)
    monkeypatch.setattr(native, "searched_paths", lambda: (tmp_path / "none.so",))
    with open_session(path) as session:  # not asked for: the function serves
        assert session.description.endswith("(built-in function)")


def test_broken_library(checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF" + bytes(200))
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, str(broken))
    session = open_session(export_of(checkpoint_file("tiny")))
    with pytest.raises(MissingDependency, match=r"cannot load .*broken\.so .* rebuild it") as caught:
        session.__enter__()
    assert "\n" not in str(caught.value)


def test_cuda_where_there_is_none(source: Path) -> None:
    import onnxruntime
    import torch

    if torch.cuda.is_available() or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is here")
    session = open_session(source, SessionOptions(device="cuda"))
    with pytest.raises(MissingDependency, match="device cuda was asked for"):
        session.__enter__()


def test_onnxruntime_not_installed(checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    session = open_session(export_of(checkpoint_file("tiny")))
    with pytest.raises(MissingDependency, match=r"pip install 'lit-deploy\[ort\]'"):
        session.__enter__()


def test_which_library_runs_on_cuda(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library without a CUDA kernel would copy every token map to the host: the function stays on the device."""
    library = tmp_path / "library.so"
    library.write_bytes(b"")
    monkeypatch.setenv(native.ENVIRONMENT_VARIABLE, str(library))
    assert not native.has_cuda_kernel(library), "a library that does not load has none"
    path = export_of(checkpoint_file("tiny"))
    for cuda, asked, used in ((True, None, True), (True, True, True), (False, None, False), (True, False, False)):
        monkeypatch.setattr(native, "has_cuda_kernel", lambda library, cuda=cuda: cuda)
        session: Any = open_session(path, SessionOptions(device="cuda", library=asked))
        assert session._library() == (library if used else None)
    monkeypatch.setattr(native, "has_cuda_kernel", lambda library: False)
    with pytest.raises(MissingDependency, match=r"library\.so holds no CUDA kernel for this GPU and driver; build it"):
        open_session(path, SessionOptions(device="cuda", library=True))._library()  # type: ignore[attr-defined]
    assert open_session(path)._library() == library  # type: ignore[attr-defined]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize(("source", "has"), [("return 1;", True), ("return 0;", False), (None, False)])
def test_cuda_kernel_is_asked_for_by_name(tmp_path: Path, source: str | None, has: bool) -> None:
    library, code = (
        tmp_path / "library.so",
        "int other;" if source is None else f"int lit_deploy_has_cuda(void) {{{source}}}",
    )
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=code, text=True, check=True)
    assert native.has_cuda_kernel(library) is has


def test_running_a_file_imports_no_torch(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Neither a session nor a prediction on an exported file; the saved start-up time is the point."""
    path = export_of(checkpoint_file("tiny"))
    Image.fromarray(synthetic_image(1, "photo", 80, 90)).save(tmp_path / "photo.png")
    code = f"""
import json, sys
from lit_deploy import open_session, predict_images, read_manifest
read_manifest(__import__("pathlib").Path({str(path)!r}))
result = predict_images({str(path)!r}, [{str(tmp_path / "photo.png")!r}])
assert len(result[0].classes) == 5
print(json.dumps([name for name in ("torch", "onnxscript", "typer", "rich", "matplotlib") if name in sys.modules]))
"""
    root = Path(native.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


# ---------------------------------------------------------------------------------------------- files that cannot run


def test_unusable_files(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    for name, path in bad_files(tmp_path, export_of(checkpoint_file("tiny"))).items():
        session = open_session(path)
        with pytest.raises(ArtifactError) as caught:
            session.__enter__()
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value), name


def set_op_type(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "NoSuchOperator"


def drop_initializer(model: onnx.ModelProto) -> None:
    del model.graph.initializer[5]


def cut_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer[5].raw_data = model.graph.initializer[5].raw_data[:-4]


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "pictures"
    model.graph.node[0].input[0] = "pictures"


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "answers"
    model.graph.node[-1].output[0] = "answers"


def shrink_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32


@pytest.mark.parametrize(
    "change", [set_op_type, drop_initializer, cut_initializer, rename_input, rename_output, shrink_input]
)
def test_graphs_that_do_not_fit(
    change: Callable[[onnx.ModelProto], None], checkpoint_file: CheckpointFile, tmp_path: Path
) -> None:
    """The graph is damaged, or is not the one that its manifest describes: refused when the session is entered."""
    path = edited(export_of(checkpoint_file("tiny")), tmp_path / "changed.onnx", change)
    session = open_session(path)
    with pytest.raises(ArtifactError) as caught:
        session.__enter__()
    assert "\n" not in str(caught.value)


def test_bf16_is_for_engines(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """The ONNX file beside a bf16 engine is whole, but ONNX Runtime computes no bf16 on a CPU."""
    path = tmp_path / "lit.engine.onnx"
    write_onnx(onnx_from_checkpoint(load_checkpoint(checkpoint_file("tiny")), OnnxOptions(precision="bf16"))[0], path)
    assert read_manifest(path).precision == "bf16"
    for options in (SessionOptions(), SessionOptions(library=False, layers=True)):
        with pytest.raises(UsageError) as caught:
            open_session(path, options).__enter__()
        words = str(caught.value)
        assert words.startswith(f"{path} is of bf16, which ONNX Runtime does not compute on a CPU (")
        assert words.endswith("); build an engine of it: lit-deploy export --format trt")


def test_layers_that_are_not_there(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    path = edited(export_of(checkpoint_file("tiny")), tmp_path / "a.onnx", lambda m: m.graph.ClearField("value_info"))
    session = open_session(path, SessionOptions(layers=True))
    with pytest.raises(ArtifactError, match=r"lacks the layer value 'patch_embed'"):
        session.__enter__()
    with open_session(path) as session:
        session.run({"images": IMAGES})


def test_failure_while_running(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """A graph that loads and then fails in the middle of a run: still one sentence."""

    def wrong_shape(model: onnx.ModelProto) -> None:
        # the batch of the attention's result is no longer left open, so only some batches fit
        name = next(
            node.input[1] for node in model.graph.node
            if node.op_type == "Reshape" and node.name.startswith("layers.2.downsample") and
            numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == node.input[1])).size == 4
        )  # fmt: skip
        change_initializer(model, name, lambda value: np.array([1, *value[1:]]))
        model.graph.ClearField("value_info")

    path = edited(export_of(checkpoint_file("tiny")), tmp_path / "a.onnx", wrong_shape)
    with open_session(path, SessionOptions(library=False)) as session:
        with pytest.raises(LitDeployError) as caught:
            session.run({"images": IMAGES})
        assert "\n" not in str(caught.value)
        assert session.run({"images": IMAGES[:1]})["logits"].shape == (1, 7)


class Structure:
    """An exported file, and the positions in it that are no weights: there a flipped bit does most harm."""

    def __init__(self, content: bytes) -> None:
        is_weight = np.zeros(len(content), dtype=bool)
        for tensor in onnx.load_from_string(content).graph.initializer:
            if len(tensor.raw_data) >= 32:
                start = content.find(tensor.raw_data)
                is_weight[start : start + len(tensor.raw_data)] = True
        self.content = content
        self.places = np.flatnonzero(~is_weight).tolist()


@pytest.fixture(scope="module")
def structure(checkpoint_file: CheckpointFile) -> Structure:
    return Structure(export_of(checkpoint_file("tiny")).read_bytes())


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_flipped_bits(structure: Structure, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One or two flipped bits, or a cut: the file runs, or is refused in one sentence."""
    content, places = bytearray(structure.content), structure.places
    for _ in range(data.draw(st.integers(1, 2))):
        content[data.draw(st.sampled_from(places))] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.integers(0, 9)) == 0:
        del content[data.draw(st.sampled_from(places)) :]
    path = tmp_path_factory.getbasetemp() / "bits.onnx"
    path.write_bytes(content)
    options = SessionOptions(
        threads=1, library=data.draw(st.sampled_from((None, False))), layers=data.draw(st.booleans())
    )
    with refused_at_most_in_one_sentence(), open_session(path, options) as session:
        (images,) = session.inputs
        if images.dtype == "float32" and images.shape[1:] == (3, 64, 64):
            session.run({"images": IMAGES[: 3 if isinstance(images.shape[0], str) else images.shape[0]]})


def test_refusals_print_nothing_else(
    checkpoint_file: CheckpointFile, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime has habits of its own: error logs on stderr, and a note about a retry on stdout."""
    good = export_of(checkpoint_file("tiny"))

    def not_utf8(model: onnx.ModelProto) -> None:
        model.graph.node[3].op_type = "Match"

    changed = edited(good, tmp_path / "changed.onnx", not_utf8).read_bytes()
    tmp_path.joinpath("bytes.onnx").write_bytes(changed.replace(b"Match", b"M\xe4tch"))
    for path in (
        tmp_path / "changed.onnx",
        tmp_path / "bytes.onnx",
        edited(good, tmp_path / "cut.onnx", cut_initializer),
    ):
        session = open_session(path)
        with pytest.raises(ArtifactError):
            session.__enter__()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_manifest_is_read_without_a_session(checkpoint_file: CheckpointFile) -> None:
    assert read_manifest(export_of(checkpoint_file("tiny"))).model == TINY


def test_session_that_is_not_open(checkpoint_file: CheckpointFile) -> None:
    """Before it is entered and after it is left: a sentence, not an AttributeError."""
    for source in (checkpoint_file("tiny"), export_of(checkpoint_file("tiny"))):
        session = open_session(source)
        for use in (lambda s: s.manifest, lambda s: s.inputs, lambda s: s.outputs, lambda s: s.run({})):
            with pytest.raises(UsageError, match="not open"):
                use(session)
        with session:
            assert session.inputs
        with pytest.raises(UsageError, match="not open"):
            session.run({"images": IMAGES})


def test_bytes_in_the_other_order_are_refused(checkpoint_file: CheckpointFile) -> None:
    with open_session(export_of(checkpoint_file("tiny"))) as session:
        with pytest.raises(UsageError, match=r"'images' is >f4 .* expected float32"):
            session.run({"images": IMAGES.astype(">f4")})
        with pytest.raises(UsageError, match="is a list, expected a NumPy array"):
            session.run({"images": IMAGES.tolist()})  # type: ignore[dict-item]


@pytest.mark.parametrize("option", [{"device": "tpu"}, {"backend": "tvm"}])
def test_unknown_options_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected one of"):
        SessionOptions(**option)


def test_threads_of_the_process_come_back(checkpoint_file: CheckpointFile) -> None:
    import torch

    before = torch.get_num_threads()
    with open_session(checkpoint_file("tiny"), SessionOptions(threads=1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_empty_variable_is_as_good_as_unset(checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_DEPLOY_LIBRARY", "")  # as good as unset
    with open_session(export_of(checkpoint_file("tiny"))) as session:
        session.run({"images": IMAGES})


@needs_library
def test_portable_files_need_no_library(checkpoint_file: CheckpointFile) -> None:
    portable = export_of(checkpoint_file("tiny"), portable=True)
    with pytest.raises(UsageError, match="portable"):
        open_session(portable, SessionOptions(library=True)).__enter__()
    with open_session(portable) as session:
        assert "inlined" in session.description

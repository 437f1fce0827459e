"""The session protocol on PyTorch and ONNX Runtime, threads, and which kernel runs."""

from __future__ import annotations

import gc
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
import pytest
from PIL import Image
from support.exported import KERNELS, export_of, needs_library
from support.golden import TINY

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.backends import onnxruntime as onnxruntime_session
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import Session, SessionOptions
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.core.errors import ArtifactError, CheckpointError, MissingDependency, UsageError
from lit_deploy.machine import native

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
        "import torch; from lit_deploy.backends.torch import _float32_only; "
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


# ------------------------------------------------------------------------------------------------------- the rest


def test_manifest_is_read_without_a_session(checkpoint_file: CheckpointFile) -> None:
    assert read_manifest(export_of(checkpoint_file("tiny"))).model == TINY


FIRST_USES: tuple[Callable[[Session], object], ...] = (
    lambda session: session.description,
    lambda session: session.manifest,
    lambda session: session.inputs,
    lambda session: session.outputs,
    lambda session: session.run({"images": IMAGES}),
)


@pytest.mark.parametrize("end", ["close", "with", "last reference"])
@pytest.mark.parametrize("kind", ["checkpoint", "file"])
def test_a_notebook_needs_no_with(
    kind: str, end: str, checkpoint_file: CheckpointFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded at the first use, whatever that is; let go of once, and not used after that."""
    source = checkpoint_file("tiny") if kind == "checkpoint" else export_of(checkpoint_file("tiny"))
    back_end: Any = type(open_session(source))
    close, closed = back_end._close, []
    monkeypatch.setattr(back_end, "_close", lambda session: (closed.append(1), close(session)))
    for count, use in enumerate(FIRST_USES, 1):
        session = open_session(source)
        assert use(session)
        if end == "last reference":
            del session
            gc.collect()
        else:
            if end == "with":
                with session:
                    assert session.inputs
            session.close()
            session.close()
            with pytest.raises(UsageError, match="not open any more"):
                session.run({"images": IMAGES})
        assert len(closed) == count


def test_a_session_that_cannot_be_opened_says_so_at_every_use(tmp_path: Path) -> None:
    session = open_session(tmp_path / "absent.onnx")
    for _ in range(2):
        with pytest.raises(ArtifactError, match="is not a file"):
            _ = session.inputs
    session.close()


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

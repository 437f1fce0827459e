"""What is no file's fault: packages that do not load, memory that does not suffice, files that may not be read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from support.command import ROOT, Run, assert_one_sentence

from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.backends.table import BACKENDS
from lit_deploy.core.errors import (
    ImageError,
    LitDeployError,
    MissingDependency,
    OutOfMemory,
    UsageError,
    refuse_for_memory,
)
from lit_deploy.images import calibration, decoding, label_maps
from lit_deploy.images.decoding import load_image

SHORT = (
    MemoryError(),
    MemoryError("Unable to allocate 7.70 GiB for an array with shape (1000000000,)"),
    OSError(12, "Cannot allocate memory"),
    OSError("out of memory error when reading image file"),  # Pillow
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 4294967296"),
)


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def fail(*arguments: object, **more: object) -> NoReturn:
        raise error

    return fail


# ------------------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_short_memory_is_told(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match=r"^there is not enough memory.*; free some, raise the limit") as caught:
        refuse_for_memory(error)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, ImageError), "which would be left out"


@pytest.mark.parametrize(
    "error", [OSError("image file is truncated"), KeyError("memory"), OSError(13, "Permission denied")]
)
def test_other_errors_are_not(error: Exception) -> None:
    refuse_for_memory(error)


@pytest.mark.parametrize("error", [SHORT[0], SHORT[3]], ids=repr)
def test_a_picture_is_not_damaged_for_it(error: Exception, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, call in (
        (decoding.Image, lambda: load_image(photo)),
        (label_maps.Image, lambda: label_maps._values(photo)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, "open", raising(error))
            with pytest.raises(OutOfMemory):
                call()


def test_pixels_are_not_damaged_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 2), np.uint8))
    monkeypatch.setattr(calibration.np, "load", raising(MemoryError()))
    with pytest.raises(OutOfMemory):
        calibration._array_of_npz(tmp_path / "a.npz")


def test_evaluate_stops_for_it(
    run: Run, exported: Path, labelled_photos: Path, evaluate_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not leave images out: the score would be that of others."""
    monkeypatch.setattr(Image.Image, "convert", raising(MemoryError()))
    assert_one_sentence(run("evaluate", exported, "--images", labelled_photos, "--workers", 2), "not enough memory")


def test_whatever_runs_out_of_it(run: Run, exported: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's and the standard library's errors are caught by nobody on their way."""
    monkeypatch.setattr("lit_deploy.workflows.predict.predicted", raising(SHORT[5]))
    assert_one_sentence(run("predict", exported, photo), "can't allocate memory")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_that_runs_out_of_it(name: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    with open_session(exported, SessionOptions(backend=name, threads=1)) as session:
        feed = {"images": np.zeros((1, 3, 64, 64), np.float32)}
        session.run(feed)

        class Short:
            get_outputs = staticmethod(list)
            run = infer = staticmethod(raising(RuntimeError("std::bad_alloc")))

        if name == "onnxruntime":
            monkeypatch.setattr(session, "_session", Short)
        else:
            requests = session._requests  # type: ignore[attr-defined]
            requests.update(dict.fromkeys(requests, Short))
        with pytest.raises(OutOfMemory, match="bad_alloc"):
            session.run(feed)


# ---------------------------------------------------------------------------------------------------------- packages


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """``broken(package, line)`` puts a package before the real one whose first line is this."""

    def put(name: str, line: str) -> None:
        folder = tmp_path / "site" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(line)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        for known in [key for key in sys.modules if key.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, known)

    return put


LOADER = "libonnx.so.1: cannot open shared object file: No such file or directory"
FAULTS = {
    f"raise ImportError({LOADER!r}, name='the_package.core')": LOADER,
    "import a_module_that_it_needs": "No module named 'a_module_that_it_needs'",
    "raise AttributeError('_ARRAY_API not found')": "_ARRAY_API not found",
}


@pytest.mark.parametrize(("line", "says"), FAULTS.items(), ids=["loader", "module", "numpy"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_broken_runtime_is_not_absent(
    name: Any, line: str, says: str, broken: Callable[[str, str], None], exported: Path
) -> None:
    broken(name, line)
    title = BACKENDS[name].title
    with pytest.raises(
        MissingDependency, match=rf"^{title} is installed but does not load \(.*; mend it, or"
    ) as caught:
        open_session(exported, SessionOptions(backend=name)).__enter__()
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_absent_runtime_is(name: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match=f"^{BACKENDS[name].title} is not installed; run: pip install"):
        open_session(exported, SessionOptions(backend=name)).__enter__()


def test_doctor_says_the_same(broken: Callable[[str, str], None], run: Run) -> None:
    for name in ("onnxruntime", "openvino"):
        broken(name, f"raise ImportError({LOADER!r})")
    told = " ".join(run("doctor").out.split())
    assert f"installed but does not load ({LOADER})" in told.replace("│ │ │ ", "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"raise ImportError({LOADER!r}, name='torch._C')", LOADER),
        (f"raise ImportError({LOADER!r})", LOADER),
        ("import a_module_that_it_needs", "No module named 'a_module_that_it_needs'"),
    ],
)
def test_broken_packages_that_commands_import(line: str, says: str, checkpoint_file: Any, tmp_path: Path) -> None:
    """Of those that are imported all over the place, the command line tells."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(line)
    done = subprocess.run(
        [sys.executable, "-m", "lit_deploy.cli", "inspect", checkpoint_file("tiny")], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2,
        f"error: the package torch is installed but does not load ({says}); run: pip install 'lit-deploy[export]'\n",
    )


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("command", ["inspect", "predict"])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_file_that_may_not_be_read(
    command: str, suffix: str, run: Run, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not truncated: its owner has to give permission."""
    for name in ("a.onnx", "a.xml", "a.bin"):
        (tmp_path / name).write_text("secret")
    real = Path.open

    def refuse(self: Path, *arguments: Any, **more: Any) -> Any:
        if self.parent == tmp_path:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    words = [command, tmp_path / f"a{suffix}", *([photo] if command == "predict" else [])]
    assert_one_sentence(run(*words), f"a{suffix} cannot be read (Permission denied); give read permission")


def test_a_picture_that_cannot_be_read(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, says in ((13, "may not be read"), (5, "cannot be read (Input/output error)")):
        monkeypatch.setattr(decoding.Image, "open", raising(OSError(number, "Input/output error")))
        with pytest.raises(LitDeployError) as caught:
            load_image(photo)
        assert says in str(caught.value)
        assert "damaged" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- deep JSON


def test_json_that_is_nested_without_an_end(tmp_path: Path) -> None:
    """In every file of JSON that a command reads; those of manifests have their own tests."""
    from lit_deploy.core.journal import Key
    from lit_deploy.evaluate.state import FORMAT, open_state
    from lit_deploy.images.coco import _read
    from lit_deploy.report.bench import bench_from_json

    deep, key = "[" * 200_000, Key("", (), (), FORMAT)
    (tmp_path / "a.json").write_text(deep)
    (tmp_path / "b.json").write_bytes(key.line() + f'\n{{"batch": {deep}\n'.encode())
    (tmp_path / "c.json").write_text(f'{{"images": {deep}\n')
    for call in (
        lambda: _read(tmp_path / "a.json"),
        lambda: bench_from_json(deep),
        lambda: open_state(tmp_path / "b.json", key, int).__enter__(),
        lambda: open_state(tmp_path / "c.json", key, int).__enter__(),
    ):
        with pytest.raises(UsageError):
            call()

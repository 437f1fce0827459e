"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

# PyTorch's threads and ONNX Runtime's take turns here: while one set works, the other would wait in a busy loop on the
# same cores. Read when PyTorch is loaded, in this process and in those that it starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# On such a service typer colours all that it prints, whoever reads it.
os.environ.pop("GITHUB_ACTIONS", None)

from support.command import Outcome, Run
from support.dense import dense_checkpoint, dense_file
from support.evaluation import write_photos
from support.exported import change_initializer, edited, export_of
from support.fake_cuda import FakeDriver
from support.fake_tensorrt import IMAGES, FakeTensorRT, modules, write_engine
from support.golden import TINY, TINY_TI, Golden, load_golden, normalised_input
from support.shared import made_by_one, remove_large_files, shared_folder

from lit_deploy import cli
from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint, synthetic_image
from lit_deploy.machine.tensorrt import BACKENDS
from lit_deploy.models.families import OFFICIAL_SPECS

__all__ = ["dense_checkpoint", "dense_file"]

LONGEST = (
    "documentation/test_commands.py",
    "workflows/test_export.py",
    "plugins/test_kernels.py",
    "test_distribution.py",
)
"""Files of few tests that take minutes: first, so that no worker is still at one when the others have nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # the process that started the workers: they have ended
        remove_large_files(session.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]


# A tenth of the time of an export is the collector's, which looks through all of PyTorch again and again.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """``golden("lit_s")``: stored outputs of the official network for the seeded weights."""
    return load_golden


@pytest.fixture(scope="session")
def golden_input() -> np.ndarray:
    """Normalised float32 ``[2, 3, 224, 224]``: the input of every golden output."""
    return normalised_input()


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``checkpoint_file("lit_s")``: a .pth with seeded weights, written once in a test run.

    Also takes ``tiny`` and ``tiny_ti``, networks of a few thousand parameters. Files and not tensors are kept, so that
    no two big networks are in memory at once.
    """
    folder = shared_folder(tmp_path_factory, "checkpoints")
    specs = {**OFFICIAL_SPECS, "tiny": TINY, "tiny_ti": TINY_TI}

    def write(name: str) -> Path:
        path = folder / f"{name}.pth"
        with made_by_one(path) as mine:
            if mine:
                form = "model+namespace" if name == "lit_ti" else "model+cfgnode"
                save_checkpoint(make_state(specs[name]), path, form=form)
        return path

    return write


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(synthetic_image(6, "cli", 90, 120)).save(path)
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run a command in this process, through ``main``, in a folder of its own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lit-deploy", *map(str, arguments)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture(scope="session")
def labelled_photos(tmp_path_factory: pytest.TempPathFactory, checkpoint_file: Callable[[str], Path]) -> Path:
    """The class folders of ``evaluation.write_photos``, for the tiny network."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(checkpoint_file("tiny"), tmp_path_factory.mktemp("store"), root)
    return root


@pytest.fixture
def evaluate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of states that nobody named, in a place of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lit-deploy" / "evaluate"


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.compile`` changes nothing in the processes that a test starts: compiling takes half a minute."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


@pytest.fixture
def shifted(checkpoint_file: Callable[[str], Path], tmp_path: Path) -> Path:
    """A file of the tiny network that predicts other classes for some images."""

    def change(model: onnx.ModelProto) -> None:
        change_initializer(model, "head.bias", lambda value: value + np.linspace(0, 0.4, value.size))

    return edited(export_of(checkpoint_file("tiny")), tmp_path / "shifted.onnx", change)


@pytest.fixture
def fake_driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A CUDA driver without a GPU, with a fake ``tensorrt`` to import beside it."""
    driver = FakeDriver()
    for name, module in modules(driver).items():
        monkeypatch.setitem(sys.modules, name, module)
    return driver


@pytest.fixture
def fake_trt(fake_driver: FakeDriver) -> FakeTensorRT:
    """The fake ``tensorrt`` of ``fake_driver``."""
    module = sys.modules["tensorrt"]
    assert isinstance(module, FakeTensorRT)
    return module


@pytest.fixture
def exported(checkpoint_file: Callable[[str], Path]) -> Path:
    """The tiny network as an ``.onnx`` file."""
    return export_of(checkpoint_file("tiny"))


@pytest.fixture
def engine(exported: Path, tmp_path: Path, fake_driver: FakeDriver) -> Path:
    """The same as an engine of the fake ``tensorrt``."""
    write_engine(exported, tmp_path / "tiny.engine")
    return tmp_path / "tiny.engine"


@pytest.fixture(scope="session")
def expected(checkpoint_file: Callable[[str], Path]) -> np.ndarray:
    """Logits of all images, of the file that the engine stands for."""
    with open_session(export_of(checkpoint_file("tiny")), SessionOptions(library=False)) as session:
        return session.run({"images": IMAGES})["logits"]


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is told or refused is told from the sidecar: an import of TensorRT would raise."""
    for backend in BACKENDS.values():
        for name in backend.modules:
            monkeypatch.setitem(sys.modules, name, None)

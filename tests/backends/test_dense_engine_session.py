"""Sessions on engines of detectors, on a TensorRT and a CUDA driver that need no GPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from support.dense import DenseFile
from support.fake_cuda import FakeDriver
from support.fake_tensorrt import write_engine

from lit_deploy.artifacts.onnx_file import read_onnx
from lit_deploy.artifacts.sidecar import SizeProfile
from lit_deploy.backends.open import open_session
from lit_deploy.core.errors import LitDeployWarning, UsageError
from lit_deploy.ops.nms.matrix_form import MatrixForm, in_matrix_form

SIZES = SizeProfile((64, 96, 128), (64, 96, 160), (1, 96, 200))


def picture(height: int, width: int, original: tuple[int, int]) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(height).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return {"image": pixels, "original_size": np.array(original, np.int64)}


@pytest.fixture
def file(dense_file: DenseFile) -> Path:
    return dense_file("detection")


def engine_of(file: Path, engine: Path, form: MatrixForm) -> Path:
    content: bytes = in_matrix_form(read_onnx(file), form).SerializeToString()
    write_engine(file, engine, (), content=content, sizes=SIZES)
    return engine


@pytest.mark.usefixtures("fake_trt")
def test_pictures_of_any_size_that_it_was_built_for(file: Path, tmp_path: Path, fake_driver: FakeDriver) -> None:
    """One after the other, of several sizes and originals: what ONNX Runtime finds, and not a word."""
    engine = engine_of(file, tmp_path / "a.engine", MatrixForm())
    feeds = [
        picture(96, 96, (70, 90)),
        picture(64, 160, (50, 200)),
        picture(64, 160, (60, 120)),
        picture(96, 96, (70, 90)),
    ]
    with open_session(engine) as session, open_session(file) as reference, warnings.catch_warnings():
        warnings.simplefilter("error")
        for feed in feeds:
            found, wanted = session.run(feed), reference.run(feed)
            assert found.pop("complete") == [1]
            for name, value in wanted.items():
                np.testing.assert_allclose(found[name], value, rtol=0, atol=5e-3, err_msg=name)
    assert fake_driver.live == {}


@pytest.mark.usefixtures("fake_trt")
def test_other_sizes_are_refused(file: Path, tmp_path: Path) -> None:
    with open_session(engine_of(file, tmp_path / "a.engine", MatrixForm())) as session:
        with pytest.raises(UsageError, match=r"height is 160 pixels, but .* was built for 64 to 128"):
            session.run(picture(160, 96, (70, 90)))
        with pytest.raises(UsageError, match=r"originally 70 x 300 pixels, but .* with --max-original 300"):
            session.run(picture(96, 96, (70, 300)))


@pytest.mark.usefixtures("fake_trt")
def test_what_might_be_incomplete_is_said(file: Path, tmp_path: Path) -> None:
    """Two rounds do not settle a crowd of seeded boxes."""
    engine = engine_of(file, tmp_path / "a.engine", MatrixForm(candidates=8, rounds=1))
    with open_session(engine) as session, pytest.warns(LitDeployWarning, match="with more --nms-candidates"):
        found = session.run(picture(96, 96, (70, 90)))
    assert found["complete"] == [0]

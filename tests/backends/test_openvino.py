"""OpenVINO on detectors and segmentation networks, against PyTorch; odd and narrow pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.dense import FAMILY_OF, DenseFile
from support.exported import needs_extension

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends import openvino as backend
from lit_deploy.backends.open import open_session
from lit_deploy.backends.openvino import MAX_COMPILED, OpenVinoSession
from lit_deploy.backends.protocol import Session, SessionOptions
from lit_deploy.core.errors import ArtifactError, UsageError
from lit_deploy.core.specs import IMAGE, TOLERANCES
from lit_deploy.exporters.onnx import portable
from lit_deploy.images.picture import Picture
from lit_deploy.images.synthetic import synthetic_image
from lit_deploy.tasks.protocol import Arrays
from lit_deploy.tasks.table import task_of

pytest.importorskip("openvino", reason="the openvino extra is not installed")

ON_OPENVINO = SessionOptions(backend="openvino", threads=1)
SIZES = ((33, 64), (64, 33), (40, 40), (101, 77))
Portable = Callable[..., Path]


@pytest.fixture(scope="module")
def portable_file(dense_file: DenseFile, tmp_path_factory: pytest.TempPathFactory) -> Portable:
    """The portable form of a small network's file, by task, with another score threshold where one is given."""
    folder = tmp_path_factory.mktemp("portable")

    def of(task: str, threshold: float | None = None) -> Path:
        path = folder / f"{task}_{threshold}.onnx"
        if not path.exists():
            artifact = OnnxArtifact.read(dense_file(task))
            manifest = artifact.manifest
            if threshold is not None:
                assert manifest.dense is not None
                *_, nms = (node for node in artifact.graph.graph.node if node.op_type == "Nms")
                next(a for a in nms.attribute if a.name == "score_threshold").f = threshold
                manifest = replace(manifest, dense=replace(manifest.dense, score_threshold=threshold))
            portable(OnnxArtifact(artifact.graph, manifest)).write(path)
        return path

    return of


def picture(size: tuple[int, int]) -> Picture:
    return Picture(synthetic_image(9, str(size), *size), (size[0] + 5, size[1] * 2))


def found(session: Session, size: tuple[int, int]) -> Arrays:
    return session.run(task_of(session.manifest).feed([picture(size)], session.manifest))


@pytest.mark.parametrize("form", ["portable", "functions", pytest.param("kernels", marks=needs_extension)])
@pytest.mark.parametrize("task", FAMILY_OF)
def test_pictures_of_any_size(
    task: str, form: str, portable_file: Portable, dense_file: DenseFile, dense_checkpoint: Callable[[str], Path]
) -> None:
    path = portable_file(task) if form == "portable" else dense_file(task)
    options = replace(ON_OPENVINO, library={"functions": False, "kernels": True}.get(form))
    with open_session(path, options) as session:
        manifest = session.manifest
        got = [found(session, size) for size in SIZES]
    with open_session(
        dense_checkpoint(task), SessionOptions(like=task_of(manifest).reference(manifest), threads=1)
    ) as reference:
        expected = [found(reference, size) for size in SIZES]
    assert task_of(manifest).agreement(manifest, TOLERANCES["fp32"], zip(expected, got, strict=True)).faults == ()
    for outputs in got:
        assert all(np.isfinite(value).all() for value in outputs.values()), "a region without an area gives NaN there"
        specs = task_of(manifest).output_specs(manifest)
        assert [(name, value.dtype.name) for name, value in outputs.items()] == [(s.name, s.dtype) for s in specs]


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_no_detection(task: str, portable_file: Portable) -> None:
    with open_session(portable_file(task, threshold=0.999), ON_OPENVINO) as session:
        outputs = found(session, SIZES[0])
    assert outputs["num"].tolist() == [0]
    assert (outputs["labels"] == -1).all()
    assert not any(outputs[name].any() for name in ("boxes", "scores", "masks") if name in outputs)


def test_last_sizes_stay_compiled(portable_file: Portable, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def compile_(session: OpenVinoSession, shapes: Any) -> Any:
        compiled.append(dict(shapes)[IMAGE][1:3])
        return real(session, shapes)

    real = OpenVinoSession._compile
    monkeypatch.setattr(OpenVinoSession, "_compile", compile_)
    sizes = [(32 + side, 40) for side in range(MAX_COMPILED)]
    with open_session(portable_file("semantic_segmentation"), ON_OPENVINO) as session:
        first = [found(session, size) for size in sizes]
        found(session, sizes[0])
        assert compiled == sizes, "kept"
        found(session, (64, 64))
        for size in (sizes[0], sizes[1]):
            again = found(session, size)
            np.testing.assert_array_equal(again["labels"], first[sizes.index(size)]["labels"])
        assert compiled == [*sizes, (64, 64), sizes[1]], "the one whose last use is longest ago made room"


def test_views_and_several_threads(portable_file: Portable) -> None:
    with open_session(portable_file("detection"), ON_OPENVINO) as session:
        feeds = [task_of(session.manifest).feed([picture(size)], session.manifest) for size in SIZES[:2]]
        turned = {**feeds[0], IMAGE: np.asfortranarray(feeds[0][IMAGE])}
        expected = [session.run(feed) for feed in feeds]
        with ThreadPoolExecutor(4) as pool:
            for index, got in enumerate(pool.map(session.run, [*feeds, *feeds, turned])):
                np.testing.assert_array_equal(got["boxes"], expected[index % 2]["boxes"])


def test_what_it_does_not_take(portable_file: Portable) -> None:
    with open_session(portable_file("detection"), ON_OPENVINO) as session:
        feed = task_of(session.manifest).feed([picture((40, 40))], session.manifest)
        with pytest.raises(UsageError, match=r"got inputs \['image'\], expected \['image', 'original_size'\]"):
            session.run({IMAGE: feed[IMAGE]})
        with pytest.raises(
            UsageError, match=r"input 'image' is uint8 \[1, 40, 40\], expected uint8 \[1 x height x wid"
        ):
            session.run({**feed, IMAGE: feed[IMAGE][..., 0]})


def test_failure_while_it_runs_is_one_sentence(portable_file: Portable, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def infer(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("Exception from src/inference.cpp:1:\n  could not allocate\n")

    monkeypatch.setattr(backend.OpenVinoSession, "_compile", lambda *_: Failing())
    with (
        pytest.raises(ArtifactError, match=r"OpenVINO failed while it ran .*onnx: could not allocate$"),
        open_session(portable_file("detection"), ON_OPENVINO) as session,
    ):
        found(session, (40, 40))

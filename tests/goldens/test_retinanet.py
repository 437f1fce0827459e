"""Official numbers of the two RetinaNets: in PyTorch, and as files on every back end."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.dense_goldens import (
    PHOTO,
    RETINANET,
    SESSIONS,
    WAYS,
    check_detections,
    check_features,
    check_network,
    check_photo_pixels,
    checkpoint_of,
    exported,
    files_of,
    picture,
    ran,
    with_photo,
)

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.tasks.detection.results import detections_of

NAMES = ("retinanet_lit_ti", "retinanet_lit_s")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["net", "odd", "wide"])
def test_backbone_and_pyramid(name: str, case: str) -> None:
    check_features(name, case, pad=32 if case == "net" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_pytorch(name: str, tmp_path: Path) -> None:
    check_network(name, "net", RETINANET)
    if with_photo("torch"):
        (outputs,) = ran(checkpoint_of(name, tmp_path), PHOTO, SessionOptions())
        check_detections(name, "photo", detections_of(outputs), RETINANET)


@pytest.fixture(scope="module", params=exported(NAMES))
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """The name of a network and its exported files."""
    return request.param, files_of(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("way", WAYS)
def test_file(files: tuple[str, dict[str, Path]], way: str) -> None:
    """One file for both sizes; the photo goes the way of ``predict``."""
    name, paths = files
    kind, options = SESSIONS[way]
    (outputs,) = ran(paths[f"net-{kind}"], [picture(name, "net")], options)
    check_detections(name, "net", detections_of(outputs), RETINANET)
    if with_photo(way):
        (outputs,) = ran(paths[f"photo-{kind}"], PHOTO, options)
        check_detections(name, "photo", detections_of(outputs), RETINANET)


def test_the_photo_is_resized_as_officially(files: tuple[str, dict[str, Path]]) -> None:
    check_photo_pixels(files[0], files[1]["photo-file"])

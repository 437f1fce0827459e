"""Official numbers of the two Semantic FPNs: in PyTorch, and as files on every back end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.dense_goldens import (
    PHOTO,
    SESSIONS,
    WAYS,
    as_input,
    check_features,
    check_labels,
    check_photo_pixels,
    check_samples,
    checkpoint_of,
    exported,
    files_of,
    gold,
    manifest_of,
    network,
    picture,
    ran,
    with_photo,
)

from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.tasks.dense.tensors import dense_of

NAMES = ("sem_fpn_lit_ti", "sem_fpn_lit_s")
LOGITS = 5e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["net", "odd", "wide"])
def test_backbone_and_pyramid(name: str, case: str) -> None:
    check_features(name, case, pad=1)


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_pytorch(name: str, tmp_path: Path) -> None:
    stored, dense = gold(name), dense_of(manifest_of(name))
    for case in ("net", "odd"):
        image, original = as_input(picture(name, case))
        check_samples(stored, f"{case}.logits_low", network(name).logits(image))
        (labels,) = network(name)(image, original, dense)
        check_labels(name, case, labels.numpy())
        (logits,) = network(name)(image, original, dense, labels=False)
        rows, cols = stored[f"{case}.logit_pos"].T
        np.testing.assert_allclose(logits[0, :, rows, cols].T, stored[f"{case}.logits64"], rtol=0, atol=LOGITS)
    if with_photo("torch"):
        (outputs,) = ran(checkpoint_of(name, tmp_path), PHOTO, SessionOptions())
        check_labels(name, "photo", outputs["labels"])


@pytest.fixture(scope="module", params=exported(NAMES))
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """The name of a network and its exported files."""
    return request.param, files_of(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("way", WAYS)
def test_file(files: tuple[str, dict[str, Path]], way: str) -> None:
    """One file for all sizes; the photo goes the way of ``predict``."""
    name, paths = files
    kind, options = SESSIONS[way]
    cases = ("net", "odd")
    found = ran(paths[f"net-{kind}"], [picture(name, case) for case in cases], options)
    for case, outputs in zip(cases, found, strict=True):
        check_labels(name, case, outputs["labels"])
    if with_photo(way):
        (outputs,) = ran(paths[f"photo-{kind}"], PHOTO, options)
        check_labels(name, "photo", outputs["labels"])


def test_the_photo_is_resized_as_officially(files: tuple[str, dict[str, Path]]) -> None:
    check_photo_pixels(files[0], files[1]["photo-file"])

"""Small detectors and segmentation networks with seeded weights, and the files made of them; each made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.checkpoints.seeded import make_state, save_checkpoint
from lit_deploy.core.specs import FamilyName, ModelSpec
from lit_deploy.exporters.onnx import portable
from lit_deploy.exporters.options import OnnxOptions
from lit_deploy.models.families import OFFICIAL_SPECS
from lit_deploy.workflows.export import export_checkpoint
from support.shared import made_by_one, shared_folder

__all__ = ["FAMILY_OF", "DenseFile", "dense_checkpoint", "dense_file", "small"]

FAMILY_OF: dict[str, FamilyName] = {
    "detection": "retinanet_lit",
    "instance_segmentation": "mask_rcnn_lit",
    "semantic_segmentation": "sem_fpn_lit",
}
"""A family of every task; the other three have LIT-Ti backbones."""

CLASSES = 5

DenseFile = Callable[..., Path]


@cache
def small(family: str) -> ModelSpec:
    """A network of five classes of a family or task, a hundredth of the published one's size."""
    family = FAMILY_OF.get(family, family)  # type: ignore[call-overload]
    official = OFFICIAL_SPECS[family + ("" if family.endswith("_ti") else "_s")]
    ti = family.endswith("_ti")
    return replace(
        official,
        name="custom",
        embed_dims=(8, 16, 64, 64) if ti else (8, 16, 32, 64),
        depths=(1, 1, 1, 1),
        num_heads=(1, 1) if ti else (1, 2),
        mlp_ratios=(2, 2, 2, 2),
        image_size=(64, 64) if ti else (128, 128),
        num_classes=CLASSES,
        neck_channels=16,
        head_channels=16,
    )


@pytest.fixture(scope="session")
def dense_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint of a small network, by family or task."""
    folder = shared_folder(tmp_path_factory, "dense")

    def of(family: str) -> Path:
        family = FAMILY_OF.get(family, family)  # type: ignore[call-overload]
        path = folder / f"{family}.pth"
        with made_by_one(path) as mine:
            if mine:
                save_checkpoint(make_state(small(family)), path, "state_dict", classes=tuple("abcde"))
        return path

    return of


@pytest.fixture(scope="session")
def dense_file(dense_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> DenseFile:
    """The exported file of a small network, by family or task and ``OnnxOptions``; unverified."""
    folder = shared_folder(tmp_path_factory, "dense_files")

    def of(family: str, **options: Any) -> Path:
        family = FAMILY_OF.get(family, family)  # type: ignore[call-overload]
        name = "_".join([family, *(f"{key}-{value}" for key, value in sorted(options.items()))])
        path = folder / f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)}.onnx"
        checkpoint = dense_checkpoint(family)
        with made_by_one(path) as mine:
            if not mine:
                pass
            elif options == {"portable": True}:  # the same graph, inlined: nothing to trace again
                portable(OnnxArtifact.read(of(family))).write(path)
            else:
                export_checkpoint(checkpoint, path, OnnxOptions(**options), verify=False)
        return path

    return of

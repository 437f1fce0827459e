"""The HTTP service of examples/02_cpp_service, built once for all modules that start it, whichever worker runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dense import made_by_one, shared_folder
from support.http_service import BINARY, build

from lit_deploy.machine.native import find_onnxruntime_library


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built service, where the README says it is."""
    folder = shared_folder(tmp_path_factory, "service")
    with made_by_one(folder / "built") as mine:
        if mine:
            if other := os.environ.get("LIT_SERVICE_BINARY"):
                (folder / BINARY).parent.mkdir(parents=True)
                (folder / BINARY).symlink_to(other)
            else:
                build(folder)
            (folder / "built").touch()
    return folder


@pytest.fixture(scope="module")
def binary(workspace: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_DEPLOY_ONNXRUNTIME", str(find_onnxruntime_library()))
        yield workspace / BINARY

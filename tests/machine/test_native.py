"""Where the compiled libraries are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

import lit_deploy
from lit_deploy.machine import native


@pytest.mark.parametrize(("version", "found"), [(lit_deploy.__version__, True), ("0.0.1", False)])
def test_inside_a_clone_the_installed_kernel_is_found(
    version: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone's package comes first and is not built; one that is installed is, and counts if it is the same."""
    site = tmp_path / "site"
    information = site / f"lit_deploy-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lit-deploy\nVersion: {version}\n")
    library = site / "lit_deploy" / "lib" / native.LIBRARY_NAME
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(native, "PACKAGE", tmp_path / "clone" / "lit_deploy")
    monkeypatch.delenv(native.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(str(site))
    assert native.find_library() == (library if found else None)
    assert native.searched_paths()[0] == tmp_path / "clone" / "lit_deploy" / "lib" / native.LIBRARY_NAME

"""How a package comes into a repository: whole or not at all, and beside the models of others."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.exported import export_of

from lit_deploy.core.errors import UsageError
from lit_deploy.packaging import files
from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.package import package_triton

CheckpointFile = Callable[[str], Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_models_stay(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """A second package beside the first, refused under its name, and replaced whole when forced."""
    file, repo = export_of(checkpoint_file("tiny")), tmp_path / "repo"
    package_triton(file, repo, TritonOptions("first"))
    before = tree(repo)
    package_triton(file, repo, TritonOptions("second", ensemble=False))
    with pytest.raises(UsageError, match="has a model second already; choose another --name, or replace it with --f"):
        package_triton(file, repo, TritonOptions("second", ensemble=False))
    with pytest.raises(UsageError, match="has a model first"):
        package_triton(file, repo, TritonOptions("first", ensemble=False))
    (repo / "second" / "left over.txt").write_text("")
    (repo / "second_network").mkdir()
    (repo / "second_network" / "config.pbtxt").write_text('name: "somebody else\'s"')
    package_triton(file, repo, TritonOptions("second", ensemble=False, force=True))
    assert not (repo / "second" / "left over.txt").exists()
    after = tree(repo)
    assert {name: content for name, content in after.items() if name.startswith("first")} == before
    assert (repo / "second_network" / "config.pbtxt").read_text() == 'name: "somebody else\'s"'
    package_triton(file, repo, TritonOptions("first", ensemble=False, force=True))
    assert sorted(entry.name for entry in repo.iterdir()) == ["first", "second", "second_network"], (
        "what composed the ensemble before goes with it"
    )
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_models_of_others_are_no_part_of_ours(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """A name alone makes no part: only what our ensemble of that name names goes with it."""
    file, repo = export_of(checkpoint_file("tiny")), tmp_path / "repo"
    raw = TritonOptions(ensemble=False, library=False)
    package_triton(file, repo, replace(raw, name="foo_network"))
    package_triton(file, repo, replace(raw, name="foo"))
    package_triton(file, repo, replace(raw, name="foo", force=True))
    before = tree(repo)
    with pytest.raises(UsageError, match="has a model foo_network, which is no part of a model foo; choose another"):
        package_triton(file, repo, TritonOptions("foo", force=True))
    assert tree(repo) == before

    package_triton(file, repo, TritonOptions("bar"))
    before = tree(repo)
    for name in ("bar_network", "bar_preprocessing"):
        with pytest.raises(UsageError, match=f"has a model bar, of which {name} is a part; choose another --name"):
            package_triton(file, repo, replace(raw, name=name, force=True))
    assert tree(repo) == before
    package_triton(file, repo, TritonOptions("bar", force=True))
    assert sorted(entry.name for entry in repo.iterdir()) == [
        "bar", "bar_network", "bar_preprocessing", "foo", "foo_network"
    ]  # fmt: skip


def test_what_a_killed_run_left_stays(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    """Killed between its moves, the folder of a run has the only copy of the old model; no later run may take it."""
    repo = tmp_path / "repo"
    folders = []

    def kill(folder: Path) -> None:
        folders.append(folder)
        (folder / "net").mkdir()
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            files.install(repo, ["net"], [], kill)
    assert folders[0] != folders[1], "one process, and still two names"
    for folder in folders:
        (folder / ".replaced" / "net").mkdir(parents=True)
    package_triton(export_of(checkpoint_file("tiny")), repo, TritonOptions("net", ensemble=False))
    assert all((folder / ".replaced" / "net").is_dir() for folder in folders)


def test_what_cannot_be_put_back_is_kept(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, repo, rename, moves = export_of(checkpoint_file("tiny")), tmp_path / "repo", os.rename, []
    package_triton(file, repo, TritonOptions("net", ensemble=False))
    before = tree(repo / "net")

    def only_once(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) > 1:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", only_once)
    with pytest.raises(UsageError, match="its old models are in ") as caught:
        package_triton(file, repo, TritonOptions("net", ensemble=False, force=True))
    assert tree(Path(str(caught.value).rpartition(" are in ")[2]) / "net") == before


@pytest.mark.parametrize("fails_at", range(6))
def test_a_failed_move_changes_nothing(
    fails_at: int, checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three models go out and three come in; whichever of the six moves fails, all is as it was."""
    file, repo = export_of(checkpoint_file("tiny")), tmp_path / "repo"
    package_triton(file, repo, TritonOptions("net"))
    before, moves, rename = tree(repo), [], os.rename

    def refuse(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == fails_at + 1:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UsageError, match="No space left on device"):
        package_triton(file, repo, TritonOptions("net", max_batch=2, force=True))
    assert tree(repo) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["repo"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(
    error: BaseException, checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1, "something is being written"
        raise error

    monkeypatch.setattr(files, "write_start", fail)
    expected = UsageError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        package_triton(export_of(checkpoint_file("tiny")), tmp_path / "repo")
    assert list(tmp_path.iterdir()) == []


def test_a_linked_repository(checkpoint_file: CheckpointFile, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "repo").symlink_to(tmp_path / "disk")
    package_triton(export_of(checkpoint_file("tiny")), tmp_path / "repo", TritonOptions("net", ensemble=False))
    assert (tmp_path / "disk" / "net" / "config.pbtxt").is_file()
    assert (tmp_path / "repo").is_symlink()


def test_a_mount_point_is_refused(
    checkpoint_file: CheckpointFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "repo")
    with pytest.raises(UsageError, match="it is a mount point"):
        package_triton(export_of(checkpoint_file("tiny")), tmp_path / "repo")
    assert list(tmp_path.iterdir()) == []

"""Evaluations that are killed, cut off or out of disk: the numbers are those of an undisturbed run."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pytest
from PIL import Image
from support.command import Run
from support.evaluation import COUNT, evaluated, killed_after, numbers, truth_of
from support.exported import export_of

from lit_deploy.core import journal
from lit_deploy.core.errors import ImageError, UsageError
from lit_deploy.core.progress import Step
from lit_deploy.evaluate import classification as evaluate

CheckpointFile = Callable[[str], Path]
pytestmark = pytest.mark.usefixtures("evaluate_cache")


def test_killed_twice_and_resumed(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path) -> None:
    """Exactly the numbers of a run that nobody disturbed, and no image twice."""
    files = [export_of(checkpoint_file("tiny")), export_of(checkpoint_file("tiny"), output="top5")]
    whole = evaluated(files, labelled_photos, batch=2)
    state = tmp_path / "state.jsonl"
    arguments = [*files, "--images", labelled_photos, "--batch", 2, "--state", state, "--workers", 1, "--threads", 1]
    for lines in (3, 6):
        killed_after(lines, lambda: state if state.exists() else None, arguments)
    done = state.read_bytes().count(b"\n") - 1
    result = evaluated(files, labelled_photos, batch=2, state=state)
    assert 5 <= done < 12
    assert result.resumed == 2 * done
    assert numbers(dataclasses.replace(result, workers=whole.workers)) == numbers(whole)
    again = evaluated(files, labelled_photos, batch=2, state=state)
    assert again.resumed == COUNT, "a state that was named stays"
    assert numbers(again) == numbers(result)


def test_the_same_command_goes_on_by_itself(
    checkpoint_file: CheckpointFile, labelled_photos: Path, evaluate_cache: Path, run: Run
) -> None:
    arguments = [export_of(checkpoint_file("tiny")), "--images", labelled_photos, "--batch", 2]
    killed_after(4, lambda: next(evaluate_cache.glob("*.jsonl"), None), arguments)
    code, out, _ = run("evaluate", *arguments, "--json")
    assert code == 0
    assert json.loads(out)["resumed"] >= 6
    assert list(evaluate_cache.iterdir()) == [], "a complete evaluation leaves nothing behind"
    code, out, _ = run("evaluate", *arguments, "--json")
    assert json.loads(out)["resumed"] == 0


def test_a_half_written_line_is_ignored(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path) -> None:
    """Cut off anywhere, even within its first line, a state gives the same numbers."""
    files, state = [export_of(checkpoint_file("tiny"))], tmp_path / "state.jsonl"
    whole = evaluated(files, labelled_photos, batch=8, state=state)
    content = state.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends) == 4
    for cut, resumed in (
        (0, 0), (10, 0), (ends[0] - 1, 0), (ends[0], 0), (ends[0] + 5, 0), (ends[1] - 1, 0), (ends[1], 8),
        (ends[2] + 1, 16), (ends[3] - 1, 16),
    ):  # fmt: skip
        state.write_bytes(content[:cut])
        result = evaluated(files, labelled_photos, batch=8, state=state)
        assert result.resumed == resumed, cut
        assert numbers(result) == numbers(whole)
        again = evaluated(files, labelled_photos, batch=8, state=state)
        assert (again.resumed, numbers(again)) == (COUNT, numbers(whole)), "and so does what was added to it"
    state.write_bytes(content[: ends[1]] + b"\0" * 50)
    assert evaluated(files, labelled_photos, batch=8, state=state).resumed == 8, "blocks that were never written"


def test_states_that_are_refused(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path) -> None:
    file, state = export_of(checkpoint_file("tiny")), tmp_path / "state.jsonl"
    evaluated([file], labelled_photos, batch=8, state=state)
    content = state.read_bytes()

    def refused(*words: str, files: Sequence[Path] = (file,), **changes: object) -> None:
        before = state.read_bytes()
        with pytest.raises(UsageError) as caught:
            evaluated(files, labelled_photos, **{"batch": 8, "state": state, **changes})
        assert "\n" not in str(caught.value)
        for word in (str(state), *words):
            assert word in str(caught.value)
        assert state.read_bytes() == before, "nothing that is not ours is touched"

    refused("other images", limit=7)
    refused("other files", files=[export_of(checkpoint_file("tiny"), output="top5")])
    refused("other files", files=[file, export_of(checkpoint_file("tiny"), output="top5")])
    refused("other settings (batch size", batch=4)
    with open(state, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused("in use by another evaluation")
    lines = content.splitlines(keepends=True)
    for damaged in (lines[0] + b"{}\n" + lines[2], lines[0] + lines[2], lines[0] + lines[1] + b"\0\n"):
        state.write_bytes(damaged)
        refused("is damaged; delete the file")
    state.write_bytes(content.replace(b"evaluate 3", b"evaluate 4"))
    refused("another version of lit-deploy")
    for foreign in (b"my notes", b"my notes\nall of them\n", b'{"a": 1}\n', content[5:]):
        state.write_bytes(foreign)
        refused("is no state file of lit-deploy evaluate")


def test_a_state_that_cannot_be_written(
    checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [export_of(checkpoint_file("tiny"))]
    os.mkfifo(tmp_path / "pipe")
    for kind in (tmp_path, Path(os.devnull), tmp_path / "pipe"):
        with pytest.raises(UsageError, match=f"cannot write the state file {kind}: it is not a regular file"):
            evaluated(files, labelled_photos, state=kind)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result = evaluated(files, labelled_photos)
    assert result.images == COUNT, "without a cache folder it runs all the same"
    (note,) = result.notes
    assert note.startswith("a kill would have lost everything, as cannot write the state file")


def test_a_disk_that_becomes_full(
    checkpoint_file: CheckpointFile, labelled_photos: Path, evaluate_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a state that was asked for is worth ending for; the other one ends with a note, and leaves nothing."""
    files = [export_of(checkpoint_file("tiny"))]
    whole = evaluated(files, labelled_photos, batch=4)
    write, sizes = journal._write, []

    def full(file: IO[bytes], path: Path, line: bytes, kind: journal.Kind) -> None:
        sizes.append(len(line))
        if len(sizes) == 3:  # half a line of the second batch
            file.write(line[: len(line) // 2])
            raise UsageError(f"cannot write the state file {path}: No space left on device")
        write(file, path, line, kind)

    monkeypatch.setattr(journal, "_write", full)
    result = evaluated(files, labelled_photos, batch=4)
    (note,) = result.notes
    assert re.fullmatch("a kill would have lost the later batches, as .*: No space left on device", note)
    assert len(sizes) == 3, "nothing is written behind half a line"
    assert numbers(dataclasses.replace(result, notes=())) == numbers(whole)
    assert list(evaluate_cache.iterdir()) == []
    sizes.clear()
    state = evaluate_cache.parent / "mine.jsonl"
    with pytest.raises(UsageError, match=r"mine\.jsonl: No space left on device"):
        evaluated(files, labelled_photos, batch=4, state=state)
    assert evaluated(files, labelled_photos, batch=4, state=state).resumed == 4


def test_images_that_could_not_be_read_get_another_chance(
    checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such batches only are done again, and again until they can be read."""
    files, state = [export_of(checkpoint_file("tiny"))], tmp_path / "state.jsonl"
    whole = evaluated(files, labelled_photos, batch=4)
    load, bad = evaluate.load_image, truth_of(labelled_photos)[0][5]

    def failing(path: Path) -> Image.Image:
        if path == bad:
            raise ImageError(f"{path} is damaged or incomplete (Input/output error): replace the file.")
        return load(path)

    for resumed in (0, COUNT - 4):
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "load_image", failing)
            result = evaluated(files, labelled_photos, batch=4, state=state)
        assert (result.images, result.resumed, len(result.skipped)) == (COUNT - 1, resumed, 1)
    for resumed in (COUNT - 4, COUNT):
        told: list[Step] = []
        result = evaluated(files, labelled_photos, batch=4, state=state, progress=told.append)
        assert (result.resumed, numbers(result)) == (resumed, numbers(whole))
        assert told[2] == Step(f"{resumed} of {COUNT} images", resumed / COUNT)
        assert told[-1].fraction == 1

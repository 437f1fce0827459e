"""Files that are written whole: by one writer of several, under names that nobody else can take or plant."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.command import ROOT

from lit_deploy.core import files
from lit_deploy.core.errors import UsageError
from lit_deploy.core.files import atomic_path, check_target, remove_temporary, scratch_folder

WRITERS, BYTES = 8, 1 << 20


@pytest.fixture(autouse=True)
def no_folder_is_swept_yet() -> None:
    files._sweep.cache_clear()


def left_over(folder: Path, name: str = ".a.lit-0123456789abcdef.part.onnx") -> Path:
    path = folder / name
    path.write_text("half")
    return path


def test_threads_that_write_one_name(tmp_path: Path) -> None:
    """One whole file, of one of them; nobody fails, and nothing else stays."""
    final, failed = tmp_path / "a.onnx", list[BaseException]()
    together = threading.Barrier(WRITERS)

    def write(letter: bytes) -> None:
        try:
            with atomic_path(final) as part:
                together.wait(20)
                for _ in range(16):
                    with part.open("ab") as file:
                        file.write(letter * (BYTES // 16))
                assert part.read_bytes() == letter * BYTES, "it is this writer's alone"
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(bytes([65 + index]),)) for index in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    content = final.read_bytes()
    assert len(content) == BYTES
    assert len(set(content)) == 1
    assert os.listdir(tmp_path) == ["a.onnx"]


PROCESS = """
import hashlib, os, sys
from pathlib import Path
from lit_deploy.core.files import atomic_path
os.getpid = lambda: 1  # as in two containers on one volume
letter, final = sys.argv[1].encode(), Path(sys.argv[2])
with atomic_path(final) as part:
    print("open", flush=True)
    sys.stdin.readline()
    part.write_bytes(letter * (1 << 20))
    print(hashlib.sha256(part.read_bytes()).hexdigest(), flush=True)
"""


def test_processes_of_one_number_that_write_one_name(tmp_path: Path) -> None:
    final = tmp_path / "a.onnx"
    command = [sys.executable, "-c", PROCESS]
    running = [
        subprocess.Popen(
            [*command, letter, str(final)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for letter in "AB"
    ]  # fmt: skip
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
    assert len(os.listdir(tmp_path)) == 2, "each has its own"
    told = [process.communicate("go\n", timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert told == [hashlib.sha256(letter * (1 << 20)).hexdigest() for letter in (b"A", b"B")], "each told of its own"
    assert hashlib.sha256(final.read_bytes()).hexdigest() == told[1], "the last rename counts"
    assert os.listdir(tmp_path) == ["a.onnx"]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knew the name beforehand gains nothing: it is refused, and what is there stays."""
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    planted, elsewhere = tmp_path / ".a.lit-0000000000000000.part.onnx", tmp_path / "elsewhere"
    planted.symlink_to(elsewhere)
    for write in (check_target, lambda final: atomic_path(final).__enter__()):
        with pytest.raises(UsageError, match=r"^cannot write .*a\.onnx: File exists$"):
            write(tmp_path / "a.onnx")
        assert planted.is_symlink()
        assert not elsewhere.exists()
    planted.unlink()
    planted.write_text("of somebody else")
    with pytest.raises(UsageError, match="File exists"):
        check_target(tmp_path / "a.onnx")
    assert planted.read_text() == "of somebody else"


@pytest.mark.parametrize("name", ["/dev/null", "pipe"])
def test_what_is_no_file_is_not_replaced(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a device or a pipe, expected a file name"):
        check_target(tmp_path / name)
    assert Path("/dev/null").is_char_device()


def test_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    dead = [left_over(tmp_path), left_over(tmp_path, ".b.lit-00000000000000ff.part")]
    kept = [left_over(tmp_path, name) for name in (".a.1234.part.onnx", ".c.lit-0123.part", "a.part", ".d.part.json")]
    link = tmp_path / ".e.lit-0123456789abcdef.part"
    link.symlink_to(kept[0])
    with atomic_path(tmp_path / "new") as part:
        part.write_text("whole")
    assert not any(path.exists() for path in dead)
    assert all(path.read_text() == "half" for path in kept)
    assert link.is_symlink()
    assert (tmp_path / "new").read_text() == "whole"


def test_what_living_writers_have_is_not(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.onnx") as part:
        part.write_text("half")
        files._sweep.cache_clear()
        with atomic_path(tmp_path / "b.onnx") as other:
            other.write_text("other")
        assert part.read_text() == "half"
    assert (tmp_path / "a.onnx").read_text() == "half"


def test_nothing_is_swept_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems know none: a file is written all the same, and nobody is taken for dead."""

    def flock(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    old = left_over(tmp_path)
    with atomic_path(tmp_path / "new") as part:
        part.write_text("whole")
    assert old.exists()
    assert (tmp_path / "new").read_text() == "whole"


def test_swept_before_it_was_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep may come between the birth of a file and its lock; then it is made again."""
    real, calls, part = fcntl.flock, list[int](), tmp_path / "part"

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        calls.append(descriptor)
        if len(calls) == 1:
            part.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        os.close(files._made(part))
    assert (len(calls), part.exists()) == (2, True)


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.onnx") as part:
            part.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.onnx").stat().st_mode & 0o777 == 0o640


def test_what_is_removed_when_no_context_is_left(tmp_path: Path) -> None:
    """What a thread does for a process whose main thread is deep in native code."""
    with contextlib.suppress(UsageError), scratch_folder() as scratch, atomic_path(tmp_path / "a.onnx") as part:
        (scratch / "weights").write_text("x")
        part.write_text("half")
        remove_temporary()
        left = scratch.exists(), part.exists()
    assert left == (False, False)
    assert os.listdir(tmp_path) == []
    remove_temporary()


def test_writers_of_two_files_do_not_mix_them(tmp_path: Path) -> None:
    """An IR with the weights of another one would be a network that nobody trained."""

    def weights(path: Path) -> Path:
        return path.with_suffix(".bin")

    together = threading.Barrier(4)

    def write(word: str) -> None:
        for _ in range(20):
            together.wait(20)
            with atomic_path(tmp_path / "a.xml", weights) as part:
                part.write_text(word)
                weights(part).write_text(word)

    threads = [threading.Thread(target=write, args=(word,)) for word in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for _ in range(20):
        together.wait(20)
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.xml").read_text() == (tmp_path / "a.bin").read_text()
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "a.xml"]

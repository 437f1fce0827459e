"""What the tests of a run have in common, whichever worker runs them; and which of them a usual run leaves out."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

EVERYTHING = os.environ.get("LIT_DEPLOY_TESTS") == "all"
"""Whether the tests run, too, that cost minutes for a case more of what others show."""

later = pytest.mark.skipif(not EVERYTHING, reason="one case more, for minutes: LIT_DEPLOY_TESTS=all")
"""Mark of those tests, or parameters."""


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all workers of a run have in common: what is made of a network is made once."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def made_by_one(path: Path) -> Iterator[bool]:
    """Whether it is for the caller to make a file: not where it is there, or another worker makes it meanwhile."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not path.exists()


def remove_large_files(base: Path) -> None:
    """Of a run that has ended; pytest keeps the folders of three."""
    for path in base.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 10e6:
            path.unlink(missing_ok=True)

"""The command line as the tests run it: in this process, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lit_deploy

ROOT = Path(lit_deploy.__file__).parents[1]


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
"""Of the fixture ``run``, which takes the words of a command."""


def in_process(*arguments: object, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    command = [sys.executable, *(["-c", script] if script else ["-m", "lit_deploy.cli"]), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def assert_one_sentence(outcome: Outcome, *words: str) -> None:
    """A mistake of the user: exit code 2 and nothing but one sentence with these words."""
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in outcome.err

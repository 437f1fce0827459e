"""Tools that build C++: where they are looked for, and what skips without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

# Tools that pip installed lie beside this interpreter, which need not be on the PATH.
SEARCH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

GENERATOR = ("-G", "Ninja") if shutil.which("ninja", path=SEARCH) else ()
"""Words for CMake."""

needs_cmake = pytest.mark.skipif(
    shutil.which("cmake", path=SEARCH) is None, reason="no cmake: apt-get install cmake, or pip install cmake"
)
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: apt-get install g++")


def run_tool(
    *command: str | Path, environment: Mapping[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command, found by ``SEARCH``, with these variables alone; stdout and stderr together."""
    program = shutil.which(str(command[0]), path=SEARCH) or str(command[0])
    return subprocess.run(
        [program, *map(str, command[1:])],
        env={**environment, "PATH": SEARCH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def environment_without(*names: str) -> dict[str, str]:
    """This process's variables but for some."""
    return {name: value for name, value in os.environ.items() if name not in names}

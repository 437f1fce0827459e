"""Where the compiled custom-op library is looked for, and how to build it."""

from __future__ import annotations

import os
from pathlib import Path

LIBRARY_NAME = "liblit_deploy_onnxruntime.so"
ENVIRONMENT_VARIABLE = "LIT_DEPLOY_LIBRARY"
BUILD_COMMAND = "pip install .  (with a C++17 compiler; in a source checkout: make native)"


def named_library() -> Path | None:
    """The library that the environment variable names, whether it exists or not."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named) if named else None


def searched_paths() -> tuple[Path, ...]:
    """Paths in the order they are tried: the environment variable's alone if set, else the package and ``build``."""
    named = named_library()
    if named is not None:
        return (named,)
    package = Path(__file__).resolve().parent
    return (package / "lib" / LIBRARY_NAME, package.parent / "build" / "native" / LIBRARY_NAME)


def find_library() -> Path | None:
    """Return the first existing library, or None when it was not built."""
    return next((path for path in searched_paths() if path.is_file()), None)

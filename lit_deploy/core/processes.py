"""What every worker process of lit-deploy does alike: end with its parent, and have its end told in words."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from lit_deploy.core.files import PACKAGE


def worker_command(module: str) -> tuple[str, ...]:
    """Command that runs a module of lit-deploy; ``-P``, as a ``json.py`` in the user's folder must not be imported."""
    return (sys.executable, "-P", "-m", module)


def worker_environment(base: dict[str, str]) -> dict[str, str]:
    """``base`` with the folder of this very package first on the import path."""
    root = str(PACKAGE.parent)
    return {**base, "PYTHONPATH": os.pathsep.join(filter(None, (root, base.get("PYTHONPATH"))))}


def die_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent dies, even if it is stopped at that moment."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            raise SystemExit(1)


def ending(code: int) -> str:
    """How a process ended, by its exit code, as the rest of a sentence that begins with its name."""
    if code == -signal.SIGKILL:
        return "was killed, most often for lack of memory; try a smaller batch"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

"""State dicts and checkpoint files that are whole, or changed in one place."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lit_deploy.checkpoints.seeded import make_state
from lit_deploy.core.specs import ModelSpec
from support.golden import TINY


def tensors(spec: ModelSpec = TINY) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((key, torch.from_numpy(value)) for key, value in make_state(spec).items())


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def changed(key: str, value: torch.Tensor | None) -> OrderedDict[str, torch.Tensor]:
    state = tensors()
    if value is None:
        del state[key]
    else:
        state[key] = value
    return state


def write_pickle(path: Path, body: bytes) -> Path:
    """Pack opcodes as torch.save does: a stored zip with one data.pkl."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return path


def prefixed(prefix: str, state: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in (tensors() if state is None else state).items()}


def peak_memory(*paths: Path) -> tuple[int, list[str]]:
    """Load in a fresh process; by how many bytes its peak memory grew, and what was raised for every file."""
    code = (
        "import resource, sys, torch; from lit_deploy.checkpoints.load import load_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_checkpoint(path)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
        "print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    *sentences, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return int(peak), sentences

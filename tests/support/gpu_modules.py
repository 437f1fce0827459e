"""The modules of the GPU suite, which lie in benchmarks/, and what its tests share."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

gpu, gpu_suite, kernel_sections, network_sections, engine_section = (
    importlib.import_module(name)
    for name in ("gpu", "gpu_suite", "gpu_kernel_sections", "gpu_network_sections", "gpu_engine_section")
)
Section, Skip, SectionFailed, Suite = (
    getattr(gpu_suite, name) for name in ("Section", "Skip", "SectionFailed", "Suite")
)
DEVICE = gpu_suite.Gpu("NVIDIA H200", "143771 MiB", "580.1", "9.0")


def make_suite(folder: Path) -> Any:
    """A suite whose folder of built libraries is empty."""
    for name in ("native", "work"):
        (folder / name).mkdir()
    return Suite(DEVICE, folder / "native", True, folder / "work")


def program(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path

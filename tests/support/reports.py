"""Measurements that nobody took, and tables as text."""

from __future__ import annotations

from rich.console import Console

from lit_deploy.bench.result import Measurement


def measurement(label: str, batch: int, p50: float, speedup: float, **changes: object) -> Measurement:
    fields = {
        "label": label, "kind": "onnxruntime-stock", "description": f"{label} 1.0 cpu", "precision": "fp32",
        "batch": batch, "samples": 40, "p50": p50, "p90": p50 * 1.1, "p95": p50 * 1.2, "p99": p50 * 1.5,
        "mean": p50 * 1.05, "images_per_second": batch * 1000 / p50, "peak_memory_mib": 312.5, "speedup": speedup,
        "speedup_quartiles": (speedup * 0.9, speedup * 1.1), "max_relative_difference": 3e-7,
        "round_ms": (p50, p50 * 1.01),
    }  # fmt: skip
    return Measurement(**{**fields, **changes})


def rendered(what: object, width: int = 160) -> str:
    console = Console(width=width, file=None, record=True, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()

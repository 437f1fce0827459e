"""How tests run benchmarks."""

from __future__ import annotations

QUICK = {"threads": 1, "rounds": 3, "turn_seconds": 0.005, "timeout": 60.0}

"""From what was typed on the command line to what the workflows take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_deploy.core.errors import UsageError
from lit_deploy.core.specs import MAX_BATCH, MAX_SIDE, MAX_THREADS, CalibrationMethod

if TYPE_CHECKING:
    from lit_deploy.backends.protocol import SessionOptions
    from lit_deploy.quantize.run import QuantizeOptions

MAX_DIGITS = 9
"""Of a whole number inside an option of several parts."""


def checkpoint_source(ckpt: str, key: str | None, sha256: str | None) -> str:
    """A checkpoint as the workflows take it: ``FILE#KEY``; downloaded and compared here where its SHA-256 is known."""
    from lit_deploy.checkpoints.downloads import resolve_checkpoint, split_key

    place, behind = split_key(ckpt)
    if key is not None and behind is not None:
        raise UsageError(f"--key {key} is given, and the checkpoint is {ckpt}; choose the network in one way")
    key = key or behind
    if sha256 is not None:
        place = resolve_checkpoint(place, sha256=sha256)
    return str(place) if key is None else f"{place}#{key}"


def session_options(
    artifacts: list[str],
    *,
    device: Literal["cpu", "cuda"],
    threads: int | None,
    library: bool | None,
    backend: Literal["onnxruntime", "openvino"],
    precision_hint: Literal["f32", "bf16"] | None,
    allow_engine_code: bool,
) -> SessionOptions:
    """How the named files are to run; the program starts anew where one of them needs that."""
    from lit_deploy.backends.protocol import SessionOptions

    for artifact in artifacts:
        _restart_if_needed(artifact)
    return SessionOptions(
        device=device, threads=threads, library=library, backend=backend, precision_hint=precision_hint,
        allow_engine_code=allow_engine_code,
    )  # fmt: skip


def _restart_if_needed(artifact: str) -> None:
    """An RTX engine that calls a plugin needs a library path that only a new process can have."""
    from lit_deploy.artifacts.sidecar import ENGINE_SUFFIXES, read_sidecar
    from lit_deploy.machine.cuda import find_gpu
    from lit_deploy.machine.tensorrt import restart_with_rtx_library

    if Path(artifact).suffix.lower() in ENGINE_SUFFIXES and find_gpu() is not None:
        sidecar = read_sidecar(Path(artifact))
        if sidecar.build.backend == "tensorrt_rtx" and sidecar.plugin is not None:
            restart_with_rtx_library()


def quantize_options(
    *,
    calib: Path,
    method: CalibrationMethod,
    percentile: float | None,
    limit: int,
    keep: list[str] | None,
    budget: float,
    force: bool,
) -> QuantizeOptions:
    """How to quantise; a percentile is for that method alone."""
    from lit_deploy.quantize.run import QuantizeOptions

    if percentile is not None and method != "percentile":
        raise UsageError(f"--calib-percentile is for --calib-method percentile, not {method}")
    options = QuantizeOptions(
        calib=calib, method=method, limit=limit, keep=tuple(keep or ()), accuracy_budget=budget / 100, force=force
    )
    return options if percentile is None else replace(options, percentile=percentile)


def refuse(given: list[str], options: tuple[str, ...], why: str) -> None:
    """Raise UsageError for the first option that was typed and is one of these."""
    for name in given:
        if name in options:
            shown = "--plugin/--no-plugin" if name == "plugin" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{shown} {why}")


def one_form(json: bool, markdown: bool) -> None:
    """Raise UsageError when a report is asked for in two forms."""
    if json and markdown:
        raise UsageError("--json and --markdown are two forms of one report; choose one")


def targets(text: str | None) -> tuple[str, ...]:
    """Compute capabilities as given, each once."""
    return () if text is None else tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def batch_of(text: str, *, engine: bool) -> tuple[int | None, tuple[int, int, int] | None]:
    """``--batch`` of an export: a fixed size, or None; and the profile of an engine, where one was given."""
    if engine and ":" in text:
        return None, _profile(text)
    if text == "dynamic":
        return None, None
    expected = "'dynamic', a number of images or MIN:OPT:MAX" if engine else "'dynamic' or a number of images"
    return batch_size("--batch", text, expected), None


def _profile(text: str) -> tuple[int, int, int]:
    """``MIN:OPT:MAX``."""
    parts = [batch_size("--batch", part, "MIN:OPT:MAX, e.g. 1:8:32") for part in text.split(":")]
    if len(parts) != 3:
        raise UsageError(f"--batch is '{text}', expected MIN:OPT:MAX, e.g. 1:8:32")
    return parts[0], parts[1], parts[2]


def batch_size(option: str, text: str, expected: str) -> int:
    """A number of images."""
    if not 1 <= _number(text) <= MAX_BATCH:
        raise UsageError(f"{option} is '{text}', expected {expected} (1 to {MAX_BATCH})")
    return int(text)


def worker_range(text: str, *, several: bool) -> tuple[int, int]:
    """``--workers`` of scoring: ``N``, or where there can be fewer and more of them ``MIN:MAX``."""
    counts = [_number(part) for part in text.split(":")]
    least, most = counts[0], counts[-1]
    if len(counts) > (2 if several else 1) or not 1 <= least <= most <= MAX_THREADS:
        expected = "a number or MIN:MAX" if several else "a number"
        raise UsageError(f"--workers is '{text}', expected {expected} (1 to {MAX_THREADS})")
    return least, most


def height_width(option: str, text: str | None) -> tuple[int, int] | None:
    """``HxW`` in pixels."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    size = _number(height), _number(width)
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise UsageError(
            f"{option} is '{text}', expected height x width in pixels, each 1 to {MAX_SIDE}, e.g. 800x1216"
        )
    return size


def _number(text: str) -> int:
    """A whole number of a few digits; 0, which no bound allows, for whatever is none."""
    return int(text) if text.strip().isdecimal() and len(text) <= MAX_DIGITS else 0


def size_ranges(text: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """``MIN:OPT:MAXxMIN:OPT:MAX``: heights and widths in pixels that an engine is for; one number stands for three."""
    sides = [[int(part) if part.isdecimal() else 0 for part in side.split(":")] for side in text.lower().split("x")]
    sides = [side * 3 if len(side) == 1 else side for side in sides]
    if [len(side) for side in sides] != [3, 3]:
        raise UsageError(
            f"--size is '{text}', expected HxW or MIN:OPT:MAXxMIN:OPT:MAX, e.g. 320:800:1344x320:1216:1344"
        )
    height, width = ((low, best, high) for low, best, high in sides)
    return height, width


def share(option: str, percent: float | None) -> float | None:
    """A gate as a share; one that was meant as a share already would let everything pass."""
    if percent is not None and not (percent == 0 or 1 < percent <= 100):  # nor is a number that is none a gate
        raise UsageError(f"{option} is {percent:g}, expected percent, e.g. {option} 99")
    return None if percent is None else percent / 100

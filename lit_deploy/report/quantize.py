"""Outcomes of the gates and of a sensitivity scan as terminal tables. Measures nothing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lit_deploy.backends.table import BACKENDS
from lit_deploy.quantize.gates import GateResult, Speed, too_few
from lit_deploy.quantize.run import QuantizeResult
from lit_deploy.quantize.sensitivity import Scan, Trial
from lit_deploy.report.terminal import text

KEPT_SHOWN = 2
"""Module names that a row of trials spells out."""


def gates_table(result: GateResult) -> RenderableType:
    """What both gates saw beside their limits, then the verdict with its reasons."""
    table = Table(title=Text(f"{result.precision} against {result.reference}"), min_width=60)
    for column in ("gate", "value", "limit"):
        table.add_column(column, justify="left" if column == "gate" else "right")
    table.add_row(result.heading, _differing(result.differing, result.of), f"<= {result.budget:.2%}")
    low, high = result.interval
    table.add_row(
        "agreement on further images (Wilson, 95 %)", f"{low:.2%} to {high:.2%}", f">= {1 - result.budget:.2%}"
    )
    if result.cosine_min is not None:
        table.add_row("cosine of the logits, worst image", f"{result.cosine_min:.5f}", "")
        table.add_row("cosine of the logits, mean", f"{result.cosine_mean:.5f}", "")
    if result.speed is not None:
        table.add_row(f"speed-up over {result.reference}", _speedup(result.speed), "upper quartile >= 1x")
        table.add_row("milliseconds per batch", f"{result.speed.milliseconds:.2f}", "")
        table.add_row(f"the same of {result.reference}", f"{result.speed.reference_milliseconds:.2f}", "")
    verdict = Text("FAIL", "bold red") if result.reasons else Text("PASS", "bold green")
    verdict.append(f"  {result.images} images of {result.source}", "not bold default")
    if result.speed is not None:
        speed = result.speed
        verdict.append(f"; {BACKENDS[speed.backend].title}, batch {speed.batch}, threads {speed.threads}")
    else:
        verdict.append(f"; speed was not measured: {result.unmeasured}")
    return Group(
        table,
        verdict,
        *_lines(result.reasons, ""),
        *_lines([result.doubt] * bool(result.doubt), "yellow"),
        *_lines(result.notes, "yellow"),
    )


def scan_table(scan: Scan) -> RenderableType:
    """Modules by the damage they do, trials with more and more of them kept, and the options that are proposed."""
    title = f"{scan.artifact}: one module in {scan.precision} at a time, {scan.few} images"
    modules = Table(title=Text(title), title_justify="left")
    modules.add_column("module", overflow="fold")
    for column in ("relative error", "top-1 differs", "MACs"):
        modules.add_column(column, justify="right")
    for damage in scan.damages:
        modules.add_row(Text(damage.module), f"{damage.error:.2e}", str(damage.differing), f"{damage.macs:.1%}")
    trials = Table(title=Text(f"Together, {scan.images} images of {scan.source}"), title_justify="left")
    trials.add_column("kept", overflow="fold")
    for column in ("relative error", "top-1 differs", f"MACs in {scan.precision}"):
        trials.add_column(column, justify="right")
    for trial in scan.trials:
        trials.add_row(
            Text(_kept(trial)), f"{trial.error:.2e}", _differing(trial.differing, scan.images), f"{trial.macs:.1%}"
        )
    style = "bold yellow" if scan.keep is None else "bold green"
    return Group(modules, trials, Text(conclusion(scan), style), *_lines(scan.notes, "yellow"))


def conclusion(scan: Scan) -> str:
    """What to do about the damage, in one sentence that shows the numbers."""
    last = scan.trials[-1]
    numbers = (
        f"top-1 differs on {last.differing} of {scan.images} images ({last.differing / scan.images:.2%}), "
        f"the budget is {scan.budget:.2%}"
    )
    if scan.keep is None and len(scan.trials) == 1:
        return f"{numbers[0].upper()}{numbers[1:]}, and no further module can be kept; try other ranges, or fp16."
    if scan.keep is None:
        hint = too_few(last.differing, scan.images, scan.budget)
        return (
            f"Even with half of the modules kept {numbers}{hint}: it is not a few modules that do the damage; "
            "try other ranges (--calib-method), more images, or fp16."
        )
    if len(scan.trials) == 1:
        return f"Nothing more has to be kept: {numbers}."
    return f"Use {keep_options(scan.keep)}: {numbers}."


def keep_options(keep: Iterable[str]) -> str:
    """``--keep`` options, ready for a shell."""
    return " ".join(f"--keep {shlex.quote(pattern)}" for pattern in keep)


def _kept(trial: Trial) -> str:
    if not trial.keep:
        return "nothing"
    shown = ", ".join(trial.keep[:KEPT_SHOWN])
    further = len(trial.keep) - KEPT_SHOWN
    return f"{shown} and {further} more" if further > 0 else shown


def _differing(differing: int, images: int) -> str:
    return f"{differing} of {images} ({differing / max(images, 1):.2%})"


def _speedup(speed: Speed) -> str:
    lower, upper = speed.quartiles
    return f"{speed.speedup:.2f}x ({lower:.2f} to {upper:.2f})"


def _lines(sentences: Iterable[str], style: str) -> Iterator[Text]:
    return (Text(f"  {sentence}", style) for sentence in sentences)


def quantize_summary(result: QuantizeResult) -> RenderableType:
    """What was written, and how it compares with what it was made from."""
    done = result.manifest.quantization
    assert done is not None
    table = Table.grid(padding=(0, 2))
    table.add_row("wrote", text(f"{result.path} ({result.size / 1e6:.1f} MB)", "bold"))
    table.add_row("products", text(f"{done.products} in {result.manifest.precision}, the rest in {done.base}"))
    return Group(table, "", gates_table(result.gates))

"""Which modules suffer most from 8 bits, and which of them have to be kept out for the accuracy that is wanted.

Every module is quantised alone, because a network of which everything else is quantised too drowns in the sum of all
errors. How many of the worst are kept is then measured, not derived: errors do not add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.core.errors import UsageError
from lit_deploy.core.progress import Progress, Step, unseen
from lit_deploy.core.specs import EIGHT_BIT, EightBit
from lit_deploy.exporters.qdq import Product, opened, products, quantized
from lit_deploy.images.calibration import CalibrationImages
from lit_deploy.models.layout import mac_count
from lit_deploy.quantize.gates import Feeds, Predictions, check_budget, predictions, within

FEW = 16
"""Images that every module alone is run on: a mean of relative errors needs no more to rank modules."""


@dataclass(frozen=True)
class Damage:
    """What quantising one module alone does.

    Attributes:
        module: name of the PyTorch module.
        error: norm of the logits' change over the logits' norm, mean over the images; infinite where not finite.
        differing: images whose first class changes.
        macs: share 0..1 of the network's multiply-accumulates, which keeping the module leaves in wide types.
    """

    module: str
    error: float
    differing: int
    macs: float


@dataclass(frozen=True)
class Trial:
    """What quantising everything but some modules does, on all images.

    Attributes:
        keep: patterns that were kept: the user's, then the scan's, worst first.
        error, differing: see ``Damage``; ``agreement``: share 0..1 of images whose first class stays.
        macs: share 0..1 of the network's multiply-accumulates that are done in 8 bits.
    """

    keep: tuple[str, ...]
    error: float
    differing: int
    agreement: float
    macs: float


@dataclass(frozen=True)
class Scan:
    """Outcome of a scan.

    Attributes:
        artifact: the file; ``precision``: what it was quantised to.
        few: images behind ``damages``; ``images``: behind ``trials``; ``source``: where they came from.
        budget: share 0..1 of the images whose first class may change.
        damages: per module, worst first.
        trials: with more and more modules kept, until one was within the budget.
        keep: what that one kept; None where not even keeping half of the modules helped.
        notes: sentences about what a reader might overlook.
    """

    artifact: str
    precision: EightBit
    few: int
    images: int
    source: str
    budget: float
    damages: tuple[Damage, ...]
    trials: tuple[Trial, ...]
    keep: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def check_scannable(artifact: OnnxArtifact, source: str | Path) -> None:
    """Raise UsageError when a file does not give the scores of all classes, by which damage is told."""
    if artifact.manifest.dense is not None:
        raise UsageError(
            f"{source} is for {artifact.manifest.task.replace('_', ' ')}, but a scan ranks the modules of classifiers; "
            "quantise it, and --keep modules where it is over the budget"
        )
    if artifact.manifest.output == "top5":
        raise UsageError(f"{source} gives the five best classes only; for a scan, export it with --output logits")


def scan(
    source: str | Path,
    precision: EightBit,
    amax: Mapping[str, float],
    images: CalibrationImages,
    *,
    keep: Sequence[str] = (),
    budget: float = 0.01,
    few: int = FEW,
    threads: int | None = None,
    progress: Progress = unseen,
) -> Scan:
    """Rank the modules of an exported file by the damage that 8 bits do to it, and propose what to keep.

    Args:
        source: ``.onnx`` file of fp32 or fp16, with logits or probabilities as output.
        precision: ``int8`` or ``fp8``.
        amax: largest magnitude to represent of every value that ``qdq.observed`` names.
        images: in the file's layout.
        keep: patterns of modules that are not quantised in any case.
        budget: share 0..1 of the images whose first class may change.
        few: images that single modules are run on, evenly spaced.
        threads: of every session; None for all cores.
        progress: called with each module and the share that is done.

    Raises:
        UsageError: arguments that cannot be used, or nothing left to quantise.
        LitDeployError: a file that ONNX Runtime cannot run.
    """
    check_budget(budget)
    if few < 1:
        raise UsageError(f"got {few} images for every module, expected at least 1")
    subject = _Subject(Path(source), precision, amax, threads)
    chosen = subject.products(keep)
    modules = tuple(dict.fromkeys(product.module for product in chosen))
    counts = _counts(len(modules))
    total, done = 1 + len(modules) + len(counts), 0

    def tick(what: str) -> None:
        nonlocal done
        progress(Step(what, done / total))
        done += 1

    tick("the file as it is")
    everything = predictions(subject.artifact, images.feeds, subject.options)
    taken = np.linspace(0, len(everything) - 1, min(few, len(everything))).round().astype(int)
    some, feeds = everything.at(taken), images.at(taken).feeds
    damages = []
    for module in modules:
        tick(module)
        alone = tuple(product for product in chosen if product.module == module)
        found = subject.predictions(alone, feeds)
        change = found.change(some)
        damages.append(Damage(module, change.error, change.differing, subject.macs(alone)))
    damages.sort(key=lambda damage: damage.error, reverse=True)  # stable: in the network's order where equal

    trials: list[Trial] = []
    for count in counts:
        kept = (*keep, *(damage.module for damage in damages[:count]))
        tick(f"all modules but {count}" if count else "all modules")
        rest = subject.products(kept)
        found = subject.predictions(rest, images.feeds)
        change = found.change(everything)
        trial = Trial(
            keep=kept,
            error=change.error,
            differing=change.differing,
            agreement=1 - change.share,
            macs=subject.macs(rest),
        )
        trials.append(trial)
        if within(change.differing, change.total, budget):
            break
    good = within(trials[-1].differing, len(everything), budget)
    return Scan(
        artifact=str(source),
        precision=precision,
        few=len(taken),
        images=len(everything),
        source=images.source,
        budget=budget,
        damages=tuple(damages),
        trials=tuple(trials),
        keep=trials[-1].keep if good else None,
        notes=(*images.notes, *everything.notes),
    )


class _Subject:
    """The file that is scanned, quantised in memory, and run."""

    def __init__(self, source: Path, precision: EightBit, amax: Mapping[str, float], threads: int | None) -> None:
        self.artifact = OnnxArtifact.read(source)
        manifest = self.artifact.manifest
        if precision not in EIGHT_BIT or manifest.precision not in ("fp32", "fp16"):
            raise UsageError(
                f"{source} is of {manifest.precision} and {precision} was asked for; a scan takes a file of fp32 or "
                f"fp16 to {' or '.join(EIGHT_BIT)}"
            )
        check_scannable(self.artifact, source)
        self.artifact = opened(self.artifact, precision)
        self._precision, self._amax = precision, amax
        self._shapes = _shapes(self.artifact.graph)
        self._nodes = {node.name: node for node in self.artifact.graph.graph.node}
        self.options = SessionOptions(threads=threads)

    def products(self, keep: Sequence[str]) -> tuple[Product, ...]:
        found = products(self.artifact, self._precision, keep)
        if not found:
            raise UsageError(f"nothing is left to quantise when {', '.join(keep)} is kept; keep fewer modules")
        return found

    def predictions(self, chosen: Sequence[Product], feeds: Feeds) -> Predictions:
        """What the file says with these products quantised."""
        graph = quantized(self.artifact.graph, self._precision, self._amax, chosen)
        return predictions(
            OnnxArtifact(graph, self.artifact.manifest).described(precision=self._precision), feeds, self.options
        )

    def macs(self, chosen: Sequence[Product]) -> float:
        """Share of the network's multiply-accumulates that these products do."""
        return sum(map(self._macs, chosen)) / mac_count(self.artifact.manifest.model)

    def _macs(self, product: Product) -> int:
        """Of one image: outputs times the length of the sum behind each."""
        node = self._nodes[product.node]
        return math.prod(self._shapes[node.output[0]][1:]) * self._shapes[node.input[0]][-1]


def _shapes(proto: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the values of a graph by name; 0 stands for a size that is not fixed, as the batch."""
    values = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    return {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}


def _counts(modules: int) -> list[int]:
    """How many modules to keep, one trial after another: none, 1, 2, 4, ... and at last half of them."""
    half = modules // 2
    return [0, *(2**power for power in range(half.bit_length()) if 2**power < half), *([half] if half else [])]

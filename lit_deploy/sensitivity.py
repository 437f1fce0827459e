"""Which modules suffer most from 8 bits, and which of them have to be kept out for the accuracy that is wanted.

Every module is quantised alone, because a network of which everything else is quantised too drowns in the sum of all
errors. How many of the worst are kept is then measured, not derived: errors do not add up.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lit_deploy.artifact import manifest_of, metadata_of, read_onnx, set_manifest
from lit_deploy.errors import UsageError
from lit_deploy.exporters.qdq import Product, products, quantized
from lit_deploy.gates import Feeds, Predictions, check_budget, predictions, within
from lit_deploy.key_layout import mac_count
from lit_deploy.runtime.session import SessionOptions
from lit_deploy.specs import EIGHT_BIT, EightBit, Progress

if TYPE_CHECKING:
    from lit_deploy.calibration import CalibrationImages

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
    progress: Progress = lambda step: None,
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
    with tempfile.TemporaryDirectory(prefix="lit-deploy-scan-") as folder:
        subject = _Subject(Path(source), precision, amax, Path(folder) / "quantised.onnx", threads)
        chosen = subject.products(keep)
        modules = tuple(dict.fromkeys(product.module for product in chosen))
        counts = _counts(len(modules))
        total, done = 1 + len(modules) + len(counts), 0

        def tick(what: str) -> None:
            nonlocal done
            progress(f"{100 * done // total:3} %  {what}")
            done += 1

        tick("the file as it is")
        everything = predictions(source, images.feeds, subject.options)
        taken = np.linspace(0, len(everything.classes) - 1, min(few, len(everything.classes))).round().astype(int)
        some = _at(everything, taken)
        feeds = replace(images, images=images.images[taken]).feeds
        damages = []
        for module in modules:
            tick(module)
            alone = tuple(product for product in chosen if product.module == module)
            found = subject.predictions(alone, feeds)
            damages.append(Damage(module, error(some, found), found.differing(some), subject.macs(alone)))
        damages.sort(key=lambda damage: damage.error, reverse=True)  # stable: in the network's order where equal

        trials: list[Trial] = []
        for count in counts:
            kept = (*keep, *(damage.module for damage in damages[:count]))
            tick(f"all modules but {count}" if count else "all modules")
            rest = subject.products(kept)
            found = subject.predictions(rest, images.feeds)
            differing = found.differing(everything)
            trial = Trial(
                kept, error(everything, found), differing, 1 - differing / len(found.classes), subject.macs(rest)
            )
            trials.append(trial)
            if within(differing, len(found.classes), budget):
                break
        good = within(trials[-1].differing, len(everything.classes), budget)
    return Scan(
        str(source), precision, len(taken), len(everything.classes), images.source, budget, tuple(damages),
        tuple(trials), trials[-1].keep if good else None, (*images.notes, *everything.notes),
    )  # fmt: skip


def error(reference: Predictions, found: Predictions) -> float:
    """Mean over the images of ``||found - reference|| / ||reference||`` of their logits; infinite where not finite."""
    assert reference.logits is not None
    assert found.logits is not None
    norms = np.maximum(np.linalg.norm(reference.logits, axis=1), np.finfo(np.float64).tiny)
    mean = float((np.linalg.norm(found.logits - reference.logits, axis=1) / norms).mean())
    return mean if np.isfinite(mean) else float("inf")


class _Subject:
    """The file that is scanned: quantised in memory, written over one scratch file, and run."""

    def __init__(
        self, source: Path, precision: EightBit, amax: Mapping[str, float], scratch: Path, threads: int | None
    ) -> None:
        self._proto = read_onnx(source)
        manifest = manifest_of(metadata_of(self._proto), source)
        if precision not in EIGHT_BIT or manifest.precision not in ("fp32", "fp16"):
            raise UsageError(
                f"{source} is of {manifest.precision} and {precision} was asked for; a scan takes a file of fp32 or "
                f"fp16 to {' or '.join(EIGHT_BIT)}"
            )
        if manifest.output == "top5":
            raise UsageError(f"{source} gives the five best classes only; for a scan, export it with --output logits")
        self._precision, self._amax, self._scratch = precision, amax, scratch
        self._manifest = replace(manifest, precision=precision)
        self._shapes = _shapes(self._proto)
        self._nodes = {node.name: node for node in self._proto.graph.node}
        self.options = SessionOptions(threads=threads)

    def products(self, keep: Sequence[str]) -> tuple[Product, ...]:
        found = products(self._proto, self._precision, keep)
        if not found:
            raise UsageError(f"nothing is left to quantise when {', '.join(keep)} is kept; keep fewer modules")
        return found

    def predictions(self, chosen: Sequence[Product], feeds: Feeds) -> Predictions:
        """What the file says with these products quantised."""
        model = quantized(self._proto, self._precision, self._amax, chosen)
        set_manifest(model, self._manifest)
        self._scratch.write_bytes(model.SerializeToString())
        return predictions(self._scratch, feeds, self.options)

    def macs(self, chosen: Sequence[Product]) -> float:
        """Share of the network's multiply-accumulates that these products do."""
        return sum(map(self._macs, chosen)) / mac_count(self._manifest.model)

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


def _at(whole: Predictions, taken: NDArray[np.int_]) -> Predictions:
    logits = None if whole.logits is None else whole.logits[taken]
    return replace(whole, classes=whole.classes[taken], logits=logits)

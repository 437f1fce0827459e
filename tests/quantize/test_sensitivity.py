"""The scan for modules that suffer from 8 bits, on a network in which one module is made to suffer."""

from __future__ import annotations

import functools
import json
import re
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console
from support.exported import change_initializer, edited, export_of, relabelled
from support.gates import COUNT, as_eight_bits, images, logits_one_by_one, ranges, selected
from support.golden import TINY

from lit_deploy.artifacts.onnx_file import OnnxArtifact
from lit_deploy.core.errors import UsageError
from lit_deploy.exporters.qdq import products
from lit_deploy.images.calibration import CalibrationImages
from lit_deploy.models.layout import mac_count
from lit_deploy.quantize import sensitivity
from lit_deploy.quantize.sensitivity import Scan
from lit_deploy.report.quantize import conclusion, keep_options, scan_table
from lit_deploy.report.terminal import as_json
from lit_deploy.tasks.classification.change import ClassFindings

__all__ = ["images"]  # a fixture

CheckpointFile = Callable[[str], Path]

VICTIM = "layers.1.blocks.0.mlp.fc1"
scan = functools.partial(sensitivity.scan, threads=1)


@pytest.fixture(scope="module")
def healthy(checkpoint_file: CheckpointFile) -> Path:
    return export_of(checkpoint_file("tiny"))


@pytest.fixture(scope="module")
def planted(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same function, but one input channel of one module is 1000 times smaller and its weights as much larger.

    In 8 bits the channel becomes 0, and so do all the other weights beside its huge ones.
    """

    def change(model: onnx.ModelProto) -> None:
        factors = np.ones(TINY.embed_dims[1])
        factors[3] = 1000
        norm = VICTIM.replace("mlp.fc1", "norm2")
        change_initializer(model, f"{norm}.weight", lambda value: value / factors)
        change_initializer(model, f"{norm}.bias", lambda value: value / factors)
        change_initializer(model, f"{VICTIM}.weight", lambda value: value * factors[:, None])

    return edited(healthy, tmp_path_factory.mktemp("planted") / "planted.onnx", change)


@pytest.fixture(scope="module")
def found(planted: Path, images: CalibrationImages) -> Scan:
    """A scan of the planted network with a budget that only the module's absence meets."""
    return scan(planted, "int8", ranges(planted, images, "int8"), images, budget=0.2)


def shown(result: Scan) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(scan_table(result))
    return capture.get()


def test_the_damage_is_planted_in_8_bits_only(healthy: Path, planted: Path, images: CalibrationImages) -> None:
    assert np.allclose(logits_one_by_one(healthy, images), logits_one_by_one(planted, images), atol=1e-3)


def test_the_damaged_module_ranks_first(found: Scan) -> None:
    assert found.damages[0].module == VICTIM
    first, second, *_ = (damage.error for damage in found.damages)
    assert first > 5 * second
    errors = [damage.error for damage in found.damages]
    assert errors == sorted(errors, reverse=True)
    assert min(errors) > 0, "8 bits are never for free, else nothing was quantised"
    assert found.damages[0].differing > 0
    assert (found.few, found.images, found.source, found.precision) == (16, COUNT, "a folder", "int8")


def test_keeping_it_is_proposed_and_holds(
    found: Scan, planted: Path, images: CalibrationImages, tmp_path: Path
) -> None:
    """The numbers of the proposal are those of the file that it leads to."""
    assert found.keep == (VICTIM,)
    assert [trial.keep for trial in found.trials] == [(), (VICTIM,)]
    expected = logits_one_by_one(planted, images)
    amax = ranges(planted, images, "int8")
    for trial in found.trials:
        path = as_eight_bits(planted, tmp_path / "candidate.onnx", amax, keep=trial.keep)
        logits = logits_one_by_one(path, images)
        assert trial.differing == (logits.argmax(axis=1) != expected.argmax(axis=1)).sum()
        assert trial.agreement == pytest.approx(1 - trial.differing / COUNT)
        relative = np.linalg.norm(logits - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert trial.error == pytest.approx(relative.mean(), rel=1e-3)
    assert found.trials[0].differing > 0.2 * COUNT >= found.trials[1].differing


def test_a_single_module_is_what_is_quantised_alone(
    found: Scan, planted: Path, images: CalibrationImages, tmp_path: Path
) -> None:
    others = [damage.module for damage in found.damages[1:]]
    path = as_eight_bits(planted, tmp_path / "one.onnx", ranges(planted, images, "int8"), keep=others)
    few = selected(images, np.linspace(0, COUNT - 1, 16).round().astype(int).tolist())
    logits, expected = logits_one_by_one(path, few), logits_one_by_one(planted, few)
    relative = np.linalg.norm(logits - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert found.damages[0].error == pytest.approx(relative.mean(), rel=1e-3)
    assert found.damages[0].differing == (logits.argmax(axis=1) != expected.argmax(axis=1)).sum()


def test_shares_of_the_work(found: Scan, planted: Path, images: CalibrationImages) -> None:
    shares = {damage.module: damage.macs for damage in found.damages}
    height, width = TINY.map_sizes[1]
    channels = TINY.embed_dims[1]
    macs = height * width * channels * channels * TINY.mlp_ratios[1]
    assert shares[VICTIM] == pytest.approx(macs / mac_count(TINY))
    assert found.trials[0].macs == pytest.approx(sum(shares.values()))
    assert 0.5 < found.trials[0].macs < 1
    assert found.trials[1].macs == pytest.approx(found.trials[0].macs - shares[VICTIM])
    eight = scan(planted, "fp8", ranges(planted, images, "fp8"), images, budget=1.0, few=1)
    attention = {damage.module: damage.macs for damage in eight.damages if damage.module.endswith(".products")}
    tokens, width = int(np.prod(TINY.map_sizes[3])), TINY.embed_dims[3]
    assert set(attention) == {f"layers.{block}.attn.products" for block in ("2.blocks.0", "2.blocks.1", "3.blocks.0")}
    assert attention["layers.3.blocks.0.attn.products"] == pytest.approx(2 * tokens**2 * width / mac_count(TINY))
    assert eight.trials[0].macs == pytest.approx(found.trials[0].macs + sum(attention.values()))
    assert eight.few == 1


def test_nothing_to_keep(
    healthy: Path, images: CalibrationImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told: list[str] = []
    result = scan(
        healthy,
        "int8",
        ranges(healthy, images, "int8"),
        images,
        budget=0.2,
        few=2,
        progress=lambda step: told.append(str(step)),
    )
    assert (result.keep, len(result.trials), result.notes) == ((), 1, ())
    assert conclusion(result).startswith("Nothing more has to be kept: top-1 differs on ")
    modules = [product.module for product in products(OnnxArtifact.read(healthy), "int8")]
    texts = [re.fullmatch(r" *(\d+) %  (.*)", text) for text in told]
    assert [text[2] for text in texts if text] == ["the file as it is", *modules, "all modules"]
    shares = [int(text[1]) for text in texts if text]
    assert shares == sorted(shares)
    assert shares[-1] < 100
    assert {damage.module for damage in result.damages} == set(modules)
    assert list(tmp_path.iterdir()) == [], "no copy of the network is left behind"


def test_when_keeping_does_not_help(healthy: Path, images: CalibrationImages) -> None:
    """Ranges that are all wrong damage every module; the trials end with half of the modules kept."""
    amax = {name: value / 100 for name, value in ranges(healthy, images, "int8").items()}
    result = scan(healthy, "int8", amax, images, budget=0.01, few=2)
    assert result.keep is None
    assert [len(trial.keep) for trial in result.trials] == [0, 1, 2, 4, 8, len(result.damages) // 2]
    assert result.trials[-1].keep == tuple(damage.module for damage in result.damages[: len(result.damages) // 2])
    sentence = conclusion(result)
    assert sentence.startswith("Even with half of the modules kept top-1 differs on ")
    assert f"of {COUNT} images" in sentence
    one = replace(result, trials=(result.trials[0], replace(result.trials[-1], differing=1)))
    assert f"a single one of {COUNT} images exceeds; calibrate with 100 or more" in conclusion(one)
    assert sentence in " ".join(shown(result).split())
    alone = conclusion(replace(result, trials=result.trials[:1]))
    assert alone.startswith("Top-1 differs on ")
    assert alone.endswith("and no further module can be kept; try other ranges, or fp16.")


def test_what_the_user_keeps_stays_kept(planted: Path, images: CalibrationImages) -> None:
    amax = ranges(planted, images, "int8")
    patterns = ("layers.1.blocks.*", "layers.2")
    result = scan(planted, "int8", amax, images, keep=patterns, budget=1.0, few=2)
    assert (result.keep, result.trials[0].keep) == (patterns, patterns)
    names = {damage.module for damage in result.damages}
    assert names
    assert not any(name.startswith(("layers.1.blocks", "layers.2")) for name in names)
    with pytest.raises(UsageError, match=r"nothing is left to quantise when \*, layers.1 is kept"):
        scan(planted, "int8", amax, images, keep=("*", "layers.1"))


def test_counts_of_modules_to_keep() -> None:
    assert [sensitivity._counts(n) for n in (1, 2, 4, 7, 9, 43)] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 4, 8, 16, 21]
    ]  # fmt: skip


def test_outputs_that_are_not_finite_are_the_worst() -> None:
    classes, logits = np.zeros((2, 1), np.int64), np.array([[3.0, 4.0], [0.0, 2.0]])
    reference = ClassFindings(classes, logits)
    change = np.array([[0.0, 0.5], [0.0, -0.5]])
    assert ClassFindings(classes, logits + change).change(reference).error == pytest.approx(0.175)
    change[1, 0] = np.nan
    assert ClassFindings(classes, logits + change).change(reference).error == np.inf


def test_the_report(found: Scan) -> None:
    text = shown(found)
    for damage in found.damages:
        assert damage.module in text
    assert f"{found.trials[0].differing} of {COUNT}" in text
    options = keep_options(found.keep or ())
    assert f"Use {options}: top-1 differs on {found.trials[-1].differing} of {COUNT} images" in conclusion(found)
    assert shlex.split(keep_options(("layers.0.*", VICTIM))) == ["--keep", "layers.0.*", "--keep", VICTIM]
    data = json.loads(as_json(found))
    assert data["damages"][0]["module"] == VICTIM
    assert data["keep"] == [VICTIM]


def test_files_and_arguments_that_are_refused(planted: Path, images: CalibrationImages, tmp_path: Path) -> None:
    amax = ranges(planted, images, "int8")
    eight = as_eight_bits(planted, tmp_path / "eight.onnx", amax)
    top5 = relabelled(planted, tmp_path / "top5.onnx", output="top5")
    for path, options, words in (
        (eight, {}, "eight.onnx is of int8 and int8 was asked for"),
        (top5, {}, "top5.onnx gives the five best classes only; for a scan, export it with"),
        (planted, {"budget": 1.5}, "the accuracy budget is 150"),
        (planted, {"few": 0}, "got 0 images for every module"),
        (planted, {"keep": ("layers.9",)}, "nothing that could be quantised is named 'layers.9'"),
    ):
        with pytest.raises(UsageError, match=words):
            scan(path, "int8", amax, images, **options)
    with pytest.raises(UsageError, match="fp16 was asked for"):
        scan(planted, "fp16", amax, images)

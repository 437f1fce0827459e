"""Evaluations as they are judged and shown: gates, the command line, tables."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support.command import Run
from support.evaluation import RIGHT, evaluated
from support.exported import export_of

from lit_deploy.core.errors import GateFailed, UsageError
from lit_deploy.evaluate.result import EvaluateReport, check_gates
from lit_deploy.images.datasets import Skipped
from lit_deploy.report.evaluate import evaluate_markdown, evaluate_table
from lit_deploy.report.terminal import as_json

CheckpointFile = Callable[[str], Path]
pytestmark = pytest.mark.usefixtures("evaluate_cache")


def test_gates(checkpoint_file: CheckpointFile, labelled_photos: Path, shifted: Path) -> None:
    checkpoint = checkpoint_file("tiny")
    result = evaluated([export_of(checkpoint), shifted], labelled_photos, checkpoint)
    one = evaluated([shifted], labelled_photos)
    reached = result.scores[2]
    check_gates(result)
    check_gates(result, reached.top1.share, reached.agreement)
    with pytest.raises(GateFailed, match=r"shifted.onnx agrees with tiny.pth on .* \(\d+ differ\), expected at least"):
        check_gates(result, min_agreement=reached.agreement + 0.01)
    with pytest.raises(GateFailed, match=r"tiny.onnx is right on 69.57% of the 23 images, expected at least 70.00%"):
        check_gates(result, min_top1=0.7)
    with pytest.raises(GateFailed, match=r"shifted.onnx is right on"):
        check_gates(one, min_top1=1.0)
    with pytest.raises(UsageError, match="an agreement needs two files"):
        check_gates(one, min_agreement=0.5)


def test_only_a_checkpoint_as_reference_is_held_to_no_gate(
    checkpoint_file: CheckpointFile, labelled_photos: Path
) -> None:
    file, checkpoint = export_of(checkpoint_file("tiny")), checkpoint_file("tiny")
    told = evaluated([file], labelled_photos, checkpoint)
    bad, good = (dataclasses.replace(told.scores[0].top1, share=share) for share in (0.5, 0.9))
    scores = tuple(dataclasses.replace(s, top1=top1) for s, top1 in zip(told.scores, (bad, good), strict=True))
    check_gates(dataclasses.replace(told, scores=scores), min_top1=0.8)
    files = evaluated([file, checkpoint], labelled_photos)
    scores = tuple(dataclasses.replace(s, top1=top1) for s, top1 in zip(files.scores, (bad, good), strict=True))
    with pytest.raises(GateFailed, match=r"tiny.onnx is right on 50.00%"):
        check_gates(dataclasses.replace(files, scores=scores), min_top1=0.8)


def test_gates_do_not_fail_on_rounding(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    """994 of 1000 is 99.4 %, but 99.4 / 100 is a little more; one image less is not enough, even of ten million."""
    gate = 99.4 / 100
    result = evaluated([export_of(checkpoint_file("tiny"))], labelled_photos, checkpoint_file("tiny"), limit=1)
    assert gate > 497 / 500

    def reached(right: int, total: int) -> EvaluateReport:
        top1 = dataclasses.replace(result.scores[1].top1, share=right / total)
        score = dataclasses.replace(result.scores[1], top1=top1, agreement=right / total)
        return dataclasses.replace(result, scores=(result.scores[0], score))

    check_gates(reached(497, 500), min_top1=gate, min_agreement=gate)
    for gates in ({"min_top1": gate}, {"min_agreement": gate}):
        with pytest.raises(GateFailed):
            check_gates(reached(9_939_999, 10_000_000), **gates)


# -------------------------------------------------------------------------------------------------- the command, tables


def test_command(checkpoint_file: CheckpointFile, labelled_photos: Path, shifted: Path, run: Run) -> None:
    arguments = [
        export_of(checkpoint_file("tiny")),
        shifted,
        "--images",
        labelled_photos,
        "--ckpt",
        checkpoint_file("tiny"),
    ]
    arguments += ["--threads", 1]
    code, out, err = run("evaluate", *arguments)
    assert (code, err) == (0, "")
    assert re.search(r"tiny\.pth +│ 69\.57% │ +7 │ +0 │ 49\.13% to 84\.40% │", out), out
    assert "Share of images with the same prediction" in out
    assert "Classes: " in out
    code, out, _ = run("evaluate", *arguments, "--json")
    told = json.loads(out)
    assert [score["label"] for score in told["scores"]] == ["tiny.pth", "tiny.onnx", "shifted.onnx"]
    assert told["scores"][0]["top1"]["right"] == RIGHT
    code, out, _ = run("evaluate", *arguments, "--markdown")
    assert code == 0
    assert out.startswith("**23 images, 7 classes: ")
    assert re.search(r"^\| tiny\.onnx \| 69\.57% \| 7 \| 0 \|", out, flags=re.MULTILINE)

    code, out, err = run("evaluate", *arguments, "--min-agreement", 99)
    assert code == 1
    assert "shifted.onnx" in out, "the table is shown all the same"
    assert re.fullmatch(r"error: shifted\.onnx agrees with tiny\.pth on .* expected at least 99\.00%\n", err)
    assert run("evaluate", *arguments, "--min-agreement", 0, "--min-top1", 2)[0] == 0


def test_command_refuses(checkpoint_file: CheckpointFile, labelled_photos: Path, tmp_path: Path, run: Run) -> None:
    file = export_of(checkpoint_file("tiny"))
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([file, "--images", tmp_path / "empty"], "holds no image"),
        ([file, "--images", tmp_path / "none"], "does not exist"),
        (
            [file, "--images", labelled_photos, "--min-top1", 0.9],
            "--min-top1 is 0.9, expected percent, e.g. --min-top1 99",
        ),
        ([file, "--images", labelled_photos, "--min-agreement", 99], "add --ckpt, or name a second file"),
        ([file, "--images", labelled_photos, "--json", "--markdown"], "choose one"),
        ([file, "--images", labelled_photos, "--labels-file", tmp_path / "none"], "none does not exist"),
        ([file, "--images", next(labelled_photos.iterdir())], "no class folders"),
        ([tmp_path / "no.onnx", "--images", labelled_photos], "no.onnx is not a file"),
    ):
        code, out, err = run("evaluate", *arguments)
        assert (code, out) == (2, ""), arguments
        assert re.fullmatch(r"error: [^\n]*\n", err), err
        assert message in err
    for arguments in ([file], ["--images", labelled_photos], [file, "--images", labelled_photos, "--batch", 0]):
        assert run("evaluate", *arguments)[0] == 2


def test_tables_of_odd_names(checkpoint_file: CheckpointFile, labelled_photos: Path) -> None:
    """Square brackets are no markup, pipes no columns, and a long list of skipped images is cut."""
    result = evaluated([export_of(checkpoint_file("tiny"))], labelled_photos)
    odd = dataclasses.replace(
        result,
        scores=(dataclasses.replace(result.scores[0], label="a[red]|b.onnx", top5=None),),
        skipped=tuple(Skipped(f"[bold]{index}_x_.png", "is\nodd") for index in range(14)),
        notes=("a note",),
        source="*my*_images_\\`",
    )
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(evaluate_table(odd))
    text = console.export_text()
    assert "a[red]|b.onnx" in text
    assert "14 images or class folders do not count:" in text
    assert "[bold]9_x_.png: is" in text
    assert "[bold]10_x_.png" not in text
    assert "and 4 more; --json lists all" in text
    markdown = evaluate_markdown(odd)
    assert markdown.startswith("**23 images, 7 classes: \\*my\\*\\_images\\_\\\\\\`**\n")
    row = next(line for line in markdown.splitlines() if "b.onnx |" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    assert "\n* a note\n" in markdown
    assert "\\[bold]9\\_x\\_.png: is odd" in markdown
    assert len(json.loads(as_json(odd))["skipped"]) == 14

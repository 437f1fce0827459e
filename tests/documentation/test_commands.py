"""Every command and every Python line of the README, the tour and the examples is run, in order, as it is written."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.command import Run
from support.documentation import ROOT, blocks, run_in_shell
from support.exported import export_of

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.checkpoints.seeded import synthetic_image

README = (ROOT / "README.md").read_text()
TOUR = (ROOT / "docs" / "tour.md").read_text()

ELSEWHERE = {"lit-deploy verify lit_s.engine --ckpt lit_s.pth": "needs a GPU: test_gpu.py runs it there"}
"""Commands that cannot run inside the test, and what runs them."""

ON_LIT_S = ("python -m lit_deploy.seeded lit_s lit_s.pth", "lit-deploy export --ckpt lit_s.pth")
"""Commands that run on LIT-S itself; the others on a small network under its name, in a fraction of the time.

What those do is tested on LIT-S elsewhere: test_export.py (fp16, raw pixels), test_planted_faults.py (layer by layer),
test_engine_export.py (engine).
"""


QUICK = {
    "lit-deploy bench": "lit-deploy bench --rounds 2",
    "train.py": "train.py --epochs 1",
    "--precision int8": "--precision int8 --force",  # no faster than float32 on so small a network, or a busy machine
}
"""What is changed in a command, so that it takes seconds, or always succeeds."""


def commands(text: str) -> list[str]:
    return [line for block in blocks(text, "sh") for line in block.splitlines() if line.strip()]


Perform = Callable[[str, Path], None]


@pytest.fixture
def perform(run: Run, monkeypatch: pytest.MonkeyPatch) -> Perform:
    """Run a command in a folder; those of lit-deploy in this process, where PyTorch is loaded already."""

    def call(command: str, folder: Path) -> None:
        for part, quick in QUICK.items():
            command = command.replace(part, quick)
        if "lit-deploy bench" in command:  # half a minute for each batch size; in bench's processes alone
            monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
        program, *arguments = shlex.split(command)
        if program != "lit-deploy" or set("|&;<>*$") & set(command):
            run_in_shell(command, folder)
            return
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.chdir(folder)
        outcome = run(*arguments)
        assert outcome.code == 0, f"{command}\n{outcome.out}\n{outcome.err}"

    return call


@pytest.fixture(scope="module")
def workspace(
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint_file: Callable[[str], Path],
    dense_checkpoint: Callable[[str], Path],
) -> Path:
    """A folder with all that the README takes for granted, and a small network as ``lit_s``."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    for label in ("class 1", "class 4"):
        (folder / "val" / label).mkdir(parents=True)
        Image.fromarray(synthetic_image(1, label, 300, 400)).save(folder / "val" / label / "0.jpg")
    for name in ("photo.jpg", "other.png", "third.jpg", "fourth.png"):
        Image.fromarray(synthetic_image(1, name, 300, 400)).save(folder / "photos" / name)
    shutil.copy(checkpoint_file("tiny"), folder / "lit_s.pth")
    shutil.copy(dense_checkpoint("detection"), folder / "retina_lit_s.pth")
    shutil.copy(export_of(checkpoint_file("tiny")), folder / "lit_s.onnx")
    return folder


def test_readme_commands(workspace: Path, perform: Perform) -> None:
    (workspace / "examples").symlink_to(ROOT / "examples")
    listed = commands(README)
    assert len(listed) >= 8
    for command in listed:
        if command not in ON_LIT_S:
            perform(command, workspace)


def test_tour(workspace: Path, tmp_path: Path, perform: Perform) -> None:
    listed = commands(TOUR)
    assert len(listed) >= 10
    assert {*ON_LIT_S, *ELSEWHERE} <= set(listed), "the tour has these no more"
    for command in listed:
        if command not in ELSEWHERE:
            perform(command, tmp_path if command in ON_LIT_S else workspace)
    assert (tmp_path / "lit_s.onnx").stat().st_size > 100e6
    assert read_manifest(workspace / "lit_s_fp16.onnx").precision == "fp16"
    assert len(list((workspace / "found").iterdir())) == 4
    for chart in ("layers.png", "speed.png"):
        with Image.open(workspace / chart) as image:
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def test_readme_python(workspace: Path) -> None:
    (code,) = blocks(README, "python")
    printed = run_in_shell([sys.executable, "-c", code], workspace)
    assert printed.startswith("pass ")


def test_readme_links_exist() -> None:
    for document in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links {target}"


def anchors(document: Path) -> set[str]:
    """Of a document's headings, as hosts of repositories name them."""
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_headings_that_are_there() -> None:
    for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")):
        for file, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", document.read_text()):
            target = document.parent / file if file else document
            target = target / "README.md" if target.is_dir() else target
            known = anchors(target)
            assert anchor in known or re.sub(r"-\d+$", "", anchor) in known, f"{document.name} links {file}#{anchor}"


def test_command_line_reference_is_current(tmp_path: Path) -> None:
    typer = Path(sys.executable).parent / "typer"
    output = tmp_path / "cli.md"
    run_in_shell([str(typer), "lit_deploy.cli", "utils", "docs", "--name", "lit-deploy", "--output", str(output)], ROOT)
    assert (tmp_path / "cli.md").read_text() == (ROOT / "docs" / "cli.md").read_text(), "run: make docs"


OTHERS = ("02_cpp_service", "04_search")
"""Examples whose commands run in tests/examples: they leave a server running, or print what is looked at."""

EXAMPLES = [path for path in sorted(ROOT.glob("examples/*/README.md")) if path.parent.name not in OTHERS]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.parent.name)
def test_example_commands(example: Path, tmp_path: Path, perform: Perform) -> None:
    """Examples run from the root of the repository: here a copy of what they read, so that nothing is left behind."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "demo").mkdir()
    for command in commands(example.read_text()):
        perform(command, tmp_path)


def test_demo(tmp_path: Path, checkpoint_file: Callable[[str], Path]) -> None:
    """As it is, but for a small network in place of LIT-S, whose commands the README's test has run."""
    settings = {
        "DEMO_DIR": str(tmp_path),
        "DEMO_ROUNDS": "2",
        "DEMO_EPOCHS": "1",
        "TORCHDYNAMO_DISABLE": "1",  # torch.compile would take half a minute
        "LIT_CKPT": str(checkpoint_file("tiny")),
    }
    printed = run_in_shell(["bash", str(ROOT / "examples" / "demo.sh")], ROOT, **settings)
    assert (tmp_path / "lit_s.onnx").exists()
    assert (tmp_path / "lit_s.png").exists()
    assert (tmp_path / "lit_s.engine").exists()
    rows = re.findall(r"digits\.(pth|onnx) +│ +([\d.]+)% │ +(\d+) │ +(\d+) │", printed)
    assert [row[0] for row in rows] == ["pth", "onnx"], printed
    assert all(float(accuracy) > 97 and int(differ) == 0 for _, accuracy, _, differ in rows)
    assert re.search(r"PASS +fp32, 360 images", printed)

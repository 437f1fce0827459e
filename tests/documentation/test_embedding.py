"""The programs of docs/embedding.md, built and run as they are written there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.documentation import blocks, run_in_shell
from support.exported import export_of
from support.micro_dense import found, micro_dense, micro_dense_manifest

from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.machine import native
from lit_deploy.workflows.predict import predict_images

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "embedding.md").read_text()
BUILD = native.runtime_path().parent

DENSE = {"detection": "retina", "instance_segmentation": "mask_rcnn", "semantic_segmentation": "sem_fpn"}
"""The names of the page's files, by task."""
WHOLE = ("semantic_segmentation",)
"""Tasks that say something of whole pictures."""

pytestmark = [
    pytest.mark.skipif(not native.runtime_path().is_file(), reason=f"no C runtime: {native.RUNTIME_BUILD_COMMAND}"),
    pytest.mark.skipif(
        native.find_onnxruntime_library() is None, reason="no libonnxruntime.so: pip install onnxruntime"
    ),
]


def section(title: str) -> str:
    """The text below a heading, up to the next one of its kind."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint_file: Callable[[str], Path]) -> Path:
    """What the programs take for granted: the installed package, a file, a picture."""
    folder = tmp_path_factory.mktemp("embedding")
    run_in_shell(["cmake", "--install", str(BUILD), "--prefix", str(folder / "stage")], folder)
    shutil.copy(export_of(checkpoint_file("tiny")), folder / "lit_s.onnx")
    Image.fromarray(synthetic_image(4, "embedding", 90, 140)).save(folder / "photo.ppm")
    return folder


def check_answer(printed: str, folder: Path) -> None:
    """The lines are those of ``lit-deploy predict``."""
    (expected,) = predict_images(folder / "lit_s.onnx", [folder / "photo.ppm"])
    lines = re.findall(r"^([\d.]+) (.+)$", printed, flags=re.MULTILINE)
    assert [label for _, label in lines] == list(expected.labels)
    assert [float(p) for p, _ in lines] == pytest.approx(expected.probabilities, abs=6e-5)


@pytest.mark.parametrize("title", ["C", "C++"])
def test_program(title: str, folder: Path) -> None:
    text = section(title)
    here = folder / ("c" if title == "C" else "cpp")
    here.mkdir()
    for name in ("stage", "lit_s.onnx", "photo.ppm"):
        (here / name).symlink_to(folder / name)
    for language, name in (("c", "classify.c"), ("cpp", "classify.cc"), ("cmake", "CMakeLists.txt")):
        for code in blocks(text, language):
            (here / name).write_text(code)
    if title == "C" and shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config: apt-get install pkg-config")
    (commands,) = blocks(text, "sh")
    library = str(native.find_onnxruntime_library())
    check_answer(run_in_shell(f"set -e\n{commands}", here, LIT_DEPLOY_ONNXRUNTIME=library), folder)


def test_detection_and_segmentation(folder: Path) -> None:
    text, here = section("Detection and segmentation"), folder / "dense"
    here.mkdir()
    for name in ("stage", "photo.ppm"):
        (here / name).symlink_to(folder / name)
    size = 140, 90
    files = {task: here / f"{name}_lit_s.onnx" for task, name in DENSE.items()}
    for task in ("detection", "instance_segmentation"):
        masks = task != "detection"
        micro_dense(files[task], micro_dense_manifest(task), found(10, 10, size[::-1], masks=masks))  # type: ignore[arg-type]
    micro_dense(files["semantic_segmentation"], micro_dense_manifest("semantic_segmentation"))
    for language, name in (("c", "detect.c"), ("cpp", "segment.cc")):
        (code,) = blocks(text, language)
        (here / name).write_text(code)
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config: apt-get install pkg-config")
    (commands,) = blocks(text, "sh")
    commands += "\n./detect retina_lit_s.onnx photo.ppm"
    library = str(native.find_onnxruntime_library())
    printed = run_in_shell(f"set -e\n{commands}", here, LIT_DEPLOY_ONNXRUNTIME=library).splitlines()
    expected: list[str] = []
    for task in ("instance_segmentation", "semantic_segmentation", "detection"):
        (answer,) = predict_images(files[task], [here / "photo.ppm"])
        expected += [line_of(entry) for entry in answer.classes] if task in WHOLE else []
        expected += [line_of(entry) for entry in answer.detections] if task not in WHOLE else []
    assert sorted(line.rstrip() for line in printed) == sorted(expected)


def line_of(entry: Any) -> str:
    """What the programs print of a class or an object that ``lit-deploy predict`` names."""
    if hasattr(entry, "share"):
        return f"{entry.share:.4f} {entry.label}"
    x, y, width, height = entry.bbox
    box = " ".join(f"{value:.2f}" for value in (x, y, x + width, y + height))
    counts = f" {entry.segmentation['counts']}" if hasattr(entry, "segmentation") else ""
    return f"{entry.score:.4f} {entry.label} {box}{counts}"


def test_the_line_that_names_onnxruntime(folder: Path) -> None:
    (line,) = (block for block in blocks(section("Back ends"), "sh") if "LIT_DEPLOY_ONNXRUNTIME" in block)
    printed = run_in_shell(f"{line}\necho $LIT_DEPLOY_ONNXRUNTIME", folder)
    assert printed.strip() == str(native.find_onnxruntime_library())


def test_ten_lines_of_the_header(folder: Path, tmp_path: Path) -> None:
    """The usage that lit_runtime.h opens with compiles and runs, with nothing but ``main`` around it."""
    header = (ROOT / "plugins" / "runtime" / "include" / "lit_runtime.h").read_text()
    usage = "\n".join(line.removeprefix(" *") for line in header.splitlines() if line.startswith(" *     "))
    usage = usage[: usage.index("lit_model_close(model);") + len("lit_model_close(model);")]
    (tmp_path / "usage.c").write_text(
        "#include <stdio.h>\n#include <lit_runtime.h>\n"
        f"static unsigned char pixels[3 * 40 * 30];\nint main(void) {{\n  int width = 40, height = 30;\n{usage}\n"
        "  return found != 5;\n}\n"
    )
    stage = folder / "stage"
    command = ["cc", "-Wall", "-Werror", f"-I{stage}/include", "usage.c", "-o", "usage", f"-L{stage}/lib"]
    command += ["-llit_deploy_runtime", f"-Wl,-rpath,{stage}/lib"]
    subprocess.run(command, cwd=tmp_path, check=True)
    printed = run_in_shell(
        [str(tmp_path / "usage")], folder, LIT_DEPLOY_ONNXRUNTIME=str(native.find_onnxruntime_library())
    )
    assert len(re.findall(r"^ *[\d.]+ % class \d$", printed, flags=re.MULTILINE)) == 5, printed

"""The page of the HTTP service, in a real browser: pictures are chosen by a click, and what is drawn is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.chromium import Browser, needs_chromium
from support.http_service import Service
from support.micro_dense import SIDE, micro_dense, micro_dense_manifest
from support.runtime_library import needs_runtime
from support.runtime_models import micro

from lit_deploy.tasks.instance_segmentation.rle import decoded

pytest.importorskip("onnxruntime", reason="the service runs on the wheel's libonnxruntime.so: pip install onnxruntime")

pytestmark = [needs_runtime, needs_chromium]

HEIGHT, WIDTH = 90, 120
GRAY = 128

BOXES = ((10, 30, 50, 70), (60, 40, 110, 80), (5, 5, 115, 85))
"""Of objects of labels 0 to 2, the last of which is too uncertain to be shown unless it is asked for."""


def said(masks: bool) -> dict[str, Any]:
    outputs: dict[str, Any] = {
        "boxes": np.array([BOXES], dtype=np.float32),
        "scores": np.array([[0.9, 0.6, 0.2]], dtype=np.float32),
        "labels": np.array([[0, 1, 2]], dtype=np.int32),
        "num": np.array([3], dtype=np.int32),
    }
    if masks:  # the left half of each box
        outputs["masks"] = np.zeros((1, 3, SIDE, SIDE), dtype=np.float32)
        outputs["masks"][..., : SIDE // 2] = 1
    return outputs


@pytest.fixture(scope="module")
def service(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("page")
    hostile = ("<img src=x onerror='document.title=1'>", "square", "bar")
    boxes = micro_dense(folder / "boxes.onnx", micro_dense_manifest("detection", 3, labels=hostile), said(masks=False))
    masks = micro_dense(folder / "masks.onnx", micro_dense_manifest("instance_segmentation", 3), said(masks=True))
    label_map = micro_dense(folder / "map.onnx", micro_dense_manifest("semantic_segmentation"))
    classes = micro(folder / "classes.onnx")
    with Service(binary, boxes, "--model", masks, "--model", label_map, "--model", classes) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Browser]:
    """The page, opened anew. Nobody but the service is ever asked, and nothing fails behind the user's back."""
    address = f"http://127.0.0.1:{service.port}/"
    browser.requests.clear()
    browser.complaints.clear()
    browser.show(1280, 800)
    browser.open(address)
    browser.wait_for("models.length === 4")
    yield browser
    assert {request[: len(address)] for request in browser.requests} == {address}
    assert browser.complaints == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "gray.png"
    Image.new("RGB", (WIDTH, HEIGHT), (GRAY, GRAY, GRAY)).save(path)
    return path


def select(page: Browser, model: str) -> None:
    """What a choice in the list of models does."""
    page.evaluate(
        f"document.getElementById('model').selectedIndex = models.findIndex(({{name}}) => name === {model!r})"
    )
    page.evaluate("document.getElementById('model').dispatchEvent(new Event('change'))")


def give(page: Browser, picture: Path) -> str:
    """Choose a picture by a click, and wait for the result; what the page says of it."""
    page.choose("#choose", picture)
    page.wait_for(f"picture?.name === {picture.name!r} && document.getElementById('busy').hidden")
    page.evaluate("scrollTo(0, 0)")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)  # points at nothing
    return page.evaluate("document.getElementById('status').textContent")


def rows(page: Browser) -> list[tuple[str, str]]:
    """Names and numbers that are listed."""
    texts = page.evaluate("[...document.querySelectorAll('.row')].map(({innerText}) => innerText.split('\\n'))")
    return [(name, number) for name, number in texts]


def colours(page: Browser) -> list[list[int]]:
    """Of the rows' swatches, which are those of what is drawn."""
    texts = page.evaluate(
        "[...document.querySelectorAll('.row i')].map(swatch => getComputedStyle(swatch).backgroundColor)"
    )
    return [[int(part) for part in text[4:-1].split(",")] for text in texts]


def drawn(page: Browser) -> tuple[np.ndarray[Any, Any], float]:
    """The canvas as a screenshot has it, ``[rows, columns, 3]``, and how much larger it is than the picture."""
    box = page.evaluate("document.getElementById('canvas').getBoundingClientRect().toJSON()")
    seen = page.screenshot().crop((box["left"], box["top"], box["right"], min(box["bottom"], 800)))
    return np.asarray(seen).astype(int), box["width"] / WIDTH


def answer(service: Service, path: str, picture: Path) -> dict[str, Any]:
    return json.loads(service.ask("POST", path, picture.read_bytes()).body)


def test_boxes_are_drawn_where_the_answer_says(page: Browser, service: Service, picture: Path) -> None:
    assert give(page, picture) == "2 of 3 objects in gray.png"
    seen, scale = drawn(page)
    inks = colours(page)
    assert inks[0] != inks[1]
    told = answer(service, "/v1/detect?model=boxes", picture)["detections"]
    for entry, ink in zip(told, inks, strict=False):
        left, top, width, height = (scale * value for value in entry["bbox"])
        for x, y in ((left, top + height / 2), (left + width, top + height / 2), (left + width / 2, top + height)):
            assert abs(seen[int(y), int(x)] - ink).max() <= 3
        assert seen[int(top + height / 2), int(left + width / 2)].tolist() == [GRAY] * 3
    faint = [scale * value for value in told[2]["bbox"]]
    assert seen[int(faint[1] + faint[3] - 1), int(faint[0] + faint[2] / 2)].tolist() == [GRAY] * 3


def test_names_from_a_file_are_text(page: Browser, picture: Path) -> None:
    """A label that is HTML shows as it is; nor would a script run that found its way into the page."""
    give(page, picture)
    assert rows(page) == [("<img src=x onerror='document.title=1'>", "90 %"), ("square", "60 %")]
    page.evaluate("const tag = document.createElement('script'); tag.textContent = 'document.title = 2'")
    page.evaluate("document.body.append(tag)")
    assert page.evaluate("document.title") == "lit-deploy: try a picture"
    (complaint,) = page.complaints
    assert "Content Security Policy" in complaint
    page.complaints.clear()


def test_the_least_score_follows_the_keyboard(page: Browser, picture: Path) -> None:
    """Tab leads to the button and Enter opens the dialog; arrows move the slider, and what it hides."""
    page.evaluate("document.getElementById('model').focus()")
    page.key("Tab")
    page.key("Enter", "\r")
    page.pick(picture)
    page.wait_for("document.querySelectorAll('.row').length === 2")
    page.evaluate("least.focus()")
    for _ in range(6):
        page.key("ArrowLeft")
    assert [number for _, number in rows(page)] == ["90 %", "60 %", "20 %"]


@pytest.mark.parametrize(
    ("model", "path", "points"),
    [
        ("masks", "/v1/detect?model=masks", [(20, 50), (40, 50), (72, 60), (98, 60)]),  # left and right halves of boxes
        ("map", "/v1/segment?model=map", [(20, 45), (60, 45), (100, 45)]),
    ],
)
def test_masks_lie_where_the_answer_says(
    model: str, path: str, points: list[tuple[int, int]], page: Browser, service: Service, picture: Path
) -> None:
    """The colour of a mask or class lies over the picture inside of its run lengths, and not beside them."""
    select(page, model)
    give(page, picture)
    seen, scale = drawn(page)
    inks = colours(page)
    (told,) = (value for value in answer(service, path, picture).values() if isinstance(value, list))
    masks = np.array([decoded(entry["segmentation"]) for entry in told[: len(inks)]])
    found = []
    for x, y in points:
        inside = masks[:, y, x].nonzero()[0]
        colour = 0.45 * GRAY + 0.55 * np.array(inks[inside[0]]) if len(inside) else np.full(3, GRAY)
        assert abs(seen[int((y + 0.5) * scale), int((x + 0.5) * scale)] - colour).max() <= 3, (x, y)
        found.append(len(inside))
    assert found == ([1, 0, 1, 0] if model == "masks" else [1, 1, 1])


def test_classes_are_listed_with_bars(page: Browser, service: Service, picture: Path) -> None:
    select(page, "classes")
    assert give(page, picture) == "5 classes in gray.png"
    told = answer(service, "/v1/classify?model=classes", picture)["predictions"]
    assert [name for name, _ in rows(page)] == [entry["label"] for entry in told]
    width = "bar.offsetWidth / bar.parentElement.offsetWidth"
    bars = page.evaluate(f"[...document.querySelectorAll('.row s')].map(bar => {width})")
    np.testing.assert_allclose(bars, [entry["probability"] for entry in told], atol=0.01)


def test_time_and_facts_stand_beside(page: Browser, picture: Path) -> None:
    give(page, picture)
    facts = page.evaluate("document.getElementById('facts').innerText.split('\\n')")
    assert {"boxes", "detection", "fp32"} <= set(facts)
    times = page.evaluate("[...document.querySelectorAll('#times dt')].map(name => name.textContent)")
    assert times == ["Round trip", "Of it in the service", "Drawing"]


def test_another_model_is_asked_about_the_same_picture(page: Browser, picture: Path) -> None:
    give(page, picture)
    select(page, "map")
    page.wait_for("document.getElementById('status').textContent === '3 classes in gray.png'")


def test_errors_are_sentences(page: Browser, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    assert give(page, tmp_path / "notes.png") == "No answer about notes.png"
    assert "neither a JPEG nor a PNG file" in page.evaluate("document.getElementById('error').textContent")
    (complaint,) = page.complaints  # the browser's own, of the answer 415
    assert "415" in complaint
    page.complaints.clear()


@pytest.mark.parametrize(
    ("model", "said"), [("classes", "5 classes in turned.jpg, sent upright"), ("boxes", "2 of 3 objects in turned.jpg")]
)
def test_a_turned_picture_is_written_anew_for_classifiers_alone(
    model: str, said: str, page: Browser, picture: Path, tmp_path: Path
) -> None:
    """And the command below, which sends the file, says so."""
    turned = Image.Exif()
    turned[0x112] = 6
    Image.open(picture).save(tmp_path / "turned.jpg", exif=turned)
    select(page, model)
    assert give(page, tmp_path / "turned.jpg") == said
    command = page.evaluate("document.querySelector('#raw pre').textContent")
    assert command.startswith("# not this file" if model == "classes" else "curl ")
    if model == "boxes":
        assert page.evaluate("[result.width, result.height]") == [HEIGHT, WIDTH]


def test_a_file_that_cannot_be_read_is_told(page: Browser, picture: Path) -> None:
    """As of a folder that was dropped; played here."""
    give(page, picture)
    page.evaluate("take({name: 'gone', slice: () => ({arrayBuffer: () => Promise.reject(Error('gone'))})})")
    assert page.evaluate("document.getElementById('error').textContent") == "the file cannot be read: choose another"
    assert page.evaluate("document.getElementById('busy').hidden")


def test_it_fits_a_phone_in_the_dark(page: Browser, picture: Path) -> None:
    light = page.screenshot().getpixel((3, 3))
    page.show(390, 844, dark=True, phone=True)
    give(page, picture)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.getElementById('camera').offsetHeight") >= 44
    assert sum(page.screenshot().getpixel((3, 3))) < 120 < sum(light)

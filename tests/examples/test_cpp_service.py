"""The HTTP service of examples/02_cpp_service over loopback: right answers, bad requests, overload, shutdown.

``LIT_SERVICE_BINARY=...`` runs the tests on another build of it, one with sanitizers for instance.
"""

from __future__ import annotations

import dataclasses
import http.client
import importlib
import json
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from PIL import Image, ImageFont
from support.documentation import run_in_shell
from support.exported import export_of
from support.http_service import ASK, BINARY, EXAMPLE, START, Reply, Service, exchange, sanitized, wait_for
from support.micro_dense import found, micro_dense, micro_dense_manifest
from support.runtime_library import needs_runtime
from support.runtime_models import micro
from support.runtime_openvino import find_openvino_library, needs_openvino
from support.service_pictures import (
    BAD_REQUESTS,
    BOMBS,
    JPEG,
    LYING_JPEG,
    NARROW_PNG,
    PHOTO,
    PICTURES,
    PNG,
    big,
    encoded,
    png_chunk,
    slow,
)

from lit_deploy.core.specs import TaskName
from lit_deploy.tasks.instance_segmentation.rle import decoded
from lit_deploy.workflows.predict import predict_images

pytest.importorskip("onnxruntime", reason="the service runs on the wheel's libonnxruntime.so: pip install onnxruntime")

pytestmark = needs_runtime


@pytest.fixture(scope="module")
def model(checkpoint_file: Callable[[str], Path]) -> Path:
    return export_of(checkpoint_file("tiny"))


@pytest.fixture(scope="module")
def service(binary: Path, model: Path) -> Iterator[Service]:
    limits = ("--max-body-mib", 1, "--request-timeout-s", 1, "--idle-timeout-s", 2, "--max-delay-ms", 20)
    with Service(binary, model, *limits) as running:
        yield running


def same(reply: Reply, expected: list[tuple[int, str, float]]) -> None:
    assert reply.status == 200, reply
    got = [(p["class"], p["label"], p["probability"]) for p in json.loads(reply.body)["predictions"]]
    assert [entry[:2] for entry in got] == [entry[:2] for entry in expected]
    np.testing.assert_allclose([entry[2] for entry in got], [entry[2] for entry in expected], rtol=0, atol=1e-5)


def expectations(model: Path, folder: Path) -> dict[str, list[tuple[int, str, float]]]:
    """What ``lit-deploy predict`` says about the pictures."""
    paths = {name: folder / name.replace(" ", "_") for name in PICTURES}
    for name, path in paths.items():
        path.write_bytes(PICTURES[name])
    found = predict_images(model, list(paths.values()))
    return {
        name: list(zip(p.classes, p.labels, p.probabilities, strict=True)) for name, p in zip(paths, found, strict=True)
    }


def test_readme_commands(workspace: Path, model: Path) -> None:
    """All but the port: the README's may be taken here."""
    shutil.copy(model, workspace / "lit_s.onnx")
    (workspace / "photo.jpg").write_bytes(JPEG)
    export, start = START
    variable, value = re.fullmatch(r'export (\w+)="\$\((.*)\)"', export).groups()
    printed = run_in_shell(value, workspace)
    words = start.removesuffix(" --port 8080 &").split()
    assert words[::2] == [BINARY, "lit_s.onnx"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, printed.strip())
        with Service(workspace / words[0], workspace / words[2]) as running:
            answers = [run_in_shell(line.replace(":8080", f":{running.port}"), workspace) for line in ASK]
    assert len(json.loads(answers[0])["predictions"]) == 3
    assert json.loads(answers[1]) == {"status": "ok"}
    assert 'lit_service_responses_total{code="200"} 2' in answers[2]


def test_predictions_are_those_of_lit_deploy_predict(service: Service, model: Path, tmp_path: Path) -> None:
    """One by one, and as batches that the service makes of what arrives together."""
    expected = expectations(model, tmp_path)
    for name, picture in PICTURES.items():
        same(service.classify(picture), expected[name])
    with ThreadPoolExecutor(16) as pool:
        for _ in range(2):
            for name, reply in zip(PICTURES, pool.map(service.classify, PICTURES.values()), strict=True):
                same(reply, expected[name])
    metrics = service.metrics()
    assert metrics["lit_service_batch_images_count", ""] < metrics["lit_service_batch_images_sum", ""]
    same(service.classify(JPEG, top=2), expected["jpeg"][:2])
    assert len(json.loads(service.classify(JPEG, top=1000).body)["predictions"]) == 7


@needs_openvino
def test_the_same_on_openvino(
    binary: Path, checkpoint_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_of(checkpoint_file("tiny"), portable=True)
    expected = expectations(path, tmp_path)
    monkeypatch.setenv("LIT_DEPLOY_OPENVINO", str(find_openvino_library()))
    with Service(binary, path, "--backend", "openvino") as running, ThreadPoolExecutor(4) as pool:
        for name, reply in zip(PICTURES, pool.map(running.classify, PICTURES.values()), strict=True):
            same(reply, expected[name])
    assert any("on OpenVINO 2" in line for line in running.log)


DENSE: dict[str, tuple[TaskName, str]] = {
    "boxes": ("detection", "detections"),
    "masks": ("instance_segmentation", "detections"),
    "label map": ("semantic_segmentation", "classes"),
}
"""What the service gives, the task, and what the answer calls it."""


@pytest.mark.parametrize("case", DENSE)
def test_what_is_found_is_what_lit_deploy_predict_finds(case: str, binary: Path, tmp_path: Path) -> None:
    """In COCO's words; of many requests at once as of one, and of the wrong path a word."""
    (task, key), manifest = DENSE[case], micro_dense_manifest(DENSE[case][0], 20)
    said = None if case == "label map" else found(20, 20, (90, 120), masks=case == "masks")
    path = micro_dense(tmp_path / "dense.onnx", manifest, said)
    own = "/v1/segment" if task == "semantic_segmentation" else "/v1/detect"
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    (expected,) = predict_images(path, [tmp_path / "photo.jpg"])
    entries = [dataclasses.asdict(entry) for entry in getattr(expected, key)]
    with Service(binary, path) as running:
        reply = running.ask("POST", own, JPEG)
        assert reply.status == 200, reply
        answer = json.loads(reply.body)
        assert (answer["height"], answer["width"]) == (expected.height, expected.width)
        assert len(answer[key]) == len(entries) > 0
        for got, wanted in zip(answer[key], entries, strict=True):
            for name in {"bbox", "score", "share"} & wanted.keys():
                assert got.pop(name) == pytest.approx(wanted.pop(name), rel=1e-6, abs=1e-3 if name == "bbox" else 1e-6)
            if task == "semantic_segmentation":
                assert int(decoded(got.pop("segmentation")).sum()) == got["pixels"]
            assert got == wanted
        assert len(json.loads(running.ask("POST", f"{own}?top=2", JPEG).body)[key]) == 2
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(lambda _: running.ask("POST", own, JPEG), range(60)))
        assert {(again.status, again.body) for again in replies} == {(200, reply.body)}
        for other in {"/v1/classify", "/v1/detect", "/v1/segment"} - {own}:
            refused = running.ask("POST", other, JPEG)
            assert (refused.status, json.loads(refused.body)) == (
                404,
                {"error": f"no model here is for this task: POST to {own}"},
            )
        assert running.ask("GET", own).status == 405
        lying = json.loads(running.ask("POST", own, LYING_JPEG).body)
        assert (lying["height"], lying["width"]) == (expected.width, expected.height)
        narrow = running.ask("POST", own, NARROW_PNG)
        assert (narrow.status, "too narrow" in narrow.body) == (413, True)
        assert running.metrics()["lit_service_responses_total", "200"] >= 63


@pytest.mark.parametrize("case", DENSE)
def test_a_picture_of_what_is_found_is_that_of_lit_deploy_predict(
    case: str, binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit without names; with them but for letters, which another FreeType may render otherwise."""
    manifest = micro_dense_manifest(DENSE[case][0], 20)
    said = None if case == "label map" else found(20, 20, (540, 720), masks=case == "masks")
    if said is not None:
        said["boxes"][0, 2] = 30, 8, 9, 4  # corners the wrong way round are a box all the same
    path = micro_dense(tmp_path / "dense.onnx", manifest, said)
    picture = encoded(PHOTO.resize((720, 540)), "PNG")
    (tmp_path / "photo.png").write_bytes(picture)
    font = ImageFont.load_default(10).path
    (tmp_path / "font").write_bytes(font.getvalue())

    def drawn(name: str) -> Image.Image:
        predict_images(path, [tmp_path / "photo.png"], out=tmp_path / name)
        return Image.open(tmp_path / name / ("photo_labels.png" if said is None else "photo.png"))

    own = "/v1/detect" if said else "/v1/segment"
    with Service(binary, path, "--font", tmp_path / "font") as running:
        got, wanted = running.picture(own, picture), drawn("named")
        assert (got.mode, got.size, got.getpalette()) == (wanted.mode, wanted.size, wanted.getpalette())
        assert (np.asarray(got) != np.asarray(wanted)).mean() < (0.001 if said else 1e-9)
    if said is None:
        return
    monkeypatch.setattr("lit_deploy.tasks.detection.drawing.tag", lambda *_: None)
    with Service(binary, path, "--font", "") as running:
        np.testing.assert_array_equal(np.asarray(running.picture(own, picture)), np.asarray(drawn("bare")))


ACCEPTED = {
    "image/png": "image/png",
    "*/*": "application/json",
    "": "application/json",
    "image/*, */*;q=0.8": "image/png",
    "application/json;q=0.2, image/png;q=0.3": "image/png",
    "application/json, image/png": "application/json",
    "image/png, */*": "image/png",
    "*/*, application/json; q=0": "image/png",
    'IMAGE/PNG ; Q=1.000 ; v="a,b;q=0"': "image/png",
    "image/png;q=0, image/*": None,
    "text/html": None,
    "image/png;q=2, application/json;q=0.1": "application/json",
    "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2": "application/json",  # Java's own
}
"""``Accept``, and what comes of it; None: 406."""


def test_the_form_of_the_answer_is_what_the_client_prefers(binary: Path, model: Path, tmp_path: Path) -> None:
    dense = micro_dense(tmp_path / "dense.onnx", micro_dense_manifest("semantic_segmentation"))
    with Service(binary, dense, "--model", f"tiny={model}") as running:
        for accept, form in ACCEPTED.items():
            if form == "image/png":
                assert running.picture("/v1/segment", JPEG, accept).size == (120, 90)
                continue
            reply = running.ask("POST", "/v1/segment", JPEG, Accept=accept)
            assert (accept, reply.status) == (accept, 406 if form is None else 200)
            assert reply.headers["content-type"] == "application/json"
        assert "application/json or image/png" in running.ask("POST", "/v1/segment", JPEG, Accept="text/html").body
        reply = running.ask("POST", "/v1/classify", JPEG, Accept="image/png")
        sentence = "/v1/classify answers with application/json, which the request does not accept"
        assert (reply.status, json.loads(reply.body)) == (406, {"error": sentence})


def test_only_pictures_of_a_bounded_size_are_drawn_into(binary: Path, tmp_path: Path) -> None:
    """Told from the header: those rows are not there."""
    path = micro_dense(tmp_path / "dense.onnx", micro_dense_manifest("detection"), found(3, 10, (90, 120), masks=False))
    large = PNG[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 4000, 8, 2, 0, 0, 0)) + PNG[33:]
    with Service(binary, path) as running:
        reply = running.ask("POST", "/v1/detect", large, Accept="image/png")
        assert (reply.status, "at most 16777216 are drawn into" in reply.body) == (413, True), reply
        assert running.ask("POST", "/v1/detect", large).status == 422


def test_a_picture_of_two_million_columns_is_drawn(binary: Path, tmp_path: Path) -> None:
    """Above a limit of libpng's own."""
    manifest = micro_dense_manifest("detection")
    manifest = dataclasses.replace(manifest, input=dataclasses.replace(manifest.input, pad_multiple=32))
    path = micro_dense(tmp_path / "dense.onnx", manifest, found(3, 10, (2, 2_000_000), masks=False))
    with Service(binary, path) as running:
        wide = encoded(Image.new("L", (2_000_000, 2)), "PNG")
        assert running.picture("/v1/detect", wide).size == (2_000_000, 2)


OPENAPI = json.loads((EXAMPLE / "openapi.json").read_text())


def test_the_openapi_document_is_valid() -> None:
    openapi = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")
    openapi.validate(OPENAPI)


def closed(document: Any) -> Any:
    """Its schemas with no place for properties that they do not name."""
    if isinstance(document, list):
        return [closed(entry) for entry in document]
    if not isinstance(document, dict):
        return document
    inner = {key: closed(value) for key, value in document.items()}
    return inner | {"additionalProperties": False} if "properties" in inner else inner


def check_described(path: str, reply: Reply) -> None:
    """An answer of a path is what the OpenAPI document says of this path, status and type."""
    (operation,) = OPENAPI["paths"][path].values()
    answer = operation["responses"][str(reply.status)]
    if "$ref" in answer:
        answer = OPENAPI["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    assert {name.lower() for name in answer.get("headers", ())} <= reply.headers.keys()
    form = reply.headers["content-type"].partition(";")[0]
    schema = closed({"components": OPENAPI["components"], **answer["content"][form]["schema"]})
    jsonschema.Draft202012Validator(schema).validate(json.loads(reply.body) if form.endswith("json") else reply.body)


def test_every_answer_is_as_the_openapi_document_says(binary: Path, tmp_path: Path) -> None:
    names: list[object] = []
    for case, (task, _) in DENSE.items():
        said = None if case == "label map" else found(9, 20, (90, 120), masks=case == "masks")
        names += ["--model", micro_dense(tmp_path / f"{task}.onnx", micro_dense_manifest(task, 20), said)]
    with Service(binary, micro(tmp_path / "micro.onnx"), *names, "--max-body-mib", 1) as running:
        assert json.loads(running.ask("GET", "/openapi.json").body) == OPENAPI
        for path, operations in OPENAPI["paths"].items():
            (method,) = (name.upper() for name in operations)
            reply = running.ask(method, path, JPEG if method == "POST" else None)
            assert reply.status == 200
            check_described(path, reply)
        told = running.ask("GET", "/v1/models")
        for model in json.loads(told.body)["models"]:
            path = model["path"].partition("?")[0]
            check_described(path, running.ask("POST", model["path"], JPEG))
            check_described(path, running.ask("POST", f"{path}?model=gone", JPEG))
            check_described(path, running.ask("POST", path, JPEG, Accept="text/html"))
        for _, target, body, _ in BAD_REQUESTS.values():
            path = target.partition("?")[0]
            if path in OPENAPI["paths"] and (body is None or isinstance(body, bytes)):
                check_described(path, running.ask("GET" if body is None else "POST", target, body))


def test_a_detector_that_counts_wrong_is_an_error_of_the_service(binary: Path, tmp_path: Path) -> None:
    said = found(20, 20, (90, 120), masks=False)
    said["num"][:] = 21
    path = micro_dense(tmp_path / "dense.onnx", micro_dense_manifest("detection", 20), said)
    with Service(binary, path) as running:
        assert running.ask("POST", "/v1/detect", JPEG).status == 500
    assert "it counts 21 objects" in "".join(running.log)


def test_the_page_needs_no_browser_to_be_told(service: Service) -> None:
    reply = service.ask("GET", "/")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'sha256-")
    assert service.ask("HEAD", "/").headers["content-length"] == str(len(reply.body.encode()))
    assert service.ask("POST", "/", b"x").status == 405


def test_several_models_are_told_and_asked_by_their_names(binary: Path, tmp_path: Path) -> None:
    """Each with a queue and counters of its own; without a name the first of the task answers."""
    first, second = micro(tmp_path / "a b.onnx"), micro(tmp_path / "second=.onnx")
    said = found(4, 20, (90, 120), masks=True)
    masks = micro_dense(tmp_path / "masks.onnx", micro_dense_manifest("instance_segmentation", 20), said)
    named = ("--model", f"other={first}", "--model", second, "--model", f"cut={masks}")
    with Service(binary, first, *named) as running:
        models = {model["name"]: model for model in json.loads(running.ask("GET", "/v1/models").body)["models"]}
        assert list(models) == ["a_b", "other", "second_", "cut"]
        assert models["other"] | {"backend": ""} == {
            "name": "other", "network": "custom", "task": "classification", "precision": "fp32", "backend": "",
            "path": "/v1/classify?model=other", "classes": 7, "input": {"height": 4, "width": 4},
        }  # fmt: skip
        assert models["cut"]["task"] == "instance_segmentation"
        assert (models["cut"]["masks"], models["cut"]["max_detections"]) == (True, 20)
        for path in ("/v1/classify", "/v1/classify?top=3&model=other", *(each["path"] for each in models.values())):
            assert running.ask("POST", path, JPEG).status == 200
        samples = running.ask("GET", "/metrics").body
        for name, count in {"a_b": 2, "other": 2, "second_": 1, "cut": 1}.items():
            assert f'lit_service_accepted_total{{model="{name}"}} {count}\n' in samples
        for path, words in {
            "/v1/classify?model=gone": "no model here has this name: there are a_b, other, second_, cut",
            "/v1/classify?model=cut": "the model cut is for another task: POST to /v1/detect?model=cut",
            "/v1/segment": "no model here is for this task: POST to /v1/classify, /v1/detect",
        }.items():
            refused = running.ask("POST", path, JPEG)
            assert (refused.status, json.loads(refused.body)) == (404, {"error": words})
        for query in ("model=", "model=cut&model=cut", "top=1&top=1", "&", "model=cut&k=1"):
            assert running.ask("POST", f"/v1/detect?{query}", JPEG).status == 400


def test_a_fixed_batch_of_raw_pixels_and_top5(
    binary: Path, checkpoint_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """The other kinds of input and output; batches of one are filled up."""
    file = export_of(checkpoint_file("tiny"), batch=2, input="uint8", output="top5")
    expected = expectations(file, tmp_path)
    with Service(binary, file) as running:
        for name in ("jpeg", "palette"):
            same(running.classify(PICTURES[name]), expected[name])


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests_are_refused_in_one_sentence(service: Service, case: str) -> None:
    status, path, body, words = BAD_REQUESTS[case]
    reply = service.ask("GET" if body is None else "POST", path, body)
    assert reply.status == status, reply
    sentence = json.loads(reply.body)["error"]
    assert words in sentence
    assert "\n" not in sentence
    assert ("allow" in reply.headers) == (status == 405)
    assert service.ask("GET", "/healthz").status == 200
    assert service.classify(JPEG).status == 200


POST = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

NO_REQUESTS: dict[str, tuple[int, bytes]] = {
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256))),
    "garbage": (400, b"GET /healthz HTTP/9.9 what\r\n\r\n"),
    "negative length": (400, POST + b"Content-Length: -5\r\n\r\n"),
    "bad chunk": (400, POST + CHUNKED + b"\r\nxyz\r\n"),
    "long chunk header": (400, POST + CHUNKED + b"\r\n1;" + b"x" * 500000),
    "half a body": (400, POST + b"Content-Length: 5000\r\n\r\nends too early"),
    "unknown coding": (400, POST + b"Transfer-Encoding: gzip\r\n\r\n" + HEALTH + b"\r\n"),
    "two codings": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + HEALTH + b"\r\n"),
    "chunked twice": (400, POST + CHUNKED * 2 + b"\r\n0\r\n\r\n" + HEALTH + b"\r\n"),
    "coding and length": (400, POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + HEALTH + b"\r\n"),
    "length and coding": (400, POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + HEALTH + b"\r\n"),
    "two lengths": (400, POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + HEALTH + b"\r\n"),
    "no Host": (400, b"GET /healthz HTTP/1.1\r\n\r\n" + HEALTH + b"\r\n"),
    "two Hosts": (400, HEALTH + b"Host: b\r\n\r\n" + HEALTH + b"\r\n"),
    "no name of a Host": (400, b"GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "no UTF-8": (400, b"POST /v1/classify?top=\xff\xfe HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"),
    "body of an unknown path": (
        404,
        b"POST /nothing HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n",
    ),
    "huge length": (413, POST + b"Content-Length: 99999999999999\r\n\r\n"),
    "long header": (431, HEALTH + b"X-Long: " + b"x" * 40000),
}


@pytest.mark.parametrize("case", NO_REQUESTS)
def test_what_is_no_http_request_is_refused(service: Service, case: str) -> None:
    status, data = NO_REQUESTS[case]
    answer = service.raw(data)
    assert re.match(rf"HTTP/1\.[01] {status} ", answer), answer
    assert "\r\nConnection: close\r\n" in answer
    assert answer.count("HTTP/1.1 ") == 1
    assert "error" in json.loads(answer.partition("\r\n\r\n")[2])
    assert service.classify(JPEG).status == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://a.example:8080/healthz", 200),
        ("HTTPS://[::1]/healthz", 200),
        ("http://a/nothing", 404),
        ("http://a", 200),  # the page
        ("http://a?top=5", 404),
        ("/http://a/healthz", 404),
        ("ftp://a/healthz", 400),
        ("http://me@a/healthz", 400),
        ("http:///healthz", 400),
    ],
)
def test_a_whole_url_is_a_target(service: Service, target: str, status: int) -> None:
    answer = service.raw(f"GET {target} HTTP/1.1\r\nHost: another\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} "), answer


FORMS = {"--data": "application/x-www-form-urlencoded", "--form": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize("kind", FORMS.values(), ids=FORMS)
def test_a_form_gets_a_hint(service: Service, kind: str) -> None:
    """Where it could not be read. --data-binary, which keeps every byte, calls its body a form, too."""
    form = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + JPEG + b"\r\n--x--\r\n"
    stripped = JPEG.replace(b"\r", b"").replace(b"\n", b"")[:-2]
    multipart = kind.startswith("multipart")
    for body, status, hint in ((form, 415, multipart), (stripped, 422, True), (JPEG[:-2], 422, multipart)):
        reply = service.ask("POST", "/v1/classify", body, **{"Content-Type": kind})
        assert reply.status == status
        assert ("curl --data-binary @FILE" in json.loads(reply.body)["error"]) == hint
    assert service.ask("POST", "/v1/classify", JPEG, **{"Content-Type": kind}).status == 200


@pytest.mark.parametrize("case", BOMBS)
def test_metadata_is_never_read(service: Service, case: str) -> None:
    """Of what unpacks to a GiB, and of what is no metadata at all."""
    assert service.classify(BOMBS[case]).body == service.classify(PNG).body
    assert service.metrics()["process_resident_memory_bytes", ""] < 2**30 or sanitized(service.binary)


def test_a_size_that_is_of_no_use_is_told_from_the_header(service: Service) -> None:
    """Its rows, which are not there, are not missed."""
    reply = service.classify(NARROW_PNG)
    assert (reply.status, "1 x 16000000 pixels is too narrow" in reply.body) == (413, True), reply


def test_names_are_printed_on_one_line(binary: Path, tmp_path: Path) -> None:
    """A terminal would obey them, Prometheus would read another line."""
    name = 'a "b" \\ \x1b[31m\x9b\nc'

    def change(model: onnx.ModelProto) -> None:
        document = json.loads(model.metadata_props[0].value)
        document["model"]["name"] = name
        model.metadata_props[0].value = json.dumps(document)

    with Service(binary, micro(tmp_path / "micro.onnx", change=change)) as running:
        info = next(line for line in running.ask("GET", "/metrics").body.splitlines() if "_info{" in line)
        assert r'model="micro",network="a \"b\" \\ \\x1b[31m\\x9b\\x0ac"' in info
    assert r'?model=micro: a "b" \ \x1b[31m\x9b\x0ac (fp32) on ONNX Runtime' in running.log[0]
    command = [binary, "--model", tmp_path / "no\n\x1b[31mthing.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"error: [^\n\x1b]+no\\x0a\\x1b\[31mthing\.onnx[^\n\x1b]+\n", done.stderr), done.stderr


def test_slow_and_silent_clients_are_let_go(service: Service) -> None:
    """A request must arrive within 1 s here, in all: bytes that trickle do not help. Idle connections have 2 s."""

    def trickle() -> str:
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as slow:
            slow.sendall(POST + b"Content-Length: 5000\r\n\r\n")
            slow.setblocking(False)
            answer = b""
            while not answer:
                slow.send(b"x")
                time.sleep(0.1)
                try:
                    answer = slow.recv(65536)
                except BlockingIOError:
                    continue
            return answer.decode()

    with ThreadPoolExecutor(3) as pool:
        trickled = pool.submit(trickle)
        stalled = pool.submit(service.raw, b"GET /heal", end=False)
        silent = pool.submit(service.raw, b"", end=False)
        assert trickled.result().startswith("HTTP/1.1 408 ")
        assert stalled.result().startswith("HTTP/1.1 408 ")
        assert silent.result() == ""
    assert service.classify(JPEG).status == 200


def test_clients_that_read_nothing_are_let_go(service: Service) -> None:
    """Whatever is being written to them, ``100 Continue`` too: that is what often meets the full buffer here."""
    expect = POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx"
    requests = (METRICS + expect) * 2000
    clients = [service.deaf(requests) for _ in range(4)]
    wait_for(service, lambda metrics: metrics["lit_service_connections", ""] > 1)
    wait_for(service, lambda metrics: metrics["lit_service_connections", ""] == 1)  # the one that asks
    for client in clients:
        client.close()


def test_a_body_beyond_memory_costs_its_own_connection_alone(binary: Path, model: Path) -> None:
    if sanitized(binary):
        pytest.skip("sanitizers end a process that is short of memory")
    huge = POST + b"Content-Length: 1000000000\r\n\r\nx"
    with Service(binary, model, "--max-body-mib", 1024, "--max-delay-ms", 500) as running, ThreadPoolExecutor() as pool:
        pages = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (512 << 20)
        resource.prlimit(running.process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
        asked = pool.submit(running.classify, JPEG)
        wait_for(running, lambda metrics: metrics["lit_service_accepted_total", ""] == 1)
        assert [running.raw(huge) for _ in range(3)] == [""] * 3
        assert asked.result().status == 200
        assert running.metrics()["lit_service_connections", ""] == 1
        assert running.stop() == 0
        assert running.log[-1].count("error: a connection was cut") == 3


def test_connections_serve_many_requests(service: Service) -> None:
    connection = service.connect()
    for method, path, body in (
        ("POST", "/v1/classify", JPEG),
        ("POST", "/v1/classify", PNG),
        ("HEAD", "/healthz", None),
    ):
        reply = exchange(connection, method, path, body)
        assert reply.status == 200
        assert reply.headers.get("connection", "keep-alive") == "keep-alive"
    assert (reply.headers["content-length"], reply.body) == ("17", "")
    connection.close()
    two = HEALTH + b"\r\nGET /nothing HTTP/1.0\r\n\r\n"
    assert re.findall(r"HTTP/(1.\d \d+)", service.raw(two)) == ["1.1 200", "1.0 404"]
    expect = "Expect: 100-continue\r\nConnection: close\r\n"
    head = f"{POST.decode()}{expect}Content-Length: {len(JPEG)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as patient:
        patient.sendall(head.encode())
        assert patient.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        patient.sendall(JPEG)
        assert patient.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    assert service.raw(head.replace("HTTP/1.1", "HTTP/1.0").encode() + JPEG).startswith("HTTP/1.0 200 ")


def test_a_full_queue_refuses_and_loses_nothing(binary: Path, model: Path) -> None:
    with Service(binary, model, "--queue", 2, "--max-batch", 1, "--max-delay-ms", 0) as running:
        with ThreadPoolExecutor(24) as pool:
            replies = list(pool.map(running.classify, [big()] * 48))
        statuses = [reply.status for reply in replies]
        assert set(statuses) == {200, 503}
        for reply in replies:
            assert reply.status == 200 or reply.headers["retry-after"] == "1"
            assert reply.status == 200 or json.loads(reply.body)["error"] == "the queue is full: try again"
        metrics = running.metrics()
        done = statuses.count(200)
        assert metrics["lit_service_accepted_total", ""] == done
        assert metrics["lit_service_responses_total", "200"] == done
        assert metrics["lit_service_responses_total", "503"] == 48 - done
        assert metrics["lit_service_request_seconds_count", ""] == done
        assert metrics["lit_service_batch_images_sum", ""] == done
        assert metrics["lit_service_batch_images_bucket", "1"] == done  # --max-batch 1
        for gauge in ("in_flight", "queue_depth", "undelivered_total"):
            assert metrics[f"lit_service_{gauge}", ""] == 0
        assert metrics["process_resident_memory_bytes", ""] > 1e6


def test_too_many_connections_are_turned_away(binary: Path, model: Path) -> None:
    with Service(binary, model, "--max-connections", 2) as running:
        kept = [running.connect() for _ in range(2)]
        for connection in kept:
            assert exchange(connection, "GET", "/healthz").status == 200
        reply = running.classify(JPEG)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert running.ask("GET", "/healthz").status == 200  # it is well, and says so
        assert running.metrics()["lit_service_connections", ""] == 3
        assert running.ask("GET", "/nothing").status == 503
        kept[0].close()
        while running.classify(JPEG).status == 503:  # until the service has seen that one is free
            time.sleep(0.01)
        kept[1].close()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGHUP], ids=lambda name: name.name)
def test_a_signal_finishes_what_was_accepted(binary: Path, model: Path, name: signal.Signals) -> None:
    with Service(binary, model, "--max-batch", 1) as running, ThreadPoolExecutor(12) as pool:
        idle = running.connect()
        assert exchange(idle, "GET", "/healthz").status == 200
        asked = [pool.submit(running.classify, big()) for _ in range(12)]
        wait_for(running, lambda metrics: metrics["lit_service_accepted_total", ""] == 12)
        running.process.send_signal(name)
        assert running.ended() == 0
        assert [future.result().status for future in asked] == [200] * 12
        assert re.search(r"shutting down, [1-9]\d* pictures in flight", "".join(running.log))
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            exchange(idle, "GET", "/healthz")
        with pytest.raises(ConnectionRefusedError):
            running.ask("GET", "/healthz")


def test_nohup_is_respected(binary: Path, model: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a child inherits
    try:
        with Service(binary, model) as running:
            running.process.send_signal(signal.SIGHUP)
            assert running.classify(JPEG).status == 200
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sigterm_ends_the_wait_for_more_pictures(binary: Path, model: Path) -> None:
    limits = ("--max-delay-ms", 10000, "--drain-timeout-s", 2)
    with Service(binary, model, *limits) as running, ThreadPoolExecutor() as pool:
        asked = pool.submit(running.classify, JPEG)
        wait_for(running, lambda metrics: metrics["lit_service_accepted_total", ""] == 1)
        assert running.stop() == 0
        assert asked.result().status == 200


def test_sigterm_is_heard_as_soon_as_the_address_is_known(binary: Path, model: Path) -> None:
    for _ in range(8):
        with Service(binary, model) as running:
            assert running.stop() == 0


def test_the_log_may_lose_its_reader(binary: Path, model: Path) -> None:
    with Service(binary, model) as running:
        running.process.stdout.close()
        running.process.stdout = None
        assert running.classify(JPEG).status == 200
        assert running.stop() == 0


@pytest.mark.parametrize("pictures", [0, 24])
def test_the_time_to_drain_is_bounded(binary: Path, model: Path, pictures: int) -> None:
    """Clients that send or read no more are no reason to stay; exit code 1 says that accepted pictures were cut off."""
    with Service(binary, model, "--drain-timeout-s", 1, "--request-timeout-s", 50) as running:
        with ThreadPoolExecutor(24) as pool, socket.create_connection(("127.0.0.1", running.port), timeout=60) as stuck:
            stuck.sendall(POST + b"Content-Length: 5000\r\n\r\nx")
            deaf = running.deaf(METRICS * 2000)
            asked = [pool.submit(running.classify, slow()) for _ in range(pictures)]
            wait_for(running, lambda metrics: metrics["lit_service_accepted_total", ""] == pictures)
            code = running.stop()
            deaf.close()
            cut = sum(future.exception() is not None for future in asked)
        assert (cut > 0) == (pictures > 0)
        assert code == (1 if cut else 0), "".join(running.log)
        assert "connections are cut" in running.log[-1]
        assert all(future.exception() or future.result().status == 200 for future in asked)


PIXEL_FONT = """STARTFONT 2.1
FONT one
SIZE 8 75 75
FONTBOUNDINGBOX 8 8 0 0
STARTPROPERTIES 2
FONT_ASCENT 8
FONT_DESCENT 0
ENDPROPERTIES
CHARS 1
STARTCHAR A
ENCODING 65
SWIDTH 500 0
DWIDTH 8 0
BBX 8 1 0 0
BITMAP
FF
ENDCHAR
ENDFONT
"""
"""One letter, in one size."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nothing.onnx"], "nothing.onnx"),
        ([], "--model is missing"),
        (["--modle", "x.onnx"], "--modle is no option"),
        (["x.onnx"], "'x.onnx' is no option"),
        (["--model", "x.onnx", "--queue", "many"], "--queue received 'many' where a whole number from 1"),
        (["--model", "x.onnx", "--port=70000"], "from 0 to 65535"),
        (["--model", "x.onnx", "--max-batch"], "--max-batch received ''"),
        (["--model", "x.onnx", "--device", "tpu"], "where cpu or cuda is expected"),
        (["--model", "x.onnx", "--backend", "tflite"], "where auto, onnxruntime, openvino or tensorrt is expected"),
        (["--model", "a b=x.onnx"], "--model received 'a b=x.onnx' where NAME=FILE is expected"),
        (["--model", "a="], "where [NAME=]FILE is expected: give the file"),
        (["--model", "a/x.onnx", "--model", "x=b.onnx"], "two models are called x, a/x.onnx and b.onnx: give one"),
        (["--model", "MODEL", "--font", "MODEL"], "where a TrueType or OpenType file is expected: it is no such file"),
        (["--model", "MODEL", "--font", "gone.ttf"], "--font received 'gone.ttf'"),
        (["--model", "MODEL", "--font", "PIXELS"], "its letters are pixels, of fixed sizes"),
        (["--model", "MODEL", "--precision-hint", "f32"], "leave precision_hint of lit_options out"),
        pytest.param(
            ["--model", "MODEL", "--backend", "openvino", "--precision-hint", "fp16"],
            "precision_hint is 'fp16'",
            marks=needs_openvino,
        ),
        (["--model", "x.onnx", "--backend", "tensorrt"], "x.onnx is an ONNX file, which TensorRT does not run"),
        (["--model", "MODEL", "--address", "localhost"], "where an IP address is expected"),
        (["--model", "MODEL", "--port", "BUSY"], "cannot listen on 127.0.0.1 port"),
    ],
)
def test_mistakes_end_it_with_one_sentence(
    binary: Path, model: Path, service: Service, arguments: list[str], words: str, tmp_path: Path
) -> None:
    pixels = tmp_path / "pixels.bdf"
    pixels.write_text(PIXEL_FONT)
    names = {"MODEL": str(model), "BUSY": str(service.port), "PIXELS": str(pixels)}
    given = [names.get(word, word) for word in arguments]
    done = subprocess.run([binary, *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr)


def test_too_few_threads_end_it_with_one_sentence(binary: Path, model: Path) -> None:
    if sanitized(binary):
        pytest.skip("sanitizers need more address space than is left here")
    few = ["sh", "-c", 'ulimit -s 8192; ulimit -v 3000000; exec "$@"', "sh"]
    command = [*few, binary, "--model", model, "--port", "0", "--workers", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(r"error: only \d+ threads could be started [^\n]+ lower --workers[^\n]+\n", done.stderr)


def test_the_readme_names_no_option_that_does_not_exist(binary: Path) -> None:
    done = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    tables = [line for line in (EXAMPLE / "README.md").read_text().splitlines() if line.startswith("|")]
    named = set(re.findall(r"--[a-z-]*[a-z]", "\n".join(tables)))
    assert len(named) >= 8
    assert named <= set(re.findall(r"--[a-z-]*[a-z]", done.stdout))


def test_the_load_test_judges_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent.parent / "benchmarks"))
    faults = importlib.import_module("service").faults
    good = {"lost": 0, "shutdown": {"lost": 0, "exit_code": 0}, "memory_mib": [440.0, 449.0, 449.0, 452.0]}
    assert faults(good) == []
    for bad in ({"lost": 1}, {"memory_mib": [440.0, 449.0, 470.0]}, {"shutdown": {"lost": 0, "exit_code": 1}}):
        assert len(faults(good | bad)) == 1

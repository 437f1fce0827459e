"""``lit-deploy package``: refusals, and what stands beside the model: start file, image, Kubernetes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from support.command import Run, assert_one_sentence
from support.exported import edited, export_of, relabelled
from tritonclient.grpc import model_config_pb2 as triton

from lit_deploy.artifacts.onnx_file import read_manifest
from lit_deploy.core.specs import Quantization
from lit_deploy.machine.native import LIBRARY_NAME
from lit_deploy.packaging.kubernetes import (
    QUEUED,
    WAITING,
    adapter_rule,
    autoscaler,
    deployment,
    kserve,
    kserve_autoscaled,
)
from lit_deploy.packaging.options import RELEASE, TritonOptions
from lit_deploy.packaging.package import package_triton
from lit_deploy.packaging.serving import Serving, dockerfile, kubernetes_name, start_text
from lit_deploy.packaging.triton_steps import MAX_PIXELS

CheckpointFile = Callable[[str], Path]
KUBERNETES = "1.30"
"""Version whose schemas the manifests are checked with; older than any that is supported still."""


@pytest.fixture
def model(checkpoint_file: CheckpointFile) -> Path:
    return export_of(checkpoint_file("tiny"))


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), triton.ModelConfig())


# --- refusals of ONNX files -------------------------------------------------------------------------------------------


def _int8_of_bf16() -> dict[str, Any]:
    made = Quantization("minmax", None, 8, "x", "0", "bf16", (), 9)
    return {"precision": "int8", "quantization": made}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "fp8": ({"precision": "fp8"}, "", "is of fp8, which ONNX Runtime does not run on Triton; build an engine of it"),
    "bf16": ({"precision": "bf16"}, "", "is of bf16, which ONNX Runtime does not compute on CPUs"),
    "int8-bf16": (_int8_of_bf16(), "", "is of bf16"),
    "promise": ({"output": "probabilities"}, "", "its manifest promises float32 probabilities [batch, 7]"),
    "fixed": ({"batch": 3}, "--max-batch 4", "has a fixed batch of 3, so Triton cannot batch requests"),
    "portable": ({"portable": True}, "--library", "is a portable file"),
    "name": ({}, "--name ../up", "the model name is '../up'"),
    "empty-name": ({}, "--name=", "the model name is ''"),
    "release": ({}, "--triton latest", "the release of Triton is 'latest', expected year and month"),
    "image": ({}, "--image=", "the image is ''"),
    "old-release": ({}, "--triton 24.10", "have Python 3.10, for which there is no such Pillow as here; name 24.11"),
    "newline": (
        {"labels": ("a", "b\nc", *"defgh")},
        "",
        "has control characters ('b\\nc'), expected a name of one line",
    ),
    "empty-label": ({"labels": ("a", "b", " ", *"defg")}, "", "the label of class 2 is empty"),
    "colon": ({}, "--out a:b", "':', ';' and control characters break LD_LIBRARY_PATH"),
    "no-parent": ({}, "--out absent/repo", "does not exist; create it first"),
}


@pytest.mark.parametrize(("changes", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_files_that_are_refused(
    changes: dict[str, Any], options: str, words: str, model: Path, tmp_path: Path, run: Run
) -> None:
    def fix_batch(proto: Any) -> None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = changes["batch"]

    file = relabelled(model, tmp_path / "file.onnx", **changes)
    if "batch" in changes:
        edited(file, file, fix_batch)
    outcome = run("package", file, "--target", "triton", *shlex.split(options))
    assert_one_sentence(outcome, words)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("none.onnx", "none.onnx is not a file"),
        ("lit.engine", "lit.engine is not a file"),
        ("lit_s.pth", "lit_s.pth is neither an .onnx file nor an engine; make one with `lit-deploy export`"),
        ("{cut}", "is not a whole ONNX file"),
        ("{model} --out {cut}", "it is a file, expected a folder of models"),
    ],
)
def test_wrong_files(arguments: str, words: str, model: Path, tmp_path: Path, run: Run) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:3000])
    given = arguments.format(model=model, cut=cut).split()
    assert_one_sentence(run("package", *given, "--target", "triton"), words)
    assert list(Path.cwd().iterdir()) == []


def test_library_that_is_required(model: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIT_DEPLOY_LIBRARY", str(tmp_path / "absent.so"))
    for options in ([], ["--library"]):
        outcome = run("package", model, "--target", "triton", *options)
        assert_one_sentence(outcome, "the lit-deploy custom-op library was not found", "absent.so")
    assert run("package", model, "--target", "triton", "--no-library").code == 0


# --- the command ------------------------------------------------------------------------------------------------------


def test_command(model: Path, run: Run) -> None:
    """Every option arrives; the summary says how to start; a second time is refused, and --force is obeyed."""
    words = ["package", model, "--target", "triton", "--name", "net", "--max-batch", "4", "--max-delay-us", "250",
             "--instances", "2", "--device", "cpu", "--threads", "1", "--workers", "3", "--no-library", "--image",
             "example.org/net:1", "--triton", "25.10"]  # fmt: skip
    outcome = run(*words)
    assert outcome.code == 0, outcome.err
    assert "start    tritonserver --model-repository=model_repository\n" in outcome.out
    repository = Path("model_repository")
    network = config_of(repository / "net_network")
    assert (network.max_batch_size, network.dynamic_batching.max_queue_delay_microseconds) == (4, 250)
    assert (network.instance_group[0].count, network.parameters["intra_op_thread_count"].string_value) == (2, "1")
    assert config_of(repository / "net_preprocessing").instance_group[0].count == 3
    assert "FROM nvcr.io/nvidia/tritonserver:25.10-py3\n" in (repository / "net" / "Dockerfile").read_text()
    assert "example.org/net:1" in (repository / "net" / "deployment.yaml").read_text()
    assert_one_sentence(run(*words), "has a model net already; choose another --name, or replace it with --force")
    result = run(*words, "--force", "--raw", "--json")
    assert result.code == 0
    assert json.loads(result.out)["models"] == ["net"]
    assert [entry.name for entry in repository.iterdir()] == ["net"]


def test_int8_is_told_apart(model: Path, tmp_path: Path) -> None:
    """Triton cannot set the session entry that exact int8 sums need on CPUs without VNNI: said, on the CPU alone."""
    made = Quantization("minmax", None, 8, "x", "0", "fp32", (), 9)
    file = relabelled(model, tmp_path / "q.onnx", precision="int8", quantization=made)
    for device, told in (("cpu", True), ("cuda", False)):
        result = package_triton(file, tmp_path / device, TritonOptions(device=device, library=False))  # type: ignore[arg-type]
        assert any("session.x64quantprecision" in note for note in result.notes) == told
        assert all(note in (tmp_path / device / "q" / "START.md").read_text() for note in result.notes)


# --- beside the model -------------------------------------------------------------------------------------------------

SERVING = Serving(
    "lit_S.v2", "model repository", "26.06", None, "cpu", True, 0, LIBRARY_NAME, (), "13.0.0", 6, 1536, 320,
    ("logits",), True, ("a note",),
)  # fmt: skip
GPU = replace(SERVING, device="cuda", ensemble=False, library=None, arguments=("--backend-config=tensorrt,a=b",))


@pytest.mark.parametrize("serving", [SERVING, GPU], ids=["cpu", "cuda"])
def test_kubernetes(serving: Serving) -> None:
    """Valid by Kubernetes' own schemas, unknown fields included; and the parts name each other rightly."""
    documents = list(yaml.safe_load_all(deployment(serving)))
    kinds = ["Deployment", "Service", *(["HorizontalPodAutoscaler"] if serving.device == "cpu" else [])]
    assert [document["kind"] for document in documents] == kinds
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    spec, service = documents[0]["spec"], documents[1]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] == service["selector"]
    assert service["selector"] == {"app": "lit-s-v2"}
    assert container["image"] == ("lit-s-v2-triton:26.06" if serving.own_image else serving.base_image)
    assert container["args"][:2] == ["tritonserver", "--model-repository=/models"]
    assert set(serving.arguments) <= set(container["args"])
    paths = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    ready, live = ({"path": f"/v2/health/{name}", "port": "http"} for name in ("ready", "live"))
    assert paths == {"startupProbe": ready, "readinessProbe": ready, "livenessProbe": live}
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert {entry["targetPort"] for entry in service["ports"]} == {"http", "grpc", "metrics"}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    wanted = {"memory": "1536Mi"} | ({"nvidia.com/gpu": "1"} if serving.device == "cuda" else {})
    assert container["resources"] == {"requests": {"cpu": "6", **wanted}, "limits": wanted}
    assert [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume] == ["320Mi"]
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > waits + 30
    assert "--exit-timeout-secs=30" in container["args"]
    if serving.device == "cpu":
        assert documents[2]["spec"]["scaleTargetRef"]["name"] == documents[0]["metadata"]["name"]
    assert "replicas" not in spec, "it would undo what an autoscaler has set, whenever it is applied"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**documents[0], "speck": {}}, KUBERNETES, strict=True)


@pytest.mark.parametrize("serving", [SERVING, GPU], ids=["cpu", "cuda"])
def test_kserve(serving: Serving) -> None:
    """The pod part of the runtime by Kubernetes' schema; KServe's own fields, which have none here, by name."""
    runtime, service = yaml.safe_load_all(kserve(serving))
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(runtime["spec"]) == {"supportedModelFormats", "protocolVersions", "containers", "volumes"}
    pod = {"containers": runtime["spec"]["containers"], "volumes": runtime["spec"]["volumes"]}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}, KUBERNETES, strict=True
    )
    (container,) = pod["containers"]
    assert container["name"] == "kserve-container", "the one that KServe merges with the InferenceService"
    assert {"tritonserver", "--model-repository=/mnt/models", "--http-port=8080", *serving.arguments} <= set(
        container["args"]
    )
    predictor = service["spec"]["predictor"]["model"]
    assert predictor["runtime"] == runtime["metadata"]["name"]
    assert predictor["modelFormat"] in runtime["spec"]["supportedModelFormats"]
    assert predictor["protocolVersion"] in runtime["spec"]["protocolVersions"]


@pytest.mark.parametrize("serving", [SERVING, GPU], ids=["cpu", "cuda"])
def test_autoscaling_by_waiting_requests(serving: Serving) -> None:
    """The autoscaler asks for what the rule makes of Triton's counter, of the models that have a queue."""
    serving = replace(serving, parts=("a.b_preprocessing", "a.b_network") if serving.ensemble else ())
    document, target = yaml.safe_load(autoscaler(serving)), next(yaml.safe_load_all(deployment(serving)))
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    reference = {key: target[key] for key in ("apiVersion", "kind")} | {"name": target["metadata"]["name"]}
    assert document["spec"]["scaleTargetRef"] == reference
    assert document["metadata"]["name"] == target["metadata"]["name"], "it takes the place of the one by CPU"
    kinds = [metric["type"] for metric in document["spec"]["metrics"]]
    assert kinds == (["Pods", "Resource"] if serving.device == "cpu" else ["Pods"])
    metric = document["spec"]["metrics"][0]["pods"]["metric"]
    (rule,) = yaml.safe_load(adapter_rule())["rules"]["custom"]
    assert rule["name"]["as"] == metric["name"] == WAITING
    (selected,) = metric["selector"]["matchExpressions"]
    assert (selected["key"], tuple(selected["values"])) == ("model", serving.queued)
    assert serving.queued == (serving.parts or (serving.name,))
    longer = yaml.safe_load(autoscaler(replace(serving, parts=("a" * 64,))))
    assert longer["spec"]["metrics"][0]["pods"]["metric"]["selector"] == {}, "no selector takes such a value"

    plain, scaled = list(yaml.safe_load_all(kserve(serving)))[1], yaml.safe_load(kserve_autoscaled(serving))
    assert scaled["spec"]["predictor"].pop("annotations")["prometheus.io/port"] == "8002"
    (external,) = (entry["external"] for entry in scaled["spec"]["predictor"].pop("autoScaling")["metrics"])
    assert scaled["metadata"].pop("annotations")["serving.kserve.io/autoscalerClass"] == "keda"
    assert scaled == plain, "the same service but for what scales it"
    assert rule["seriesQuery"].startswith(QUEUED + "{")
    (pattern,) = re.findall(QUEUED + r'{model=~"(.*?)"}', external["metric"]["query"])
    assert [bool(re.fullmatch(pattern, name)) for name in (*serving.queued, "aXb_network", "other")] == [
        *(True for _ in serving.queued), False, False,
    ]  # fmt: skip


def test_names_for_kubernetes() -> None:
    for name, wanted in (("lit_S.v2", "lit-s-v2"), ("a" * 60 + "_", "a" * 46), ("___", "lit"), ("9_x", "lit-9-x"),
                         ("2024", "lit-2024"), ("true", "true")):  # fmt: skip
        assert kubernetes_name(name) == wanted


@pytest.mark.parametrize("name", ["2024", "true", "null", "1e3"])
def test_names_that_yaml_takes_for_other_things(name: str) -> None:
    serving = replace(SERVING, name=name)
    wanted = name if name.isalpha() else f"lit-{name}"
    for document in yaml.safe_load_all(deployment(serving)):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        assert document["metadata"]["name"] == wanted
    assert [document["metadata"]["name"] for document in yaml.safe_load_all(kserve(serving))] == [
        f"{wanted}-triton", wanted
    ]  # fmt: skip


@pytest.mark.parametrize(("batch", "workers", "shared"), [(None, 2, 256), (1024, 16, 896)])
def test_memory(batch: int | None, workers: int, shared: int, model: Path, tmp_path: Path) -> None:
    """Enough for the crops that all workers hand over at once, and for each of them to decode the largest image."""
    options = TritonOptions("net", max_batch=batch, workers=workers, library=False)
    package_triton(model, tmp_path / "repo", options)
    folder = tmp_path / "repo" / "net"
    assert f"--shm-size {shared}m " in (folder / "START.md").read_text()
    pod = next(yaml.safe_load_all((folder / "deployment.yaml").read_text()))["spec"]["template"]["spec"]
    runtime = next(yaml.safe_load_all((folder / "kserve.yaml").read_text()))["spec"]
    for spec in (pod, runtime):
        (limit,) = (volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"] if "emptyDir" in volume)
        assert limit == f"{shared}Mi"
        assert spec["containers"][0]["env"] == [{"name": "ORT_DISABLE_TELEMETRY", "value": "1"}]
        resources = spec["containers"][0]["resources"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        memory = int(resources["limits"]["memory"].removesuffix("Mi"))
        assert memory - shared - workers * (16 * MAX_PIXELS >> 20) >= 1024
        assert resources["requests"]["cpu"] == "2", "of an unknown machine"
        assert "cpu" not in resources["limits"]


def test_start_file() -> None:
    """Commands for a folder with a blank in its name are the words they should be."""
    text = start_text(SERVING)
    lines = {words[0]: words for line in text.splitlines() if (words := _words(line))}
    path = "LD_LIBRARY_PATH=$PWD/model repository/lit_S.v2${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    build, start = lines["docker"], lines[path]
    assert "$PWD/model repository:/models:ro" in build
    assert "ORT_DISABLE_TELEMETRY=1" in build
    assert build[-3:] == ["lit-s-v2-triton:26.06", "tritonserver", "--model-repository=/models"]
    assert start[1:] == ["tritonserver", "--model-repository=$PWD/model repository"]
    assert "docker build -t lit-s-v2-triton:26.06 'model repository'/lit_S.v2" in text
    for name in ("deployment.yaml", "kserve.yaml"):
        assert f"kubectl apply -f 'model repository'/lit_S.v2/{name}  #" in text
    assert "ReadOnlyMany" in text
    assert "* a note" in text
    assert "class_count=5" in text
    for block in text.split("```python\n")[1:]:
        compile(block.split("```")[0], "START.md", "exec")
    assert dockerfile(SERVING).splitlines() == [
        "FROM nvcr.io/nvidia/tritonserver:26.06-py3",
        "RUN pip install --no-cache-dir --break-system-packages pillow==13.0.0",
        f"COPY {LIBRARY_NAME} /opt/lit_deploy/",
        "ENV LD_LIBRARY_PATH=/opt/lit_deploy${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
    ]
    dash = start_text(replace(SERVING, repository="-dash"))
    assert "docker build -t lit-s-v2-triton:26.06 ./-dash/lit_S.v2" in dash
    assert "kubectl apply -f ./-dash/lit_S.v2/" in dash
    assert '"$PWD"/-dash:/models' in dash
    fixed = start_text(replace(SERVING, fixed_batch=3, labelled=False))
    assert 'InferInput("image", (3,), "BYTES")' in fixed
    assert "np.full((3,), " in fixed
    assert "class_count" not in fixed
    raw = start_text(replace(GPU, labelled=False, outputs=("scores", "classes")))
    assert "docker build" not in raw
    assert "--gpus all" in raw
    assert "class_count" not in raw
    compile(raw.split("```python\n")[1].split("```")[0], "START.md", "exec")


def _words(line: str) -> list[str]:
    return shlex.split(line) if line.startswith(("docker run", "LD_LIBRARY")) else []


def test_help_names_the_default_release(run: Run) -> None:
    assert RELEASE in run("package", "--help").out


def test_manifest_of_the_package(model: Path, tmp_path: Path) -> None:
    package_triton(model, tmp_path / "repo", TritonOptions("net", library=False))
    stored = json.loads((tmp_path / "repo" / "net" / "1" / "manifest.json").read_text())
    assert tuple(stored["labels"]) == read_manifest(model).labels

"""How a packaged model is started: the image, the command, and the manifests of Kubernetes and KServe, as text."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Literal

from lit_deploy.core.specs import IMAGES, TaskName

REGISTRY_IMAGE = "nvcr.io/nvidia/tritonserver"
SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""What ONNX Runtime from 1.31 on asks for before it keeps a database of its use."""

_URL = "localhost:8000"
_INHERITED = "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"


@dataclass(frozen=True)
class Serving:
    """What START.md, the Dockerfile and the manifests say.

    Attributes:
        name: of the model that clients ask for; ``repository``: name of the folder of models.
        release: of Triton's containers, e.g. ``26.06``; ``image``: that Kubernetes pulls, None for the default's name.
        device: where the network runs; ``ensemble``: whether images are decoded by the server.
        fixed_batch: images of a request where Triton puts no batches together, otherwise 0.
        library: file name of the library that lies beside, or None; ``arguments``: of tritonserver, further ones.
        pillow: version that the crops are bit-equal with.
        cpus: cores that a server wants; ``memory_mib``: memory;
            ``shared_memory_mib``: of /dev/shm, where the python back end hands over its tensors.
        outputs: names of the outputs that the client prints; ``labelled``: the first can be asked for by label.
        notes: sentences on what to know before it is started.
        task: what the network does with an image.
    """

    name: str
    repository: str
    release: str
    image: str | None
    device: Literal["cpu", "cuda"]
    ensemble: bool
    fixed_batch: int
    library: str | None
    arguments: tuple[str, ...]
    pillow: str
    cpus: int
    memory_mib: int
    shared_memory_mib: int
    outputs: tuple[str, ...]
    labelled: bool
    notes: tuple[str, ...]
    task: TaskName = "classification"

    @property
    def base_image(self) -> str:
        """Triton's own container."""
        return f"{REGISTRY_IMAGE}:{self.release}-py3"

    @property
    def own_image(self) -> bool:
        """Whether the container needs more than it has: Pillow, or the library."""
        return self.ensemble or self.library is not None

    @property
    def pulled(self) -> str:
        """The image that is run."""
        default = f"{kubernetes_name(self.name)}-triton:{self.release}" if self.own_image else self.base_image
        return self.image or default

    def command(self, repository: str, *more: str) -> list[str]:
        """The server's command line, for a repository mounted there."""
        return ["tritonserver", f"--model-repository={repository}", *self.arguments, *more]


def kubernetes_name(name: str) -> str:
    """A name as Kubernetes takes it (RFC 1035 label): small letters, digits and hyphens, at most 63, a letter first."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:46].rstrip("-")
    return label if label[:1].isalpha() else f"lit-{label}".rstrip("-")


def start_command(serving: Serving, repository: str) -> str:
    """What starts the server outside a container, for a repository (words of a shell) at that place."""
    words = shlex.join(serving.command("REPOSITORY")).replace("REPOSITORY", repository, 1)
    if serving.library is None:
        return words
    return f"LD_LIBRARY_PATH={repository}/{serving.name}{_INHERITED} {words}"


def dockerfile(serving: Serving) -> str:
    """The image: Triton's, with what it lacks."""
    lines = [f"FROM {serving.base_image}"]
    if serving.ensemble:
        lines.append(f"RUN pip install --no-cache-dir --break-system-packages pillow=={serving.pillow}")
    if serving.library is not None:
        lines += [f"COPY {serving.library} /opt/lit_deploy/", f"ENV LD_LIBRARY_PATH=/opt/lit_deploy{_INHERITED}"]
    return "\n".join(lines) + "\n"


def start_text(serving: Serving) -> str:
    """START.md: from this folder to a first answer."""
    repository = shlex.quote(path_word(serving.repository))
    here = f'"$PWD"/{shlex.quote(serving.repository)}'
    gpus = "--gpus all " if serving.device == "cuda" else ""
    build = [f"docker build -t {serving.pulled} {repository}/{serving.name}"] if serving.own_image else []
    run = (
        f"docker run --rm {gpus}-e {NO_TELEMETRY}=1 --shm-size {serving.shared_memory_mib}m -p 8000:8000 -p 8001:8001 "
        f"-p 8002:8002 -v {here}:/models:ro {serving.pulled} {shlex.join(serving.command('/models'))}"
    )
    name, scaled = kubernetes_name(serving.name), ", HorizontalPodAutoscaler" if serving.device == "cpu" else ""
    verb = "Build and push" if serving.own_image else "Pull"
    sections = [
        f"# {serving.name} on Triton",
        "Written by `lit-deploy package`. Run the commands in the folder that holds "
        f"`{serving.repository}`. Port 8000 speaks HTTP, 8001 gRPC; 8002 has Prometheus metrics.",
        *(["\n".join(f"* {note}" for note in serving.notes)] if serving.notes else []),
        f"## In a container (from {serving.base_image})",
        _block("sh", *build, run),
        f"## On a machine with a Triton of its own{' and Pillow in its Python' if serving.ensemble else ''}",
        _block("sh", start_command(serving, here)),
        "## First answer",
        _block("sh", f"curl -f {_URL}/v2/health/ready"),
        _block("python", *_client(serving)),
        "## Kubernetes",
        f"{verb} `{serving.pulled}`, copy the model repository into the volume of the claim `{name}-models`, and apply "
        "one of the two. Autoscalers start further pods on other nodes, so the claim has to be ReadOnlyMany or "
        "ReadWriteMany:",
        _block(
            "sh",
            f"kubectl apply -f {repository}/{serving.name}/deployment.yaml  # Deployment, Service{scaled}",
            f"kubectl apply -f {repository}/{serving.name}/kserve.yaml  # where KServe is",
        ),
    ]
    return "\n\n".join(sections) + "\n"


def path_word(path: str) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def _block(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _client(serving: Serving) -> list[str]:
    """A request by tritonclient: pip install 'tritonclient[http]'."""
    lines = ["import numpy as np", "import tritonclient.http as triton", ""]
    if not serving.ensemble and serving.task != "classification":
        rules = f"lit_deploy.tasks.{serving.task}"
        lines += [
            f'# feed: what {rules}.feed({rules}.pictures(["photo.jpg"], manifest), manifest) gives',
            "inputs = []",
            "for name, values in feed.items():",
            "    inputs.append(triton.InferInput(name, values.shape, triton.np_to_triton_dtype(values.dtype)))",
            "    inputs[-1].set_data_from_numpy(values)",
        ]
    elif serving.ensemble:
        shape = f"({serving.fixed_batch},)" if serving.fixed_batch else "(1, 1)"
        lines += [
            f'image = triton.InferInput("image", {shape}, "BYTES")',
            f'image.set_data_from_numpy(np.full({shape}, open("photo.jpg", "rb").read(), dtype=object))',
        ]
    else:
        lines += [
            "# batch: an array of lit_deploy.images.preprocessing.batch_from_images(...)",
            f'image = triton.InferInput("{IMAGES}", batch.shape, triton.np_to_triton_dtype(batch.dtype))',
            "image.set_data_from_numpy(batch)",
        ]
    wanted = f'[triton.InferRequestedOutput("{serving.outputs[0]}", class_count=5)]' if serving.labelled else "None"
    inputs = "[image]" if serving.ensemble or serving.task == "classification" else "inputs"
    lines.append(f'answer = triton.InferenceServerClient("{_URL}").infer("{serving.name}", {inputs}, outputs={wanted})')
    if serving.ensemble and serving.task != "classification":
        columns = ", ".join(f'answer.as_numpy("{name}")' for name in serving.outputs)
        return [*lines, f"for found in zip({columns}):", "    print(*found)  # " + ", ".join(serving.outputs)]
    lines += [f'print(answer.as_numpy("{name}"))' for name in serving.outputs]
    if serving.labelled:
        lines[-1] += "  # b'score:index:label' of the five best; without class_count, one value per class"
    return lines


def deployment(serving: Serving) -> str:
    """Deployment and Service, and on the CPU a HorizontalPodAutoscaler, as one YAML file."""
    plain = kubernetes_name(serving.name)
    name, claim = _quoted(plain), _quoted(f"{plain}-models")
    command = serving.command("/models", "--exit-timeout-secs=30")
    parts = [
        f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  {"replicas: 1" if serving.device == "cuda" else "# no replicas: the autoscaler below sets them"}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
      annotations: {{prometheus.io/scrape: "true", prometheus.io/port: "8002"}}
    spec:
      terminationGracePeriodSeconds: 60  # more than preStop, and --exit-timeout-secs, in which requests are finished
      containers:
        - name: triton
          image: {_quoted(serving.pulled)}
          args: {_list(command)}
          env: [{{name: {NO_TELEMETRY}, value: "1"}}]
          lifecycle:  # requests come until every node knows that this pod is going
            preStop: {{exec: {{command: [sleep, "10"]}}}}
          ports:
            - {{name: http, containerPort: 8000}}
            - {{name: grpc, containerPort: 8001}}
            - {{name: metrics, containerPort: 8002}}
          startupProbe:  # loading and warm-up take their time: ten minutes at most
            httpGet: {{path: /v2/health/ready, port: http}}
            periodSeconds: 5
            failureThreshold: 120
          readinessProbe:
            httpGet: {{path: /v2/health/ready, port: http}}
            periodSeconds: 5
          livenessProbe:
            httpGet: {{path: /v2/health/live, port: http}}
            periodSeconds: 10
            timeoutSeconds: 5
{_resources(serving, " " * 10)}
          securityContext: {{allowPrivilegeEscalation: false}}
          volumeMounts:
            - {{name: models, mountPath: /models, readOnly: true}}
            - {{name: shared-memory, mountPath: /dev/shm}}
      volumes:
        - name: models
          persistentVolumeClaim: {{claimName: {claim}, readOnly: true}}
        - name: shared-memory
          emptyDir: {{medium: Memory, sizeLimit: {serving.shared_memory_mib}Mi}}
""",
        f"""\
apiVersion: v1
kind: Service
metadata:
  name: {name}
  labels: {{app: {name}}}
spec:
  selector: {{app: {name}}}
  ports:
    - {{name: http, port: 8000, targetPort: http}}
    - {{name: grpc, port: 8001, targetPort: grpc}}
    - {{name: metrics, port: 8002, targetPort: metrics}}
""",
    ]
    if serving.device == "cpu":  # how busy a GPU is, an autoscaler does not know without a metrics adapter
        parts.append(
            f"""\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {name}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}
  minReplicas: 1
  maxReplicas: 4
  metrics:
    - type: Resource
      resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 70}}}}
"""
        )
    return "---\n".join(parts)


def kserve(serving: Serving) -> str:
    """A ServingRuntime of the image and an InferenceService on it; KServe mounts what it is given at /mnt/models."""
    plain = kubernetes_name(serving.name)
    name, runtime = _quoted(plain), _quoted(f"{plain}-triton")
    command = serving.command("/mnt/models", "--http-port=8080", "--grpc-port=9000", "--exit-timeout-secs=30")
    return f"""\
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: {runtime}
spec:
  supportedModelFormats:
    - {{name: triton, version: "2"}}
  protocolVersions: [v2, grpc-v2]
  containers:
    - name: kserve-container
      image: {_quoted(serving.pulled)}
      args: {_list(command)}
      env: [{{name: {NO_TELEMETRY}, value: "1"}}]
      ports:
        - {{containerPort: 8080, protocol: TCP}}
      readinessProbe:
        httpGet: {{path: /v2/health/ready, port: 8080}}
        periodSeconds: 5
{_resources(serving, " " * 6)}
      volumeMounts:
        - {{name: shared-memory, mountPath: /dev/shm}}
  volumes:
    - name: shared-memory
      emptyDir: {{medium: Memory, sizeLimit: {serving.shared_memory_mib}Mi}}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {name}
spec:
  predictor:
    minReplicas: 1
    maxReplicas: 4
    model:
      modelFormat: {{name: triton, version: "2"}}
      protocolVersion: v2
      runtime: {runtime}
      storageUri: pvc://{plain}-models  # or s3://, gs://, https://: the folder that holds the models
"""


def _resources(serving: Serving, indent: str) -> str:
    gpu = "1" if serving.device == "cuda" else None
    limits = f"memory: {serving.memory_mib}Mi" + (f', nvidia.com/gpu: "{gpu}"' if gpu else "")
    return (
        f"{indent}resources:  # estimates, of memory for images as large as they may be: measure, and set your own\n"
        f'{indent}  requests: {{cpu: "{serving.cpus}", {limits}}}\n'
        f"{indent}  limits: {{{limits}}}"
    )


def _quoted(text: str) -> str:
    """A YAML string; within double quotes YAML takes what JSON takes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(words: list[str]) -> str:
    return f"[{', '.join(map(_quoted, words))}]"

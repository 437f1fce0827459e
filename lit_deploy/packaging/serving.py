"""How a packaged model is started: the image, the command, and START.md, as text."""

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
        task: what the network does with an image; ``parts``: models that the ensemble consists of.
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
    parts: tuple[str, ...] = ()

    @property
    def queued(self) -> tuple[str, ...]:
        """Models that requests wait for; an ensemble has no queue of its own."""
        return self.parts or (self.name,)

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
        "Both can be scaled by the requests that wait. The first needs Prometheus, and prometheus-adapter with the "
        "rule in `autoscaling-rule.yaml`; the second KEDA, and the address of Prometheus in `autoscaling-kserve.yaml`:",
        _block(
            "sh",
            f"kubectl apply -f {repository}/{serving.name}/autoscaling.yaml  # HorizontalPodAutoscaler",
            f"kubectl apply -f {repository}/{serving.name}/autoscaling-kserve.yaml  # InferenceService",
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

"""The packages that lit-deploy works with: which are required, which extra brings the others, what each is for.

``pyproject.toml`` says the same to pip; a test holds them together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from lit_deploy.core.errors import LitDeployError, MissingDependency, refuse_for_memory
from lit_deploy.core.text import first_line
from lit_deploy.machine.facts import installed_version


@dataclass(frozen=True)
class Package:
    """One distribution.

    Attributes:
        name: on the package index.
        least: oldest version that is supported.
        extra: of lit-deploy, that installs it; None for what every installation has.
        purpose: what it would give where it is missing.
    """

    name: str
    least: str
    extra: str | None = None
    purpose: str = ""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'lit-deploy[{self.extra}]'" if self.extra else f"pip install '{self.name}>={self.least}'"


PACKAGES: dict[str, Package] = {
    package.name: package
    for package in (
        Package("msgspec", "0.19"),
        Package("numpy", "1.26"),
        Package("onnx", "1.18"),
        Package("pillow", "10.4"),
        Package("rich", "13.7"),
        Package("typer", "0.15"),
        Package("torch", "2.9", "export", "loads checkpoints, for export and verify"),
        Package("onnxscript", "0.5", "export", "exports checkpoints"),
        Package("safetensors", "0.4", "export", "reads .safetensors checkpoints"),
        Package("onnxruntime", "1.25", "ort", "runs .onnx files"),
        Package("onnxruntime-gpu", "1.25", "ort-gpu", "runs .onnx files on CUDA"),
        Package("openvino", "2025.0", "openvino", "runs .onnx files and IRs: the fastest on x86 CPUs"),
        Package("cuda-bindings", "12.8", "trt", "runs engines"),
        Package("matplotlib", "3.8", "plot", "draws --plot"),
        Package("hotcoco", "1.3", "evaluate", "scores detectors"),
        Package("pyarrow", "18.0", "parquet", "writes predictions to .parquet files"),
        Package("aiohttp", "3.9", "https", "scores pictures of web servers"),
        Package("fsspec", "2024.6", "https", "scores pictures of web servers and other stores"),
        Package("ray", "2.60", "ray", "scores pictures on a cluster"),
    )
}
"""By name, in the order in which ``doctor`` shows them."""


def require(purpose: str, *names: str) -> None:
    """Raise MissingDependency for packages that are not installed; ``purpose`` begins the sentence."""
    absent = [name for name in names if installed_version(name) is None]
    if absent:
        packages = " and ".join(absent)
        verb = "are" if len(absent) > 1 else "is"
        raise MissingDependency(
            f"{purpose} needs {packages}, which {verb} not installed; run: {PACKAGES[absent[0]].install}"
        )


@contextlib.contextmanager
def imported(module: str, absent: str, title: str, install: str) -> Iterator[None]:
    """Around the import of a package: MissingDependency says what is wrong with it.

    Only a package of which there is no module is not installed. Whatever else goes wrong while it loads, a library that
    it lacks, say, or a NumPy that it was not built for, is told in the loader's words.

    Args:
        module: its import name.
        absent: what to say when it is not installed.
        title: its name in sentences; ``install``: the command that installs it.
    """
    try:
        yield
    except LitDeployError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            raise MissingDependency(absent) from None
        refuse_for_memory(error)
        raise MissingDependency(
            f"{title} is installed but does not load ({first_line(error)}); mend it, or install it again: {install}"
        ) from error

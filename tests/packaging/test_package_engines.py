"""``lit-deploy package`` of TensorRT engines: what Triton is told of them, and which it cannot run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from support.command import Run, assert_one_sentence
from support.exported import export_of
from support.fake_tensorrt import write_engine
from support.golden import TINY
from tritonclient.grpc import model_config_pb2 as triton

from lit_deploy.artifacts.sidecar import EnginePlugin, sidecar_path
from lit_deploy.machine.native import PLUGIN_NAME, PLUGIN_VARIABLE
from lit_deploy.packaging.options import TritonOptions
from lit_deploy.packaging.package import package_triton

CheckpointFile = Callable[[str], Path]


@pytest.fixture
def model(checkpoint_file: CheckpointFile) -> Path:
    return export_of(checkpoint_file("tiny"))


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), triton.ModelConfig())


def test_engine(model: Path, tmp_path: Path) -> None:
    """Batches as the first profile allows; the file under the name that Triton's back end looks for."""
    engine = tmp_path / "lit.engine"
    sidecar = write_engine(model, engine, ((1, 4, 8), (1, 16, 64)))
    for wanted, batch in ((None, 8), (5, 5)):
        result = package_triton(engine, tmp_path / "repo", TritonOptions(max_batch=wanted, release="25.03", force=True))
        config = config_of(tmp_path / "repo" / "lit_network")
        assert (config.backend, config.max_batch_size, result.max_batch) == ("tensorrt", batch, batch)
        assert config.instance_group[0].kind == triton.ModelInstanceGroup.KIND_GPU
        assert not config.HasField("model_operations")
        assert [(value.name, list(value.dims)) for value in config.output] == [("logits", [TINY.num_classes])]
    assert (tmp_path / "repo" / "lit_network" / "1" / "model.plan").read_bytes() == engine.read_bytes()
    assert result.command == f"tritonserver --model-repository={tmp_path}/repo"
    assert f"TensorRT {sidecar.build.backend_version}:" in result.notes[0]
    assert "tritonserver:25.03-py3 " in result.notes[0]


def test_engine_with_a_plugin(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library is shipped and named to the back end, if it is the one that the engine was built with."""
    library = tmp_path / PLUGIN_NAME
    library.write_bytes(b"a plugin GLIBC_2.35 GLIBC_2.9")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    plugin = EnginePlugin("DeformableTokenMerging", "1", "lit_deploy", PLUGIN_NAME, digest, embedded=False)
    engine = tmp_path / "lit.engine"
    write_engine(model, engine, plugin=plugin)
    monkeypatch.setenv(PLUGIN_VARIABLE, str(library))
    result = package_triton(engine, tmp_path / "repo", TritonOptions(release="25.03"))
    assert (tmp_path / "repo" / "lit" / PLUGIN_NAME).read_bytes() == library.read_bytes()
    assert result.command == (
        f"LD_LIBRARY_PATH={tmp_path}/repo/lit${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} tritonserver "
        f"--model-repository={tmp_path}/repo --backend-config=tensorrt,plugins={PLUGIN_NAME}"
    )
    assert any("glibc 2.35" in note for note in result.notes)
    (container,) = next(yaml.safe_load_all((tmp_path / "repo/lit/deployment.yaml").read_text()))["spec"]["template"][
        "spec"
    ]["containers"]
    assert f"--backend-config=tensorrt,plugins={PLUGIN_NAME}" in container["args"]


def test_engine_that_carries_code(model: Path, tmp_path: Path) -> None:
    engine = tmp_path / "lit.engine"
    write_engine(model, engine, version_compatible=True)
    result = package_triton(engine, tmp_path / "repo", TritonOptions(release="25.03", allow_engine_code=True))
    assert result.command.endswith(" --backend-config=tensorrt,version-compatible=true")
    assert "or a later one of its major version" in result.notes[0]


def _rtx(model: Path, engine: Path) -> None:
    write_engine(model, engine, backend="tensorrt_rtx", backend_version="1.7.1")


def _layers(model: Path, engine: Path) -> None:
    sidecar = write_engine(model, engine)
    sidecar_path(engine).write_text(replace(sidecar, build=replace(sidecar.build, layers=True)).to_json())


def _damaged(model: Path, engine: Path) -> None:
    write_engine(model, engine)
    engine.write_bytes(engine.read_bytes()[:-1])


def _plugin(model: Path, engine: Path) -> None:
    write_engine(model, engine, plugin=EnginePlugin("D", "1", "lit_deploy", PLUGIN_NAME, "0" * 64, embedded=False))


def _embedded(model: Path, engine: Path) -> None:
    write_engine(model, engine, plugin=EnginePlugin("D", "1", "lit_deploy", PLUGIN_NAME, "0" * 64, embedded=True))


ENGINES: dict[str, tuple[Callable[[Path, Path], object], str, str]] = {
    "rtx": (_rtx, "", "was built by TensorRT-RTX 1.7.1, Triton runs engines of TensorRT; build it again with"),
    "layers": (_layers, "", "is a debug build"),
    "damaged": (_damaged, "", "is not the file its sidecar describes"),
    "no-release": (write_engine, "--no-triton", "name the container release of Triton that has it with --triton"),
    "cpu": (write_engine, "--device cpu", "is an engine, which runs on a GPU"),
    "threads": (write_engine, "--threads 2", "has no CPU threads"),
    "backend": (write_engine, "--backend openvino", "is an engine, which TensorRT runs"),
    "batch": (write_engine, "--max-batch 9", "--max-batch is 9, "),
    "profile": (lambda m, e: write_engine(m, e, ((2, 4, 8),)), "", "takes 2 to 8 images, Triton's batches begin with"),
    "library": (write_engine, "--library", "needs no library"),
    "other-plugin": (_plugin, "", "calls the plugin library it was built with (SHA-256 000000000000), which "),
    "no-plugin": (_plugin, "--no-library", "leave --no-library out"),
    "embedded": (_embedded, "", "carries code that Triton would run"),
    "compatible": (lambda m, e: write_engine(m, e, version_compatible=True), "", "add --allow-engine-code"),
}


@pytest.mark.parametrize(("write", "options", "words"), ENGINES.values(), ids=ENGINES)
def test_engines_that_are_refused(
    write: Callable[[Path, Path], object], options: str, words: str, model: Path, tmp_path: Path, run: Run
) -> None:
    write(model, tmp_path / "lit.engine")
    given = [] if options == "--no-triton" else ["--triton", "25.03", *options.split()]
    assert_one_sentence(run("package", tmp_path / "lit.engine", "--target", "triton", *given), words)
    assert list(Path.cwd().iterdir()) == []

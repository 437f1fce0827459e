"""The sidecar file: written, read back whatever happened to it, and turned into the command that builds again.

Engines are made by hand; real sidecars are looked at in ``test_engine_export``, real builds by that command in
``test_engine_rebuild``.
"""

from __future__ import annotations

import json
import platform
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.engines import BESIDE, ENGINE, H200, RTX_4090, SIDECAR, TENSORRT_BUILD, host_with, write_engine
from support.exported import refused_at_most_in_one_sentence

from lit_deploy import cli
from lit_deploy.artifacts.manifest import FORMAT
from lit_deploy.artifacts.preflight import here, preflight, rebuild_command
from lit_deploy.artifacts.sidecar import EnginePlugin, Sidecar, onnx_path, read_sidecar, sidecar_path
from lit_deploy.core.errors import ArtifactError
from lit_deploy.machine.cuda import Gpu
from lit_deploy.machine.tensorrt import RTX_TARGETS

pytestmark = pytest.mark.usefixtures("no_tensorrt")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_engine(tmp_path)


# ------------------------------------------------------------------------------------------------------ the file


def test_names() -> None:
    assert sidecar_path(Path("a/lit_s.engine")) == Path("a/lit_s.engine.json")
    assert onnx_path(Path("a/lit_s.plan")) == Path("a/lit_s.plan.onnx")
    assert here() == (platform.system(), platform.machine())


@pytest.mark.parametrize(
    "sidecar",
    [
        SIDECAR,
        replace(
            SIDECAR,
            plugin=BESIDE,
            parity={"cosine": 0.9999, "verdict": "pass"},
            profiles=(),
            manifest=replace(SIDECAR.manifest, batch=4),
        ),
        replace(SIDECAR, build=replace(TENSORRT_BUILD, targets=("8.6",), workspace_mib=64, timing_cache=True)),
    ],
    ids=["plain", "plugin and parity", "TensorRT"],
)
def test_round_trip(sidecar: Sidecar, tmp_path: Path) -> None:
    path = write_engine(tmp_path, sidecar)
    assert read_sidecar(path) == sidecar
    written = json.loads(sidecar.to_json())
    assert written["format"] == FORMAT
    assert written["manifest"]["model"]["embed_dims"] == [8, 16, 32, 32]
    assert "rebuild" not in written, "a command written once would name a file that has been moved since"
    assert sidecar.to_json().count("\n") > 50, "for people to read as well"


def test_no_engine_and_no_sidecar(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"absent\.engine is not a file; expected an engine written by"):
        read_sidecar(tmp_path / "absent.engine")
    alone = tmp_path / "alone.engine"
    alone.write_bytes(ENGINE)
    expected = r"alone\.engine has no readable sidecar alone\.engine\.json; copy it .* or build it again"
    with pytest.raises(ArtifactError, match=expected):
        read_sidecar(alone)
    sidecar_path(alone).mkdir()
    with pytest.raises(ArtifactError, match="no readable sidecar"):
        read_sidecar(alone)


def test_newer_format_and_newer_operator(engine: Path) -> None:
    raw = json.loads(SIDECAR.to_json())
    sidecar_path(engine).write_text(json.dumps({**raw, "format": FORMAT + 1, "surprise": 1}))
    expected = (
        rf"engine\.json has format {FORMAT + 1}, this lit-deploy reads 1 to {FORMAT}; upgrade lit-deploy, or build"
    )
    with pytest.raises(ArtifactError, match=expected):
        read_sidecar(engine)
    raw["manifest"]["op_version"] = 2
    sidecar_path(engine).write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match="version 2 of the operator"):
        read_sidecar(engine)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b'{"format": "1"}', ENGINE])
def test_damaged_sidecar(content: bytes, engine: Path) -> None:
    sidecar_path(engine).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"lit\.engine\.json is damaged \(.*\); build the engine again"):
        read_sidecar(engine)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_survived(engine: Path, data: st.DataObject) -> None:
    """A part cut, missing or replaced: something of the right form is read, and judged, or it is refused in words."""
    raw = json.loads(SIDECAR.to_json())
    inner = data.draw(st.sampled_from([raw, raw["build"], raw["inspections"][0], raw["inputs"][0], raw["manifest"]]))
    key = data.draw(st.sampled_from(sorted(inner)))
    if data.draw(st.booleans()):
        del inner[key]
    else:
        values = (None, [], {}, "", "x", -1, 0, 1.5, True, [1], [[1]], [[1, 2, 3]], ["8.9"], "ampere+", "tensorrt")
        inner[key] = data.draw(st.sampled_from(values))
    inner = raw.get("build") if isinstance(raw.get("build"), dict) else {}
    inner["version_compatible"] = data.draw(st.booleans())
    text = json.dumps(raw)
    sidecar_path(engine).write_text(text[: data.draw(st.sampled_from((None, len(text) // 2)))])
    with refused_at_most_in_one_sentence():
        preflight(engine, read_sidecar(engine), host_with())


def test_a_link_to_an_engine(engine: Path, tmp_path: Path) -> None:
    """``current.engine -> lit.engine``: the sidecar of the engine that the link leads to, over any number of links."""
    elsewhere = tmp_path / "service"
    elsewhere.mkdir()
    (elsewhere / "first.engine").symlink_to(engine)
    (elsewhere / "current.engine").symlink_to("first.engine")
    assert read_sidecar(elsewhere / "current.engine") == SIDECAR
    assert preflight(elsewhere / "current.engine", SIDECAR, host_with()) == RTX_4090
    own = replace(SIDECAR, onnx="of_the_link.onnx")
    sidecar_path(elsewhere / "current.engine").write_text(own.to_json())
    assert read_sidecar(elsewhere / "current.engine") == own, "one beside the link is meant for it"
    engine.unlink()
    with pytest.raises(ArtifactError, match=r"current\.engine is not a file"):
        read_sidecar(elsewhere / "current.engine")


# ------------------------------------------------------------------------------------------------ building again


def parsed(command: str) -> dict[str, Any]:
    """What ``lit-deploy export`` takes a rebuild command for, as its parameters."""
    program, name, *words = shlex.split(command)
    assert (program, name) == ("lit-deploy", "export")
    export = typer.main.get_command(cli.app).commands["export"]  # type: ignore[attr-defined]
    parameters: dict[str, Any] = export.make_context(name, words).params
    return parameters


def options_of(command: str) -> str:
    """A rebuild command without its beginning, which names the files."""
    return command.partition(" --builder ")[2]


def test_rebuild_command(engine: Path) -> None:
    """What the sidecar records is asked for again, in words that the command line takes."""
    command = rebuild_command(engine, SIDECAR)
    assert command == (
        f"lit-deploy export --ckpt {engine.resolve()}.onnx --format trt --out {engine.resolve()} "
        "--builder tensorrt_rtx --batch 1:8:32 --no-plugin"
    )
    build = replace(
        TENSORRT_BUILD, hardware_compatible="ampere+", version_compatible=True, workspace_mib=12, optimization_level=0,
        timing_cache=True, layers=True,
    )  # fmt: skip
    command = rebuild_command(engine, replace(SIDECAR, build=build, profiles=((1, 2, 3),), plugin=BESIDE))
    assert options_of(command) == (
        "tensorrt --batch 1:2:3 --plugin --hardware-compatible --version-compatible --workspace 12 "
        "--optimization-level 0 --layers"
    )
    asked = parsed(command)
    assert (asked["builder"], asked["batch"], asked["plugin"], asked["layers"]) == ("tensorrt", "1:2:3", True, True)
    assert (asked["hardware_compatible"], asked["version_compatible"]) == (True, True)
    assert (asked["workspace"], asked["optimization_level"]) == (12, 0), "0 is a level, not a blank"
    assert asked["ckpt"] == f"{asked['out']}.onnx"


def test_rebuilt_with_as_many_candidates(engine: Path) -> None:
    build = replace(TENSORRT_BUILD, nms_candidates=3000)
    assert parsed(rebuild_command(engine, replace(SIDECAR, build=build)))["nms_candidates"] == 3000


@pytest.mark.parametrize(
    ("plugin", "word"),
    [(None, "--no-plugin"), (BESIDE, "--plugin"), (replace(BESIDE, embedded=True), "--embed-plugin")],
    ids=["portable", "beside", "embedded"],
)
def test_rebuilt_as_it_was_settled(plugin: EnginePlugin | None, word: str, engine: Path) -> None:
    """Whether a plugin was found by chance or asked for: the next build must not depend on chance."""
    command = rebuild_command(engine, replace(SIDECAR, plugin=plugin))
    assert {"--no-plugin", "--plugin", "--embed-plugin"} & set(command.split()) == {word}
    asked = parsed(command)
    assert (asked["plugin"], asked["embed_plugin"]) == {
        "--no-plugin": (False, False), "--plugin": (True, False), "--embed-plugin": (None, True)
    }[word]  # fmt: skip


def test_rebuilt_for_other_batches(engine: Path) -> None:
    assert " --batch 1:40:40 " in rebuild_command(engine, SIDECAR, batch=(1, 40, 40))
    fixed = replace(SIDECAR, profiles=(), manifest=replace(SIDECAR.manifest, batch=4))
    assert "--batch" not in rebuild_command(engine, fixed), "the ONNX file has that size, and takes no other"
    assert "--batch" not in rebuild_command(engine, fixed, RTX_4090, (1, 2, 3))


def test_rebuilt_where_the_engine_lies_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Renamed and moved with its family, named from another folder, or through a link: the paths are those of today."""
    folder = tmp_path / "a folder; with 'quotes'"
    folder.mkdir()
    written = write_engine(folder)
    engine = written.rename(folder / "new name.engine")
    sidecar_path(written).rename(sidecar_path(engine))
    onnx_path(engine).write_bytes(b"what it was made from")
    asked = parsed(rebuild_command(engine, SIDECAR))
    assert (asked["ckpt"], asked["out"]) == (str(onnx_path(engine)), engine)
    monkeypatch.chdir(folder)
    asked = parsed(rebuild_command(Path("new name.engine"), SIDECAR))
    assert (asked["ckpt"], asked["out"]) == ("new name.engine.onnx", Path("new name.engine"))
    link = tmp_path / "current.engine"
    link.symlink_to(engine)
    asked = parsed(rebuild_command(link, SIDECAR))
    assert (asked["ckpt"], asked["out"]) == (str(onnx_path(engine)), engine), "not over the link"


@pytest.mark.parametrize("capability", RTX_TARGETS)
def test_rebuilt_for_another_rtx_gpu(capability: str, engine: Path) -> None:
    sidecar = replace(SIDECAR, build=replace(SIDECAR.build, targets=("8.6", "8.9"), workspace_mib=8))
    assert options_of(rebuild_command(engine, sidecar)).endswith(" --target 8.6,8.9 --workspace 8")
    command = rebuild_command(engine, sidecar, Gpu("any", capability, "13.0"))
    assert options_of(command) == f"tensorrt_rtx --batch 1:8:32 --no-plugin --target {capability} --workspace 8"


@pytest.mark.parametrize("capability", ["7.5", "8.7", "9.0", "10.0", "11.0"])
def test_rebuilt_for_a_gpu_that_rtx_does_not_build_for(capability: str, engine: Path) -> None:
    """TensorRT takes over, which builds for the GPU it runs on and refuses targets."""
    sidecar = replace(SIDECAR, build=replace(SIDECAR.build, targets=("8.6",)))
    command = rebuild_command(engine, sidecar, Gpu("any", capability, "13.0"))
    assert options_of(command) == "tensorrt --batch 1:8:32 --no-plugin"
    there = replace(SIDECAR, build=TENSORRT_BUILD)
    assert options_of(rebuild_command(engine, there, H200)) == "tensorrt --batch 1:8:32 --no-plugin"

"""The arrows between the modules: who may import whom, and what the package loads before it is needed."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import lit_deploy
from lit_deploy.packaging.files import SHIPPED

PACKAGE = Path(lit_deploy.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

BOTTOM = {
    "errors", "specs", "labels", "processes", "preprocessing", "checkpoints", "key_layout", "recognition",
    "downloads", "native", "cuda", "trt", "datasets", "evaluate_state", "calibration", "ranges",
}  # fmt: skip
WORKFLOWS = {
    "export", "verify", "bench", "bench_result", "bench_worker", "contenders", "predict", "inspection", "doctor",
    "report", "plots", "evaluate", "evaluate_result", "report_evaluate", "gates", "sensitivity", "report_quantize",
    "package", "package_source", "report_package",
}  # fmt: skip
HEAVY = {
    "torch", "onnxruntime", "onnx", "onnxscript", "openvino", "matplotlib", "safetensors",
    "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "cuda",
}  # fmt: skip
HEAVY_AT_THE_TOP = {"ops.reference", "ops.library", "exporters.lowering"}


@dataclass(frozen=True)
class Import:
    """One import statement: what, where, and whether it runs as soon as the module is imported."""

    module: str
    line: int
    eager: bool


def module_name(path: Path) -> str:
    """``lit_deploy/ops/schema.py`` is ``ops.schema``; a package is called as its folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__").removesuffix("__init__")


def imports_of(path: Path) -> list[Import]:
    """Every import of a file except those that only a type checker sees; ours without ``lit_deploy.``."""
    found: list[Import] = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child, eager)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append(Import(whole if is_module(whole) else node.module, node.lineno, eager))
        inside = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def is_module(name: str) -> bool:
    """Tell whether ``lit_deploy.x.y`` is a file or folder of the package, and not a name inside one."""
    if name.partition(".")[0] != "lit_deploy":
        return False
    place = PACKAGE.joinpath(*name.split(".")[1:])
    return place.with_suffix(".py").is_file() or place.joinpath("__init__.py").is_file()


ALL = {module_name(path): imports_of(path) for path in FILES}


def own(module: str) -> set[str]:
    """The modules of the package that a module imports, anywhere in it."""
    names = {entry.module for entry in ALL[module] if entry.module.partition(".")[0] == "lit_deploy"}
    return {name.removeprefix("lit_deploy").removeprefix(".") for name in names}


def inside(*folders: str) -> list[str]:
    return [name for name in ALL if name in folders or name.startswith(tuple(f"{folder}." for folder in folders))]


def test_the_walk_sees_imports() -> None:
    """A walk that found nothing would hold any arrow."""
    assert len(FILES) > 20
    assert "runtime.session" in own("verify")
    assert "runtime.torch" in own("runtime.session"), "imports inside functions count"
    assert {"models.blocks", "models.registry"} <= own("runtime.torch"), "names imported from a package are modules"
    assert "checkpoints" not in own("exporters.onnx"), "imports for the type checker do not count"
    assert any(entry.module == "torch" and entry.eager for entry in ALL["models.lit"])
    assert any(entry.module == "onnxruntime" and not entry.eager for entry in ALL["runtime.onnxruntime"])
    assert any(entry.module == "cuda.bindings" and not entry.eager for entry in ALL["cuda"])


def test_nobody_imports_the_command_line() -> None:
    assert [name for name in ALL if "cli" in own(name)] == []


def test_bottom_modules_import_only_each_other() -> None:
    assert ALL.keys() >= BOTTOM
    assert {name: sorted(own(name) - BOTTOM) for name in BOTTOM if own(name) - BOTTOM} == {}


def test_workflows_know_no_back_end() -> None:
    """They open sessions; which back end serves one is decided in ``runtime`` alone."""
    back_ends = {name for name in inside("runtime") if name not in ("runtime", "runtime.session")}
    known = {"torch", "onnxruntime", "emulation", "openvino", "tensorrt"}
    assert {f"runtime.{name}" for name in known} <= back_ends
    allowed = set(inside("runtime"))
    users = {name: sorted(own(name) & back_ends) for name in ALL if name not in allowed}
    assert {name: found for name, found in users.items() if found} == {}
    assert set(ALL) >= WORKFLOWS, "the workflows are among them"


def test_runtime_and_exporters_meet_only_in_the_artifact() -> None:
    for name in inside("runtime"):
        above = set(inside("exporters")) | WORKFLOWS
        assert own(name) & above == set(), name
    for name in inside("exporters"):
        above = set(inside("runtime")) | WORKFLOWS
        assert own(name) & above == set(), name
    shared = {"artifact", "specs"}
    assert any("artifact" in own(name) for name in inside("runtime"))
    assert any("artifact" in own(name) for name in inside("exporters"))
    assert own("artifact") <= BOTTOM | shared
    assert "sidecar" in own("runtime.tensorrt") & own("exporters.tensorrt"), "what an artifact is for ONNX files"
    assert own("sidecar") <= BOTTOM | shared


def test_packaging_is_text() -> None:
    """What is written for servers knows no session, no exporter and no workflow."""
    for name in inside("packaging"):
        assert own(name) <= BOTTOM | {"", "artifact"} | set(inside("packaging")), name


def test_what_is_shipped_to_servers_is_whole() -> None:
    """The preprocessing model and the modules beside it import nothing of ours but each other."""
    shipped = {name.removesuffix(".py").replace("__init__", "") for name in SHIPPED}
    for name in (*shipped, "packaging.triton_preprocessing"):
        assert own(name) <= shipped, name
        assert not {entry.module.partition(".")[0] for entry in ALL[name]} & (HEAVY | {"msgspec", "rich", "typer"})


def test_one_back_end_runs_the_models() -> None:
    models = set(inside("models"))
    assert [name for name in inside("runtime") if own(name) & models] == ["runtime.torch"]


def test_only_the_shim_names_tensorrt() -> None:
    """Its modules are imported by name in one place, which knows their versions and differences."""
    modules = {"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"}
    assert [name for name, entries in ALL.items() if modules & {entry.module for entry in entries}] == []
    users = {name for name in ALL if "trt" in own(name)}
    assert {"exporters.tensorrt", "exporters.tensorrt_builder", "runtime.tensorrt", "sidecar"} <= users
    assert users & set(inside("models", "ops")) == set()


def test_models_and_operator_look_down_only() -> None:
    for name in inside("ops"):
        assert own(name) <= BOTTOM | set(inside("ops")), name
    for name in inside("models"):
        assert own(name) <= BOTTOM | set(inside("ops", "models")), name


@pytest.mark.parametrize("name", sorted(ALL))
def test_heavy_packages_are_imported_where_they_are_needed(name: str) -> None:
    heavy = [entry for entry in ALL[name] if entry.eager and entry.module.partition(".")[0] in HEAVY]
    may = name in HEAVY_AT_THE_TOP or (name.startswith("models.") and name != "models.registry")
    assert may or heavy == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


def loaded_after(code: str) -> set[str]:
    """Top-level packages, outside the standard library, that a fresh interpreter holds after ``code``."""
    script = (
        f"import sys, json; before = set(sys.modules)\n{code}\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(new - set(sys.stdlib_module_names))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(json.loads(done.stdout))


def test_import_is_free_of_third_parties() -> None:
    assert loaded_after("import lit_deploy; lit_deploy.__version__; dir(lit_deploy)") == {"lit_deploy"}


def test_public_names_exist() -> None:
    for name in lit_deploy.__all__:
        assert getattr(lit_deploy, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        lit_deploy.nonsense  # noqa: B018


def test_reading_a_sidecar_loads_nothing_heavy() -> None:
    assert (
        loaded_after("from lit_deploy import sidecar; sidecar.this_host().version_of('tensorrt_rtx')") & HEAVY == set()
    )


def test_listing_models_loads_no_torch() -> None:
    code = "from lit_deploy.models.registry import OFFICIAL; [(m.parameters, m.macs, m.url) for m in OFFICIAL.values()]"
    assert loaded_after(code) & HEAVY == set()

"""The arrows between the rooms of the house: who may import whom, and what the package loads before it is needed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import lit_deploy
from lit_deploy.packaging.triton_steps import STEPS
from lit_deploy.tasks.table import TASKS

PACKAGE = Path(lit_deploy.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ROOMS = (
    ("core",),
    ("images", "machine", "ops"),
    ("artifacts",),
    ("tasks",),
    ("models",),
    ("checkpoints",),
    ("exporters", "backends"),
    ("packaging",),
    ("bench", "evaluate", "score"),
    ("quantize",),
    ("workflows",),
    ("report",),
    ("commands",),
)
"""From the bottom to the top: a room imports from the rooms below it and from itself. Those of one floor do not know
each other. What stands in no room is above them all: ``cli``; and ``native``, ``seeded`` as 0.1.0 documented them."""

HEAVY = {
    "torch", "onnxruntime", "onnx", "onnxscript", "openvino", "matplotlib", "safetensors",
    "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "cuda",
}  # fmt: skip
ROOMS_OF_TORCH = {"models", "ops"}


@dataclass(frozen=True)
class Import:
    """One import statement: what, where, and whether it runs as soon as the module is imported.

    Those that only a type checker sees count as the others do, but do not run.
    """

    module: str
    line: int
    eager: bool


Imports = Mapping[str, list[Import]]


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """``lit_deploy/core/files.py`` is ``core.files``; a package is called as its folder, the whole one ``""``."""
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def imports_of(path: Path, modules: Iterable[str]) -> list[Import]:
    """Every import of a file; names taken from one of our packages are modules where there are such."""
    ours = {f"lit_deploy.{name}".removesuffix(".") for name in modules}
    found: list[Import] = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append(Import(whole if whole in ours else node.module, node.lineno, eager))
        typed = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        inside = eager and not typed and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def walk(package: Path) -> Imports:
    """The imports of every module of a package that is laid out as ours."""
    files = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {name: imports_of(path, files) for name, path in files.items()}


def own(imports: Iterable[Import]) -> set[str]:
    """Those of our modules among imports, without ``lit_deploy.``."""
    names = {entry.module for entry in imports if entry.module.partition(".")[0] == "lit_deploy"}
    return {name.removeprefix("lit_deploy").removeprefix(".") for name in names}


def floor_of(module: str) -> tuple[int, str]:
    """The floor of a module, from 0, and its room; the package itself, which holds a version, is below them all."""
    if not module:
        return -1, ""
    room = module.partition(".")[0]
    return next((index for index, floor in enumerate(ROOMS) if room in floor), len(ROOMS)), room


def upward(imports: Imports) -> list[str]:
    """Imports that go up, or across a floor."""
    found = []
    for name, entries in imports.items():
        floor, room = floor_of(name)
        for entry in entries:
            for target in own([entry]):
                there, other = floor_of(target)
                if there > floor or (there == floor and other != room):
                    found.append(f"{name}:{entry.line} imports {target}")
    return found


def circles(imports: Imports) -> list[list[str]]:
    """Circles of modules, each as the way around it."""
    arrows = {name: sorted(own(entries) & imports.keys() - {name, ""}) for name, entries in imports.items()}
    found, done = [], set()

    def follow(name: str, way: list[str]) -> None:
        if name in way:
            found.append([*way[way.index(name) :], name])
        elif name not in done:
            for target in arrows[name]:
                follow(target, [*way, name])
            done.add(name)

    for name in arrows:
        follow(name, [])
    return found


ALL = walk(PACKAGE)


def inside(*rooms: str) -> list[str]:
    return [name for name in ALL if name.partition(".")[0] in rooms]


def test_every_folder_is_a_room() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == {room for floor in ROOMS for room in floor}
    assert all((path.parent / "__init__.py").is_file() for path in FILES), "a folder without __init__.py is not found"


def test_the_walk_sees_imports() -> None:
    """A walk that found nothing would hold any arrow."""
    assert len(FILES) > 100
    assert "backends.open" in own(ALL["workflows.verify"])
    found = own(ALL["models.families.dense"])
    assert {"models.backbones.lit", "models.families.lit"} <= found, "names imported from a package are modules"
    assert "models.networks.lit" in own(ALL["models.families.lit"]), "imports inside functions count"
    assert any(entry.module == "torch" and not entry.eager for entry in ALL["models.build"]), "and those for types"
    assert any(entry.module == "torch" and entry.eager for entry in ALL["models.networks.lit"])
    assert any(entry.module == "onnxruntime" and not entry.eager for entry in ALL["backends.onnxruntime"])
    assert any(entry.module == "cuda.bindings" and not entry.eager for entry in ALL["machine.cuda"])


def test_imports_go_down() -> None:
    assert upward(ALL) == []


def test_there_are_no_circles() -> None:
    assert circles(ALL) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("core.planted", "from lit_deploy.images import labels\n"),
        ("core.planted", "def later():\n    import lit_deploy.workflows.export\n"),
        ("tasks.planted", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lit_deploy.bench.run\n"),
        ("images.planted", "from lit_deploy.machine.cuda import find_gpu\n"),
        ("backends.planted", "from lit_deploy.exporters.onnx import OnnxOptions\n"),
        ("report.planted", "from lit_deploy import cli\n"),
    ],
    ids=["up", "lazily", "for types", "across", "across above", "command line"],
)  # fmt: skip
def test_a_planted_import_is_found(module: str, text: str, tmp_path: Path) -> None:
    """The test of the test above: one more file, and it fails."""
    planted = tmp_path / f"{module}.py"
    planted.write_text(text, encoding="utf-8")
    imports = {**ALL, module: imports_of(planted, ALL)}
    assert len(upward(imports)) == 1
    assert upward(imports)[0].startswith(f"{module}:")


def test_a_planted_circle_is_found() -> None:
    imports = {
        **ALL,
        "core.errors": [*ALL["core.errors"], Import("lit_deploy.core.planted", 1, False)],
        "core.planted": [Import("lit_deploy.core.files", 1, False)],
    }
    assert upward(imports) == []
    assert ["core.errors", "core.planted", "core.files", "core.errors"] in circles(imports)


def test_nobody_imports_the_command_line() -> None:
    assert [name for name in ALL if "cli" in own(ALL[name])] == []


def test_back_ends_are_reached_by_their_table() -> None:
    """Which one serves a session is decided in ``backends`` alone; who asks for one knows none of them."""
    from lit_deploy.backends.table import BACKENDS

    sessions = {record.session.partition(":")[0].removeprefix("lit_deploy.") for record in BACKENDS.values()}
    assert sessions <= ALL.keys()
    users = {name: sorted(own(ALL[name]) & sessions) for name in ALL}
    assert {name: found for name, found in users.items() if found} == {}


def test_what_is_shipped_to_servers_is_whole() -> None:
    """Python models and the modules beside them, once imported, need nothing of ours but each other."""
    assert STEPS.keys() == TASKS.keys()
    foreign = HEAVY | {"msgspec", "rich", "typer"}
    for steps in STEPS.values():
        for model, files in (("preprocessing", steps.preprocessing), ("postprocessing", steps.postprocessing)):
            shipped = {module_name(PACKAGE / name) for name in files}
            for name in (*shipped, f"packaging.triton_{model}") if files else ():
                eager = [entry for entry in ALL[name] if entry.eager]
                assert own(eager) <= shipped, name
                assert not {entry.module.partition(".")[0] for entry in eager} & foreign


def test_one_back_end_runs_the_models() -> None:
    """Families are told by any; networks are built, and so PyTorch is needed, by one."""
    networks = {name for name in inside("models") if any(e.eager and e.module == "torch" for e in ALL[name])}
    assert "models.blocks" in networks
    assert [name for name in inside("backends") if own(ALL[name]) & (networks | {"models.build"})] == ["backends.torch"]


def test_only_the_shim_names_tensorrt() -> None:
    """Its modules are imported by name in one place, which knows their versions and differences."""
    modules = {"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"}
    assert [name for name, entries in ALL.items() if modules & {entry.module for entry in entries}] == []
    users = {name for name in ALL if "machine.tensorrt" in own(ALL[name])}
    assert {"exporters.tensorrt", "exporters.tensorrt_builder", "backends.tensorrt", "artifacts.sidecar"} <= users


def test_heavy_packages_are_imported_where_they_are_needed() -> None:
    """PyTorch stands at the top of networks and operators alone, and whoever is not one of them imports them late."""
    heavy = {
        name: {entry.module.partition(".")[0] for entry in ALL[name] if entry.eager} & HEAVY
        for name in ALL
    }  # fmt: skip
    heavy = {name: found for name, found in heavy.items() if found}
    assert heavy
    assert {name.partition(".")[0] for name in heavy} <= ROOMS_OF_TORCH
    assert set.union(*heavy.values()) == {"torch"}
    early = {name: own(entry for entry in ALL[name] if entry.eager) & heavy.keys() for name in ALL if name not in heavy}
    assert {name: found for name, found in early.items() if found} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("suffix", [".cc", ".cu", ".h", ".hpp"])
def test_native_files_stay_short(suffix: str) -> None:
    files = sorted((PACKAGE.parent / "plugins").rglob(f"*{suffix}"))
    assert files
    assert {str(file) for file in files if len(file.read_text(encoding="utf-8").splitlines()) > 400} == set()


def test_the_drawn_house_has_these_rooms() -> None:
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawing = page.partition("```mermaid")[2].partition("```")[0]
    drawn = re.findall(r'(\w+)\["([\w.]+): ', drawing)
    assert all(name == label.removesuffix(".py") for name, label in drawn)
    assert sorted(name for name, _ in drawn) == sorted({"cli", *(room for floor in ROOMS for room in floor)})
    height = {room: floor for floor, rooms in enumerate((*ROOMS, ("cli",))) for room in rooms}
    arrows = [line.partition("-->") for line in re.sub(r"\[.*?\]", "", drawing).splitlines() if "-->" in line]
    pairs = [(a.strip(), b.strip()) for above, _, below in arrows for a in above.split("&") for b in below.split("&")]
    assert len(pairs) >= len(height)
    assert [(a, b) for a, b in pairs if height[a] <= height[b]] == [], "arrows point down"


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


def test_modules_that_0_1_0_documented_are_there() -> None:
    from lit_deploy import native
    from lit_deploy.machine.native import find_onnxruntime_library

    assert native.find_onnxruntime_library() == find_onnxruntime_library()
    assert "lit_deploy" in loaded_after("import lit_deploy.seeded")


def test_opening_sessions_loads_no_back_end() -> None:
    assert loaded_after("import lit_deploy.backends.open") & HEAVY == set()


def test_reading_a_sidecar_loads_nothing_heavy() -> None:
    code = "from lit_deploy.artifacts import preflight; preflight.this_host().version_of('tensorrt_rtx')"
    assert loaded_after(code) & HEAVY == set()


def test_listing_models_loads_no_torch() -> None:
    code = (
        "from lit_deploy.models.families import PUBLISHED; from lit_deploy.models.layout import mac_count;"
        "[(mac_count(m.spec), m.url) for m in PUBLISHED.values()]"
    )
    assert loaded_after(code) & HEAVY == set()

"""Section of the GPU suite about TensorRT and TensorRT-RTX engines: numbers of LIT-S, and every kind of engine once."""

from __future__ import annotations

import json
from pathlib import Path

from gpu_network_sections import CLI, PACKAGE_NEEDS, benched, predicted, seeded_checkpoint, verified
from gpu_suite import Section, SectionFailed, Skip, Suite, Values, need

from lit_deploy.core.specs import EIGHT_BIT
from lit_deploy.machine import native
from lit_deploy.machine import tensorrt as trt
from lit_deploy.machine.facts import installed_version

PRECISIONS = ("fp32", "fp16", "bf16")
VARIANT_SECONDS = 30
"""Least of the budget that it makes sense to begin another engine with."""
QUICK_BUILD = ("--batch", "1:2:8", "--optimization-level", "1")
"""Enough for engines that are compared and not measured."""


def engine(suite: Suite) -> Values:
    """LIT-S in fp16, with its numbers; then LIT-Ti once in every way that an engine can be built."""
    need(*PACKAGE_NEEDS)
    suite.values["backend"] = engine_backend(suite.gpu.compute_capability)
    plugin = suite.find_built(native.PLUGIN_NAME) is not None
    suite.values["plugin"] = "built" if plugin else "not built: only the portable function was used"
    try:
        measure(suite, "--plugin" if plugin else "--no-plugin")
    except SectionFailed as error:  # the build: the variants are worth a try all the same
        suite.gate("lit_s fp16", str(error))
    checkpoint = seeded_checkpoint(suite, "lit_ti")
    suite.values["variants"] = variants = {}
    for name, build, run in (*every_variant(plugin), *eight_bit_variants(suite)):
        if suite.seconds_left() < VARIANT_SECONDS:
            variants[name] = {"not_begun": "the budget of the whole run is nearly spent"}
            continue
        try:
            variants[name], failure = checked_variant(suite, checkpoint, build, run)
        except SectionFailed as error:
            variants[name], failure = {}, str(error)
        suite.gate(name, failure)
    return {}


def measure(suite: Suite, way: str) -> None:
    """LIT-S in fp16: built ``--plugin`` or ``--no-plugin``, compared with PyTorch, timed with and without graph."""
    checkpoint, values = seeded_checkpoint(suite), suite.values
    path = built(suite, checkpoint, "lit_s_fp16", "--precision", "fp16", "--batch", "1:8:64", way, "--no-verify")
    values["engine_bytes"] = path.stat().st_size
    values["verify"], failure = verified(suite, path, checkpoint)
    suite.gate("verify", failure)
    values["predict"], failure = predicted(suite, path, checkpoint)
    suite.gate("predict", failure)
    measured, failure = benched(suite, [path], checkpoint)
    suite.gate("bench", failure)
    values |= measured


def every_variant(plugin: bool) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """Name, options of ``export`` and options of ``verify`` of every way to build.

    Args:
        plugin: whether our plugin library is there.
    """
    ways = {"plugin": "--plugin", "function": "--no-plugin"} if plugin else {"function": "--no-plugin"}
    result: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
        (f"{precision} {way}", ("--precision", precision, option, "--no-verify"), ())
        for precision in PRECISIONS
        for way, option in ways.items()
    ]
    if plugin:
        build = ("--precision", "fp16", "--embed-plugin", "--no-verify")
        result.append(("fp16 embedded plugin", build, ("--allow-engine-code",)))
    result.append(("fp32 layers", ("--precision", "fp32", "--layers", "--no-verify"), ("--layers",)))
    # Last, as it takes longest: here the command itself compares the ONNX file and the engine with PyTorch.
    result.append(("fp16 verified by export", ("--precision", "fp16"), ()))
    return result


def eight_bit_variants(suite: Suite) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """The same for int8, and for fp8 where the GPU computes in it; ONNX Runtime observes the ranges."""
    if not (installed_version("onnxruntime") or installed_version("onnxruntime-gpu")):
        return []
    import numpy as np

    from lit_deploy.artifacts.preflight import computes
    from lit_deploy.checkpoints.seeded import DEFAULT_SEED, synthetic_image

    pixels = [synthetic_image(DEFAULT_SEED, f"calibration:{index}", 224, 224) for index in range(16)]
    images = suite.work / "calibration.npz"
    np.savez(images, images=np.stack(pixels))
    # --force: weights without training tell these images apart by little, so that 8 bits may change a prediction
    common = ("--calib", str(images), "--force", "--no-verify")
    precisions = [precision for precision in EIGHT_BIT if computes(precision, suite.gpu.compute_capability)]
    return [(precision, ("--precision", precision, *common), ()) for precision in precisions]


def checked_variant(suite: Suite, checkpoint: Path, build: tuple[str, ...], run: tuple[str, ...]) -> tuple[Values, str]:
    """Build one engine and compare it with PyTorch: what was found, and why it failed (empty if it passed)."""
    by_export = "--no-verify" not in build
    if by_export and not (installed_version("onnxruntime") or installed_version("onnxruntime-gpu")):
        return {"left_out": "not installed: onnxruntime"}, ""
    path = built(suite, checkpoint, "variant", *build, *QUICK_BUILD)
    if not by_export:
        return verified(suite, path, checkpoint, *run)
    parity = json.loads(path.with_name(f"{path.name}.json").read_text())["parity"]
    if parity is None:
        return {}, "export did not run the engine that it had built"
    return parity, "" if parity["verdict"] == "pass" else f"export's own verdict is {parity['verdict']}"


def built(suite: Suite, checkpoint: Path, name: str, *options: str) -> Path:
    """An engine of a checkpoint; SectionFailed if it could not be built."""
    path = suite.work / f"{name}.engine"
    suite.run_well([*CLI, "export", "--ckpt", checkpoint, "--format", "trt", "--out", path, *options], 300)
    return path


def engine_backend(compute_capability: str) -> str:
    """The TensorRT that can build and run an engine on a GPU of that compute capability; Skip, by name, if none."""
    need("cuda-bindings")
    if trt.installed_version("tensorrt") is not None:
        return "tensorrt"
    if trt.installed_version("tensorrt_rtx") is None:
        raise Skip("neither `tensorrt` nor `tensorrt_rtx` is importable")
    if compute_capability not in trt.RTX_TARGETS:
        raise Skip(
            f"`tensorrt` is not importable, and TensorRT-RTX does not target compute capability {compute_capability} "
            f"(only {', '.join(trt.RTX_TARGETS)})"
        )
    return "tensorrt_rtx"


SECTION = Section("engine", "LIT-S and LIT-Ti as TensorRT engines", engine, 90)

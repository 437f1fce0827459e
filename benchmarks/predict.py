"""Measure how many pictures `predict` and `evaluate` put through a file, decoding and writing included, in turns.

Both see the same JPEG files, 500 x 375 pixels, as a usual ImageNet picture has, and run LIT-S with ONNX Runtime.
`evaluate` writes its state, `predict` writes its journal and JSON Lines. A turn is one run of each;
what is told is the ratio of their speeds in the same turn.

    python benchmarks/predict.py [--images 256] [--rounds 5] [--output benchmarks/results/predict_cpu.json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import PIL
from embedding import exported
from merging import quartiles
from PIL import Image

from lit_deploy.backends.open import open_session
from lit_deploy.backends.protocol import SessionOptions
from lit_deploy.checkpoints.seeded import synthetic_image
from lit_deploy.evaluate.run import evaluate_artifacts
from lit_deploy.machine.facts import this_machine
from lit_deploy.workflows.predict import Wanted
from lit_deploy.workflows.predict_file import predict_to_file

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 8


def main() -> int:
    """Run both in turns, print a line a turn, write the JSON file."""
    parser = argparse.ArgumentParser(description="Measure predict and evaluate on this machine's CPU.")
    parser.add_argument("--images", type=int, default=256, help="pictures [default: 256]")
    parser.add_argument("--rounds", type=int, default=5, help="turns, after one that does not count [default: 5]")
    parser.add_argument("--batch", type=int, default=32, help="pictures per run [default: 32]")
    parser.add_argument("--model", type=Path, help="a classifier's .onnx file [default: LIT-S with seeded weights]")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "predict_cpu.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # where evaluate keeps its state
        model = arguments.model or exported(folder, "float")
        draw(folder / "pictures", arguments.images)
        turns = []
        for number in range(arguments.rounds + 1):
            turn = both(model, folder, arguments.batch)
            if number:
                turns.append({kind: arguments.images / seconds for kind, seconds in turn.items()})
                print(", ".join(f"{kind} {speed:.1f} images/s" for kind, speed in turns[-1].items()), flush=True)
        with open_session(model) as session:
            description = session.description
    report = {
        "what": "images per second of whole runs: listing, decoding, the network, writing",
        "model": "LIT-S, seeded weights" if arguments.model is None else arguments.model.name,
        "session": description,
        "machine": msgspec.to_builtins(this_machine()),
        "pillow": PIL.__version__,
        "images": arguments.images,
        "picture": "JPEG, 500 x 375",
        "batch": arguments.batch,
        "images_per_second": {kind: quartiles([turn[kind] for turn in turns]) for kind in ("predict", "evaluate")},
        "predict_over_evaluate": quartiles([turn["predict"] / turn["evaluate"] for turn in turns]),
    }
    print(f"predict over evaluate: {report['predict_over_evaluate']['median']:.2f}x")  # type: ignore[index]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {arguments.output}")
    return 0


def draw(folder: Path, count: int) -> None:
    """Write pictures into class folders, which are called by the index of their class."""
    for index in range(count):
        path = folder / str(index % CLASSES) / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(synthetic_image(1, f"predict:{index}", 375, 500)).save(path, quality=90)


def both(model: Path, folder: Path, batch: int) -> dict[str, float]:
    """Seconds of one run of each."""
    pictures, options = folder / "pictures", SessionOptions()
    return {
        "predict": seconds(
            lambda: predict_to_file(model, [pictures], folder / "results.jsonl", Wanted(batch=batch), options)
        ),
        "evaluate": seconds(
            lambda: evaluate_artifacts([model], pictures, folders="index", batch=batch, options=options)
        ),
    }


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())

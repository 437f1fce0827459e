"""Compare checkpoints and exported files on the held-out digits.

``python evaluate.py ARTIFACT [ARTIFACT ...]`` takes ``.pth`` and ``.onnx`` files. Exit code 2 when one cannot be used.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from digits_data import pictures, split
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from lit_deploy import open_session
from lit_deploy.errors import LitDeployError, UsageError
from lit_deploy.preprocessing import normalize, resize_and_crop


def predictions(artifact: str, images: list[Image.Image]) -> NDArray[np.int64]:
    """Run one file on all images, prepared as the file itself says, and return the predicted classes ``[N]``."""
    with open_session(artifact) as session:
        spec = session.manifest.input
        pixels = np.stack([resize_and_crop(image, spec) for image in images])
        data = pixels if spec.kind == "uint8" else normalize(pixels, spec)
        fixed = session.inputs[0].shape[0]
        batch = fixed if isinstance(fixed, int) else 60
        found = []
        for start in range(0, len(data), batch):
            part = data[start : start + batch]
            missing = batch - len(part) if isinstance(fixed, int) else 0
            part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])  # a fixed batch has to be full
            found.append(top1(session.run({session.inputs[0].name: part})))
    return np.concatenate(found)[: len(data)]


def top1(outputs: dict[str, NDArray[np.generic]]) -> NDArray[np.int64]:
    """Predicted classes ``[B]`` from logits, from probabilities, or from the indices of a top-5 output."""
    for values in outputs.values():
        if np.issubdtype(values.dtype, np.integer):
            return values[:, 0].astype(np.int64)
    (scores,) = outputs.values()
    return scores.argmax(axis=1)


def main() -> None:
    """Print one row per file; disagreements are counted against the first."""
    parser = argparse.ArgumentParser(description="Compare checkpoints and exported files on the held-out digits.")
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT", help="a .pth checkpoint or an exported .onnx file")
    artifacts = parser.parse_args().artifacts

    _, held_out = split()
    images, labels = pictures(held_out)
    table = Table(title=f"{len(labels)} held-out digits")
    for column in ("file", "accuracy", "wrong", "differ from the first"):
        table.add_column(column, justify="left" if column == "file" else "right", overflow="fold")
    first: NDArray[np.int64] | None = None
    for artifact in artifacts:
        found = predictions(artifact, images)
        if found.max() > 9:
            raise UsageError(f"{artifact} predicts class {found.max()} where digits have 0 to 9: give a digits model.")
        first = found if first is None else first
        wrong = int((found != labels).sum())
        table.add_row(artifact, f"{1 - wrong / len(labels):.2%}", str(wrong), str(int((found != first).sum())))
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except LitDeployError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)

"""Index the features of pictures, and find for each what looks most like it.

What a picture shows is told by the folder it lies in, which the search knows nothing of.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

import lit_deploy

CELL, FRAME, LETTER = 104, 4, 13  # pixels
WHITE, INK, RIGHT, WRONG, QUERY = "white", "#222222", "#2a9d5c", "#d1495b", "#3a6ea5"


def indexed(model: Path, paths: list[Path]) -> tuple[faiss.IndexFlatIP, NDArray[np.float32]]:
    """An index of the features of pictures, in their order, and the features ``[N, C]``, each of length 1.

    Inner products of these are cosines. The index compares with all pictures; for millions take another one of faiss,
    such as ``IndexHNSWFlat``, which is asked in the same way.
    """
    features = np.concatenate(list(lit_deploy.extract_features(model, paths)))
    faiss.normalize_L2(features)
    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features)
    return index, features


def neighbours(
    index: faiss.IndexFlatIP, features: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For every picture of the index the nearest others, nearest first: their numbers and cosines, ``[N, count]``."""
    cosines, found = index.search(features, count + 1)
    others = np.full((len(features), count), -1)
    near = np.zeros((len(features), count), np.float32)
    for picture, (numbers, values) in enumerate(zip(found, cosines, strict=True)):
        kept = [place for place, number in enumerate(numbers) if number != picture][:count]  # all but itself
        others[picture], near[picture] = numbers[kept], values[kept]
    return others, near


def contact_sheet(
    paths: list[Path], queries: list[int], others: NDArray[np.int64], near: NDArray[np.float32]
) -> Image.Image:
    """A row for every query: itself, and its neighbours with their cosines; green for the same folder, else red."""
    count = others.shape[1]
    row, left = CELL + 2 * LETTER, CELL + 3 * LETTER
    width = left + count * (CELL + LETTER) + LETTER
    sheet = Image.new("RGB", (width, 3 * LETTER + len(queries) * row), WHITE)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTER)
    draw.text((LETTER, LETTER), "query", font=font, fill=INK)
    draw.text((left, LETTER), "nearest first, with the cosine to the query", font=font, fill=INK)
    for place, query in enumerate(queries):
        top = 3 * LETTER + place * row
        cells = [(LETTER, query, QUERY, paths[query].parent.name)]
        for rank, (number, cosine) in enumerate(zip(others[query], near[query], strict=True)):
            same = paths[number].parent == paths[query].parent
            words = f"{paths[number].parent.name}   {cosine:.3f}"
            cells.append((left + rank * (CELL + LETTER), int(number), RIGHT if same else WRONG, words))
        for x, number, colour, words in cells:
            side = CELL - 2 * FRAME
            with Image.open(paths[number]) as image:
                small = ImageOps.pad(image.convert("RGB"), (side, side), color=WHITE)
            draw.rectangle((x, top, x + CELL - 1, top + CELL - 1), fill=colour)
            sheet.paste(small, (x + FRAME, top + FRAME))
            draw.text((x + CELL / 2, top + CELL + 2), words, font=font, fill=INK, anchor="ma")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the pictures that look most like others.")
    parser.add_argument("model", type=Path, help="file that was exported with --output features")
    parser.add_argument("pictures", type=Path, nargs="+", help="folders of .png files, in sub-folders by class or not")
    parser.add_argument("--neighbours", type=int, default=8, help="of every picture; 8")
    parser.add_argument("--out", type=Path, default=Path("neighbours.png"), help="contact sheet to write")
    arguments = parser.parse_args()
    paths = sorted(path for folder in arguments.pictures for path in folder.rglob("*.png"))
    if len(paths) <= arguments.neighbours:
        parser.error(f"found {len(paths)} pictures, expected more than --neighbours {arguments.neighbours}")
    index, features = indexed(arguments.model, paths)
    others, near = neighbours(index, features, arguments.neighbours)
    same = np.array([[paths[n].parent == path.parent for n in row] for path, row in zip(paths, others, strict=True)])
    members: dict[Path, list[int]] = {}
    for number, path in enumerate(paths):
        members.setdefault(path.parent, []).append(number)
    queries = [random.Random(0).choice(numbers) for numbers in members.values()]  # one of every class
    contact_sheet(paths, queries, others, near).save(arguments.out)
    print(f"{len(paths)} pictures, {features.shape[1]} features each")
    first, all_of_them = f"{same[:, 0].mean():.1%}", f"{same.mean():.1%}"
    print(f"of the same class: {first} of the nearest, {all_of_them} of the {arguments.neighbours} nearest")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()

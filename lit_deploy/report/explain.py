"""Where a file looks in a picture: drawn, as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import RenderableType
from rich.table import Table

from lit_deploy.core.files import atomic_path
from lit_deploy.core.text import printable
from lit_deploy.report.terminal import as_json, text
from lit_deploy.workflows.explain import Attention, Explanation, Sampling

SAMPLED, ATTENDED = 640, 300
"""Longer side in pixels of the panels of mergings and of attention."""
GAP, TITLE, SMALL = 24, 20, 15
"""Room between panels, and heights of letters, in pixels."""
BLOCKS = 5
"""Most blocks that are drawn of a token: the first, the last, and others evenly between them."""
PATCHES = 28
"""Most patches of a row or column whose samples are drawn: of more, every second, third ... is."""
INK, MUTED, EDGE, CHOSEN = (34, 34, 34), (110, 110, 110), (200, 200, 200), (0, 229, 255)

_FINE = 2  # a panel is drawn so many times larger, then made smaller, so that lines are smooth
_NEAR_TO_FAR = ((49, 54, 149), (69, 117, 180), (0, 150, 136), (230, 145, 0), (215, 48, 39), (165, 0, 38))
_COLD_TO_HOT = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))

Pixels = NDArray[np.uint8]


def save_explanation(explanation: Explanation, path: Path) -> None:
    """Draw an explanation and write it as PNG, whole or not at all."""
    picture = explanation_picture(explanation)
    with atomic_path(path) as part:
        picture.save(part, format="PNG")


def explanation_picture(explanation: Explanation) -> Image.Image:
    """A panel for every merging, and below them a row of panels for every chosen token."""
    rows = [[_sampled(explanation.pixels, sampling) for sampling in explanation.samplings]]
    shown = _evenly(explanation.attentions)
    for index, token in enumerate(explanation.attentions[0].tokens if explanation.attentions else ()):
        rows.append(
            [_chosen(explanation.pixels, shown[0], index, token)]
            + [_attended(explanation.pixels, explanation.attentions, each, index) for each in shown]
        )
    header = _lines(
        f"Where {Path(explanation.artifact).name} looks in {Path(explanation.image).name}",
        f"A line leads from a token to the place that is sampled in its stead. {explanation.description}",
    )
    width = max(header.width, *(sum(panel.width + GAP for panel in row) - GAP for row in rows)) + 2 * GAP
    height = GAP + header.height + sum(GAP + max(panel.height for panel in row) for row in rows) + GAP
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(header, (GAP, GAP))
    y = GAP + header.height
    for row in rows:
        x, y = GAP, y + GAP
        for panel in row:
            canvas.paste(panel, (x, y))
            x += panel.width + GAP
        y += max(panel.height for panel in row)
    return canvas


def _evenly(attentions: Sequence[Attention]) -> list[Attention]:
    if not attentions:
        return []
    places = np.unique(np.linspace(0, len(attentions) - 1, BLOCKS).round().astype(int))
    return [attentions[place] for place in places]


def _sampled(pixels: Pixels, sampling: Sampling) -> Image.Image:
    """The picture, pale and grey, with a line from every tap's own token to where it samples, and a dot there."""
    scale = SAMPLED / max(pixels.shape[:2])
    grey = _resized(pixels, scale * _FINE).convert("L").convert("RGB")
    image = Image.blend(grey, Image.new("RGB", grey.size, "white"), 0.55)
    draw = ImageDraw.Draw(image)
    rows, columns = sampling.offsets.shape[:2]
    step = -(-max(rows, columns) // PATCHES)
    side = sampling.token * scale * _FINE  # of a token, in the pixels that are drawn
    dot, line = np.clip(0.13 * side, 2 * _FINE, 7 * _FINE), round(np.clip(side / 16, _FINE, 3 * _FINE))
    every = (slice(None, None, step),) * 2
    shifts = sampling.shifts[every].reshape(-1)
    known = shifts[np.isfinite(shifts)]
    far = max(float(np.percentile(known, 99)) if known.size else 0.0, 1e-6)
    colours = _colours(np.minimum(shifts / far, 1), _NEAR_TO_FAR)
    starts, ends = (
        ((places[every].reshape(-1, 2) + 0.5) * side)[:, ::-1] for places in (sampling.taps, sampling.positions)
    )
    finite = np.isfinite(ends).all(axis=1)
    order = np.argsort(shifts)  # the farthest on top
    drawn = [index for index in order if finite[index]]
    for index in drawn:
        draw.line((*starts[index], *ends[index]), fill=tuple(colours[index]), width=line)
    for x, y in starts:
        draw.ellipse((x - dot / 3, y - dot / 3, x + dot / 3, y + dot / 3), fill=MUTED)
    for index in drawn:
        x, y = ends[index]
        draw.ellipse(
            (x - dot, y - dot, x + dot, y + dot),
            fill=tuple(colours[index]),
            outline="white" if dot > 3 * _FINE else None,
        )
    image = image.resize((max(1, image.width // _FINE), max(1, image.height // _FINE)), Image.Resampling.LANCZOS)
    height, width = sampling.size
    mean = float(sampling.shifts.mean())
    thinned = f"; one in {step * step} drawn" if step > 1 else ""
    return _panel(
        image,
        f"Merging after stage {sampling.stage}: {height} x {width} to {rows} x {columns} tokens",
        f"moved by {mean:.2f} tokens in the mean ({mean * sampling.token:.1f} pixels); "
        f"{sampling.outside:.1%} of the samples lie outside{thinned}",
        _scale_bar(_NEAR_TO_FAR, "0", f"{far:.2f} tokens"),
    )


def _chosen(pixels: Pixels, attention: Attention, index: int, token: tuple[int, int]) -> Image.Image:
    """The picture with a token marked in it."""
    scale = ATTENDED / max(pixels.shape[:2])
    image = _resized(pixels, scale)
    _mark(image, attention.token * scale, token)
    return _panel(
        image, f"Token {token[0]},{token[1]}", f"row, column of {attention.size[0]} x {attention.size[1]}",
        _scale_bar(_COLD_TO_HOT, "no weight", "the most"),
    )  # fmt: skip


def _attended(pixels: Pixels, every: Sequence[Attention], attention: Attention, index: int) -> Image.Image:
    """The picture, dark and grey, lit where a token attends to."""
    scale = ATTENDED / max(pixels.shape[:2])
    base = np.asarray(_resized(pixels, scale).convert("L").convert("RGB"), np.float32) * 0.6
    weights = np.nan_to_num(attention.maps[index])
    most = float(weights.max())
    side = attention.token * scale  # tokens may reach beyond the picture, into what the graph pads
    rows = np.minimum(((np.arange(base.shape[0]) + 0.5) / side).astype(int), weights.shape[0] - 1)
    columns = np.minimum(((np.arange(base.shape[1]) + 0.5) / side).astype(int), weights.shape[1] - 1)
    share = (weights / max(most, 1e-12))[rows][:, columns]
    alpha = (0.3 + 0.5 * share)[..., None]
    lit = (1 - alpha) * base + alpha * _colours(share, _COLD_TO_HOT)
    image = Image.fromarray(lit.round().astype(np.uint8))
    _mark(image, side, attention.tokens[index])
    blocks = sum(each.stage == attention.stage for each in every)
    return _panel(
        image,
        f"Stage {attention.stage}, block {attention.block} of {blocks}",
        f"the most {100 * most:.2g} %; even would be {100 / attention.weights.shape[-1]:.2g} %",
    )


def _mark(image: Image.Image, side: float, token: tuple[int, int]) -> None:
    """An outline around a token, legible on any ground."""
    draw = ImageDraw.Draw(image)
    top, left = (place * side for place in token)
    x, y = round(left), round(top)
    box = (x, y, max(x, round(left + side) - 1), max(y, round(top + side) - 1))
    draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline="black", width=4)
    draw.rectangle(box, outline=CHOSEN, width=2)


def _panel(image: Image.Image, title: str, below: str, legend: Image.Image | None = None) -> Image.Image:
    """A picture under two lines of words, and above a legend."""
    words = _lines(title, below)
    gap, foot = SMALL // 2, legend.height if legend is not None else 0
    panel = Image.new("RGB", (max(image.width, words.width), words.height + gap + image.height + foot), "white")
    panel.paste(words, (0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=EDGE)
    panel.paste(image, (0, words.height + gap))
    if legend is not None:
        panel.paste(legend, (0, words.height + gap + image.height))
    return panel


def _lines(title: str, below: str) -> Image.Image:
    """A title and a smaller line below it."""
    big, small = ImageFont.load_default(TITLE), ImageFont.load_default(SMALL)
    title, below = printable(title), printable(below)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = round(max(ruler.textlength(title, font=big), ruler.textlength(below, font=small))) + 1
    image = Image.new("RGB", (width, round(1.4 * (TITLE + SMALL))), "white")
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), title, font=big, fill=INK)
    draw.text((0, round(1.4 * TITLE)), below, font=small, fill=MUTED)
    return image


def _scale_bar(anchors: Sequence[tuple[int, int, int]], low: str, high: str) -> Image.Image:
    """The colours between two ends, with what these mean."""
    font, bar = ImageFont.load_default(SMALL), 120
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, right = (round(ruler.textlength(word, font=font)) for word in (low, high))
    image = Image.new("RGB", (left + bar + right + 2 * SMALL, 2 * SMALL), "white")
    draw = ImageDraw.Draw(image)
    draw.text((0, SMALL), low, font=font, fill=MUTED, anchor="lm")
    colours = _colours(np.tile(np.linspace(0, 1, bar), (SMALL - 3, 1)), anchors).astype(np.uint8)
    image.paste(Image.fromarray(colours), (left + SMALL // 2, SMALL // 2 + 2))
    draw.text((left + bar + SMALL, SMALL), high, font=font, fill=MUTED, anchor="lm")
    return image


def _colours(share: NDArray[Any], anchors: Sequence[tuple[int, int, int]]) -> NDArray[np.int_]:
    """Colours ``[..., 3]`` for shares 0..1, between anchors that lie evenly; that of 1 for what is no number."""
    share = np.nan_to_num(share, nan=1.0)
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(share, places, [anchor[channel] for anchor in anchors]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(int)


def _resized(pixels: Pixels, scale: float) -> Image.Image:
    height, width = pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def explanation_table(explanation: Explanation) -> RenderableType:
    """What the mergings do, a row each."""
    table = Table()
    table.add_column("merging")
    for column in ("map", "mean shift", "in pixels", "largest shift", "outside"):
        table.add_column(column, justify="right")
    for each in _merged(explanation):
        table.add_row(
            text(each["module"]), f"{each['size'][0]} x {each['size'][1]}", f"{each['mean_shift']:.2f} tokens",
            f"{each['mean_shift'] * each['token_pixels']:.1f}", f"{each['largest_shift']:.2f}",
            f"{each['outside']:.1%}",
        )  # fmt: skip
    return table


def explanation_json(explanation: Explanation, picture: Path) -> str:
    """The same as JSON, and of every chosen token in every block the strongest weight and where it is."""
    return as_json(
        {
            "artifact": explanation.artifact, "image": explanation.image, "backend": explanation.description,
            "picture": str(picture), "mergings": _merged(explanation), "attention": _strongest(explanation),
        }
    )  # fmt: skip


def _merged(explanation: Explanation) -> list[dict[str, Any]]:
    return [
        {
            "module": each.module, "stage": each.stage, "size": each.size, "token_pixels": each.token,
            "mean_shift": float(each.shifts.mean()), "largest_shift": float(each.shifts.max()),
            "outside": each.outside,
        }
        for each in explanation.samplings
    ]  # fmt: skip


def _strongest(explanation: Explanation) -> list[dict[str, Any]]:
    found = []
    for each in explanation.attentions:
        for token, weights in zip(each.tokens, each.maps, strict=True):
            row, column = np.unravel_index(int(weights.argmax()), weights.shape)
            found.append(
                {
                    "module": each.module, "stage": each.stage, "block": each.block, "size": each.size, "token": token,
                    "strongest": {"row": int(row), "column": int(column), "weight": float(weights.max())},
                }
            )  # fmt: skip
    return found

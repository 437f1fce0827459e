"""Lines and words on a picture that stay legible and inside it, whatever its size and whatever is below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BLACK, WHITE = (0, 0, 0), (255, 255, 255)

_LEAST, _MOST = 10, 72  # pixels of a letter's height: what can be read, and what is enough on any screen
_SMALL = 120  # shorter side of a picture in pixels, below which lines are one pixel wide
_SMALLEST = 7  # to which letters shrink before words are cut


@dataclass(frozen=True)
class Style:
    """Sizes that suit a picture.

    Attributes:
        font: of words; ``letter``: its height in pixels.
        line: width of lines in pixels.
    """

    font: Font
    letter: int
    line: int

    @property
    def row(self) -> int:
        """Height in pixels of a line of text with the room around it."""
        return round(self.letter * 1.3)


def style_for(width: int, height: int) -> Style:
    """Sizes of letters and lines for a picture of so many pixels."""
    short = min(width, height)
    letter = min(max(round(short / 36), _LEAST), _MOST)
    line = max(1 if short < _SMALL else 2, round(short / 250))
    return Style(ImageFont.load_default(letter), letter, line)


def outlined_box(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: Colour, line: int) -> None:
    """A rectangle in a colour with a black hairline around it, which parts it from a ground of the same colour.

    Args:
        box: x1, y1, x2, y2 in pixels, clipped to the picture here; corners the wrong way round are a box all the same.
        line: width in pixels.
    """
    width, height = draw.im.size
    x1, x2 = sorted(min(max(round(x), 0), width - 1) for x in (box[0], box[2]))
    y1, y2 = sorted(min(max(round(y), 0), height - 1) for y in (box[1], box[3]))
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=BLACK)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=line)


def tag(draw: ImageDraw.ImageDraw, style: Style, text: str, place: tuple[float, float], colour: Colour) -> None:
    """Words on a plate of a colour: above a place where there is room, else below it, and always inside the picture.

    Args:
        place: x and y in pixels of the plate's lower left corner; upper left, where it lies below.
    """
    width, height = draw.im.size
    font, words = _fitted(draw, style, text, width - 2 * style.line)
    if not words or style.row > height:
        return
    plate = round(draw.textlength(words, font=font)) + 2 * style.line
    x, y = round(place[0]), round(place[1])
    left = min(max(x, 0), width - plate)
    top = min(y - style.row if y >= style.row else max(y, 0), height - style.row)
    draw.rectangle((left, top, left + plate - 1, top + style.row - 1), fill=colour)
    draw.text((left + style.line, top + style.row / 2), words, font=font, fill=contrast(colour), anchor="lm")


def contrast(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour."""
    red, green, blue = colour
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else WHITE


def _fitted(draw: ImageDraw.ImageDraw, style: Style, text: str, room: int) -> tuple[Font, str]:
    """A font and as many letters of a text as fit into so many pixels."""
    for letter in range(style.letter, _SMALLEST - 1, -1):
        font = style.font if letter == style.letter else ImageFont.load_default(letter)
        if draw.textlength(text, font=font) <= room:
            return font, text
    while text and draw.textlength(text, font=font) > room:
        text = text.rpartition(" ")[0] or text[:-1]  # no number that lacks its last digits
    return font, text


def with_legend(image: Image.Image, entries: Sequence[tuple[Colour | None, str]]) -> Image.Image:
    """A picture with names of colours below it, on white: nothing of the picture is covered.

    Args:
        image: RGB.
        entries: colour, perhaps none, and name, in the order of reading.

    Returns:
        A larger picture; the old one is its upper left corner.
    """
    style = style_for(image.width, image.height)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    gap = style.letter
    cells = [round(style.row + ruler.textlength(text, font=style.font)) + gap for _, text in entries]
    width = max([image.width, *(cell + gap for cell in cells)])
    columns = max(1, (width - gap) // max(cells, default=1))
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, image.height + rows * style.row + (gap if rows else 0)), WHITE)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    for index, (colour, text) in enumerate(entries):
        row, column = divmod(index, columns)
        x, y = gap + column * max(cells), image.height + gap // 2 + row * style.row
        if colour is not None:
            swatch = (x, y + style.row // 6, x + style.letter - 1, y + style.row // 6 + style.letter - 1)
            draw.rectangle(swatch, fill=colour, outline=BLACK)
        draw.text((x + style.row, y + style.row / 2), text, font=style.font, fill=BLACK, anchor="lm")
    return canvas

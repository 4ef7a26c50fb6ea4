"""Captchas drawn on the spot: leaning, warped characters, dots and an arc across them."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mpsearch.demo.text_lines import font_files

WIDTH, HEIGHT = 160, 60
_SIZES = (42, 50, 56)


def draw_captcha(text: str, rng: np.random.Generator) -> Image.Image:
    """Return ``text`` as a captcha of 160 × 60 pixels."""
    paper = tuple(int(c) for c in rng.integers(238, 256, 3))
    ink = tuple(int(c) for c in rng.integers(10, 201, 3))
    glyphs = [_glyph(character, ink, rng) for character in text]
    total = sum(glyph.width for glyph in glyphs)
    canvas = Image.new("RGB", (max(WIDTH, total), HEIGHT), paper)
    overlap = int(0.25 * total / len(text))
    x = int(0.1 * total / len(text))
    for glyph in glyphs:
        canvas.paste(glyph, (x, (HEIGHT - glyph.height) // 2), glyph)
        x += glyph.width - int(rng.integers(0, overlap + 1))
    picture = canvas.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    for _ in range(30):
        left, top = int(rng.integers(0, WIDTH)), int(rng.integers(0, HEIGHT))
        pen.line((left, top, left - 1, top - 1), fill=ink, width=3)
    left, top = int(rng.integers(0, WIDTH // 5)), int(rng.integers(HEIGHT // 5, 3 * HEIGHT // 5))
    right, bottom = int(rng.integers(4 * WIDTH // 5, WIDTH)), int(rng.integers(top + 2, HEIGHT))
    pen.arc((left, top, right, bottom), int(rng.integers(0, 20)), int(rng.integers(160, 200)), ink)
    return picture.filter(ImageFilter.SMOOTH)


def _glyph(character: str, ink: tuple[int, ...], rng: np.random.Generator) -> Image.Image:
    """One character, turned and pulled at its corners; transparent around it."""
    font = _font(int(rng.choice(_SIZES)))
    left, top, right, bottom = font.getbbox(character)
    glyph = Image.new("L", (int(right - left) + 4, int(bottom - top) + 6), 0)
    at = (int(rng.integers(0, 5)) - left, int(rng.integers(0, 7)) - top)
    ImageDraw.Draw(glyph).text(at, character, fill=255, font=font)
    angle = float(rng.uniform(-30, 30))
    glyph = glyph.crop(glyph.getbbox()).rotate(angle, Image.Resampling.BILINEAR, expand=True)
    w, h = glyph.size
    pull = [int(rng.uniform(-0.2, 0.2) * side) for side in (w, h, w, h)]
    corners = (
        pull[0],
        pull[1],
        -pull[0],
        h - pull[3],
        w + pull[2],
        h + pull[3],
        w - pull[2],
        -pull[1],
    )
    mask = glyph.transform((w, h), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    mask = mask.point([min(255, int(1.97 * value)) for value in range(256)])
    coloured = Image.new("RGBA", (w, h), (*ink, 0))
    coloured.putalpha(mask)
    return coloured


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    path: Path = next(path for path in font_files() if path.name == "DejaVuSansMono.ttf")
    return ImageFont.truetype(str(path), size)

"""Text lines with a known orientation, drawn on the spot: data for the demo and the experiments.

Every line is a few words of the project's own licence, drawn in a font that ships with matplotlib on a
light background, then turned a little, blurred, scaled down and up, and made noisy; every other line
stands on its head. Line ``i`` of a seed has a random stream of its own, so it is the same line however
many are drawn.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL import Image

HEIGHT = 48
WIDTH = 192
FONT_SIZES = (20, 34)
MAX_TILT_DEGREES = 3.0
MAX_BLUR_PIXELS = 1.4  # radius of the Gaussian
MIN_SHRINK = 0.45  # of a line's own size
MAX_NOISE = 14.0  # standard deviation, of 255
_FONT_PATTERNS = ("DejaVuSans*.ttf", "DejaVuSerif*.ttf", "STIXGeneral*.ttf")


def draw_lines(n: int, *, seed: int, width: int = WIDTH) -> dict[str, NDArray[Any]]:
    """Draw ``n`` lines, every other one turned by 180 degrees.

    Args:
        n: Lines.
        seed: Seed of the lines; different seeds give different lines.
        width: Width that lines are scaled to fit into, and padded to on the right.

    Returns:
        ``images`` [n, 3, 48, width] float32, BGR, (pixel / 255 - 0.5) / 0.5; ``labels`` [n] int64,
        1 where the line stands on its head; ``texts`` [n] what is written.

    Raises:
        MissingExtraError: Pillow or matplotlib (whose fonts are drawn with) is not installed.
    """
    words, fonts = license_words(), font_files()
    images = np.zeros((n, 3, HEIGHT, width), np.float32)
    texts = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        text = _phrase(words, rng)
        picture = _draw(text, fonts, rng)
        if i % 2:
            picture = picture.rotate(180)
        images[i] = _normalise(picture, width)
        texts.append(text)
    labels = np.arange(n, dtype=np.int64) % 2
    return {"images": images, "labels": labels, "texts": np.array(texts)}


def orientation_arrays(n: int, *, seed: int) -> Mapping[str, NDArray[Any]]:
    """Return ``n`` lines as the orientation model's data: input ``x`` and ``labels``."""
    lines = draw_lines(n, seed=seed)
    return {"x": lines["images"], "labels": lines["labels"]}


def license_words() -> list[str]:
    """Return the words of the licence that ships with mpsearch, in order.

    Raises:
        DataError: The licence is neither in the installed package nor beside it.
    """
    text = None
    try:
        found = distribution("mpsearch")
        text = found.read_text("licenses/LICENSE") or found.read_text("LICENSE")
    except PackageNotFoundError:
        pass
    beside = Path(__file__).resolve().parents[2] / "LICENSE"
    if text is None and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    if text is None:
        raise DataError("the licence text of mpsearch must be installed with it, but was not found")
    return [word for word in text.split() if word.isascii() and any(c.isalpha() for c in word)]


def font_files() -> list[Path]:
    """Return the text fonts that ship inside matplotlib, sorted by name; matplotlib is not imported.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    spec = find_spec("matplotlib")
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        raise MissingExtraError(
            "text lines are drawn in matplotlib's fonts; install it with: pip install 'mpsearch[demo]'"
        )
    folder = Path(places[0]) / "mpl-data" / "fonts" / "ttf"
    found = {path for pattern in _FONT_PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in found if "Display" not in path.name)


def _phrase(words: Sequence[str], rng: np.random.Generator) -> str:
    """Two to four neighbouring words."""
    count = int(rng.integers(2, 5))
    start = int(rng.integers(0, len(words) - count))
    return " ".join(words[start : start + count])


def _draw(text: str, fonts: Sequence[Path], rng: np.random.Generator) -> "Image.Image":
    """One upright line as a picture of its own size."""
    try:
        from PIL import Image, ImageDraw, ImageFilter, ImageFont
    except ImportError as error:
        raise MissingExtraError(
            "text lines are drawn with Pillow; install it with: pip install 'mpsearch[demo]'"
        ) from error

    size = int(rng.integers(FONT_SIZES[0], FONT_SIZES[1] + 1))
    font = ImageFont.truetype(str(fonts[int(rng.integers(len(fonts)))]), size)
    paper = tuple(int(c) for c in rng.integers(190, 256, 3))
    ink = tuple(int(c) for c in rng.integers(0, 110, 3))
    left, top, right, bottom = font.getbbox(text)
    margin = [int(m) for m in rng.integers(3, 9, 4)]
    shape = (int(right - left) + margin[0] + margin[1], int(bottom - top) + margin[2] + margin[3])
    picture = Image.new("RGB", shape, paper)
    ImageDraw.Draw(picture).text((margin[0] - left, margin[2] - top), text, fill=ink, font=font)

    tilt = float(rng.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES))
    picture = picture.rotate(tilt, Image.Resampling.BILINEAR, expand=True, fillcolor=paper)
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.0, MAX_BLUR_PIXELS))))
    shrink = float(rng.uniform(MIN_SHRINK, 1.0))
    small = (max(8, round(picture.width * shrink)), max(8, round(picture.height * shrink)))
    picture = picture.resize(small, Image.Resampling.BILINEAR)
    noisy = np.asarray(picture, np.float32) + rng.normal(
        0.0, float(rng.uniform(0.0, MAX_NOISE)), (small[1], small[0], 3)
    )
    return Image.fromarray(np.clip(noisy, 0.0, 255.0).round().astype(np.uint8))


def _normalise(picture: "Image.Image", width: int) -> NDArray[np.float32]:
    """[3, 48, width]: scaled to the height, squeezed where too wide, zeros on the right."""
    from PIL import Image

    wide = min(width, max(1, round(picture.width * HEIGHT / picture.height)))
    scaled = picture.resize((wide, HEIGHT), Image.Resampling.BILINEAR)
    pixels = np.asarray(scaled, np.float32)[:, :, ::-1].transpose(2, 0, 1)
    padded = np.zeros((3, HEIGHT, width), np.float32)
    padded[:, :, :wide] = (pixels / 255.0 - 0.5) / 0.5
    return padded

import numpy as np
import pytest

from mpsearch.demo import text_lines
from mpsearch.demo.text_lines import draw_lines, font_files, license_words, orientation_arrays


@pytest.fixture(scope="module")
def lines() -> dict[str, np.ndarray]:
    return draw_lines(12, seed=5)


def test_lines_have_the_models_shape_and_range(lines: dict[str, np.ndarray]) -> None:
    assert lines["images"].shape == (12, 3, 48, 192)
    assert lines["images"].dtype == np.float32
    assert lines["images"].min() >= -1
    assert lines["images"].max() <= 1
    assert lines["labels"].tolist() == [0, 1] * 6


def test_a_line_does_not_depend_on_how_many_are_drawn(lines: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(draw_lines(5, seed=5)["images"], lines["images"][:5])


def test_seeds_give_other_lines(lines: dict[str, np.ndarray]) -> None:
    other = orientation_arrays(12, seed=6)
    assert (other["x"] != lines["images"]).any(axis=(1, 2, 3)).all()


def test_every_other_line_is_the_same_line_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    upright = draw_lines(2, seed=5)["images"][1]
    monkeypatch.setattr("PIL.Image.Image.rotate", lambda self, angle, *a, **k: self)
    straight = draw_lines(2, seed=5)["images"][1]
    assert not np.array_equal(upright, straight)


def test_ink_is_darker_than_paper(lines: dict[str, np.ndarray]) -> None:
    for image in lines["images"]:
        written = image[:, :, (image != 0).any(axis=(0, 1))]
        assert np.median(written) > 0.2  # light paper
        assert np.percentile(written, 2) < 0.1  # dark ink


def test_words_are_the_licences_own(lines: dict[str, np.ndarray]) -> None:
    words = license_words()
    assert "Licensor" in words
    assert all(set(str(text).split()) <= set(words) for text in lines["texts"])


def test_fonts_are_text_fonts_in_a_fixed_order() -> None:
    names = [path.name for path in font_files()]
    assert "DejaVuSans.ttf" in names
    assert names == sorted(names)
    assert not any("Siz" in name or "Display" in name for name in names)


def test_the_licence_is_found_in_an_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = license_words()
    monkeypatch.setattr(text_lines, "__file__", "/nowhere/mpsearch/demo/text_lines.py")
    assert license_words() == beside

import pytest
from rich.cells import cell_len

from mpsearch.cli.printing.tables import print_table

COLUMNS = [
    "plan",
    "latency µs",
    "loss predicted (nats)",
    "loss measured (nats)",
    "held-out accuracy",
]
ROWS = [
    [name, "0.0965", "0.00187 ± 0.00023", "0.950 ± 0.028", "0.094 ± 0.037"]
    for name in ("fp32", "uniform nvfp4_2of4", "mixed, safe (= uniform fp8)")
]


@pytest.mark.parametrize("width", [48, 60, 80, 120, 200])
def test_names_and_figures_are_whole_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table("plans", COLUMNS, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for figure in ROWS[0][1:]:
        assert text.count(figure) == len(ROWS)
    for line in lines:  # a line of figures has its name
        if "0.0965" in line or "0.950" in line:
            assert any(word in line for word in ("fp32", "uniform", "mixed"))


def test_a_name_longer_than_half_the_terminal_folds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    name = "backbone/" + "x" * 70
    print_table("plans", ["layer", "loss"], [[name, "0.1"]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 60
    assert "x" * 70 in "".join(line.replace("0.1", "").strip() for line in lines)

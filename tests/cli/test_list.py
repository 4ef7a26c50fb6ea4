import pytest

from tests.support.command_line import Mpsearch


@pytest.mark.parametrize(
    "kind", ["metrics", "searchers", "rules", "recoveries", "exporters", "runtimes"]
)
def test_every_plugin_is_listed_with_a_word_on_it(kind: str, mpsearch: Mpsearch) -> None:
    listed = mpsearch("list", kind, "--json").json
    assert listed
    for item in listed:
        assert len(item["about"].split()) >= 4, item["name"]
        assert "`" not in item["about"]


def test_no_line_of_a_list_of_commands_is_cut(
    mpsearch: Mpsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], ["plan"]):
        text = mpsearch(*words, "--help").out
        assert not [line for line in text.splitlines() if line.endswith("...")][1:]
        assert max(map(len, text.splitlines())) <= 80


def test_devices_say_their_area_and_what_is_left_out(mpsearch: Mpsearch) -> None:
    found = {row["name"]: row for row in mpsearch("list", "devices", "--json").json}
    npu = found["npu_200tops"]
    assert npu["area"]["multipliers"] == 25600
    assert npu["points"]["0.7V"] == {"volts": 0.7, "clock_ghz": 0.6}
    assert any("area" in line for line in npu["left_out"])
    assert "area" not in found["t4"]

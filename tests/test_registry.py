"""Plug-ins of other packages: found by name, never in the place of another."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from mpsearch import registry
from mpsearch.errors import DuplicateNameError, MissingExtraError, PluginError, UnknownNameError


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Entry points installed by the test; the list collects the groups that were scanned."""
    installed = [
        EntryPoint("square_root", "math:sqrt", "mpsearch.metrics"),
        EntryPoint("twin", "mpsearch.sensitivity.kl:METRIC", "mpsearch.metrics"),
        EntryPoint("elsewhere", "no_such_package:search", "mpsearch.searchers"),
        EntryPoint("onnx", "my_package:export", "mpsearch.exporters"),
    ]
    scanned: list[str] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        scanned.append(group)
        return [point for point in installed if point.group == group]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    registry._third_party.cache_clear()
    yield scanned
    registry._third_party.cache_clear()


@pytest.mark.usefixtures("install")
def test_an_installed_plug_in_is_found_by_its_name() -> None:
    assert registry.find("metrics", "twin") is registry.find("metrics", "kl")
    assert registry.list_names("metrics")[-1] == "twin"


@pytest.mark.usefixtures("install")
def test_what_is_not_declared_as_its_kind_says_how_it_must_be() -> None:
    with pytest.raises(PluginError, match=r"metric 'square_root' .*such as Metric\(function\)"):
        registry.find("metrics", "square_root")


@pytest.mark.usefixtures("install")
def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(
        DuplicateNameError, match=r"export target 'onnx' is .* and also my_package:export"
    ):
        registry.find("exporters", "onnx")


@pytest.mark.usefixtures("install")
def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(
        MissingExtraError, match=r"search method 'elsewhere' needs .*'no_such_package'"
    ):
        registry.find("searchers", "elsewhere")


@pytest.mark.usefixtures("install")
def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(
        UnknownNameError, match=r"metric must be one of sqnr, .*, square_root, twin; got 'sqrt'"
    ):
        registry.find("metrics", "sqrt")


def test_installed_packages_are_scanned_once(install: list[str]) -> None:
    for _ in range(3):
        registry.find("metrics", "twin")
        registry.list_names("searchers")
    assert install == ["mpsearch.metrics", "mpsearch.searchers"]

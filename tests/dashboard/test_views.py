"""The dashboard in a real browser: every view, by mouse and by keyboard, wide and narrow, while a run goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mpsearch.dashboard.app import NAMES
from mpsearch.dashboard.serve import Served
from mpsearch.figures.content import Report
from mpsearch.problem.build import build_problem
from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.stats.digits import with_error
from mpsearch.stats.estimates import Estimate
from tests.support.browser import Seen
from tests.support.command_line import Mpsearch
from tests.support.made_folder import CONTEXT, losses_of, write_run


@pytest.fixture(scope="module")
def made(make_report: Callable[..., Report]) -> Report:
    return make_report(18)


@pytest.fixture(scope="module")
def runs(
    made: Report, make_report: Callable[..., Report], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A good run, one of another seed, one that goes on, and one that is damaged."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(made, folder / "a_good", device="npu_200tops")
    write_run(make_report(18, seed=1), folder / "b_other")
    write_run(made, folder / "c_running", finished=False)
    damaged = write_run(made, folder / "d_damaged")
    (damaged / "front.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def opened(runs: Path, serve: Callable[..., Served], look: Callable[[str], Seen]) -> Seen:
    """One page for all tests: scripts of megabytes are read once."""
    return look(serve(runs).link)


@pytest.fixture
def seen(opened: Seen) -> Iterator[Seen]:
    """The page at the good run's front, as a reader with a light screen finds it; no test may leave an error."""
    opened.page.emulate_media(color_scheme="light")
    opened.page.set_viewport_size({"width": 1280, "height": 900})
    opened.view("front")
    choose_run(opened, "a_good", "finished")
    opened.page.locator("#clear").click()
    pick(opened, "pick", "mixed")
    opened.wait("text('pick').startsWith('mixed')")
    yield opened
    assert opened.errors == []


def choose_run(seen: Seen, name: str, state: str) -> None:
    pick(seen, "run", name)
    seen.wait(f"text('state').startsWith({state!r})")


def pick(seen: Seen, control: str, text: str) -> None:
    if not seen.text(f"#{control}").startswith(text):
        seen.page.locator(f"#{control}").click()
        seen.page.get_by_role("option", name=text).first.click()


def decision(seen: Seen) -> str:
    return seen.text("#pick")


@pytest.mark.parametrize("dark", [False, True])
def test_every_view_opens_without_an_error_and_asks_no_other_machine(
    seen: Seen, dark: bool
) -> None:
    seen.page.emulate_media(color_scheme="dark" if dark else "light")
    for name in NAMES:
        seen.view(name)
        assert seen.page.locator(f"#{name}-missing").inner_text() == ""
        described = seen.page.locator(f"#{name}-view [role=img][aria-describedby]")
        for i in range(described.count()):
            assert described.nth(i).get_attribute("aria-label")
    assert {host.partition(":")[0] for host in seen.hosts} == {"127.0.0.1"}


def test_the_chosen_plan_downloads_and_passes_check(
    seen: Seen, tmp_path: Path, mpsearch: Mpsearch
) -> None:
    seen.view("take")
    with seen.page.expect_download() as waiting:
        seen.page.get_by_role("link", name="Download plan.json").click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    result = mpsearch("check", path)
    assert result.code == 0, result.err
    assert "a plan that can be used" in result.out


def test_a_limit_and_a_dragged_line_choose_another_plan(seen: Seen, made: Report) -> None:
    seen.view("front")
    measured = sorted(p.predicted["latency_us"].mean for p in made.front.points if p.measured)
    before = decision(seen)
    line = seen.page.locator("#front-graph .shapelayer path").first
    edge = line.bounding_box()
    assert edge is not None
    limit = (measured[0] + measured[1]) / 2
    seen.page.locator("#limit-latency_us").fill(f"{limit:.6g}")
    seen.page.keyboard.press("Tab")
    seen.wait("text('decision').includes('≤')")
    assert decision(seen) != before
    assert f"µs {measured[0]:.3g}"[:6] in decision(seen)
    seen.page.locator("#clear").click()
    seen.wait("!document.getElementById('limit-latency_us').value")
    seen.wait(
        "Math.abs(document.querySelector('#front-graph .shapelayer path').getBoundingClientRect().x"
        f" - {edge['x']}) < 2"
    )
    box = line.bounding_box()
    assert box is not None
    seen.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] - 250, box["y"] + box["height"] / 2, steps=4)
    seen.page.mouse.up()
    seen.wait("document.getElementById('limit-latency_us').value")
    value = float(seen.page.locator("#limit-latency_us").input_value())
    assert measured[0] < value < measured[-1]


def test_a_click_on_a_point_chooses_it(seen: Seen) -> None:
    seen.view("front")
    before = decision(seen)
    points = seen.page.locator("#front-graph .scatterlayer .trace").nth(2).locator(".point")
    points.first.click(force=True)
    seen.wait("text('decision').includes('by hand')")
    assert decision(seen) != before


def test_what_if_says_what_the_problem_says(seen: Seen, made: Report) -> None:
    seen.view("take")
    problem = build_problem(made.table, made.costs)
    assert made.chosen is not None
    assignment = list(made.chosen.assignment)
    group = next(g for g in range(len(assignment)) if assignment[g] != 0)
    assignment[group] = 0
    pick(seen, "take-layer", f"{group + 1} ")
    pick(seen, "take-scheme", "fp16")
    seen.page.locator("#take-change").click()
    seen.page.wait_for_selector("#take-whatif table")
    said = seen.text("#take-whatif")
    rows = np.array([assignment])
    values, errors = problem.evaluate(rows), problem.stderrs(rows)
    for name in ("loss", "latency_us", "weight_bytes"):
        told = with_error(Estimate(float(values[name][0]), float(errors[name][0])))
        assert told in said, (name, told)
    seen.page.locator("#take-measure").click()
    seen.wait("text('take-queued').includes('Queued')")
    seen.wait("text('take-queue').includes('waits')")


def test_points_of_a_run_that_goes_on_arrive(seen: Seen, runs: Path, made: Report) -> None:
    (runs / "c_running" / "run.json").touch()  # as one that goes on does
    choose_run(seen, "c_running", "running")
    seen.wait("text('front-missing').includes('Nothing was found')")
    points = [p for p in made.front.points if p.measured][:3]
    with EvaluationStore(runs / "c_running" / "evaluations.sqlite") as store:
        for i, point in enumerate(points):
            store.put(CONTEXT, point.assignment, losses_of(point.measured["loss"].mean, i))
        seen.wait("text('state').includes('3 measured so far')")
        seen.wait("text('front-facts').includes('3 plans, 3 measured')")


def test_a_damaged_run_says_why_and_the_others_work(seen: Seen) -> None:
    choose_run(seen, "d_damaged", "damaged")
    seen.wait("text('front-missing').includes('damaged: front.json')")
    choose_run(seen, "a_good", "finished")
    seen.view("front")
    seen.view("compare")
    assert "b_other" in seen.text("#compare-table")


def test_the_keyboard_alone_chooses_and_takes_a_plan(seen: Seen, made: Report) -> None:
    seen.view("front")
    before = decision(seen)
    keys = seen.page.keyboard

    def reach(what: str) -> None:
        for _ in range(80):
            keys.press("Tab")
            if seen.page.evaluate(f"document.activeElement.matches({what!r})"):
                return
        raise AssertionError(f"no Tab leads to {what}")

    fastest = sorted(p.predicted["latency_us"].mean for p in made.front.points if p.measured)
    reach("#limit-latency_us")
    keys.type(f"{(fastest[0] + fastest[1]) / 2:.6g}")
    keys.press("Enter")
    seen.wait("text('decision').includes('≤')")
    assert decision(seen) != before
    seen.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen.page.locator("h1").click()
    reach("#link-take")
    keys.press("Enter")
    seen.page.wait_for_selector("#take-files a")
    reach("#take-files a")
    with seen.page.expect_download() as waiting:
        keys.press("Enter")
    assert waiting.value.suggested_filename.endswith(".json")


def test_a_phone_shows_every_view_without_scrolling_sideways(seen: Seen) -> None:
    seen.page.set_viewport_size({"width": 400, "height": 900})
    for name in NAMES:
        seen.view(name)
        width = seen.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 400, name

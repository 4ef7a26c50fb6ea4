"""A real browser, and dashboards of made runs that it looks at."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mpsearch.dashboard.serve import Served, open_dashboard

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
COUNT_SCRIPTS = "window.ran = 0; window.alert = () => { window.ran += 1; };"
"""Hostile names call alert: what runs is counted."""


@dataclass
class Seen:
    """A page, and all that its browser had to say.

    Attributes:
        page: Playwright's page.
        errors: Errors of the console, and exceptions that nothing caught.
        hosts: Hosts that were asked for anything.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def view(self, name: str) -> None:
        """Go to a view, and wait until it is drawn or says what is missing."""
        self.page.evaluate(f"window.location.hash = '#{name}'")
        self.page.wait_for_function(
            f"""() => {{
                const view = document.getElementById('{name}-view');
                if (!view) return false;
                const missing = document.getElementById('{name}-missing').textContent;
                const plots = [...view.querySelectorAll('.js-plotly-plot')].filter(p => p.offsetParent);
                const drawn = plots.length && plots.every(p => p.data && p.data.length);
                return !view.hidden && (missing || drawn || '{name}' === 'take');
            }}""",
            timeout=60_000,
        )

    def wait(self, condition: str) -> None:
        """Wait until a condition of the page holds; ``text(id)`` in it is an element's text."""
        text = "const text = (id) => document.getElementById(id)?.textContent ?? '';"
        self.page.wait_for_function(f"() => {{ {text} return {condition}; }}", timeout=60_000)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is not installed: apt-get install chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Served]]:
    """Serves dashboards in threads of this process until the tests end."""
    served: list[Served] = []

    def start(*paths: Path) -> Served:
        made = open_dashboard(paths)
        threading.Thread(target=made.run, daemon=True).start()
        served.append(made)
        return made

    yield start
    for made in served:
        made.server.shutdown()
        made.close()


@pytest.fixture(scope="module")
def look(browser: Any) -> Iterator[Callable[[str], Seen]]:
    """Opens pages, and keeps what goes wrong there."""
    contexts = []

    def open_page(link: str) -> Seen:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # machines are shared
        page.add_init_script(COUNT_SCRIPTS)
        seen = Seen(page)
        page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", lambda r: seen.hosts.add(r.url.split("/")[2] if "//" in r.url else ""))
        page.goto(link)
        return seen

    yield open_page
    for context in contexts:
        context.close()

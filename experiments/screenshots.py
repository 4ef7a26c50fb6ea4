"""Pictures of the dashboard's views, light and dark, for the docs: ``python -m experiments.screenshots RUNS… -o docs/pictures``.

The first run is shown, the others are compared with it. Made of the demo's run (`make demo`).
"""

import argparse
import threading
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mpsearch.dashboard.app import NAMES
from mpsearch.dashboard.serve import open_dashboard
from mpsearch.figures.theme import template
from tests.support.browser import CHROMIUM, FLAGS

WIDTH, MOST_HEIGHT = 1100, 1500
COLOURS = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--views", nargs="*", default=NAMES)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--schemes", nargs="*", default=["light", "dark"])
    asked = parser.parse_args()
    served = open_dashboard(asked.runs)
    threading.Thread(target=served.run, daemon=True).start()
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        page = browser.new_page(viewport={"width": asked.width, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(served.link)
        for scheme in asked.schemes:
            page.emulate_media(color_scheme=scheme)
            for name in asked.views:
                look(page, name, template(dark=scheme == "dark")["layout"]["font"]["color"])
                save(page.screenshot(full_page=True), asked.out / f"dashboard_{name}_{scheme}.png")
        browser.close()
    served.server.shutdown()
    served.close()


def look(page: Page, name: str, ink: str) -> None:
    """Go to a view and wait until all of it is drawn in the colour ``ink``."""
    page.evaluate(f"window.location.hash = '#{name}'")
    page.wait_for_function(
        f"""() => {{
            const view = document.getElementById('{name}-view');
            const graphs = [...view.querySelectorAll('.dash-graph')].filter(g => g.offsetParent);
            const plots = graphs.map(g => g.querySelector('.js-plotly-plot'));
            return !view.hidden && (plots.length || view.querySelector('#take-files a')) && plots.every(
                p => p && p.data && p.data.length && p.layout.template.layout.font.color === '{ink}');
        }}"""
    )
    page.wait_for_timeout(2500)  # the graph's layout and colours


def save(png: bytes, path: Path) -> None:
    """Write the upper part of a picture in few colours: what a page of docs needs."""
    picture = Image.open(BytesIO(png)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, MOST_HEIGHT)))
    picture.quantize(COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

"""How long the exported page takes from a move of the pen to its answer, in a headless Chromium.

    python benchmarks/page.py --ckpt checkpoints/best.pt

Draws ovals with the mouse. For each picture that the browser puts on the screen while the pen
moves, it prints the median and the worst of

- worked out: the page's own work, from the ink to the last bar;
- on the screen: from the pen's move, as the browser noted it, until the picture with the answer
  has been handed over, so that waiting for the screen's next refresh is in it.

Three times: for the first strokes after loading; for the next ones; and with a pixel of the second
convolution being worked out in numbers, which is the most that the page can be asked for. Needs the
extra `dev`, and a Chromium or Chrome on the PATH.
"""

import argparse
import math
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder

from mnist_cnn import __main__ as program

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Wraps the page's own `update`, which is called once for each picture on the screen.
STOPWATCH = """() => {
    window.times = [];
    let moved = 0;
    const note = (event) => { moved = event.timeStamp; };
    for (const kind of ["pointerdown", "pointermove"]) {
        paper.addEventListener(kind, note, { capture: true });
    }
    const work = update;
    update = () => {
        const since = moved, start = performance.now();
        work();
        const end = performance.now();
        setTimeout(() => window.times.push([end - start, performance.now() - since]));
    };
}"""


def arc(x: float, y: float, width: float, height: float, start: int, end: int) -> list[list[float]]:
    """Return a part of an ellipse, in shares of the paper's side; angles in degrees, clockwise."""
    angles = [math.radians(start + (end - start) * i / 40) for i in range(41)]
    return [[x + width * math.cos(a), y + height * math.sin(a)] for a in angles]


def draw(page: Page, stroke: list[list[float]]) -> None:
    """Draw a stroke with the mouse."""
    box = page.locator("#paper").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
        page.wait_for_timeout(8)  # as often as a usual mouse reports its position
    page.mouse.up()
    page.wait_for_timeout(50)


def measure(page: Page) -> list[list[float]]:
    """Draw ovals, as large as the paper and smaller, and return the times of all answers."""
    page.evaluate("window.times = []")
    for width in (0.1, 0.15, 0.2, 0.25, 0.3):
        page.get_by_role("button", name="Clear").click()
        draw(page, arc(0.5, 0.5, width, 0.35, -90, 270))
    times: list[list[float]] = page.evaluate("window.times")
    return times


def report(name: str, times: list[list[float]]) -> None:
    """Print the median and the worst of both columns."""
    for column, kind in enumerate(("worked out", "on the screen")):
        values = [time[column] for time in times]
        median, worst = statistics.median(values), max(values)
        slow = sum(value > 16 for value in values)
        print(
            f"{name}, {kind}: median {median:.1f} ms, worst {worst:.1f} ms, "
            f"above 16 ms: {slow} of {len(values)}"
        )


def main() -> None:
    """Export the checkpoint, open the page, draw, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="checkpoints/best.pt")
    args = parser.parse_args()
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        parser.error("no Chromium was found on the PATH")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        status = program.main(["export", str(file), "--ckpt", args.ckpt])
        if status:
            raise SystemExit(status)
        print(f"{file.stat().st_size / 1e6:.2f} MB")
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=executable, args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(file.as_uri())
        page.wait_for_selector("#bars li")
        page.evaluate(STOPWATCH)
        first = measure(page)
        report("the first five strokes", first)
        report("the next five", measure(page))
        page.get_by_role("button", name="Map 1 of convolution 2", exact=True).click()
        measure(page)
        report("with a pixel in numbers", measure(page))
        browser.close()


if __name__ == "__main__":
    main()

"""How long the page of `mnist-cnn demo` takes from the end of a stroke to the changed page.

    python benchmarks/demo.py [--ckpt checkpoints/best.pt]

Draws strokes with the mouse of a headless Chromium and times each in the page itself, the network
included. Needs the extras `demo` and `dev`, and a Chromium or Chrome on the PATH.
"""

import argparse
import math
import shutil
import socket
import statistics

from playwright.sync_api import Page, sync_playwright

from mnist_cnn import checkpoint, demo
from mnist_cnn.handwriting import use_one_thread

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Notes when the pen is lifted, when the page's content changes, and when that is on the screen.
STOPWATCH = """() => {
    window.times = [];
    let lifted = null;
    document.querySelector(".paper canvas").addEventListener(
        "pointerup", () => { lifted = performance.now(); }, { capture: true });
    const observer = new MutationObserver(() => {
        if (lifted === null) return;
        const start = lifted, changed = performance.now() - start;
        lifted = null;
        requestAnimationFrame(() => setTimeout(() => {
            window.times.push([changed, performance.now() - start]);
        }));
    });
    const all = { subtree: true, childList: true, characterData: true, attributes: true };
    observer.observe(document.querySelector(".answer"), all);
    observer.observe(document.querySelector(".digits"), all);
}"""


def draw(page: Page, points: list[tuple[float, float]]) -> None:
    """Draws a stroke through points in shares of the paper's width and height."""
    box = page.locator(".paper canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def circle(x: float, y: float) -> list[tuple[float, float]]:
    """Return a closed round stroke about a centre."""
    turns = [2 * math.pi * i / 24 for i in range(25)]
    return [(x + 0.1 * math.sin(t), y - 0.25 * math.cos(t)) for t in turns]


def main() -> None:
    """Time the strokes, the first apart, and print the median and the worst."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="checkpoints/best.pt")
    parser.add_argument("--strokes", type=int, default=10)
    args = parser.parse_args()
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        parser.error("no Chromium was found on the PATH")
    with socket.socket() as probe:
        probe.bind((demo.HOST, 0))
        port = probe.getsockname()[1]
    use_one_thread()
    model = checkpoint.load(args.ckpt).build_model()
    server = demo.start(model, port, open_browser=False)

    # One, two and three digits in turn: 7, 70, 701, and a clean sheet.
    seven = [(0.1, 0.25), (0.3, 0.25), (0.18, 0.8)]
    strokes = [seven, circle(0.5, 0.5), [(0.8, 0.2), (0.79, 0.8)]]
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=executable, args=options)
        page = browser.new_page()
        page.goto(f"http://{demo.HOST}:{port}")
        page.wait_for_selector(".paper canvas")
        page.evaluate(STOPWATCH)
        for i in range(args.strokes + 1):
            if i and i % len(strokes) == 0:
                page.click(".clear")
            draw(page, strokes[i % len(strokes)])
            page.wait_for_function(f"window.times.length > {i}")
            page.wait_for_timeout(300)
        times: list[tuple[float, float]] = page.evaluate("window.times")
        browser.close()
    server.close()

    for name, column in (("changed", 0), ("on the screen", 1)):
        first, *rest = (time[column] for time in times)
        print(
            f"{name}: median {statistics.median(rest):.0f} ms, worst {max(rest):.0f} ms "
            f"of {len(rest)} strokes after the first ({first:.0f} ms)"
        )


if __name__ == "__main__":
    main()

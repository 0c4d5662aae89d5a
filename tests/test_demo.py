"""The page to draw on, in a real headless browser, and what stands behind it."""

import base64
import importlib.util
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import slow, zoom
from pictures import claiming
from PIL import Image, ImageOps

from mnist_cnn import Error, checkpoint, data, demo, predict

ANSWER = ".answer[role=status][aria-live=polite]"  # what a screen reader is told when it changes

# Strokes: points in shares of the paper's width and height.
ONE = [(0.2, 0.2), (0.2, 0.5), (0.2, 0.8)]
ZERO = [
    (0.6 + 0.12 * math.sin(math.pi * i / 8), 0.5 - 0.28 * math.cos(math.pi * i / 8))
    for i in range(17)
]


def skip_without_gradio():
    """Where gradio is not installed; where it is and does not work, the test fails."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip('needs gradio: pip install -e ".[demo]"')


def free_port():
    with socket.socket() as probe:
        probe.bind((demo.HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def model(sample_checkpoint):
    return checkpoint.load(sample_checkpoint).build_model()


@pytest.fixture(scope="module")
def connections():
    """The addresses that this process connects to."""
    return []


@pytest.fixture(scope="module")
def address(model, connections, closed_loops):
    skip_without_gradio()
    port = free_port()
    connect = socket.socket.connect

    def noted_connect(self, place):
        connections.append(place)
        return connect(self, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", noted_connect)
        server = demo.start(model, port, open_browser=False)
        yield f"http://{demo.HOST}:{port}"
        server.close()


@pytest.fixture
def open_page(browser, address):
    """A function that opens the page; whatever goes wrong in its JavaScript fails the test."""
    contexts, problems = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        page.goto(address)
        page.wait_for_selector(".digit")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def places(page, points):
    box = page.locator(".paper canvas").bounding_box()
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]


def draw(page, points):
    """A stroke of the mouse."""
    first, *rest = places(page, points)
    page.mouse.move(*first)
    page.mouse.down()
    for place in rest:
        page.mouse.move(*place)
    page.mouse.up()


def draw_with_finger(page, points):
    touch = page.context.new_cdp_session(page)
    for i, (x, y) in enumerate(places(page, points)):
        kind = "touchMove" if i else "touchStart"
        event = {"type": kind, "touchPoints": [{"x": x, "y": y}]}
        touch.send("Input.dispatchTouchEvent", event)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def status(page):
    """What the page says once it has the answer to what is on the paper."""
    page.wait_for_function("document.querySelector('.result').ariaBusy === 'false'")
    return page.locator(ANSWER).inner_text()


def number(page):
    status(page)
    return page.locator(".number").inner_text()


def bars(page):
    """For each digit found, its ten probabilities in percent, as written beside the bars."""
    rows = page.locator(".digit li > :last-child").all_inner_texts()
    values = [float(text.removesuffix(" %")) if text else 0.0 for text in rows]
    return np.array(values).reshape(-1, 10)


def seen_images(page):
    """For each digit found, the picture that is shown as the network's, (28, 28)."""
    pixels = page.evaluate("""() => [...document.querySelectorAll(".digit canvas")].map(
        (canvas) => [...canvas.getContext("2d").getImageData(0, 0, 28, 28).data])""")
    return np.array(pixels).reshape(-1, 28, 28, 4)[..., 0]


def ink_on_paper(page):
    """How many of the paper's pixels are drawn on."""
    return page.evaluate("""() => {
        const paper = document.querySelector(".paper canvas");
        const data = paper.getContext("2d").getImageData(0, 0, paper.width, paper.height).data;
        return data.filter((value, i) => i % 4 === 3 && value > 0).length;
    }""")


def sample_digit(index):
    """A test digit of the sample as a large picture, dark on light: its PNG, and its label."""
    split = data.load_split("sample", "test", "")
    picture = Image.fromarray(255 - split.images[index].numpy()).resize((560, 560), Image.BICUBIC)
    return as_png(picture), str(int(split.labels[index]))


def as_png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def upload(page, name, content):
    """Opens a file, and waits until the page says something about it."""
    before = page.locator(ANSWER).inner_text()
    kind = "application/octet-stream"
    page.set_input_files("input", {"name": name, "mimeType": kind, "buffer": content})
    page.wait_for_function(
        "([answer, before]) => document.querySelector(answer).innerText !== before",
        arg=[ANSWER, before],
    )


def hold_question(page):
    """Holds back what the page asks next: it will be in the list that this returns."""
    held = []
    page.route("**/component_server/", lambda route: held.append(route), times=1)
    return held


# ---- drawing


def test_it_names_another_digit_where_the_answer_is_doubtful(open_page, model, monkeypatch):
    page = open_page()
    draw(page, ONE)
    assert "could be" not in status(page)
    monkeypatch.setattr(model, "temperature", 10.0)
    page.get_by_role("button", name="Clear").click()
    draw(page, ONE)
    assert re.search(r"Only \d\d\.\d % sure: it could also be a \d", status(page))


def test_reads_what_is_drawn_after_each_stroke(open_page):
    page = open_page()
    assert "Nothing is drawn yet" in page.locator(ANSWER).inner_text()
    draw(page, ONE)
    assert number(page) == "1"
    probabilities = bars(page)
    assert probabilities.shape == (1, 10)
    assert probabilities.argmax() == 1 and abs(probabilities.sum() - 100) < 1
    (image,) = seen_images(page)
    rows, columns = np.nonzero(image)
    assert np.ptp(rows) == 17 and np.ptp(columns) < 6  # upright; narrow, so 18 pixels high

    draw(page, ZERO)  # a second digit beside the first
    assert number(page) == "10"
    assert "2 digits" in status(page)
    assert bars(page).argmax(1).tolist() == [1, 0]
    assert (seen_images(page).max((1, 2)) > 200).all()


def test_takes_strokes_back_and_clears_with_one_click(open_page):
    page = open_page()
    draw(page, ONE)
    draw(page, ZERO)
    assert number(page) == "10"
    page.get_by_role("button", name="Undo").click()
    assert number(page) == "1"
    draw(page, ZERO)
    assert number(page) == "10"
    page.get_by_role("button", name="Clear").click()
    assert "Nothing is drawn yet" in status(page)
    assert number(page) == "" and ink_on_paper(page) == 0
    assert bars(page).sum() == 0 and seen_images(page).sum() == 0
    draw(page, ZERO)
    assert number(page) == "0"


@pytest.mark.parametrize("press", ["Control+z", slow("Control+Z"), slow("Undo"), "Clear"])
def test_what_takes_the_stroke_away_that_is_being_drawn_ends_it(open_page, press):
    page = open_page()
    first, middle, *rest = places(page, ONE)
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*middle)
    if press.startswith("Control"):
        page.keyboard.press(press)
    else:  # by another pointer
        page.evaluate("(name) => document.querySelector(name).click()", f".{press.lower()}")
    for place in rest:
        page.mouse.move(*place)
    page.mouse.up()
    assert ink_on_paper(page) == 0
    draw(page, ZERO)
    assert number(page) == "0"


def test_an_answer_that_comes_late_is_dropped(open_page):
    page = open_page()
    page.evaluate("""() => {
        const shown = document.querySelector(".number");
        window.numbers = [];
        const note = () => window.numbers.push(shown.textContent);
        new MutationObserver(note).observe(shown, { childList: true });
    }""")
    held = hold_question(page)
    with page.expect_request("**/component_server/"):
        draw(page, ONE)
    draw(page, ZERO)
    held.pop().continue_()
    assert number(page) == "10"
    assert page.evaluate("window.numbers") == ["10"]


def test_an_answer_that_comes_late_does_not_hide_what_is_wrong_with_a_file(open_page):
    page = open_page()
    held = hold_question(page)
    with page.expect_request("**/component_server/"):
        draw(page, ONE)
    upload(page, "notes.txt", b"seven")
    held.pop().continue_()
    page.wait_for_selector(".result[aria-busy=false]")
    assert "notes.txt cannot be opened as a picture" in page.locator(ANSWER).inner_text()


@pytest.mark.parametrize("failure", ["refused", slow("busy")])
def test_a_question_that_fails_is_told_and_the_next_is_answered(open_page, failure):
    page = open_page()

    def fail(route):
        route.abort() if failure == "refused" else route.fulfill(status=503)

    page.route("**/component_server/", fail, times=1)
    draw(page, ONE)
    assert "No answer came" in status(page)
    draw(page, ZERO)
    assert number(page) == "10"


def test_a_second_pointer_does_not_spoil_a_stroke(open_page):
    page = open_page()
    first, middle, last = places(page, ONE)
    page.mouse.move(*first)
    page.mouse.down()
    page.evaluate(
        """([x, y]) => {
        const options = { pointerId: 77, pointerType: "touch", isPrimary: true, bubbles: true,
                          button: 0, clientX: x, clientY: y };
        const sheet = document.querySelector(".paper canvas");
        sheet.dispatchEvent(new PointerEvent("pointerdown", options));
        sheet.dispatchEvent(new PointerEvent("pointerup", options));
    }""",
        places(page, [(0.7, 0.5)])[0],
    )
    page.mouse.move(*middle)
    page.mouse.move(*last)
    page.mouse.up()
    assert number(page) == "1"


def test_a_finger_draws_on_a_phone(open_page):
    page = open_page(
        viewport={"width": 360, "height": 640},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=3,
    )
    draw_with_finger(page, ONE)
    assert number(page) == "1"
    draw_with_finger(page, ZERO)
    assert number(page) == "10"
    assert page.evaluate("scrollY") == 0  # the stroke did not move the page
    # No sideways scrolling, nothing cut off, and as sharp as the screen is.
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for element in page.locator(".tools > *, .paper, .digit").all():
        box = element.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    paper = page.locator(".paper canvas")
    assert paper.evaluate("canvas => Math.abs(canvas.width - 3 * canvas.clientWidth)") <= 1


def test_the_paper_stays_sharp_when_the_page_is_zoomed(open_page):
    page = open_page(viewport={"width": 1920, "height": 900})
    zoom(page)
    page.evaluate("() => new Promise(requestAnimationFrame)")
    paper = page.locator(".paper canvas")
    assert paper.evaluate("canvas => Math.abs(canvas.width - 1.5 * canvas.clientWidth)") <= 1


def test_one_digits_bars_are_long_enough_to_be_compared(open_page):
    page = open_page()
    draw(page, ONE)
    assert number(page) == "1"
    for width in (360, 480, 768, 900, 1280):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.locator(".bar").first.bounding_box()["width"] > 60


def test_the_hint_can_be_read(open_page):
    page = open_page()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        hint = page.locator(".hint").evaluate("hint => getComputedStyle(hint).color")
        paper = page.locator(".paper").evaluate("paper => getComputedStyle(paper).backgroundColor")
        assert contrast(hint, paper) > 4.5


def contrast(*colours):
    """Of two colours as CSS writes them, from 1 to 21 (WCAG 2)."""
    shares = [np.array([int(n) for n in re.findall(r"\d+", colour)]) / 255 for colour in colours]
    linear = [np.where(s <= 0.03928, s / 12.92, ((s + 0.055) / 1.055) ** 2.4) for s in shares]
    darker, lighter = sorted(rgb @ [0.2126, 0.7152, 0.0722] for rgb in linear)
    return (lighter + 0.05) / (darker + 0.05)


def shades(page, selector):
    """The darkest and the lightest grey, 0 to 255, of an element on the screen, without its rim."""
    picture = Image.open(io.BytesIO(page.locator(selector).screenshot()))
    return ImageOps.crop(picture.convert("L"), 12).getextrema()


@pytest.mark.parametrize("scheme", [slow("light"), "dark"])
def test_ink_and_bars_show_in_forced_colours(open_page, scheme):
    page = open_page(forced_colors="active", color_scheme=scheme, reduced_motion="reduce")
    draw(page, ONE)
    assert number(page) == "1"
    page.add_style_tag(content=".digit li > :not(.bar) { visibility: hidden }")
    for selector in (".paper canvas", ".digit ol"):
        darkest, lightest = shades(page, selector)
        assert lightest - darkest > 90


@pytest.mark.parametrize("button", ["right", slow(None)])
def test_only_a_pressed_first_button_draws(open_page, button):
    page = open_page()
    first, *rest = places(page, ONE)
    page.mouse.move(*first)
    if button:
        page.mouse.down(button=button)
    for place in rest:
        page.mouse.move(*place)
    if button:
        page.mouse.up(button=button)
    assert ink_on_paper(page) == 0
    assert page.locator(".hint").is_visible()
    assert page.locator(".tools button:disabled").count() == 2  # nothing to undo or clear


def test_a_click_draws_a_dot_and_what_is_drawn_stays_in_a_smaller_window(open_page):
    page = open_page()
    draw(page, [(0.7, 0.7)])
    assert ink_on_paper(page) > 100
    assert not page.locator(".hint").is_visible()
    assert page.locator(".tools button:disabled").count() == 0
    assert number(page) != ""  # this answer draws the paper anew, too
    page.set_viewport_size({"width": 320, "height": 600})
    page.wait_for_function(
        "() => { const { width, clientWidth } = document.querySelector('.paper canvas');"
        " return width === clientWidth && width < 320; }"
    )
    assert ink_on_paper(page) > 0


def test_a_stroke_may_leave_the_paper_and_come_back(open_page):
    page = open_page()
    first, last = places(page, [(0.9, 0.2), (0.9, 0.8)])
    page.mouse.move(*first)
    page.mouse.down()
    before = ink_on_paper(page)
    page.mouse.move(last[0] + 300, (first[1] + last[1]) / 2)
    page.mouse.move(*last)
    assert ink_on_paper(page) > 2 * before
    page.mouse.move(last[0] + 300, last[1])
    page.mouse.up()
    assert status(page) != "" and page.locator(".number").inner_text() != ""


def test_words_and_bars_agree(open_page, model, monkeypatch):
    page = open_page()
    monkeypatch.setattr(model, "temperature", 3.0)  # so that it is not all but sure
    draw(page, ONE)
    draw(page, ZERO)
    lines = status(page).splitlines()
    shares = bars(page)
    assert [line for line in lines if line] == [
        "10", f"2 digits, each at least {shares.max(1).min():.1f} % sure"
    ]  # fmt: skip
    assert page.locator(".likeliest").all_inner_texts() == [
        f"{digit}\n{shares[i, digit]:.1f} %" for i, digit in enumerate((1, 0))
    ]
    widths = page.locator(".bar > span").evaluate_all("all => all.map((one) => one.style.width)")
    widths = np.array([float(width.removesuffix("%")) for width in widths]).reshape(-1, 10)
    assert np.allclose(widths, shares, atol=0.051)
    labels = page.locator(".digit canvas").evaluate_all("all => all.map((one) => one.ariaLabel)")
    assert labels == ["What the network sees of the 1", "What the network sees of the 0"]
    monkeypatch.setattr(model, "temperature", 0.1)
    page.get_by_role("button", name="Undo").click()
    assert "More than 99.9 % sure" in status(page)  # and not 100.0 %
    assert page.locator(".digit").count() == 1
    draw(page, ZERO)
    assert "2 digits, each more than 99.9 % sure" in status(page)
    page.get_by_role("button", name="Clear").click()
    status(page)
    assert page.locator(".digit canvas").evaluate("one => one.ariaLabel") == "Nothing to see yet"


def boxed(page):
    """Where the frames and labels of digits are: left, top, right, bottom, in shares."""
    return page.evaluate("""() => {
        const paper = document.querySelector(".paper canvas");
        const { width, height } = paper;
        const probe = new OffscreenCanvas(1, 1).getContext("2d");
        probe.fillStyle = getComputedStyle(paper).getPropertyValue("--color-accent");
        probe.fillRect(0, 0, 1, 1);
        const accent = probe.getImageData(0, 0, 1, 1).data;
        const data = paper.getContext("2d").getImageData(0, 0, width, height).data;
        const found = [];
        for (let i = 0; i < data.length; i += 4)
            if (accent.every((value, j) => Math.abs(data[i + j] - value) < 40)) found.push(i / 4);
        if (!found.length) return null;
        const [x, y] = [found.map((i) => i % width), found.map((i) => Math.floor(i / width))];
        const ends = [Math.min(...x), Math.min(...y), Math.max(...x) + 1, Math.max(...y) + 1];
        return ends.map((end, i) => end / (i % 2 ? height : width));
    }""")


def test_several_digits_are_framed_and_a_single_one_is_not(open_page):
    page = open_page()
    draw(page, ONE)
    status(page)
    assert boxed(page) is None
    draw(page, ZERO)
    status(page)
    left, top, right, bottom = boxed(page)
    assert 0.15 < left < 0.2 and 0.72 < right < 0.78  # as wide as both
    assert 0.09 < top < 0.2 < 0.8 < bottom < 0.85  # and as high, with a label above
    page.get_by_role("button", name="Undo").click()
    status(page)
    assert boxed(page) is None


@pytest.mark.parametrize("size", [(600, 1500), slow((2000, 1000))])
def test_the_digit_in_a_photo_is_framed_where_it_is(open_page, size):
    """The photo is larger than what is sent; it is shown as large as fits, in the middle."""
    width, height = size
    picture = Image.new("L", size, "white")
    picture.paste("black", (width // 2 - 30, 400, width // 2 + 30, 800))
    page = open_page()
    upload(page, "photo.png", as_png(picture))
    assert number(page) == "1"
    left, top, right, bottom = boxed(page)
    scale = min(1 / width, 0.75 / height)
    assert (left + right) / 2 == pytest.approx(0.5, abs=0.02)
    assert right - left == pytest.approx(60 * scale, abs=0.03)
    above = (0.75 - height * scale) / 2
    assert bottom == pytest.approx((above + 800 * scale) / 0.75, abs=0.02)
    label = 16 / page.locator(".paper canvas").bounding_box()["height"]
    assert top == pytest.approx((above + 400 * scale) / 0.75 - label, abs=0.02)
    assert page.locator("input").input_value() == ""  # so that it can be chosen again
    page.get_by_role("button", name="Undo").click()
    assert "Nothing is drawn yet" in status(page) and ink_on_paper(page) == 0


def test_a_frame_at_the_top_has_its_label_below(open_page):
    picture = Image.new("L", (800, 600), "white")
    picture.paste("black", (380, 4, 420, 300))
    page = open_page()
    upload(page, "photo.png", as_png(picture))
    assert number(page) == "1"
    *_, bottom = boxed(page)
    label = 16 / page.locator(".paper canvas").bounding_box()["height"]
    assert bottom == pytest.approx(0.5 + label, abs=0.02)


# ---- photos


def test_reads_an_uploaded_picture(open_page):
    content, label = sample_digit(3)
    page = open_page()
    upload(page, "digit.png", content)
    assert number(page) == label
    draw(page, ONE)  # a stroke starts a clean sheet
    assert number(page) == "1"


def test_reads_a_pasted_picture(open_page):
    content, label = sample_digit(4)
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (text) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const blob = new Blob([bytes], { type: "image/png" });
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(content).decode(),
    )
    page.keyboard.press("Control+V")
    page.wait_for_selector(".number:not(:empty)")
    assert number(page) == label


def test_reads_a_dropped_picture(open_page):
    content, label = sample_digit(3)
    page = open_page()
    page.evaluate(
        """(text) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "digit.png", { type: "image/png" }));
            const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            document.querySelector(".note").dispatchEvent(event);
        }""",
        base64.b64encode(content).decode(),
    )
    page.wait_for_selector(".number:not(:empty)")
    assert number(page) == label


def test_says_what_is_wrong_with_a_file_and_goes_on(open_page):
    page = open_page()
    upload(page, "notes.txt", b"seven")
    assert "notes.txt cannot be opened as a picture" in page.locator(ANSWER).inner_text()
    upload(page, "blank.png", as_png(Image.new("L", (300, 200), "white")))
    assert "No ink was found" in status(page)
    draw(page, ONE)
    assert number(page) == "1"


BLANK = as_png(Image.new("L", (99, 99), "white"))
DELAYED = """() => {
    const real = window.createImageBitmap;
    window.createImageBitmap = (file) =>
        new Promise((done) => (window.decode = done)).then(() => real(file));
}"""


@pytest.mark.parametrize(
    ("then", "content"),
    [("draw", BLANK), ("Clear", b"no picture"), ("Undo", BLANK)],
    ids=["drawn", "cleared", "undone"],
)
def test_a_file_that_is_opened_late_does_not_replace_what_came_after_it(open_page, then, content):
    page = open_page()
    draw(page, ONE)
    draw(page, ONE)
    status(page)
    page.evaluate(DELAYED)
    page.set_input_files("input", {"name": "x", "mimeType": "image/png", "buffer": content})
    page.wait_for_function("!!window.decode")
    if then == "draw":
        draw(page, ZERO)
    else:
        page.get_by_role("button", name=then).click()
    before = status(page)
    page.evaluate(
        "async () => { window.decode(); await new Promise((go) => setTimeout(go, 100)); }"
    )
    assert status(page) == before


def test_the_answer_to_a_photo_is_dropped_where_a_stroke_has_replaced_it(open_page):
    page = open_page()
    held = hold_question(page)
    content, _ = sample_digit(3)
    with page.expect_request("**/component_server/"):
        file = {"name": "digit.png", "mimeType": "image/png", "buffer": content}
        page.set_input_files("input", file)
    assert page.locator(".result").get_attribute("aria-busy") == "true"
    first, *rest = places(page, ONE)
    page.mouse.move(*first)
    page.mouse.down()
    with page.expect_response("**/component_server/"):
        held.pop().continue_()
    assert number(page) == ""
    for place in rest:
        page.mouse.move(*place)
    page.mouse.up()
    assert number(page) == "1"


def test_a_file_of_more_than_50_mb_is_not_opened(open_page):
    page = open_page()
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            const files = [new File(["x"], "large.png")];
            Object.defineProperty(files[0], "size", { value: 50e6 + 1 });
            window.createImageBitmap = () => new Promise(() => {}); // and then no word comes
            const event = new DragEvent("drop", { bubbles: true, cancelable: true });
            Object.defineProperty(event, "dataTransfer", { value: { files } });
            document.body.dispatchEvent(event);
        }"""
    )
    page.wait_for_function("document.querySelector('.comment').innerText.includes('large.png')")


def test_text_that_is_dropped_or_pasted_does_nothing(open_page):
    page = open_page()
    draw(page, ONE)
    before = status(page)
    prevented = page.evaluate("""() => ["dragover", "drop", "paste"].map((kind) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.setData("text/plain", "seven");
        const options = { bubbles: true, cancelable: true };
        const event = kind === "paste"
            ? new ClipboardEvent(kind, { ...options, clipboardData: dataTransfer })
            : new DragEvent(kind, { ...options, dataTransfer });
        document.body.dispatchEvent(event);
        return event.defaultPrevented;
    })""")
    assert prevented == [True, True, False]  # or the browser would leave the page for the file
    assert status(page) == before


def test_the_paper_shows_that_something_can_be_dropped(open_page):
    page = open_page()
    over = page.evaluate("""() => ["dragover", "dragleave", "dragover", "drop"].map((kind) => {
        const event = new DragEvent(kind, { dataTransfer: new DataTransfer(), bubbles: true });
        document.body.dispatchEvent(event);
        return document.querySelector(".paper").classList.contains("over");
    })""")
    assert over == [True, False, True, False]


# ---- the server


def test_nothing_is_asked_from_elsewhere(browser, address, connections):
    asked = []
    context = browser.new_context()
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".digit")
    draw(page, ONE)
    assert number(page) == "1"
    page.wait_for_timeout(500)
    context.close()
    assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked), asked
    network = {place[0] for place in connections if isinstance(place, tuple)}
    assert network <= {demo.HOST}


def test_a_busy_port_is_told_before_anything_is_loaded(monkeypatch):
    with socket.socket() as other:
        other.bind((demo.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__spec__=SimpleNamespace()))
        with pytest.raises(Error, match=rf"^port {port} cannot be used .*--port$"):
            demo.check(port)


def test_missing_or_old_gradio_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(Error, match=re.escape('pip install -e ".[demo]"')):
        demo.check(free_port())
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="5.49.1"))
    with pytest.raises(
        Error, match=r"gradio 5\.49\.1 is too old: update it with pip install -U gradio"
    ):
        demo.build_page(lambda url: {})
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="6.7.0"))
    with pytest.raises(AttributeError):  # new enough: it is asked for more than its version
        demo.build_page(lambda url: {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks5h://127.0.0.1:1080"), slow("GRADIO_SERVER_PORT", "a word")],
)
def test_settings_that_gradio_chokes_on_do_not_matter(name, value, tmp_path):
    """A process of its own: gradio looks at them when it is imported."""
    code = (
        "import os; from mnist_cnn.demo import build_page, load_gradio, without_settings\n"
        "with without_settings():\n    load_gradio(); build_page(print)\n"
        f"print(os.environ[{name!r}])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(demo.__file__).parents[2],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout) == (0, f"{value}\n"), process.stderr


def test_a_gradio_that_cannot_be_loaded_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(Error, match=r"gradio cannot be loaded .*: try pip install -U gradio"):
        demo.load_gradio()


def test_a_server_that_does_not_start_is_told(model, closed_loops, monkeypatch):
    skip_without_gradio()
    import uvicorn

    port = free_port()
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    with pytest.raises(Error, match="does not start: try pip install -U gradio uvicorn"):
        demo.start(model, port, open_browser=True)
    demo.check(port)  # it is free again


def test_a_server_that_ends_by_itself_is_told(monkeypatch):
    closed = []
    page = SimpleNamespace(
        thread=SimpleNamespace(is_alive=lambda: False), close=lambda: closed.append(True)
    )
    monkeypatch.setattr(demo, "start", lambda *args, **options: page)
    with pytest.raises(Error, match="has stopped by itself: start it again"):
        demo.serve(None, 7860)
    assert closed


def get_page(port):
    """The beginning of what the server answers to whoever asks for the page."""
    with socket.create_connection((demo.HOST, port), timeout=30) as asking:
        asking.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        return asking.recv(1024)


@pytest.fixture
def interruptible():
    """A program started here hears Ctrl-C, even if whoever runs the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C cannot be sent to a process here")
@pytest.mark.parametrize("screen", [False, True])
def test_serves_until_ctrl_c_in_this_process(
    sample_checkpoint, cli, interruptible, closed_loops, monkeypatch, screen
):
    skip_without_gradio()
    port = free_port()
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody is there, and none is needed
    opened, pages = [], []
    monkeypatch.setattr(demo, "has_screen", lambda: screen)
    monkeypatch.setattr(webbrowser, "open", opened.append)

    def look_and_press_ctrl_c(seconds):
        """What happens while the program waits for somebody to end it."""
        time.sleep(0.01)
        if seconds == 1:  # not while the server starts
            pages.append(get_page(port))
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo, "time", SimpleNamespace(sleep=look_and_press_ctrl_c))
    outcome = cli("demo", "--ckpt", sample_checkpoint, "--port", port)
    (first,) = pages
    assert first.startswith(b"HTTP/1.1 200 ")
    line, *rest = outcome.err.splitlines()
    assert line.startswith(f"draw at http://127.0.0.1:{port} ")
    assert (outcome.status, outcome.out, rest) == (130, "", ["", "interrupted"])
    assert opened == [f"http://127.0.0.1:{port}"] * screen
    demo.check(port)  # it is free again


def test_a_port_that_is_taken_meanwhile_is_told(model):
    skip_without_gradio()
    with socket.socket() as other:
        other.bind((demo.HOST, 0))
        other.listen()
        with pytest.raises(Error, match="is in use: choose another one with --port"):
            demo.start(model, other.getsockname()[1], open_browser=False)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C cannot be sent to a process here")
def test_serves_until_ctrl_c(sample_checkpoint, start_program, interruptible):
    skip_without_gradio()
    port = free_port()
    process = start_program(
        "demo", "--ckpt", sample_checkpoint, "--port", port,
        HTTP_PROXY="http://127.0.0.1:9",  # nobody is there, and none is needed
        SSH_CONNECTION="elsewhere",  # so that no browser is opened
    )  # fmt: skip
    assert process.stderr.readline().startswith(f"draw at http://127.0.0.1:{port} ")
    assert get_page(port).startswith(b"HTTP/1.1 200 ")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "\ninterrupted\n")
    demo.check(port)  # it is free again


# ---- the answer by itself


def as_url(png):
    return demo.PREFIX + base64.b64encode(png).decode()


def test_the_answer_is_plain_values(model):
    content, label = sample_digit(3)
    answer = demo.make_answer(model)(as_url(content))
    answer = json.loads(json.dumps(answer))
    assert answer["number"] == label
    (digit,) = answer["digits"]
    assert digit["digit"] == int(label)
    assert len(digit["probabilities"]) == 10 and abs(sum(digit["probabilities"]) - 1) < 1e-5
    assert np.shape(digit["image"]) == (28, 28)
    assert len(digit["box"]) == 4
    assert digit["doubtful"] is (max(digit["probabilities"]) < predict.SURE)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (None, "not a picture"),
        (["data:image/png;base64,"], "not a picture"),
        ({"path": __file__}, "not a picture"),
        (__file__, "not a picture"),
        (f"file://{__file__}", "not a picture"),
        ("data:image/svg+xml;base64,AAAA", "not a picture"),
        (demo.PREFIX, "damaged"),
        (demo.PREFIX + __file__, "damaged"),
        (demo.PREFIX + "not base64, é", "damaged"),
        (as_url(b"GIF89a"), "damaged"),
        (as_url(as_png(Image.effect_noise((90, 90), 50))[:2000]), "damaged"),
        (demo.PREFIX + "A" * demo.MAX_LENGTH, "too large"),
        (demo.PREFIX.ljust(demo.MAX_LENGTH, "A"), "damaged"),
        (as_url(as_png(Image.new("1", (demo.MAX_SIDE, 1)))), "no ink"),
        (as_url(as_png(Image.new("1", (demo.MAX_SIDE + 1, 1)))), "too large"),
        (as_url(claiming(9_000, 9_000)), "too large"),
        (as_url(claiming(60_000, 60_000)), "too large"),
        (as_url(as_png(Image.new("L", (1, 1)))), "no ink"),
        (as_url(as_png(Image.new("RGBA", (300, 200)))), "no ink"),
    ],
)
def test_bad_data_is_an_error_in_the_answer(model, url, problem, recwarn):
    answer = demo.make_answer(model)(url)
    assert set(answer) == {"error"} and re.search(problem, answer["error"], re.IGNORECASE)


def test_opens_a_browser_only_where_it_can_be_seen(monkeypatch):
    for name in ("SSH_CONNECTION", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert not demo.has_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    assert demo.has_screen()
    monkeypatch.setenv("SSH_CONNECTION", "there")
    assert not demo.has_screen()
    monkeypatch.delenv("SSH_CONNECTION")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert demo.has_screen()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert demo.has_screen()

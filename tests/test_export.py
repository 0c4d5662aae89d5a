"""The network in a page, in a real headless browser, and in ONNX."""

import dataclasses
import io
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome, slow, zoom
from numpy.typing import NDArray
from PIL import Image

from mnist_cnn import checkpoint, export, handwriting
from mnist_cnn.__main__ import main
from mnist_cnn.data import load_split
from mnist_cnn.model import CNN
from mnist_cnn.recipes import BEST

LARGEST = 1_500_000  # bytes that a page may have

Points = list[tuple[float, float]]


# ------------------------------------------------------------------------------ the networks


def write_checkpoint(
    path: Path, like: Path, channels: tuple[int, int], hidden: int, dataset: str = "sample"
) -> Path:
    """An untrained network of other sizes, as if it had been trained."""
    trained = checkpoint.load(like)
    recipe = dataclasses.replace(BEST, channels=channels, hidden=hidden)
    plan = dataclasses.replace(trained.plan, recipe=recipe, dataset=dataset)
    weights = CNN(**plan.model_args).state_dict()
    checkpoint.save(path, checkpoint.Trained(plan, trained.metrics, weights))
    return path


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with the sizes of the recipe best."""
    folder = tmp_path_factory.mktemp("wide")
    options = "train --dataset sample --recipe best --epochs 2 --device cpu --quiet"
    assert main([*options.split(), "--out-dir", str(folder)]) == 0
    return folder / "best.pt"


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """100 of the sample's test digits, float (100, 1, 28, 28) in [0, 1]."""
    images = load_split("sample", "test", "").images
    return images[::10].reshape(100, 1, 28, 28).float() / 255


def logits_of(ckpt: Path, images: torch.Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = checkpoint.load(ckpt).build_model()(images).numpy()
    return logits


# ------------------------------------------------------------------------------ the command


def test_writes_a_page_and_prints_its_name(
    cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = cli("export", "pages/digits.html", "--ckpt", sample_checkpoint)
    assert (outcome.status, outcome.out, outcome.err) == (0, "pages/digits.html\n", "")
    assert [file.name for file in (tmp_path / "pages").iterdir()] == ["digits.html"]
    page = (tmp_path / "pages" / "digits.html").read_text("utf-8")
    assert len(page.encode()) < LARGEST == export.LARGEST
    assert page.startswith("<!doctype html>") and "{{" not in page
    assert "215,194" not in page  # the page counts them itself
    assert not any(other in page for other in ("http:", "https:", "import ", "src=", "@import"))


@pytest.mark.parametrize("name", ["page.htm", "page", "page.pt", ".html", "page.html/"])
def test_other_endings_are_refused(
    cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
        outcome = cli("export", name, "--ckpt", sample_checkpoint)
        outcome.assert_refused("page.html", "folder")
    else:
        outcome = cli("export", name, "--ckpt", sample_checkpoint)
        outcome.assert_refused(name, ".html", ".onnx")
        assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_or_a_folder_that_cannot_be_are_told(
    cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path
) -> None:
    cli("export", "page.html").assert_refused("checkpoints/best.pt", "train")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    cli("export", "file/page.html", "--ckpt", sample_checkpoint).assert_refused("file", "cannot")


def test_a_network_that_reads_no_digits_has_no_page(
    cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path
) -> None:
    clothes = write_checkpoint(tmp_path / "c.pt", sample_checkpoint, (2, 2), 8, "fashion-mnist")
    outcome = cli("export", "page.html", "--ckpt", clothes)
    outcome.assert_refused("c.pt", "fashion-mnist", "digits", ".onnx")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(("largest", "hidden"), [(120_000, 40), slow(LARGEST, 576)])
def test_a_network_too_wide_for_a_page_is_refused(
    largest: int, hidden: int, cli: Callable[..., Outcome], sample_checkpoint: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(export, "LARGEST", largest)
    wide = write_checkpoint(tmp_path / "wide.pt", sample_checkpoint, BEST.channels, hidden)
    cli("export", "page.html", "--ckpt", wide).assert_refused("too many weights", ".onnx")
    assert not (tmp_path / "page.html").exists()


# ------------------------------------------------------------------------------ ONNX


def test_onnx_gives_the_same_logits_for_batches_of_any_size(
    cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnx", reason='needs onnx: pip install -e ".[onnx]"')
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    outcome = cli("export", "net.onnx", "--ckpt", sample_checkpoint)
    assert (outcome.status, outcome.out, outcome.err) == (0, "net.onnx\n", "")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    session = runtime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape[1:]) == ("images", [1, 28, 28])
    assert (logits.name, logits.shape[1:]) == ("logits", [10])
    test = load_split("sample", "test", "").images.reshape(-1, 1, 28, 28).float() / 255
    for size in (1, 7, 250):
        (result,) = session.run(["logits"], {"images": test[:size].numpy()})
        np.testing.assert_allclose(result, logits_of(sample_checkpoint, test[:size]), atol=1e-3)
        assert result.shape == (size, 10)


def test_onnx_of_another_data_set_names_its_classes(
    cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason='needs onnx: pip install -e ".[onnx]"')
    clothes = write_checkpoint(tmp_path / "c.pt", sample_checkpoint, (2, 2), 8, "fashion-mnist")
    assert cli("export", "clothes.ONNX", "--ckpt", clothes).status == 0
    (facts,) = onnx.load("clothes.ONNX").metadata_props
    assert facts.key == "classes" and '"Ankle boot"' in facts.value


def test_without_the_package_onnx_is_told_in_a_line(
    cli: Callable[..., Outcome], sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    outcome = cli("export", "net.onnx", "--ckpt", sample_checkpoint)
    outcome.assert_refused('pip install -e ".[onnx]"')


# ------------------------------------------------------------------------------ the page


@pytest.fixture
def open_page(
    browser: Any, cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Exports a checkpoint and opens the page. It must ask for nothing, and nothing go wrong."""
    contexts, problems, requests = [], [], []
    address = (tmp_path / "page.html").as_uri()

    def open_page(ckpt: Path = sample_checkpoint, **options: Any) -> Any:
        assert cli("export", "page.html", "--ckpt", ckpt).status == 0
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.wait_for_selector("#bars li")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert [url for url in requests if url != address and not url.startswith("data:")] == []


def draw(page: Any, *strokes: Points) -> None:
    """Strokes of the mouse, through points in shares of the paper's side."""
    box = page.locator("#paper").bounding_box()
    for stroke in strokes:
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place)
        page.mouse.up()
    settle(page)


def settle(page: Any) -> None:
    """Waits until what was drawn has been answered."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def answer(page: Any) -> str:
    text: str = page.locator("#digit").inner_text()
    return text


def seen(page: Any) -> NDArray[np.float64]:
    """The picture that the network was given, (28, 28), 0 to 255."""
    return 255 * np.array(page.evaluate("Array.from(shown.image)")).reshape(28, 28)


def numbers(cells: Any) -> NDArray[np.float64]:
    """The numbers written in elements of the page."""
    return np.array([float(text.replace("−", "-")) for text in cells.all_inner_texts()])


def scaled(strokes: list[Points], scale: float, x: float = 0.5, y: float = 0.5) -> list[Points]:
    """The drawing at another size, in another place."""
    return [[(x + scale * (a - 0.5), y + scale * (b - 0.5)) for a, b in one] for one in strokes]


def curve(x: float, y: float, width: float, height: float, start: int, end: int) -> Points:
    """A part of an ellipse; angles in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / 20) for i in range(21)]
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


DRAWINGS: dict[str, list[Points]] = {
    "0": [curve(0.5, 0.5, 0.2, 0.33, -60, 300)],
    "1": [[(0.53, 0.15), (0.5, 0.5), (0.47, 0.85)]],
    "2": [[*curve(0.5, 0.33, 0.2, 0.16, -160, 50), (0.27, 0.82), (0.75, 0.8)]],
    "3": [[*curve(0.48, 0.33, 0.2, 0.17, -140, 90), *curve(0.48, 0.67, 0.22, 0.17, -90, 140)]],
    "4": [[(0.36, 0.18), (0.3, 0.54), (0.72, 0.52)], [(0.64, 0.2), (0.6, 0.86)]],
    "5": [[(0.36, 0.2), (0.34, 0.47), *curve(0.46, 0.64, 0.22, 0.19, -110, 150)],
          [(0.36, 0.2), (0.7, 0.18)]],
    "6": [[(0.62, 0.14), (0.45, 0.32), *curve(0.5, 0.66, 0.19, 0.19, 200, -150)]],
    "7": [[(0.27, 0.2), (0.73, 0.2), (0.55, 0.5), (0.45, 0.85)]],
    "8": [[*curve(0.5, 0.32, 0.16, 0.16, 80, -260), *curve(0.5, 0.67, 0.19, 0.18, -80, 260)]],
    "9": [[*curve(0.48, 0.35, 0.17, 0.18, -20, -360), (0.65, 0.35), (0.63, 0.6), (0.55, 0.86)]],
}  # fmt: skip


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["sample", slow("wide")])
def test_its_logits_are_those_of_pytorch(
    open_page: Callable[..., Any],
    sample_checkpoint: Path,
    wide_checkpoint: Path,
    digits: torch.Tensor,
    tmp_path: Path,
    kind: str,
) -> None:
    ckpt = sample_checkpoint if kind == "sample" else wide_checkpoint
    page = open_page(ckpt)
    assert (tmp_path / "page.html").stat().st_size < LARGEST
    logits = page.evaluate(
        "images => images.map(image => [...run(network, Float32Array.from(image)).logits])",
        digits.reshape(100, 784).tolist(),
    )
    expected = logits_of(ckpt, digits)
    assert np.abs(expected).max() > 5  # so that a thousandth is a small part of them
    np.testing.assert_allclose(np.array(logits), expected, rtol=0, atol=1e-3)


@pytest.mark.browser
def test_its_probabilities_are_at_the_networks_temperature(
    open_page: Callable[..., Any], sample_checkpoint: Path, digits: torch.Tensor, tmp_path: Path
) -> None:
    trained = dataclasses.replace(checkpoint.load(sample_checkpoint), temperature=2.5)
    checkpoint.save(tmp_path / "hot.pt", trained)
    page = open_page(tmp_path / "hot.pt")
    assert "divided by 2.50, this network" in page.locator("#stage-output + p").inner_text()
    shown = page.evaluate(
        "images => images.map(image => [...run(network, Float32Array.from(image)).probabilities])",
        digits.reshape(100, 784).tolist(),
    )
    expected = torch.from_numpy(logits_of(tmp_path / "hot.pt", digits) / 2.5).softmax(1).numpy()
    np.testing.assert_allclose(np.array(shown), expected, rtol=0, atol=1e-4)


@pytest.mark.browser
def test_it_tells_no_temperature_where_none_was_fitted(
    open_page: Callable[..., Any], sample_checkpoint: Path, tmp_path: Path
) -> None:
    trained = dataclasses.replace(checkpoint.load(sample_checkpoint), temperature=1.0)
    checkpoint.save(tmp_path / "old.pt", trained)
    shown = open_page(tmp_path / "old.pt").locator("#stage-output + p").inner_text()
    assert shown.strip().endswith("divided by the sum of all ten.")


@pytest.mark.browser
@pytest.mark.parametrize("every", [4, slow(1)])
def test_it_and_predict_agree_on_what_the_mouse_draws(
    open_page: Callable[..., Any],
    cli: Callable[..., Outcome],
    sample_checkpoint: Path,
    tmp_path: Path,
    every: int,
) -> None:
    """Of the ten digits in three sizes, every fourth or all."""
    page = open_page()
    page.evaluate("document.querySelector('.paper').style.borderRadius = 0")
    # At full size the pen is thin for MNIST, at a third of it thick: strokes are mended.
    sizes = {"large": (1.0, 0.5, 0.5), "middle": (0.6, 0.4, 0.55), "small": (0.35, 0.7, 0.3)}
    answers, differences = {}, []
    for digit, size in list(itertools.product(DRAWINGS, sizes))[::every]:
        page.get_by_role("button", name="Clear").click()
        draw(page, *scaled(DRAWINGS[digit], *sizes[size]))
        file = tmp_path / f"{digit}-{size}.png"
        page.locator("#paper").screenshot(path=file)
        answers[file.name] = answer(page)
        prepared = handwriting.prepare(handwriting.read_picture(file)).image
        # Where a digit's centre is half a pixel off, either neighbour may be taken.
        image, shifts = seen(page), itertools.product((-1, 0, 1), repeat=2)
        shifted = [np.roll(image, shift, (0, 1)) for shift in shifts]
        differences.append(min(np.abs(picture - prepared).mean() for picture in shifted))
    assert np.median(differences) < 1.5 and max(differences) < 12, differences  # of 255
    outcome = cli("predict", *sorted(tmp_path.glob("*.png")), "--ckpt", sample_checkpoint)
    lines = (line.split(": ") for line in outcome.out.splitlines())
    assert {Path(file).name: text[0] for file, text in lines} == answers
    right = sum(name.startswith(read) for name, read in answers.items())
    assert right >= 0.9 * len(answers) - 1, answers


@pytest.mark.browser
def test_it_answers_while_the_pen_moves_and_clears(open_page: Callable[..., Any]) -> None:
    page = open_page()
    assert answer(page) == "?" and page.locator(".hint").is_visible()
    box = page.locator("#paper").bounding_box()
    (stroke,) = DRAWINGS["7"]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
    page.mouse.move(*places[0])
    page.mouse.down()
    ink = []
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
        settle(page)
        ink.append(float(seen(page).sum()))
        assert answer(page) in "0123456789"
    assert len(set(ink)) == 3  # each time another picture, with the button still down
    assert page.get_by_role("status").inner_text() == "The paper is blank."
    page.mouse.up()
    settle(page)
    assert answer(page) == "7"
    assert page.get_by_role("status").inner_text().startswith("The network reads a 7, ")
    texts = page.locator("#bars li > :nth-child(3)").all_inner_texts()
    shares = [float(text.removesuffix(" %")) for text in texts]
    assert len(shares) == 10 and abs(sum(shares) - 100) < 1 and max(shares) == shares[7]
    page.get_by_role("button", name="Clear").click()
    assert answer(page) == "?" and page.evaluate("shown") is None
    assert page.evaluate("readInk().data.some((value) => value)") is False


@pytest.mark.browser
@pytest.mark.parametrize(("convolution", "products"), [slow(1, "25"), (2, "216")])
def test_a_tapped_map_shows_its_filter_the_patch_and_the_sum(
    open_page: Callable[..., Any], sample_checkpoint: Path, convolution: int, products: str
) -> None:
    page = open_page()
    draw(page, *DRAWINGS["3"])
    side = 12 if convolution == 1 else 5
    model = checkpoint.load(sample_checkpoint).build_model()
    layer = model.conv1 if convolution == 1 else model.conv2
    for f, x, y in ((4, 0, 0), (11, side // 2, side // 3), (23, side - 1, side // 2)):
        name = f"Map {f + 1} of convolution {convolution}"
        target = page.get_by_role("button", name=name, exact=True)
        target.scroll_into_view_if_needed()
        size = target.bounding_box()["width"]
        target.click(position={"x": (x + 0.5) * size / side, "y": (y + 0.5) * size / side})
        inspector = page.get_by_role("region", name="One pixel worked out")
        text = inspector.inner_text()
        assert f"Map {f + 1}, row {y + 1}, column {x + 1}" in text
        assert f"All {products} products" in text
        # The sum in words is the map's pixel, or negative where that is 0.
        value = page.evaluate(f"shown.maps{convolution}[({f} * {side} + {y}) * {side} + {x}]")
        (total,) = numbers(inspector.locator(".total strong").first)
        assert max(0, total) == pytest.approx(value, abs=0.006)
        patch, weights, product = (
            numbers(inspector.locator(f"{table} td")) for table in (".patch", ".filter", ".product")
        )
        channel = 0
        if convolution == 2:  # the channel that adds most is shown in numbers
            pressed = inspector.locator(".channels [aria-pressed=true]")
            channel = int(pressed.get_attribute("aria-label").split()[1]) - 1
            parts = numbers(inspector.locator(".channels span"))
            assert len(parts) == 24 and abs(parts[channel]) == abs(parts).max()
            assert parts.sum() + layer.bias[f].item() == pytest.approx(total, abs=0.15)
        np.testing.assert_allclose(weights, layer.weight[f, channel].detach().flatten(), atol=0.006)
        np.testing.assert_allclose(product, patch * weights, atol=0.03)


@pytest.mark.browser
def test_a_dot_leaves_ink(open_page: Callable[..., Any]) -> None:
    page = open_page()
    draw(page, [(0.5, 0.5)])
    assert answer(page) in "0123456789"


@pytest.mark.browser
def test_a_page_that_a_browser_saved_in_use_works(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_page()
    before = page.locator("body").inner_html()
    draw(page, *DRAWINGS["3"])
    page.get_by_role("button", name="Map 6 of convolution 2", exact=True).click()
    (tmp_path / "page.html").write_text(page.content(), "utf-8")
    page.reload()
    page.wait_for_function("!document.querySelector('.hint').hidden")
    for part in ("<button", "<canvas", 'class="inspector"'):
        assert page.locator("body").inner_html().count(part) == before.count(part)
    draw(page, *DRAWINGS["4"])
    assert answer(page) == "4"


@pytest.mark.browser
def test_its_bars_show_in_forced_colours(open_page: Callable[..., Any]) -> None:
    page = open_page(forced_colors="active")
    draw(page, *DRAWINGS["7"])
    page.add_style_tag(content="#bars span:not(.bar) { visibility: hidden }")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        picture = Image.open(io.BytesIO(page.locator("#bars").screenshot())).convert("RGB")
        colours = {colour for _, colour in picture.getcolors(1 << 24)}
        assert (213, 94, 0) in colours  # of the likeliest


@pytest.mark.browser
def test_a_dark_page_is_printed_dark_on_light(open_page: Callable[..., Any]) -> None:
    page = open_page(color_scheme="dark")
    ink = "getComputedStyle(document.querySelector('h2')).color"
    on_screen = page.evaluate(ink)
    page.emulate_media(media="print")
    assert max(map(int, re.findall(r"\d+", page.evaluate(ink)))) < 100
    assert min(map(int, re.findall(r"\d+", on_screen))) > 150


@pytest.mark.browser
def test_a_browser_that_is_too_old_is_told_where_it_can_be_read(
    browser: Any, cli: Callable[..., Outcome], sample_checkpoint: Path, tmp_path: Path
) -> None:
    assert cli("export", "page.html", "--ckpt", sample_checkpoint).status == 0
    with browser.new_context(viewport={"width": 360, "height": 640}) as context:
        page = context.new_page()
        page.add_init_script("delete window.DecompressionStream")
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function("document.body.innerText.includes('too old')", timeout=30_000)
        assert "too old" in page.get_by_role("alert").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") == 360  # nothing is cut off


@pytest.mark.browser
def test_nothing_is_cut_off_where_letters_are_large(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 360, "height": 640})
    page.get_by_role("button", name="Draw a 7").click()
    for size in ("125%", "150%"):
        page.add_style_tag(content=f":root {{ font-size: {size} }}")
        paper, clear = page.locator(".paper").bounding_box(), page.locator("#clear").bounding_box()
        assert clear["x"] + clear["width"] <= paper["x"] + paper["width"]


@pytest.mark.browser
def test_a_stroke_ends_with_its_button(open_page: Callable[..., Any]) -> None:
    page = open_page()
    box = page.locator("#paper").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    page.mouse.move(x + 0.3 * side, y + 0.2 * side)
    page.mouse.down()
    page.mouse.move(x + 0.3 * side, y + 0.7 * side)
    page.mouse.down(button="right")
    page.mouse.up()
    page.mouse.move(x + 0.8 * side, y + 0.7 * side)
    page.mouse.up(button="right")
    settle(page)
    assert answer(page) == "1"


@pytest.mark.browser
def test_the_paper_stays_sharp_when_the_page_is_zoomed(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 1920, "height": 900})
    zoom(page)
    settle(page)
    paper = page.locator("#paper")
    assert paper.evaluate("canvas => Math.abs(canvas.width - 1.5 * canvas.clientWidth)") <= 1


@pytest.mark.browser
def test_its_bars_begin_below_one_another(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 360, "height": 640})
    page.get_by_role("button", name="Draw a 7").click()
    assert len({bar.bounding_box()["x"] for bar in page.locator("#bars .bar").all()}) == 1


@pytest.mark.browser
def test_it_can_be_used_by_keyboard(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.get_by_role("button", name="Draw a 4").focus()
    page.keyboard.press("Enter")
    assert answer(page) == "4"
    page.get_by_role("button", name="Map 3 of convolution 1", exact=True).focus()
    page.keyboard.press("Space")
    where = page.locator(".where strong")
    before = where.inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert where.inner_text() != before
    page.get_by_role("button", name="Clear").focus()
    page.keyboard.press("Enter")
    assert answer(page) == "?"
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, [role=img]")].filter(
        (one) => !one.getAttribute("aria-label") && !one.textContent.trim()).length""")
    assert unnamed == 0


@pytest.mark.browser
def test_its_own_examples_are_read_and_the_pen_replaces_them(open_page: Callable[..., Any]) -> None:
    page = open_page()
    read = ""
    for digit in range(10):
        page.get_by_role("button", name=f"Draw a {digit}").click()
        read += answer(page)
    assert sum(a == b for a, b in zip(read, "0123456789")) >= 9, read
    draw(page, *DRAWINGS["1"])
    assert answer(page) == "1"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", [slow("light"), "dark"])
def test_a_finger_draws_on_a_phone(open_page: Callable[..., Any], scheme: str) -> None:
    page = open_page(
        viewport={"width": 360, "height": 640},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=3,
        color_scheme=scheme,
    )
    touch = page.context.new_cdp_session(page)
    box = page.locator("#paper").bounding_box()
    (stroke,) = DRAWINGS["2"]
    for i, (x, y) in enumerate(stroke):
        point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        kind = "touchMove" if i else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(page)
    assert answer(page) == "2"
    assert page.evaluate("scrollY") == 0  # the stroke did not move the page
    page.get_by_role("button", name="Map 9 of convolution 2", exact=True).tap()
    assert page.evaluate("document.documentElement.scrollWidth") == 360  # no sideways scrolling
    paper = page.locator("#paper")
    assert paper.evaluate("canvas => Math.abs(canvas.width - 3 * canvas.clientWidth)") <= 3
    text, ground = page.evaluate("""() => {
        const { color, backgroundColor } = getComputedStyle(document.body);
        return [color, backgroundColor].map((text) => Number(/\\d+/.exec(text)[0]));
    }""")
    assert (text > 200 > 50 > ground) if scheme == "dark" else (text < 50 < 200 < ground)


# ------------------------------------------------------------------------------ what it shows


def colours_of(page: Any, canvases: str) -> NDArray[np.float64]:
    """Red, green and blue of every pixel of some canvases of one size, (canvases, pixels, 3)."""
    values = page.evaluate(
        """(canvases) => [...document.querySelectorAll(canvases)].map((one) => {
            const copy = new OffscreenCanvas(one.width, one.height).getContext("2d");
            copy.drawImage(one, 0, 0);
            return [...copy.getImageData(0, 0, one.width, one.height).data];
        })""",
        canvases,
    )
    return np.array(values, float).reshape(len(values), -1, 4)[..., :3]


@pytest.mark.browser
def test_its_pictures_show_the_numbers(open_page: Callable[..., Any]) -> None:
    """On one scale for all maps of a layer: black is 0, white the largest number."""
    page = open_page()
    draw(page, *DRAWINGS["5"])
    (picture,) = colours_of(page, "#input canvas")
    np.testing.assert_allclose(picture.mean(1), seen(page).ravel(), atol=0.6)
    assert (picture.max(1) == picture.min(1)).all()
    for name, canvases in (
        ("maps1", "#maps1 canvas"), ("maps2", "#maps2 canvas"), ("hidden", "#hidden canvas"),
    ):  # fmt: skip
        values = np.array(page.evaluate(f"Array.from(shown.{name})"))
        colours = colours_of(page, canvases).reshape(-1, 3)[: len(values)]
        shares = np.rint(255 * values / values.max()) / 255
        # Up to a half, ever more blue; from there on, ever more white.
        blue = np.array([0, 114, 178])
        to_white = (2 * shares[:, None] - 1) * (255 - blue) + blue
        expected = np.where(shares[:, None] < 0.5, 2 * shares[:, None] * blue, to_white)
        np.testing.assert_allclose(colours, expected, atol=1.01, err_msg=name)
    page.get_by_role("button", name="Clear").click()
    assert not any(
        colours_of(page, canvases).any()
        for canvases in ("#input canvas", "#maps1 canvas", "#maps2 canvas", "#hidden canvas")
    )


@pytest.mark.browser
def test_its_words_are_those_of_the_network(open_page: Callable[..., Any]) -> None:
    text = open_page().locator("body").inner_text()
    for words in (
        "The network has 215,194 weights and was trained on a sample of MNIST.",
        "24 filters of 5×5 → 24 maps of 12×12", "32 filters of 24×3×3 → 32 maps of 5×5",
        "256 sums of all 800 pixels above",
    ):  # fmt: skip
        assert words in text


@pytest.mark.browser
def test_bars_and_words_tell_the_same_answer(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.evaluate("network.temperature = 4")  # so that it is not all but sure
    draw(page, *DRAWINGS["4"])
    probabilities, logits = (
        np.array(page.evaluate(f"Array.from(shown.{name})")) for name in ("probabilities", "logits")
    )
    best = int(probabilities.argmax())
    rows = page.locator("#bars li")
    assert answer(page) == str(best)
    assert page.locator("#sure").inner_text() == f"{100 * probabilities[best]:.1f} % sure"
    likeliest = rows.evaluate_all("rows => rows.map((row) => row.className === 'likeliest')")
    assert likeliest == [number == best for number in range(10)]
    widths = rows.evaluate_all("rows => rows.map((row) => parseFloat(row.children[1].firstChild"
                               ".style.width))")  # fmt: skip
    np.testing.assert_allclose(widths, 100 * probabilities, atol=1e-3)
    shares = [text.removesuffix(" %") for text in rows.locator(":nth-child(3)").all_inner_texts()]
    np.testing.assert_allclose(np.array(shares, float), 100 * probabilities, atol=0.051)
    np.testing.assert_allclose(numbers(rows.locator("> :nth-child(4)")), logits, atol=0.051)
    assert "Computed and drawn in " in page.locator("#time").inner_text()
    assert not page.locator(".hint").is_visible()
    page.evaluate("network.temperature = 0.05")
    draw(page, [(0.1, 0.1), (0.1, 0.1)])
    assert page.locator("#sure").inner_text() == "over 99.9 % sure"  # and not 100.0 %
    page.get_by_role("button", name="Clear").click()
    texts = page.locator("#sure, #time, #bars li > :nth-child(n+3)").all_inner_texts()
    assert set(texts) == {""} and page.locator(".hint").is_visible()
    assert page.get_by_role("status").inner_text() == "The paper is blank."


@pytest.mark.browser
@pytest.mark.parametrize("convolution", [slow(1), 2])
def test_what_is_marked_is_what_the_sum_is_worked_out_from(
    open_page: Callable[..., Any], convolution: int
) -> None:
    page = open_page()
    draw(page, *DRAWINGS["8"])
    kernel, below = ((5, "#input"), (3, "#maps1 .map"))[convolution - 1]
    f, x, y = 6, 2, 3
    page.get_by_role("button", name=f"Map {f + 1} of convolution {convolution}", exact=True).click(
        position={"x": 1, "y": 1}
    )
    for key, times in (("ArrowRight", x), ("ArrowDown", y)):
        for _ in range(times):
            page.keyboard.press(key)

    def marks(of: str) -> Any:
        """Where the visible marks are, in pixels of the picture or the map that they are in."""
        return page.locator(f"{of} > .mark:not([hidden])").evaluate_all(
            """marks => marks.map((mark) => {
                const { left, top, width, height } = mark.style;
                const side = mark.previousSibling.width / 100;
                return [left, top, width, height].map((share) => parseFloat(share) * side);
            })"""
        )

    chosen = page.locator(f"#maps{convolution} [aria-pressed=true]")
    assert chosen.get_attribute("aria-label") == f"Map {f + 1} of convolution {convolution}"
    own = marks(f"#maps{convolution} .map[aria-pressed=true]")
    np.testing.assert_allclose(own, [[x, y, 1, 1]], atol=1e-3)
    inspector = page.get_by_role("region", name="One pixel worked out")
    channel = 0
    if convolution == 2:
        channels = inspector.locator(".channels button")
        channels.nth(7).click()
        assert channels.nth(7).get_attribute("aria-pressed") == "true"
        assert "marked in map 8 above" in inspector.inner_text()
        channel = 7
    places = np.array(marks(below))
    assert len(places) == (1 if convolution == 1 else 24)
    assert np.ptp(places, axis=0).max() < 1e-3  # at the same place in each
    left, top, width, height = np.rint(places[0]).astype(int)
    assert (width, height) == (kernel, kernel)
    assert (left // 2, top // 2) == (x, y)
    name, below_side = ("input", 28) if convolution == 1 else ("maps1", 12)
    values = np.array(page.evaluate(f"Array.from(shown.{name})"))
    values = values.reshape(-1, below_side, below_side)[channel]
    patch = numbers(inspector.locator(".patch td"))
    expected = values[top : top + kernel, left : left + kernel]
    np.testing.assert_allclose(patch, expected.ravel(), atol=0.0051)
    if convolution == 2:  # in the picture: all that the patch was computed from
        np.testing.assert_allclose(marks("#input"), [[2 * left, 2 * top, 10, 10]], atol=1e-3)
    page.get_by_role("button", name="Clear").click()
    assert marks("body *") == []
    assert "Draw a digit to see it worked out" in inspector.inner_text()


@pytest.mark.browser
def test_the_sum_in_words_adds_up(open_page: Callable[..., Any]) -> None:
    page = open_page()
    draw(page, *DRAWINGS["2"])
    pattern = (
        r"All 25 products add up to (\S+); with the bias: (\S+) ([+−]) (\S+) = (\S+)\. "
        r"The three neighbouring sums \((\S+), (\S+), (\S+)\) are not larger, so pooling keeps it, "
        r"(and ReLU leaves it as it is|but it is negative: ReLU sets it to 0)\."
    )
    signs = set()
    for f in range(24):
        page.get_by_role("button", name=f"Map {f + 1} of convolution 1", exact=True).click()
        text = page.locator(".total").inner_text()
        found = re.fullmatch(pattern, text)
        assert found and "-" not in text, text  # a minus sign is no hyphen
        products, again, bias, total, *others = (
            float(one.replace("−", "-")) for one in found.group(1, 2, 4, 5, 6, 7, 8)
        )
        assert products == again and bias >= 0
        signed = -bias if found[3] == "−" else bias
        assert products + signed == pytest.approx(total, abs=0.016)
        assert max(others) <= total
        assert found[9].startswith("but it is negative") == (total < 0) or total == 0
        signs.add(found[3])
    assert signs == {"+", "−"}
    cells = page.locator(".filter td")
    colours = cells.evaluate_all("cells => cells.map((cell) => cell.getAttribute('style'))")
    for value, colour in zip(numbers(cells), colours):
        assert ("orange" if value < 0 else "blue") in colour or value == 0


@pytest.mark.browser
def test_channels_stay_chosen_with_the_next_map_of_the_same_layer(
    open_page: Callable[..., Any],
) -> None:
    page = open_page()
    draw(page, *DRAWINGS["6"])
    channels = page.locator(".channels button")

    def tap(f: int, convolution: int) -> list[int]:
        """Taps a map; the channels that are chosen then."""
        name = f"Map {f} of convolution {convolution}"
        page.get_by_role("button", name=name, exact=True).click()
        pressed = page.locator(".maps [aria-pressed=true]")
        assert [one.get_attribute("aria-label") for one in pressed.all()] == [name]
        in_front = page.locator(".inspector").evaluate("one => one.previousElementSibling.id")
        assert in_front == f"maps{convolution}"
        states = channels.evaluate_all("all => all.map((one) => one.ariaPressed)")
        return [i for i, state in enumerate(states) if state == "true"]

    tap(3, 2)
    channels.nth(20).click()
    assert tap(4, 2) == [20] and channels.count() == 24
    assert tap(4, 1) == [] and channels.count() == 0  # there is the picture alone
    tap(5, 2)
    assert channels.count() == 24
    sums = [abs(value) for value in numbers(page.locator(".channels span"))]
    assert sums[tap(5, 2)[0]] == max(sums)
    patch, weights = colours_of(page, ".channels canvas").reshape(24, 2, 9, 3).swapaxes(0, 1)
    values = np.array(page.evaluate("Array.from(network.layers[1].weight)")).reshape(32, 24, 9)
    visible = weights.max(-1) > 5  # not all but black
    is_orange = weights[..., 0] > weights[..., 2]
    assert (is_orange == (values[4] < 0))[visible].all()
    assert (patch[..., 0] <= patch[..., 2]).all()  # maps are never negative


@pytest.mark.browser
def test_arrow_keys_move_the_pixel_within_the_map(open_page: Callable[..., Any]) -> None:
    page = open_page()
    draw(page, *DRAWINGS["9"])
    page.get_by_role("button", name="Map 9 of convolution 1", exact=True).focus()
    page.keyboard.press("Enter")

    def place() -> tuple[int, ...]:
        text = page.locator(".where strong").inner_text()
        return tuple(int(number) - 1 for number in re.findall(r"\d+", text)[1:])

    values = np.array(page.evaluate("Array.from(shown.maps1)")).reshape(24, 12, 12)[8]
    assert values[place()] == values.max() > 0  # it begins where the map is brightest
    scrolled = page.evaluate("scrollY")
    for key, row, column in (
        ("ArrowUp", 0, None), ("ArrowLeft", 0, 0), ("ArrowDown", 11, 0), ("ArrowRight", 11, 11),
    ):  # fmt: skip
        for _ in range(12):
            page.keyboard.press(key)
        assert place()[0] == row and column in (None, place()[1])
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("a")
    assert place() == (10, 10)
    assert page.evaluate("scrollY") == scrolled
    page.get_by_role("button", name="Map 10 of convolution 1", exact=True).focus()
    page.keyboard.press("ArrowUp")  # on a map that is not chosen
    assert place() == (10, 10)


@pytest.mark.browser
def test_the_pen(open_page: Callable[..., Any]) -> None:
    """Only the pointer that began a stroke draws it, wherever it goes, until it is lifted."""
    page = open_page()
    box = page.locator("#paper").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def count_ink() -> int:
        settle(page)
        return int(page.evaluate("readInk().data.filter((value) => value).length"))

    def dispatch(kind: str, pointer: int, x: float, y: float) -> None:
        page.evaluate(
            """([kind, pointerId, clientX, clientY]) => document.querySelector("#paper")
            .dispatchEvent(new PointerEvent(kind, { pointerId, clientX, clientY, button: 0 }))""",
            [kind, pointer, *at(x, y)],
        )

    page.mouse.move(*at(0.2, 0.2))
    page.mouse.move(*at(0.8, 0.2))
    page.mouse.down(button="right")
    page.mouse.move(*at(0.8, 0.4))
    page.mouse.up(button="right")
    assert count_ink() == 0
    page.mouse.move(*at(0.5, 0.2))
    page.mouse.down()
    assert count_ink() > 0  # a dot
    assert not page.locator(".hint").is_visible()
    page.mouse.move(*at(0.5, 0.6))
    line = count_ink()
    for kind in ("pointerdown", "pointermove", "pointerup"):
        dispatch(kind, 77, 0.1, 0.9)
    assert count_ink() == line
    page.mouse.move(*at(1.5, 0.6))  # beyond the paper, and back
    page.mouse.move(*at(0.9, 0.9))
    wider = count_ink()
    assert wider > line
    page.get_by_role("button", name="Clear").evaluate("button => button.click()")
    page.mouse.move(*at(0.2, 0.9))
    page.mouse.up()
    assert count_ink() == 0
    draw(page, *DRAWINGS["1"])
    one = count_ink()
    page.set_viewport_size({"width": 500, "height": 700})
    settle(page)
    assert count_ink() == pytest.approx(one, rel=0.01) and answer(page) == "1"
    on_paper = """() => {
        const paper = document.querySelector("#paper");
        const data = paper.getContext("2d").getImageData(0, 0, paper.width, paper.height).data;
        return data.filter((value, i) => i % 4 === 3 && value).length / paper.width ** 2;
    }"""
    assert page.evaluate(on_paper) == pytest.approx(one / 280**2, rel=0.1)


@pytest.mark.browser
def test_a_cancelled_stroke_ends(open_page: Callable[..., Any]) -> None:
    """As when the system takes a finger for a gesture of its own."""
    page = open_page(has_touch=True)
    touch = page.context.new_cdp_session(page)
    box = page.locator("#paper").bounding_box()
    places = [(box["x"] + share * box["width"], box["y"] + 99) for share in (0.2, 0.5)]
    for kind, (x, y) in zip(("touchStart", "touchMove"), places):
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchCancel", "touchPoints": []})
    settle(page)
    assert page.get_by_role("status").inner_text().startswith("The network reads a ")
    page.get_by_role("button", name="Clear").click()
    draw(page, *DRAWINGS["1"])
    assert answer(page) == "1"

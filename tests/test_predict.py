"""The command predict: whatever the files hold and are called, each gets its line."""

import dataclasses
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import slow
from pictures import TEN, claiming, enlarged, page_of
from PIL import Image

from mnist_cnn import checkpoint, predict, visualize
from mnist_cnn.commands.predict import to_json, to_text
from mnist_cnn.model import MAX_TEMPERATURE

MINUTE = 60  # of processor time: what grows with the square of the pieces takes more


def write_digit(path, label):
    """A picture of a digit, dark on light."""
    Image.fromarray(255 - enlarged(TEN[label])).save(path)


@pytest.fixture
def digits(tmp_path):
    """one.png, seven.png and four.png, in this order."""
    labels = {"one.png": 1, "seven.png": 7, "four.png": 4}
    for name, label in labels.items():
        write_digit(tmp_path / name, label)
    return labels


# ------------------------------------------------------------------------------ what is printed


def test_a_line_for_each_picture_in_the_order_given(cli, sample_checkpoint, digits):
    outcome = cli("predict", *digits, "--ckpt", sample_checkpoint)
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert len(lines) == 3
    for line, (name, label) in zip(lines, digits.items()):
        form = rf"{re.escape(name)}: {label} \((\d+\.\d) %\), then (\d) \((\d+\.\d) %\)(.*)"
        sure, second, less, mark = re.fullmatch(form, line).groups()
        assert mark == (", doubtful" if float(sure) < 90 else "")
        assert int(second) != label and float(sure) >= float(less)


def test_json_is_one_list_with_all_probabilities(cli, sample_checkpoint, digits):
    outcome = cli("predict", *digits, "--ckpt", sample_checkpoint, "--json")
    assert (outcome.status, outcome.err) == (0, "")
    answers = json.loads(outcome.out)
    assert [answer["file"] for answer in answers] == list(digits)
    assert [answer["digit"] for answer in answers] == list(digits.values())
    for answer in answers:
        probabilities = answer["probabilities"]
        assert len(probabilities) == 10 and sum(probabilities) == pytest.approx(1)
        assert answer["confidence"] == max(probabilities) == probabilities[answer["digit"]]
        assert answer["doubtful"] is (answer["confidence"] < predict.SURE)


@pytest.fixture
def unsure_checkpoint(sample_checkpoint, tmp_path):
    """The same network, so hot that it doubts all that it reads."""
    trained = checkpoint.load(sample_checkpoint)
    weights = {**trained.weights, "fc2.weight": trained.weights["fc2.weight"] / 4}
    unsure = dataclasses.replace(trained, weights=weights, temperature=MAX_TEMPERATURE)
    checkpoint.save(tmp_path / "unsure.pt", unsure)
    return tmp_path / "unsure.pt"


def test_doubtful_answers_are_marked(cli, unsure_checkpoint, tmp_path, digits):
    options = (*digits, "--ckpt", unsure_checkpoint)
    for line in cli("predict", *options).out.splitlines():
        assert line.endswith(" %), doubtful")
    answers = json.loads(cli("predict", *options, "--json").out)
    assert [answer["doubtful"] for answer in answers] == [True, True, True]
    for line in cli("predict", *options, "--number").out.splitlines():
        assert line.endswith(" %), doubtful")


def test_one_doubtful_digit_makes_a_number_doubtful():
    def reading(sure):
        rest = np.full(9, (1 - sure) / 9)
        return predict.Reading(TEN[0], np.array([sure, *rest], np.float32), (0, 0, 9, 9))

    firm = predict.Answer("page.png", readings=[reading(0.97), reading(0.91)])
    weak = predict.Answer("page.png", readings=[reading(0.97), reading(0.89), reading(0.99)])
    assert (firm.doubtful, weak.doubtful) == (False, True)
    assert [one["doubtful"] for one in to_json(weak, True)["digits"]] == [False, True, False]
    assert (to_json(firm, True)["doubtful"], to_json(weak, True)["doubtful"]) == (False, True)
    assert to_text(firm, True) == "page.png: 00 (each at least 91.0 %)"
    assert to_text(weak, True) == "page.png: 000 (each at least 89.0 %), doubtful"
    sure = predict.Answer("page.png", readings=[reading(0.9998)])
    assert to_text(sure, True) == "page.png: 0 (each at least 99.9 %)"


def test_probabilities_are_at_the_networks_temperature(cli, sample_checkpoint, tmp_path, digits):
    trained = checkpoint.load(sample_checkpoint)
    shown = []
    for temperature in (1.0, 2.0):
        checkpoint.save(tmp_path / "x.pt", dataclasses.replace(trained, temperature=temperature))
        answers = json.loads(cli("predict", *digits, "--ckpt", "x.pt", "--json").out)
        shown.append(np.array([answer["probabilities"] for answer in answers]))
    plain, hot = shown
    np.testing.assert_allclose(hot, np.sqrt(plain) / np.sqrt(plain).sum(1)[:, None], atol=1e-5)
    assert (hot.max(1) < plain.max(1)).all()


def test_a_number_with_its_boxes(cli, sample_checkpoint, tmp_path):
    page, boxes = page_of([[TEN[4], TEN[7]], [TEN[1], TEN[0]]])
    Image.fromarray(np.kron(page, np.ones((5, 5), np.uint8))).save(tmp_path / "page.png")
    options = ("predict", "page.png", "--number", "--ckpt", sample_checkpoint)
    outcome = cli(*options)
    assert outcome.status == 0
    assert re.fullmatch(r"page\.png: 4710 \(each at least \d+\.\d %\)(, doubtful)?\n", outcome.out)
    (answer,) = json.loads(cli(*options, "--json").out)
    assert (answer["file"], answer["number"]) == ("page.png", "4710")
    assert [one["digit"] for one in answer["digits"]] == [4, 7, 1, 0]
    found = np.array([one["box"] for one in answer["digits"]])
    assert np.abs(found - 5 * np.array(boxes)).max() <= 20  # of the full size, in pixels
    assert all(0 <= one["confidence"] <= 1 for one in answer["digits"])


def test_failures_among_successes(cli, sample_checkpoint, tmp_path, digits):
    (tmp_path / "notes.txt").write_text("seven")
    Image.new("L", (90, 90), "white").save(tmp_path / "blank.png")
    names = ["one.png", "none.png", "notes.txt", "seven.png", "blank.png"]
    for number in ([], ["--number"]):
        outcome = cli("predict", *names, *number, "--ckpt", sample_checkpoint)
        assert outcome.status == 1
        shown = [line.split(" ")[:2] for line in outcome.out.splitlines()]
        assert shown == [["one.png:", "1"], ["seven.png:", "7"]]
        errors = outcome.err.splitlines()
        assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
        assert "none.png does not exist" in errors[0] and "notes.txt" in errors[1]
        assert "no ink" in errors[2]
        outcome = cli("predict", *names, *number, "--ckpt", sample_checkpoint, "--json")
        assert outcome.status == 1
        answers = json.loads(outcome.out)
        assert [answer["file"] for answer in answers] == names
        assert [set(answer) == {"file", "error"} for answer in answers] == [0, 1, 1, 0, 1]


def test_patterns_that_the_shell_leaves_alone(cli, sample_checkpoint, tmp_path, digits):
    for name in ("[3].png", "3.png"):  # a pattern that matches the other, and a file itself
        write_digit(tmp_path / name, 3)
    outcome = cli("predict", "[3].png", "*e*.png", "n*.png", "--ckpt", sample_checkpoint)
    assert [line.split(":")[0] for line in outcome.out.splitlines()] == [
        "[3].png", "one.png", "seven.png",
    ]  # fmt: skip
    assert outcome.status == 1 and "n*.png does not exist" in outcome.err


def test_who_wants_more_room_than_is_free_waits_for_it():
    room, order = predict.make_room(10), []

    def enter():
        with room(8):
            order.append("second")

    waiting = threading.Thread(target=enter, daemon=True)
    with room(5):
        waiting.start()
        waiting.join(0.1)
        order.append("first")
    waiting.join(60)
    assert order == ["first", "second"]


# ------------------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize("number", [[], ["--number"]], ids=["digit", "number"])
def test_what_the_network_saw_is_drawn(cli, sample_checkpoint, tmp_path, digits, number):
    options = [*digits, *number, "--ckpt", sample_checkpoint, "--show-input"]
    outcome = cli("predict", *options, "seen.png")
    assert (outcome.status, outcome.err) == (0, "wrote seen.png\n")
    assert len(outcome.out.splitlines()) == 3
    with Image.open(tmp_path / "seen.png") as picture:
        assert min(picture.size) > 300 and len(picture.convert("L").getcolors()) > 100


@pytest.mark.parametrize("number", [[], ["--number"]], ids=["digit", "number"])
def test_only_the_first_pictures_that_can_be_read_are_drawn(
    cli, sample_checkpoint, tmp_path, digits, number, undrawn, monkeypatch
):
    drawn = []
    for name in ("draw_inputs", "draw_boxes"):
        monkeypatch.setattr(visualize, name, lambda names, *rest: drawn.extend(names))
    (tmp_path / "notes.txt").write_text("seven")
    names = ["notes.txt", *list(digits) * 7]
    options = [*names, *number, "--ckpt", sample_checkpoint, "--show-input", "seen.png"]
    outcome = cli("predict", *options)
    assert outcome.status == 1 and outcome.err.endswith("\nwrote seen.png\n")
    assert len(outcome.out.splitlines()) == 21
    assert drawn == [name for name in names[:20] if name != "notes.txt"]
    (tmp_path / "seen.png").unlink()
    options[: len(names)] = ["notes.txt"]
    outcome = cli("predict", *options)
    assert (outcome.status, outcome.out) == (1, "")
    assert "seen.png was not written: none of the first pictures" in outcome.err
    assert not (tmp_path / "seen.png").exists()


def test_the_boxes_are_drawn_where_the_digits_are(
    cli, sample_checkpoint, tmp_path, undrawn, monkeypatch
):
    drawn = []
    monkeypatch.setattr(visualize, "draw_boxes", lambda *values: drawn.append(values))
    page, boxes = page_of([[TEN[4], TEN[7]], [TEN[1], TEN[0]]])
    large = np.kron(page, np.ones((15, 15), np.uint8))  # more than preparation works on
    Image.fromarray(large).save(tmp_path / "page.png")
    options = ("--number", "--ckpt", sample_checkpoint, "--show-input", "seen.png")
    assert cli("predict", "page.png", *options).status == 0
    ((names, (picture,), (found,), (read,)),) = drawn
    assert (names, read) == (["page.png"], [4, 7, 1, 0])
    assert picture.shape[0] < large.shape[0]
    scale = picture.shape[0] / page.shape[0]
    assert np.abs(np.array(found) - scale * np.array(boxes)).max() <= 8


@pytest.mark.parametrize("number", [[], ["--number"]], ids=["digit", "number"])
@pytest.mark.parametrize("name", ["$^$.png", r"$\frac{1}{.png", "a\tb.png", "七.png"])
def test_names_are_drawn_as_they_are(cli, sample_checkpoint, tmp_path, number, name):
    try:
        write_digit(tmp_path / name, 7)
    except OSError:
        pytest.skip("no file can be called that here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's font lacks some characters
        outcome = cli(
            "predict", name, *number, "--ckpt", sample_checkpoint, "--show-input", "seen.png"
        )
    assert outcome.status == 0, outcome.err
    assert outcome.err == "wrote seen.png\n" and (tmp_path / "seen.png").stat().st_size > 5000


def test_two_digits_alike_are_told_apart():
    probabilities = np.zeros(10, np.float32)
    probabilities[[3, 8]] = 0.5
    reading = predict.Reading(np.zeros((28, 28), np.uint8), probabilities)
    assert (reading.digit, reading.runner_up) == (3, 8)


# ------------------------------------------------------------------------------ names


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@pytest.mark.parametrize(
    ("encoding", "seven"),
    [("ascii", r"\u4e03.png"), slow("utf-8", "七.png")],
)
def test_names_that_cannot_be_printed_are_escaped(
    encoding, seven, sample_checkpoint, tmp_path, start_program
):
    bytes_name, lines_name = os.fsdecode(b"\xff.png"), "two\nlines\x1b[31m.png"
    names = ("七.png", bytes_name, lines_name)
    for name in names:
        write_digit(tmp_path / name, 7)
    running = start_program(
        "predict", *names, "no 七.png", "--ckpt", sample_checkpoint,
        PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C.UTF-8",
    )  # fmt: skip
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1
    printed = [seven, r"\udcff.png", r"two\nlines\x1b[31m.png"]
    assert [line.split(": ")[0] for line in out.splitlines()] == printed
    assert err == f"error: no {seven} does not exist: check the name\n"


# ------------------------------------------------------------------------------ hostile files


def write_hostile(folder):
    """Files that want to be waited for, or to be large: each name, and what is said about it."""
    (folder / "bomb.png").write_bytes(claiming(30_000, 20_000))
    Image.new("L", (9, 9)).save(folder / "bomb.bmp")
    content = bytearray((folder / "bomb.bmp").read_bytes())
    content[18:26] = struct.pack("<II", 30_000, 20_000)
    (folder / "bomb.bmp").write_bytes(content)
    Image.new("L", (1, 1), 255).save(folder / "dot.png")
    Image.new("L", (20_000, 1)).save(folder / "wide.png")
    Image.new("L", (1, 20_000)).save(folder / "high.png")
    (folder / "empty.png").touch()
    said = {
        "bomb.png": "million pixels",
        "bomb.bmp": "million pixels",
        "dot.png": "no ink",
        "wide.png": "no ink",
        "high.png": "no ink",
        "empty.png": "empty",
        ".": "folder",
        "none.png": "exist",
        f"{'long' * 99}.png": "cannot be read",
    }
    if os.name == "posix":
        os.mkfifo(folder / "pipe.png")
        (folder / "a.png").symlink_to("b.png")
        (folder / "b.png").symlink_to("a.png")
        said |= {"pipe.png": "not a regular file", "a.png": "cannot be read"}
        said |= dict.fromkeys(("/dev/zero", "/dev/stdin", "/dev/random"), "not a regular file")
    return said


@pytest.mark.parametrize("number", [[], slow(["--number"])])
def test_hostile_files_get_a_line_each(number, sample_checkpoint, tmp_path, start_program, digits):
    said = write_hostile(tmp_path)
    files = ("one.png", *said, "seven.png")
    running = start_program("predict", *files, "--ckpt", sample_checkpoint, *number)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert [line.split(" ")[:2] for line in out.splitlines()] == [
        ["one.png:", "1"], ["seven.png:", "7"],
    ]  # fmt: skip
    lines = err.splitlines()
    assert len(lines) == len(said), err
    for line, words in zip(lines, said.values()):
        assert line.startswith("error: ") and words in line


@pytest.mark.slow
def test_a_folder_of_5000_names(cli, sample_checkpoint, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(5000):
        if i % 500 == 7:
            write_digit(folder / f"{i:04}.png", 7)
        else:
            (folder / f"{i:04}.png").write_bytes(b"\x89PNG\r\n\x1a\n" if i % 2 else b"nothing")
    outcome = cli("predict", "many/*", "--ckpt", sample_checkpoint)
    assert outcome.status == 1
    assert len(outcome.out.splitlines()) == 10 and len(outcome.err.splitlines()) == 4990


# ------------------------------------------------------------------------------ time and memory


def noise(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1024, 1024), np.uint8)


def framed_noise():
    page = np.full((1024, 1024), 255, np.uint8)
    cv2.rectangle(page, (30, 30), (990, 990), 0, 8)
    page[40:980, 40:980] = noise()[40:980, 40:980]
    return page


def chequered(side):
    y, x = np.mgrid[:1024, :1024] // side
    return ((x + y) % 2 * 255).astype(np.uint8)


def blobs(apart, radius):
    page = np.full((1024, 1024), 255, np.uint8)
    for y in range(apart // 2, 1024, apart):
        for x in range(apart // 2, 1024, apart):
            cv2.circle(page, (x, y), radius, 0, -1)
    return page


@pytest.mark.parametrize("number", [[], ["--number"]], ids=["digit", "number"])
@pytest.mark.parametrize(
    "make",
    [pytest.param(noise, id="noise"),
     pytest.param(framed_noise, id="framed noise", marks=pytest.mark.slow),
     pytest.param(lambda: chequered(1), id="pixels", marks=pytest.mark.slow),
     pytest.param(lambda: chequered(8), id="squares", marks=pytest.mark.slow),
     pytest.param(lambda: blobs(20, 6), id="2,600 blobs", marks=pytest.mark.slow),
     pytest.param(lambda: blobs(6, 1), id="29,000 dots"),
     pytest.param(lambda: blobs(60, 25), id="289 blobs", marks=pytest.mark.slow)],
)  # fmt: skip
def test_noise_and_blobs_come_to_an_end(cli, sample_checkpoint, tmp_path, make, number):
    Image.fromarray(make()).save(tmp_path / "much.png")
    write_digit(tmp_path / "one.png", 1)
    cli("predict", "one.png", *number, "--ckpt", sample_checkpoint)  # the first is slower
    start = time.process_time()
    outcome = cli("predict", "much.png", *number, "--ckpt", sample_checkpoint)
    assert time.process_time() - start < MINUTE
    assert outcome.status in (0, 1) and len((outcome.out + outcome.err).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads memory from /proc")
@pytest.mark.parametrize("options", [[], ["--number", "--show-input", "seen.png"]])
def test_memory_for_large_photos(sample_checkpoint, tmp_path, options):
    photo = np.full((8000, 6000, 3), 220, np.uint8)
    photo[2000:6000, 1000:5000] -= (200 * (enlarged(TEN[7], 4000)[..., None] / 255.0)).astype("u1")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned, which takes a second copy
    Image.fromarray(photo).save(tmp_path / "0.jpg", exif=exif, quality=50)
    for i in range(1, 20):
        os.link(tmp_path / "0.jpg", tmp_path / f"{i}.jpg")
    program = (
        "import sys; from mnist_cnn.__main__ import main; status = main(sys.argv[1:])\n"
        "print(open('/proc/self/status').read(), file=sys.stderr); sys.exit(status)"
    )
    options = ["predict", "*.jpg", "--ckpt", str(sample_checkpoint), *options]
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(Path(predict.__file__).parents[1])},
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 20, done.stderr
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", done.stderr)[1]) / 1e6
    print(f"{peak:.2f} GB for 20 photos of 48 megapixels")
    assert peak < 1.5


def test_warnings_are_as_they_were(sample_checkpoint, tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff"  # of which Pillow warns
    for i in range(64):
        Image.fromarray(255 - enlarged(TEN[7])).save(tmp_path / f"{i}.png", exif=exif)
    model = checkpoint.load(sample_checkpoint).build_model()
    names = [str(tmp_path / f"{i}.png") for i in range(64)]
    with warnings.catch_warnings():
        before = [*warnings.filters]
        for _ in range(4):
            for _ in predict.predict(model, names):
                assert warnings.filters == before
        assert warnings.filters == before

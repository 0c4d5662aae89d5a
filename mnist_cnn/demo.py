"""A page to draw digits on: after each stroke it shows what the network sees, and what it reads.

Gradio serves the page. The paper on it is a plain canvas (demo_page/: what it holds, its look, its
behaviour), which sends a PNG of itself to `answer` after each stroke. Nothing is kept between two
questions, and nothing is asked from the internet.
"""

import base64
import importlib.util
import io
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from mnist_cnn import Error
from mnist_cnn.handwriting import grey
from mnist_cnn.predict import make_reader, read_digits

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"  # this computer alone
OLDEST_GRADIO = (6, 7)  # the first whose gr.HTML calls Python functions
PREFIX = "data:image/png;base64,"
MAX_LENGTH = 8_000_000  # characters of a picture: twice what the page's largest needs
MAX_SIDE = 1024  # pixels: the page shrinks larger photographs

Answer = dict[str, Any]


def serve(model: nn.Module, port: int) -> None:
    """Serves the page until Ctrl-C is pressed, and opens it where there is a screen.

    Args:
        model: reads digits: float (N, 1, 28, 28) in [0, 1] -> logits (N, 10).

    Raises:
        Error: gradio is missing or too old, or the port cannot be used.
        KeyboardInterrupt: Ctrl-C.
    """
    check(port)
    page = start(model, port, open_browser=has_screen())
    print(f"draw at http://{HOST}:{port} (Ctrl-C ends it)", file=sys.stderr)
    try:
        while True:
            time.sleep(1)
    finally:
        page.close(verbose=False)


def check(port: int) -> None:
    """Makes sure, before anything slow is done for it, that the page can be served.

    Raises:
        Error: gradio is not installed, or the port cannot be used.
    """
    if importlib.util.find_spec("gradio") is None:
        raise Error('the page needs gradio: install it with pip install -e ".[demo]"')
    try:
        with socket.socket() as probe:
            if os.name == "posix":  # there, a port that was in use a moment ago counts as free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError as error:
        raise Error(
            f"port {port} cannot be used ({error.strerror}): choose another one with --port"
        ) from None


def start(model: nn.Module, port: int, open_browser: bool) -> "gradio.Blocks":
    """Serves the page from other threads; returns it, to be closed in the end.

    Raises:
        Error: gradio is too old, or the port is in use.
    """
    import gradio

    # Gradio asks its own server whether it is up: a proxy could not know.
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = f"{direct},{HOST}" if direct else HOST
    page = build_page(make_answer(model.eval()))
    theme = gradio.themes.Base(font=["system-ui"], font_mono=["monospace"])  # nothing to load
    try:
        page.launch(
            server_name=HOST,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=theme,
            footer_links=[],
            max_file_size="1mb",  # uploads to Gradio itself, which the page does not make
            ssr_mode=False,
        )
    except OSError:
        raise Error(f"port {port} is in use: choose another one with --port") from None
    return page


def build_page(answer: Callable[[object], Answer]) -> "gradio.Blocks":
    """The page, which calls `answer` with what is drawn."""
    import gradio

    version = tuple(int(number) for number in gradio.__version__.split(".")[:2])
    if version < OLDEST_GRADIO:
        raise Error(f"gradio {gradio.__version__} is too old: pip install -U gradio")
    folder = Path(__file__).with_name("demo_page")
    html, css, js = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    page = gradio.Blocks(title="Draw a digit", analytics_enabled=False)
    with page:
        gradio.HTML(
            html_template=html,
            css_template=css,
            js_on_load=js,
            apply_default_css=False,
            server_functions=[answer],
        )
    return page


def make_answer(model: nn.Module) -> Callable[[object], Answer]:
    """A function from a picture to what the network reads in it; see `answer` below."""
    read = make_reader(model)

    def answer(url: object) -> Answer:
        """Reads the digits of a PNG in a data URL, as plain values that the page can show.

        Returns:
            {"number": "47", "digits": [{"digit": 4, "probabilities": 10 numbers, "image": 28 rows
            of 28 values from 0 to 255, "box": [left, top, right, bottom] in pixels}, ...]}, in
            reading order, or {"error": what is wrong, in a sentence}.
        """
        try:
            readings = read_digits(decode_picture(url), read)
        except Error as error:
            text = str(error)
            return {"error": f"{text[0].upper()}{text[1:]}."}
        digits = [
            {
                "digit": one.digit,
                "probabilities": one.probabilities.tolist(),
                "image": one.image.tolist(),
                "box": one.box,
            }
            for one in readings
        ]
        return {"number": "".join(str(one.digit) for one in readings), "digits": digits}

    # The first call of each step costs more than the next: not when someone waits for it.
    stroke = Image.new("L", (280, 280), "white")
    stroke.paste("black", (130, 60, 150, 220))
    read_digits(np.array(stroke), read)
    return answer


def decode_picture(url: object) -> NDArray[np.uint8]:
    """The PNG in a data URL -> grey pixels, uint8 (H, W).

    Whatever the URL says, no file is opened, nothing is fetched and no large picture is decoded.

    Raises:
        Error: it is not such a URL, too large, or damaged.
    """
    if not isinstance(url, str) or not url.startswith(PREFIX):
        raise Error("this is not a picture: send a PNG")
    if len(url) > MAX_LENGTH:
        raise Error("this picture is too large: send a smaller one")
    try:
        data = base64.b64decode(url.removeprefix(PREFIX))
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if max(image.size) > MAX_SIDE:
                raise Error(f"this picture is too large: {MAX_SIDE} pixels a side at most")
            return grey(image)
    except (ValueError, OSError, SyntaxError, struct.error, Image.DecompressionBombError):
        raise Error("this picture is damaged: send it again") from None


def has_screen() -> bool:
    """Whether a browser that is opened here can be seen by whoever started the program."""
    if "SSH_CONNECTION" in os.environ:
        return False
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, screens))

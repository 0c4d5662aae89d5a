"""A page to draw digits on: after each stroke it shows what the network sees, and what it reads.

Gradio serves the page. The paper on it is a plain canvas (page.html, page.css, page.js: content,
style, behaviour), which sends a PNG of itself to `answer` after each stroke. Nothing is kept
between two requests, and nothing is fetched from the internet.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import importlib.util
import io
import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image
from torch import nn

from mnist_cnn import Error
from mnist_cnn.demo.guard import FUNCTION, HOSTS, Guard
from mnist_cnn.handwriting.arrays import Grey
from mnist_cnn.handwriting.picture import Damaged, TooLarge, decode
from mnist_cnn.predict import read_digits
from mnist_cnn.system.device import first_line

if TYPE_CHECKING:
    import gradio
    import uvicorn

HOST = "127.0.0.1"  # this computer only
OLDEST_GRADIO = (6, 7)  # the first whose gr.HTML calls Python functions
# Environment variables that keep gradio from starting if they hold no number.
GRADIO_SETTINGS = ("GRADIO_SERVER_PORT", "GRADIO_DEFAULT_CONCURRENCY_LIMIT")
PREFIX = "data:image/png;base64,"
MAX_LENGTH = 8_000_000  # characters of a picture: twice what the page's largest needs
MAX_SIDE = 1024  # pixels: the page shrinks larger photographs
READERS = 2  # pictures that are read at a time: one that takes long does not hold up the next

Reply: TypeAlias = dict[str, Any]  # what the page is told, as plain values


@dataclass
class Page:
    """The page while it is served from other threads."""

    blocks: gradio.Blocks
    server: uvicorn.Server
    thread: threading.Thread

    def close(self) -> None:
        """Stop serving; the port is free again afterwards."""
        self.blocks.close(verbose=False)  # ends the connections that open pages keep
        self.server.should_exit = True
        self.thread.join(timeout=5)


def serve(model: nn.Module, port: int) -> None:
    """Serve the page until Ctrl-C is pressed, and open it where there is a screen.

    Call `check` first, to learn early whether it can be served.

    Args:
        model: reads digits: float (N, 1, 28, 28) in [0, 1] -> logits (N, 10).
        port: of this computer, from 1 to 65535.

    Raises:
        Error: gradio is too old, the port is in use, or the server has stopped by itself.
        KeyboardInterrupt: Ctrl-C.
    """
    page = start(model, port, open_browser=has_screen())
    print(f"draw at http://{HOST}:{port} (Ctrl-C ends it)", file=sys.stderr)
    try:
        while page.thread.is_alive():
            time.sleep(1)
        raise Error("the page's server has stopped by itself: start it again")
    finally:
        page.close()


def check(port: int) -> None:
    """Make sure, before anything slow is done for it, that the page can be served.

    Raises:
        Error: gradio is not installed, or the port cannot be used.
    """
    if importlib.util.find_spec("gradio") is None:
        raise Error('the page needs gradio: install it with pip install -e ".[demo]"')
    try:
        open_port(port).close()
    except OSError as error:
        raise Error(
            f"port {port} cannot be used ({error.strerror}): choose another one with --port"
        ) from None


def open_port(port: int) -> socket.socket:
    """Return a socket that is bound to a port of this computer.

    Raises:
        OSError: the port is in use, or needs special rights.
    """
    opened = socket.socket()
    try:
        if os.name == "posix":  # there, a port that was in use a moment ago counts as free
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((HOST, port))
    except OSError:
        opened.close()
        raise
    return opened


def start(model: nn.Module, port: int, open_browser: bool) -> Page:
    """Serve the page from other threads; return it, for the caller to close.

    Args:
        model: reads digits: float (N, 1, 28, 28) in [0, 1] -> logits (N, 10).
        port: of this computer, from 1 to 65535.
        open_browser: whether to show the page.

    Raises:
        Error: gradio is too old or cannot be loaded, the port is in use, or the server does not
            start.
    """
    with without_settings():
        gradio = load_gradio()
        blocks = build_page(make_answer(model.eval()))
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    try:
        opened = open_port(port)
    except OSError:
        raise Error(f"port {port} is in use: choose another one with --port") from None
    # Gradio's own launch() would ask its server, through whatever proxy is set, whether it is up.
    app = FastAPI(openapi_url=None)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=HOST,
        server_port=port,
        theme=gradio.themes.Base(font=["system-ui"], font_mono=["monospace"]),  # nothing to load
        footer_links=[],
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
    )
    app.add_middleware(Guard, components=blocks.blocks)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", proxy_headers=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    if not server.started:
        opened.close()
        raise Error("the page's server does not start: try pip install -U gradio uvicorn")
    if open_browser:
        webbrowser.open(f"http://{HOST}:{port}")
    return Page(blocks, server, thread)


@contextlib.contextmanager
def without_settings() -> Iterator[None]:
    """Hide proxies, which this page does not need, and settings that gradio may choke on."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.lower().endswith("_proxy") or name in GRADIO_SETTINGS
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def load_gradio() -> ModuleType:
    """Import gradio.

    Raises:
        Error: it cannot be imported.
    """
    try:
        return importlib.import_module("gradio")
    except Exception as error:  # whatever its many packages raise
        raise Error(
            f"gradio cannot be loaded ({first_line(error)}): try pip install -U gradio"
        ) from None


def build_page(answer: Callable[[object], Reply]) -> gradio.Blocks:
    """Return the page, which calls `answer` with what is drawn.

    Raises:
        Error: gradio is too old.
    """
    import gradio

    version = tuple(int(number) for number in gradio.__version__.split(".")[:2])
    if version < OLDEST_GRADIO:
        raise Error(f"gradio {gradio.__version__} is too old: update it with pip install -U gradio")
    folder = Path(__file__).parent
    html, css, js = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    blocks = gradio.Blocks(title="Draw a digit", analytics_enabled=False)
    with blocks:
        gradio.HTML(
            html_template=html,
            css_template=css,
            js_on_load=js,
            apply_default_css=False,
            server_functions=[in_thread(answer)],
        )
    return blocks


def in_thread(answer: Callable[[object], Reply]) -> Callable[[object], Any]:
    """Return `answer` as a coroutine that leaves the server free for other requests."""
    readers = ThreadPoolExecutor(READERS)

    async def answer_in_thread(url: object) -> Reply:
        return await asyncio.get_running_loop().run_in_executor(readers, answer, url)

    answer_in_thread.__name__ = FUNCTION
    return answer_in_thread


def make_answer(model: nn.Module) -> Callable[[object], Reply]:
    """Return a function from a picture to what the network reads in it; see `answer` below."""

    def answer(url: object) -> Reply:
        """Read the digits of a PNG in a data URL.

        Returns:
            {"number": "47", "digits": [{"digit": 4, "probabilities": 10 numbers, "doubtful":
            false, "image": 28 rows of 28 values from 0 to 255, "box": [left, top, right, bottom]
            in pixels}, ...]}, in reading order, or {"error": what is wrong, in a sentence}.
        """
        try:
            readings = read_digits(decode_picture(url), model)
        except Error as error:
            text = str(error)
            return {"error": f"{text[0].upper()}{text[1:]}."}
        digits = [
            {
                "digit": one.digit,
                "probabilities": one.probabilities.tolist(),
                "doubtful": one.doubtful,
                "image": one.image.tolist(),
                "box": one.box,
            }
            for one in readings
        ]
        return {"number": "".join(str(one.digit) for one in readings), "digits": digits}

    # The first call of each step takes longer than the next: make it before anyone waits for it.
    stroke = Image.new("L", (280, 280), "white")
    stroke.paste("black", (130, 60, 150, 220))
    read_digits(np.array(stroke), model)
    return answer


def decode_picture(url: object) -> Grey:
    """Return the pixels of a PNG in a data URL.

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
        return decode(io.BytesIO(data), ["PNG"], lambda *size: max(size) <= MAX_SIDE)
    except TooLarge:
        raise Error(f"this picture is too large: {MAX_SIDE} pixels a side at most") from None
    except (ValueError, Damaged):
        raise Error("this picture is damaged: send it again") from None


def has_screen() -> bool:
    """Return whether a browser opened here can be seen by whoever started the program."""
    if "SSH_CONNECTION" in os.environ:
        return False
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, screens))

"""Who may ask the page's server for what, and how much at a time.

A browser lets any page on the internet send requests to this computer. That page is not shown the
answers, but it could control the server, keep it busy, or, under a host name of its own that
suddenly leads here (DNS rebinding), read them. So a request has to come from this very page.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Container, MutableMapping
from typing import Any, TypeAlias

HOSTS = ("127.0.0.1", "localhost")  # names by which the page may be reached: starlette checks them
MAX_BODY = 8_100_000  # bytes: the largest picture, and what Gradio adds to it
MOST_AT_ONCE = 16  # questions that are being received or answered
PATIENCE = 10  # seconds in which a question has to arrive
QUESTION = "/gradio_api/component_server"  # the one address to which the page sends anything
FUNCTION = "answer"  # the one function that page.js calls

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """ASGI middleware that lets through the page's own requests and refuses the rest.

    app: answers what is let through.
    components: numbers of the page's parts that may be sent questions.
    """

    def __init__(self, app: App, components: Container[int]) -> None:
        self.app = app
        self.components = components
        self.questions = 0  # that are being received or answered

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # the page opens none
        elif problem := find_problem(scope):
            await refuse(send, *problem)
        elif scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
        elif self.questions >= MOST_AT_ONCE:
            await refuse(send, 503, "too many requests at once")
        else:
            self.questions += 1
            try:
                await self.answer(scope, receive, send)
            finally:
                self.questions -= 1

    async def answer(self, scope: Message, receive: Receive, send: Send) -> None:
        """Receive a whole question, unless it is too large or too slow, and pass it on."""
        try:
            body = await asyncio.wait_for(receive_body(receive), PATIENCE)
        except asyncio.TimeoutError:
            await refuse(send, 408, "the request took too long to arrive")
        except ConnectionError:
            return
        else:
            if body is None:
                await refuse(send, 413, "too large")
            elif not is_question(body, self.components):
                await refuse(send, 400, "this is not a request from the page")
            else:
                await self.app(scope, replay(body, receive), send)


def find_problem(scope: Message) -> tuple[int, str] | None:
    """Return the status and the reason with which a request is refused; None if it is not."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    method = scope["method"]
    # Of all requests from other pages, only following a link to this one is allowed.
    mode, destination = headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
    is_link = method == "GET" and (mode, destination) == ("navigate", "document")
    is_foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    own = f"{scope['scheme']}://{headers.get('host')}"
    if headers.get("origin", own) != own or (is_foreign and not is_link):
        return 403, "this page answers only itself"
    if method in ("GET", "HEAD"):
        return None
    if method != "POST" or scope["path"].rstrip("/") != QUESTION:
        return 405, "this request is not accepted here"
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BODY:
        return 413, "too large"
    return None


async def receive_body(receive: Receive) -> bytes | None:
    """Return all that a request sends; None if that is more than MAX_BODY bytes.

    Raises:
        ConnectionError: whoever sent it has gone.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body"):
            return bytes(body)


def is_question(body: bytes, components: Container[int]) -> bool:
    """Return whether a request holds what the page's script sends."""
    try:
        question = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(question, dict)
        and isinstance(question.get("session_hash"), str)
        and isinstance(question.get("component_id"), int)
        and question["component_id"] in components
        and question.get("fn_name") == FUNCTION
    )


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives the body first, and then whatever else arrives."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


async def refuse(send: Send, status: int, reason: str) -> None:
    """Answer with a status and a line of text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

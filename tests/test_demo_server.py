"""The demo page's server: it answers its own page, and nothing and nobody else."""

import asyncio
import base64
import contextlib
import http.client
import importlib.util
import io
import json
import os
import socket
import threading

import numpy as np
import pytest
from pictures import TEN, enlarged
from PIL import Image

from mnist_cnn import checkpoint, demo
from mnist_cnn.demo import guard
from mnist_cnn.demo.guard import MAX_BODY, MOST_AT_ONCE, QUESTION

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason='needs gradio: pip install -e ".[demo]"'
)


def free_port():
    with socket.socket() as probe:
        probe.bind((demo.HOST, 0))
        return probe.getsockname()[1]


def proxies():
    return {name: value for name, value in os.environ.items() if name.lower().endswith("proxy")}


@pytest.fixture(scope="module")
def port(sample_checkpoint, closed_loops):
    port = free_port()
    before = proxies()
    page = demo.start(checkpoint.load(sample_checkpoint).build_model(), port, open_browser=False)
    assert proxies() == before
    yield port
    page.close()
    demo.check(port)  # it is free again


def ask(port, method, path, body=None, **headers):
    """The status and the body of an answer."""
    connection = http.client.HTTPConnection(demo.HOST, port, timeout=60)
    try:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def ask_in_vain(port, method, path, body=None, **headers):
    """The status and the body of a refusal.

    The server closes before it has read all that was sent to it. Then the answer can be lost on
    its way, and is asked for again.
    """
    for _ in range(9):
        with contextlib.suppress(ConnectionError):
            return ask(port, method, path, body, **headers)
    raise AssertionError("there was no answer")


def as_url(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return demo.PREFIX + base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def component(port):
    """The number of the page's drawing, which its script sends along."""
    parts = json.loads(ask(port, "GET", "/config")[1])["components"]
    return next(part["id"] for part in parts if part["type"] == "html")


@pytest.fixture(scope="module")
def make_question(component):
    def make(url, **changes):
        question = {"session_hash": "me", "component_id": component, "fn_name": "answer"}
        return json.dumps({**question, "data": url, **changes}).encode()

    return make


@pytest.fixture(scope="module")
def question(make_question):
    """A seven."""
    return make_question(as_url(255 - enlarged(TEN[7])))


def read_number(port, question, **headers):
    headers.setdefault("Content_Type", "application/json")
    status, body = ask(port, "POST", f"{QUESTION}/", question, **headers)
    assert status == 200, body
    return json.loads(body)["number"]


@pytest.fixture
def answers_afterwards(port, question):
    """Whatever a test does to the server, it reads a digit, and shows the page, afterwards."""
    yield
    assert ask(port, "GET", "/")[0] == 200
    assert read_number(port, question) == "7"


# ------------------------------------------------------------------------------ who may ask


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_itself_is_answered(port, question, name):
    own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
    assert read_number(port, question, **own, Sec_Fetch_Site="same-origin") == "7"
    assert ask(port, "GET", "/", Host=f"{name}:{port}")[0] == 200


@pytest.mark.parametrize(
    "host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "elsewhere.example:{port}", ""]
)
def test_another_host_is_refused(port, question, host):
    """A name that somebody else's name server leads here (DNS rebinding)."""
    host = host.format(port=port)
    for method, path in (("GET", "/"), ("GET", "/config"), ("POST", QUESTION)):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
        status, body = ask_in_vain(port, method, path, question, **headers)
        assert status == 400 and b"digit" not in body


@pytest.mark.parametrize(
    "origin",
    ["https://elsewhere.example", "null", "http://localhost", "https://127.0.0.1:{port}",
     "http://127.0.0.1:{other}", "http://127.0.0.1:{port}.elsewhere.example"],
)  # fmt: skip
def test_another_origin_is_refused(port, question, origin):
    """A page in another tab."""
    origin = origin.format(port=port, other=port + 1)
    own = {"Host": f"127.0.0.1:{port}", "Content_Type": "text/plain"}
    for method, path in (("GET", "/config"), ("POST", QUESTION), ("OPTIONS", QUESTION)):
        assert ask_in_vain(port, method, path, question, Origin=origin, **own)[0] == 403


def test_what_a_proxy_would_add_changes_nothing(port, question):
    own = {"Origin": f"https://127.0.0.1:{port}", "Content_Type": "application/json"}
    assert ask_in_vain(port, "POST", QUESTION, question, X_Forwarded_Proto="https", **own)[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_loads_is_refused_and_its_links_work(port, question, site):
    def load(path, **kind):
        return ask(port, "GET", path, Sec_Fetch_Site=site, **kind)[0]

    assert load("/", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document") == 200  # a link
    assert load("/", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe") == 403
    assert load("/config", Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="script") == 403
    form = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert ask_in_vain(port, "POST", QUESTION, question, **form)[0] == 403


# ------------------------------------------------------------------------------ for what


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=//etc/passwd",
        "/gradio_api/file=../../../../../../../../etc/passwd",
        "/gradio_api/file=%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/static/../../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/svelte/../../../../../../../../etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:9/",
        "/gradio_api/proxy=file:///etc/passwd",
        f"/gradio_api/file={__file__}",
        f"/gradio_api/file={demo.__file__}",
        "/gradio_api/file=pyproject.toml",
        "/monitoring",
        "/monitoring/summary",
        "/?deep_link=../../../etc/passwd",
    ],
)
def test_no_file_is_given_away(port, path):
    status, body = ask(port, "GET", path)
    assert b"root:" not in body and b"import" not in body[:200] and b"[project]" not in body
    assert status >= 400 or "deep_link" in path


def test_a_websocket_is_closed_at_once():
    sent = []

    async def send(message):
        sent.append(message)

    async def never(*arguments):
        raise AssertionError(arguments)

    asyncio.run(guard.Guard(never, ())({"type": "websocket"}, never, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def pass_through_guard(guarding, scope, *messages):
    """What a guard answers to a request that arrives in these messages."""
    sent, arriving = [], iter(messages)

    async def send(message):
        sent.append(message)

    async def receive():
        return next(arriving)

    scope = {"type": "http", "scheme": "http", "path": QUESTION, "headers": [], **scope}
    asyncio.run(guarding(scope, receive, send))
    return sent


def test_a_refusal_says_why_and_ends_the_connection():
    start, end = pass_through_guard(guard.Guard(None, ()), {"method": "PUT"})
    assert start["status"] == 405 and (b"connection", b"close") in start["headers"]
    assert end["body"] == b"this request is not accepted here\n"


@pytest.mark.parametrize(
    ("method", "length", "status"),
    [("HEAD", "9", None), ("POST", str(MAX_BODY), None), ("POST", str(MAX_BODY + 1), 413),
     ("POST", "-1", 413), ("POST", "", 413), ("POST", "seven", 413)],
)  # fmt: skip
def test_the_length_that_is_announced_is_checked(method, length, status):
    headers = [(b"content-length", length.encode())]
    scope = {"scheme": "http", "method": method, "path": QUESTION, "headers": headers}
    assert (guard.find_problem(scope) or (None,))[0] == status


def test_whoever_leaves_gets_no_answer_and_leaves_room():
    guarding = guard.Guard(None, ())
    assert pass_through_guard(guarding, {"method": "POST"}, {"type": "http.disconnect"}) == []
    assert guarding.questions == 0


def test_more_at_once_are_refused_until_others_are_answered_or_have_failed():
    question = json.dumps({"session_hash": "me", "component_id": 1, "fn_name": "answer"})
    statuses = []

    async def fill():
        done = asyncio.Event()

        async def fail_when_done(scope, receive, send):
            await done.wait()
            raise ValueError("a bug")

        async def send(message):
            statuses.append(message.get("status"))

        async def receive():
            return {"type": "http.request", "body": question.encode()}

        guarding = guard.Guard(fail_when_done, (1,))
        scope = {"type": "http", "scheme": "http", "path": QUESTION, "headers": []}
        scope["method"] = "POST"
        waiting = [asyncio.create_task(guarding(scope, receive, send)) for _ in range(MOST_AT_ONCE)]
        await asyncio.sleep(0)
        await asyncio.wait_for(guarding(scope, receive, send), 10)
        done.set()
        return guarding, await asyncio.gather(*waiting, return_exceptions=True)

    guarding, results = asyncio.run(fill())
    assert MOST_AT_ONCE == 16 and [type(result) for result in results] == [ValueError] * 16
    assert statuses == [503, None]
    assert guarding.questions == 0


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_no_pages_of_the_servers_own_are_shown(port, path):
    """FastAPI has some, which load scripts from the internet."""
    status, body = ask(port, "GET", path)
    assert status == 404 or b"Draw a digit" in body


@pytest.mark.parametrize(
    "path",
    ["/", "/login", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/answer",
     "/gradio_api/vibe-edit", "/gradio_api/cancel", f"{QUESTION}x", f"{QUESTION}/../upload"],
)  # fmt: skip
def test_nothing_else_can_be_sent(port, path):
    # Without a body: the server closes before it has read one, and the answer could be lost.
    assert ask(port, "POST", path, Content_Type="application/json")[0] == 405
    assert ask(port, "PUT", path)[0] == 405


# ------------------------------------------------------------------------------ garbage


@pytest.mark.usefixtures("answers_afterwards")
def test_garbage_is_refused(port, make_question, component, capfd):
    bodies = [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b"garbage", b"[" * 1_000_000, b"9" * 1_000_000,
        make_question("x", component_id=10**9), make_question("x", component_id=str(component)),
        make_question("x", component_id=[1]), make_question("x", fn_name="__init__"),
        make_question("x", fn_name=None), make_question("x", session_hash={}),
    ]  # fmt: skip
    for body in bodies:
        status, _ = ask(port, "POST", QUESTION, body, Content_Type="application/json")
        assert status == 400, body[:100]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("answers_afterwards")
def test_what_is_no_picture_is_an_error_in_the_answer(port, make_question, capfd):
    large = as_url(np.zeros((9000, 9), np.uint8))
    for data in (None, 7, [], {"path": __file__}, "", __file__, large, demo.PREFIX + "AAAA"):
        body = make_question(data)
        status, body = ask(port, "POST", QUESTION, body, Content_Type="application/json")
        assert status == 200 and set(json.loads(body)) == {"error"}
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("answers_afterwards")
def test_what_is_no_http_is_refused(port):
    for garbage in (
        b"\0" * 5000,
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\0" * 99,
        b"POST / HTTP/9.9\n\n",
    ):
        with socket.create_connection((demo.HOST, port), timeout=30) as connection:
            connection.sendall(garbage)
            assert connection.recv(100).startswith((b"HTTP/1.1 4", b""))


@pytest.mark.usefixtures("answers_afterwards")
def test_bodies_that_are_too_large_are_refused(port, make_question):
    many = (b" " * 100_000 for _ in range(MAX_BODY // 100_000 + 2))  # without saying how many
    with contextlib.suppress(ConnectionError):  # it was refused before all of it was sent
        assert ask(port, "POST", QUESTION, many)[0] == 413
    status, body = ask(
        port, "POST", QUESTION, make_question(demo.PREFIX + "A" * demo.MAX_LENGTH),
        Content_Type="application/json",
    )  # fmt: skip
    assert status == 200 and "too large" in json.loads(body)["error"]
    for length in (MAX_BODY + 1, "99999999999999999999", "-1", "seven"):
        with socket.create_connection((demo.HOST, port), timeout=30) as connection:
            head = f"POST {QUESTION} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
            assert connection.recv(12) in (b"HTTP/1.1 413", b"HTTP/1.1 400")


# ------------------------------------------------------------------------------ many at once


@pytest.fixture
def many_connections():
    """Room for 500 connections, both ends of which are in this process."""
    resource = pytest.importorskip("resource", reason="needs more open files than are allowed here")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if before[1] == resource.RLIM_INFINITY else min(4096, before[1])
    if wanted < 1500:
        pytest.skip("needs more open files than are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, before[0]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def ask_at_once(port, bodies):
    """The statuses and bodies of the answers to questions that are all open together."""

    async def connect():
        return await asyncio.open_connection(demo.HOST, port)

    async def ask_one(connection, body):
        reader, writer = connection
        head = (
            f"POST {QUESTION} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            writer.write(head.encode() + body)
            answer = await reader.read()
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    connections = [await connect() for _ in bodies]
    return await asyncio.gather(*map(ask_one, connections, bodies))


@pytest.mark.usefixtures("answers_afterwards")
def test_500_at_once_with_a_slow_one_among_them(port, question, make_question, many_connections):
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024), np.uint8)
    bodies = [question] * 500
    bodies[3] = make_question(as_url(noise))
    answers = asyncio.run(asyncio.wait_for(ask_at_once(port, bodies), 120))
    statuses = [status for status, _ in answers]
    print({status: statuses.count(status) for status in set(statuses)})
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= MOST_AT_ONCE / 2
    for i, (status, body) in enumerate(answers):
        if status == 200 and i != 3:
            assert json.loads(body)["number"] == "7"


def test_a_picture_that_takes_long_does_not_hold_up_the_next():
    second = threading.Event()

    def answer(url):
        assert url == "second" or second.wait(10)
        second.set()
        return {}

    async def ask_both():
        ask = demo.in_thread(answer)
        return await asyncio.gather(ask("first"), ask("second"))

    assert asyncio.run(ask_both()) == [{}, {}]


@pytest.mark.usefixtures("answers_afterwards")
def test_questions_that_never_end_do_not_hold_it_up(port, monkeypatch):
    """Fewer than it takes at once: more would be refused until they are given up."""
    assert guard.PATIENCE == 10
    monkeypatch.setattr(guard, "PATIENCE", 1)
    waiting = []
    try:
        for _ in range(MOST_AT_ONCE - 2):
            waiting.append(socket.create_connection((demo.HOST, port), timeout=30))
            head = f"POST {QUESTION} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            waiting[-1].sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        assert ask(port, "GET", "/")[0] == 200
        assert waiting[0].recv(12) == b"HTTP/1.1 408"
    finally:
        for connection in waiting:
            connection.close()

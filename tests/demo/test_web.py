"""Who is answered, with what, and that nothing else ever leaves: against a viewer made of words."""

import http.client
import json
import socket
import threading
import time

import pytest

from tests.demo.conftest import ROOT

from uploads import Limits, Refused  # isort: skip
from web import FILES, HEADERS, Server  # isort: skip

BYTES = {"Content-Type": "application/octet-stream"}


class Words:
    """A viewer whose answers are known."""

    limits = Limits(megabytes=0.01)

    def about(self):
        return {"model": "words"}

    def look(self, data):
        if data == b"bad":
            raise Refused(415, "No.")
        if data == b"bug":
            raise RuntimeError("/secret/path and more")
        return {"bytes": len(data)}

    def look_at_own(self, index):
        return {"index": index}

    def thumbnail(self, index):
        if index > 3:
            raise Refused(404, "There is no such image.")
        return b"\xff\xd8 jpeg"


@pytest.fixture(scope="module")
def server():
    with Server(Words()) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def ask(server, method, path, body=None, **headers):
    """(status, headers, body)"""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        given = {**BYTES, **given}
    connection.request(method, path, body, given)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def said(answer):
    sentence = json.loads(answer[2])["error"]
    assert sentence.endswith(".") and "Traceback" not in sentence
    assert "/" not in sentence.replace(BYTES["Content-Type"], "")
    return answer[0], sentence


def raw(server, data):
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10) as wire:
        wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: wire.recv(65536), b""))


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_the_page_and_its_parts(server):
    for path, (name, kind) in FILES.items():
        status, headers, body = ask(server, "GET", path)
        assert status == 200 and headers["Content-Type"] == kind
        assert body == (ROOT / "demo/page" / name).read_bytes()
        assert b"http" not in body.replace(b"http://www.w3.org/", b"")  # nothing from elsewhere
    assert json.loads(ask(server, "GET", "/about")[2]) == {"model": "words"}
    assert ask(server, "GET", "/thumbnail/3")[2] == b"\xff\xd8 jpeg"
    assert ask(server, "HEAD", "/")[0::2] == (200, b"")


def test_every_answer_carries_the_policy(server):
    answers = [
        ask(server, "GET", "/"),
        ask(server, "GET", "/nothing"),
        ask(server, "POST", "/look", b"bug"),
        ask(server, "DELETE", "/"),
        ask(server, "GET", "/", Host="evil.example"),
    ]
    for _, headers, _ in answers:
        assert headers.items() >= HEADERS.items()
        assert "Python" not in headers["Server"]
    assert [answer[0] for answer in answers] == [200, 404, 500, 501, 403]
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_uploads(server):
    assert json.loads(ask(server, "POST", "/look", b"x" * 100)[2]) == {"bytes": 100}
    assert json.loads(ask(server, "POST", "/look/2", b"")[2]) == {"index": 2}
    assert said(ask(server, "POST", "/look", b"bad")) == (415, "No.")


def test_a_defect_is_told_in_the_terminal_only(server, caplog):
    status, sentence = said(ask(server, "POST", "/look", b"bug"))
    assert status == 500 and "secret" not in sentence and "terminal" in sentence
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize(
    "path",
    ["/../serve.py", "/page/../serve.py", "/%2e%2e/serve.py", "//etc/passwd", "/serve.py", "/x",
     "/thumbnail/", "/thumbnail/-1", "/thumbnail/4", "/thumbnail/../1", "/thumbnail/1e1",
     "/thumbnail/%00", "/thumbnail/٣", "/thumbnail/" + "9" * 5000],
)  # fmt: skip
def test_addresses_that_are_none(server, path):
    answer = raw(server, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 404") and b'{"error": "There is no' in answer


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8009", "localhost.evil.example", "", "10.0.0.1"],
)
@pytest.mark.parametrize("path", ["/about", "/thumbnail/1"])
def test_another_name_for_this_machine_is_refused(server, host, path):
    """DNS rebinding: a page of evil.example whose name suddenly means 127.0.0.1."""
    status, sentence = said(ask(server, "GET", path, Host=host))
    assert status == 403 and "localhost" in sentence


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:8009"])
def test_tunnels_may_have_another_port(server, host):
    assert ask(server, "GET", "/about", Host=host)[0] == 200


def test_other_pages_of_the_browser_are_refused(server):
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:8888", "Host": "localhost:8009"},  # another local server
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        status, sentence = said(ask(server, "POST", "/look", b"x", **headers))
        assert status == 403 and "other web pages" in sentence
        assert ask(server, "GET", "/thumbnail/1", **headers)[0] == 403
    own = {"Origin": "http://localhost:8009", "Host": "localhost:8009"}
    assert ask(server, "POST", "/look", b"x", Sec_Fetch_Site="same-origin", **own)[0] == 200
    assert ask(server, "GET", "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link to the page


def test_what_forms_can_send_is_refused(server):
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        assert said(ask(server, "POST", "/look", b"x", Content_Type=kind))[0] == 415
    assert ask(server, "OPTIONS", "/look", Origin="http://evil.example")[0] == 501  # no preflight


def test_too_large_is_a_sentence_though_the_browser_is_still_sending(server):
    status, sentence = said(ask(server, "POST", "/look", b"x" * 3_000_000))
    assert status == 413 and "3.0 MB" in sentence and "0.01 MB are taken" in sentence


@pytest.mark.parametrize("length", ["", "-1", "ten", "1e3", "9" * 40])
def test_lengths_that_are_none(server, length):
    head = f"POST /look HTTP/1.0\r\nHost: localhost\r\nContent-Type: {BYTES['Content-Type']}\r\n"
    answer = raw(server, f"{head}Content-Length: {length}\r\n\r\nabc".encode())
    assert answer.startswith(b"HTTP/1.0 411")


def test_an_upload_that_ends_early(server):
    head = f"POST /look HTTP/1.0\r\nHost: localhost\r\nContent-Type: {BYTES['Content-Type']}\r\n"
    answer = raw(server, f"{head}Content-Length: 50\r\n\r\nabc".encode())
    assert answer.startswith(b"HTTP/1.0 400") and b"ended early" in answer


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02", b"<script> / HTTP/1.0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A"],
)
def test_noise_is_not_repeated(server, request_):
    answer = raw(server, request_)
    assert b"<" not in answer and b"Traceback" not in answer


def test_silent_connections_do_not_keep_others_out(server):
    """More of them than there are threads for: the rest is closed, and once they go it answers."""
    wires = [socket.create_connection(server.server_address[:2]) for _ in range(40)]
    time.sleep(0.3)
    alive = threading.active_count()
    for wire in wires:
        wire.close()
    assert alive < 40
    end = time.monotonic() + 10
    while True:
        try:
            assert ask(server, "GET", "/about")[0] == 200
            break
        except (ConnectionError, http.client.HTTPException):
            assert time.monotonic() < end
            time.sleep(0.1)

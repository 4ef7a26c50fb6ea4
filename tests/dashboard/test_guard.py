"""Who may talk to the dashboard: its own pages with the token; all else is refused, logged, and it serves on."""

import http.client
import json
import logging
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mpsearch.dashboard.serve import Served
from mpsearch.figures.content import Report
from tests.support.command_line import Mpsearch
from tests.support.made_folder import write_run


@pytest.fixture(scope="module")
def served_run(
    make_report: Callable[..., Report], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_run(make_report(6), tmp_path_factory.mktemp("guarded") / "run")


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served], served_run: Path) -> Served:
    return serve(served_run)


class Client:
    def __init__(self, served: Served) -> None:
        link = urlsplit(served.link)
        self.port, self.token = link.port or 0, link.query.partition("=")[2]

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    @property
    def cookie(self) -> str:
        return f"mpsearch_{self.port}={self.token}"


@pytest.fixture
def client(served: Served) -> Client:
    return Client(served)


def still_serves(client: Client) -> bool:
    return client.ask("/", Cookie=client.cookie)[0] == 200


def test_the_link_sets_a_cookie_and_leaves_the_address(client: Client) -> None:
    status, headers, _ = client.ask(f"/?token={client.token}")
    assert (status, headers["Location"]) == (302, "/")
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    assert still_serves(client)


@pytest.mark.parametrize(
    "path", ["/", "/_dash-layout", "/_dash-dependencies", "/assets/page.css", "/files/a/b/plan"]
)
@pytest.mark.parametrize("cookie", ["", "mpsearch_{port}=wrong", "mpsearch_{port}=\u00fc"])
def test_without_the_token_nothing_is_said(client: Client, path: str, cookie: str) -> None:
    status, _, body = client.ask(path, Cookie=cookie.format(port=client.port))
    assert status == 403
    assert len(body) < 100
    assert still_serves(client)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example"]
)
def test_another_host_is_refused(client: Client, host: str) -> None:
    assert client.ask("/", Cookie=client.cookie, Host=host)[0] == 421
    assert still_serves(client)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}"])
def test_another_origin_is_refused(client: Client, origin: str) -> None:
    origin = origin.format(port=client.port)
    asked = client.ask(
        "/_dash-update-component", method="POST", body=b"{}", Cookie=client.cookie, Origin=origin
    )
    assert asked[0] == 403
    assert client.ask("/", Cookie=client.cookie, Sec_Fetch_Site="cross-site")[0] == 403
    assert still_serves(client)


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/guard.py",
        "/files/..%2f..%2f/etc/passwd",
        "/files/run/../../../../etc/passwd/plan",
        "/_dash-component-suites/dash/../../../../../../etc/passwd",
        "/_dash-component-suites/os/os.py",
    ],
)
def test_no_path_leads_out_of_what_is_served(client: Client, path: str) -> None:
    status, _, body = client.ask(path, Cookie=client.cookie)
    assert b"root:" not in body
    assert b"compare_digest" not in body
    assert status in (200, 404, 500)
    if status == 200:
        assert b"react-entry-point" in body  # the page itself: any other address is one of it
    assert still_serves(client)


def test_a_large_body_is_refused_unread_and_logged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mpsearch.dashboard"):
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        connection.putrequest("POST", "/_dash-update-component")
        connection.putheader("Cookie", client.cookie)
        connection.putheader("Content-Length", str(100_000_000))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
    assert "refused POST /_dash-update-component" in caplog.text
    assert client.token not in caplog.text
    assert still_serves(client)


def test_every_answer_has_a_policy_that_runs_only_named_scripts(client: Client) -> None:
    for path in ("/", "/assets/page.js"):
        policy = client.ask(path, Cookie=client.cookie)[1]["Content-Security-Policy"]
        script = next(p for p in policy.split("; ") if p.startswith("script-src"))
        assert script.startswith("script-src 'self'")
        assert "unsafe" not in script
        assert "default-src 'none'" in policy
        assert "http" not in policy


def test_only_this_machine_is_listened_on(served: Served) -> None:
    assert served.server.server_address[0] == "127.0.0.1"


def test_files_are_found_by_names_of_the_page_alone(client: Client, tmp_path: Path) -> None:
    for path in ("/files/x/y/plan", "/files/x/y/export-onnx", "/files/x/y/zip"):
        assert client.ask(path, Cookie=client.cookie)[0] == 404


def test_the_command_prints_a_link_that_opens_it_and_ends_on_an_interrupt(served_run: Path) -> None:
    words = [sys.executable, "-m", "mpsearch", "dashboard", str(served_run), "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = b"".join(iter(process.stdout.readline, b"}\n")) + b"}"
        link = json.loads(text)["link"]
        with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(link) as answer:
            assert b"react-entry-point" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_what_is_not_there_is_one_line(tmp_path: Path, mpsearch: Mpsearch) -> None:
    result = mpsearch("dashboard", tmp_path / "nowhere")
    assert result.code == 1
    assert result.err == "error: nowhere: must exist, but was not found\n"

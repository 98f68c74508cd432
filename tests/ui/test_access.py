"""Who may ask for what: host names, other sites' pages and frames, the login and what is behind."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from serving import RunningApp

from motion_app.settings import Settings
from motion_app.study.site.address import PublicAddress
from motion_app.ui.access import (
    OPEN,
    Attempts,
    host_name,
    is_listed,
    known_hosts,
    safe_cookies,
)
from motion_app.ui.visitor import address_of

NAME, PASSWORD = "ann", "a long password"
BASIC = "Basic " + base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
FOREIGN = "http://stranger.invalid"
MODEL = "gradio_api/call/model"
TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
STREAM = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """The app with a login, MCP, and a proxy on this machine that is believed."""
    flags = ("--mcp", "--auth", f"{NAME}:{PASSWORD}")
    folder = tmp_path_factory.mktemp("behind")
    small = {"MOTION_APP_LIMITS__CALL_MEGABYTES": "0.5"}
    small["MOTION_APP_LIMITS__UPLOAD_GIGABYTES"] = str(0.75 / 1024)
    with RunningApp(folder, *flags, MOTION_APP_HOSTS="lab.example", **small) as running:
        yield running


@pytest.fixture
def stranger(behind: RunningApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=behind.url, timeout=60) as client:
        yield client


@pytest.fixture
def ann(behind: RunningApp) -> Iterator[httpx.Client]:
    """Somebody who logged in on the page."""
    with httpx.Client(base_url=behind.url, timeout=60) as client:
        assert log_in(client).json() == {"success": True}
        yield client


def log_in(client: httpx.Client, password: str = PASSWORD, **headers: str) -> httpx.Response:
    return client.post("login", data={"username": NAME, "password": password}, headers=headers)


def model_of(client: httpx.Client, **headers: str) -> str:
    asked = client.post(MODEL, json={"data": []}, headers=headers)
    assert asked.status_code == 200, asked.text
    return client.get(f"{MODEL}/{asked.json()['event_id']}", headers=headers).text


# behind the login -------------------------------------------------------------------------------

# What gradio's own routes are, and the app's, as the program itself lists them; whether it needed
# torch for its page.
BUILD_PAGE = """
import json, sys
from motion_app.settings import Hosting
from motion_app.ui.launch import UploadFolder, prepare_app
from pathlib import Path
import tempfile
with tempfile.TemporaryDirectory() as folder, UploadFolder(Path(folder), most_bytes=1) as uploads:
    page = prepare_app(Hosting().settings(outputs=Path(folder)), uploads, Hosting()).page
    known = page.app.openapi()["paths"]
    routes = {path: list(ways) for path, ways in known.items()}
    print(json.dumps({"routes": routes, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def built() -> SimpleNamespace:
    told = subprocess.run(
        [sys.executable, "-c", BUILD_PAGE], capture_output=True, text=True, check=True
    )
    return SimpleNamespace(**json.loads(told.stdout.strip().splitlines()[-1]))


def test_the_page_is_built_without_torch(built: SimpleNamespace) -> None:
    """Importing it takes longer than opening the page; the loading thread does that."""
    assert built.torch is False


def test_every_route_but_those_listed_is_behind_the_login(
    stranger: httpx.Client, built: SimpleNamespace
) -> None:
    assert len(built.routes) > 40
    told = set()
    for path, ways in built.routes.items():
        filled = "".join("x" if part in "{}" else part for part in path)
        if is_listed(filled.lstrip("/"), OPEN):
            continue
        for way in ways:
            answer = stranger.request(way.upper(), filled)
            assert answer.status_code in (401, 404), (way, path, answer.status_code)
            told.add(answer.status_code)
    assert told == {401, 404}  # what the page needs, and what it does not


@pytest.mark.parametrize("path", ["", "zh", "login", "assets/x.js", "manifest.json", "study/none/"])
def test_what_the_login_is_drawn_with_is_open(stranger: httpx.Client, path: str) -> None:
    assert stranger.get(path).status_code != 401


def test_the_page_tells_a_stranger_nothing_but_that_there_is_a_login(
    stranger: httpx.Client,
) -> None:
    page = stranger.get("").text
    assert '"auth_required":true' in page.replace(" ", "")
    told = re.search(r"window\.gradio_config = (\{.*?\});", page)
    assert told is not None
    config = json.loads(told[1])
    assert config["components"] == config["dependencies"] == []


def test_who_logged_in_can_call(ann: httpx.Client) -> None:
    assert '"name": "pocket"' in model_of(ann)
    assert ann.get("config").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"), [(MODEL, 401), ("gradio_api/upload", 401), ("login", 413), ("zh", 413)]
)
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "", "x/y"])
def test_of_a_strangers_body_nothing_is_waited_for(
    behind: RunningApp, path: str, status: int, kind: str
) -> None:
    """The answer comes to the head alone."""
    connection = http.client.HTTPConnection("127.0.0.1", behind.port, timeout=30)
    connection.putrequest("POST", f"/{path}")
    connection.putheader("Content-Length", str(10**12))
    connection.putheader("Content-Type", kind)
    connection.endheaders()
    answer = connection.getresponse().status
    assert answer == status or (path == "zh" and answer == 415)  # files are taken elsewhere
    connection.close()


KINDS = (
    *("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
    *("text/plain", "application/octet-stream", "image/png", "video/mp4", "text/html", "x/y", ""),
    *("multipart/mixed; boundary=x", "multipart/form-data", "APPLICATION/JSON; charset=utf-16"),
)
CALLS = (MODEL, "gradio_api/queue/join", "gradio_api/run/model", "gradio_api/upload")
PLACES = (
    *("gradio_api/component_server", "gradio_api/mcp/", "gradio_api/reset", "zh", "nothing"),
    *("study/none/api/answers", "study/none/admin/login", "study/~demo/"),
)
OVER = 2**20  # bytes, over each of the limits that ``behind`` has
PIECE = b"A" * 2**15


def send_over(port: int, path: str, headers: dict[str, str], *, stated: bool) -> tuple[int, str]:
    """The answer to a body that is too large, with its length before it or in pieces without."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", f"/{path}")
    length = ("Content-Length", str(OVER)) if stated else ("Transfer-Encoding", "chunked")
    for name, value in (length, *headers.items()):
        connection.putheader(name, value)
    connection.endheaders()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(OVER // len(PIECE)):
            if select.select([connection.sock], [], [], 0)[0]:
                break  # it is answered before all of it was sent
            connection.send(PIECE if stated else b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
        else:
            connection.send(b"" if stated else b"0\r\n\r\n")
    answer = connection.getresponse()
    text = answer.read(4000).decode("utf-8", "replace")
    connection.close()
    return answer.status, text


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_over_the_limit_is_refused_whatever_it_calls_itself_before_and_after_the_login(
    behind: RunningApp, ann: httpx.Client, kind: str
) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in ann.cookies.items())

    def refused(path: str, stated: bool, **who: str) -> int:
        headers = {"Content-Type": kind, **who}
        status, text = send_over(behind.port, path, headers, stated=stated)
        assert 400 <= status < 500, (path, who, stated, status, text)
        assert len(text) < 500 and "Traceback" not in text, (path, text)
        if status in (413, 415):
            assert "at most" in text or "alone" in text, text
        return status

    for stated in (True, False):
        for path in (*CALLS, *PLACES):
            before = refused(path, stated)  # of a stranger's nothing is read
            assert path not in CALLS or before == 401
            for who in ({"Cookie": cookie}, {"Authorization": BASIC}):
                after = refused(path, stated, **who)
                assert path not in CALLS or after in (400, 413, 415)
        refused("login", stated)
    assert log_in(ann).is_success  # what was too large counts as a wrong password until this
    assert '"name": "pocket"' in model_of(ann)  # and it lives


def test_a_program_sends_name_and_password_with_each_call(stranger: httpx.Client) -> None:
    assert '"name": "pocket"' in model_of(stranger, Authorization=BASIC)
    wrong = "Basic " + base64.b64encode(b"ann:wrong").decode()
    answer = stranger.post(MODEL, json={"data": []}, headers={"Authorization": wrong})
    assert answer.status_code == 401


def test_gradios_own_client_can_log_in(behind: RunningApp) -> None:
    from gradio_client import Client

    client = Client(behind.url, auth=(NAME, PASSWORD), verbose=False)
    assert client.predict(api_name="/model")["name"] == "pocket"


# MCP --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["gradio_api/mcp/", "gradio_api/mcp/http/", "gradio_api/mcp"])
def test_strangers_see_none_of_the_tools(stranger: httpx.Client, path: str) -> None:
    assert stranger.post(path, json=TOOLS, headers=STREAM).status_code == 401


@pytest.mark.parametrize("path", ["schema", "sse", "messages/", ""])
def test_strangers_see_nothing_else_of_mcp(stranger: httpx.Client, path: str) -> None:
    assert stranger.get(f"gradio_api/mcp/{path}").status_code == 401


def test_tools_work_for_who_is_logged_in(stranger: httpx.Client) -> None:
    headers = {**STREAM, "Authorization": BASIC}
    assert '"name":"generate"' in stranger.post("gradio_api/mcp/", json=TOOLS, headers=headers).text
    call = TOOLS | {"method": "tools/call", "params": {"name": "model", "arguments": {}}}
    told = stranger.post("gradio_api/mcp/", json=call, headers=headers).text
    assert "pocket" in told and '"isError":false' in told


# the login itself -------------------------------------------------------------------------------


def test_the_cookie_is_lax_over_http_and_secure_over_https(behind: RunningApp) -> None:
    with httpx.Client(base_url=behind.url) as client:
        (plain,) = log_in(client).headers.get_list("set-cookie")
        (secure,) = log_in(client, **{"X-Forwarded-Proto": "https"}).headers.get_list("set-cookie")
    for cookie in (plain, secure):
        assert "SameSite=Lax" in cookie and "HttpOnly" in cookie
    assert "; Secure" in secure and "; Secure" not in plain


def test_of_gradios_two_cookies_the_one_that_fits_is_kept() -> None:
    given = [
        "access-token-x=1; HttpOnly; Path=/; SameSite=none; Secure",
        "access-token-unsecure-x=1; HttpOnly; Path=/; SameSite=lax",
    ]
    (plain,), (secure,) = safe_cookies(given, secure=False), safe_cookies(given, secure=True)
    assert plain.startswith("access-token-unsecure-x=1;") and secure.startswith("access-token-x=1;")


def test_wrong_passwords_of_one_address_wait_and_nobody_else_does(behind: RunningApp) -> None:
    guesser = {"X-Forwarded-For": "203.0.113.7"}
    with httpx.Client(base_url=behind.url) as client:
        told = [log_in(client, f"guess {n}", **guesser).status_code for n in range(8)]
        assert told == [400] * 5 + [429] * 3
        waits = log_in(client, PASSWORD, **guesser)
        assert waits.status_code == 429 and 0 < int(waits.headers["retry-after"]) <= 61
        assert "wait" in waits.json()["detail"]
        named = client.post(MODEL, headers={"Authorization": BASIC, **guesser}, json={"data": []})
        assert named.status_code == 429
        assert log_in(client, PASSWORD, **{"X-Forwarded-For": "203.0.113.8"}).status_code == 200


def test_attempts_at_once_are_counted_before_they_are_judged() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    assert [attempts.begin("a") > 0 for _ in range(7)] == [False] * 5 + [True] * 2
    assert attempts.begin("b") == 0
    now[0] = 61.0
    assert attempts.begin("a") == 0
    attempts.right("a")
    assert [attempts.begin("a") > 0 for _ in range(6)] == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.7", "203.0.113.8", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_of_ipv6_a_whole_network_is_one_visitor(one: str, other: str, same: bool) -> None:
    addresses = [address_of(SimpleNamespace(client=SimpleNamespace(host=h))) for h in (one, other)]
    assert (addresses[0] == addresses[1]) is same


# names and other sites --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "known"),
    [
        *(("127.0.0.1:7860", True), ("localhost", True), ("[::1]:80", True), ("10.1.2.3", True)),
        *(("app.localhost:1", True), ("LAB.example.:443", True), ("lab.example", True)),
        *(("stranger.invalid", False), ("lab.example.invalid", False), ("127.0.0.1.nip.io", False)),
        *(("xlab.example", False), ("localhost.invalid", False)),
    ],
)
def test_only_names_that_are_its_own_are_answered(
    stranger: httpx.Client, host: str, known: bool
) -> None:
    for path in ("", "config", "study/x/"):
        answer = stranger.get(path, headers={"Host": host})
        assert (answer.status_code != 421) is known, path
    if not known:
        assert "MOTION_APP_HOSTS" in answer.json()["detail"]


def test_the_names_are_those_that_the_deployment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTION_APP_HOSTS", "lab.example, www.lab.example:443")
    known = known_hosts(Settings(host="0.0.0.0"), PublicAddress.parse("https://pub.example/motion"))
    assert {"lab.example", "www.lab.example", "pub.example"} <= known
    assert not known & {"", "0.0.0.0"}


@pytest.mark.parametrize(
    ("host", "name"), [("[::1]:80", "::1"), ("A.b:1", "a.b"), ("a.b.", "a.b"), ("a", "a")]
)
def test_a_name_is_read_without_its_port(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize("way", ["POST", "OPTIONS", "PUT", "DELETE"])
def test_another_sites_page_can_call_nothing(ann: httpx.Client, way: str) -> None:
    headers = {"Origin": FOREIGN, "Access-Control-Request-Method": "POST"}
    answer = ann.request(way, MODEL, headers=headers, json={"data": []})
    assert answer.status_code == 403 and "another site" in answer.json()["detail"]
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_another_sites_page_can_read_nothing(ann: httpx.Client) -> None:
    answer = ann.get("config", headers={"Origin": FOREIGN})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.status_code == 401  # its cookies are left at the door


def test_a_form_of_another_site_is_refused_by_what_the_browser_says_of_it(
    ann: httpx.Client,
) -> None:
    answer = ann.post(MODEL, headers={"Sec-Fetch-Site": "same-site"}, json={"data": []})
    assert answer.status_code == 403


def test_the_own_page_may_call(behind: RunningApp, ann: httpx.Client) -> None:
    for origin in (behind.url.rstrip("/"),):
        assert '"name": "pocket"' in model_of(ann, Origin=origin)
    told = model_of(ann, **{"Sec-Fetch-Site": "same-origin", "Origin": FOREIGN})
    assert "pocket" in told  # a proxy that changes the Host: the browser knows better


def test_no_other_site_shows_the_page_in_a_frame(stranger: httpx.Client) -> None:
    answer = stranger.get("")
    assert answer.headers["content-security-policy"] == "frame-ancestors 'self'"
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_where_the_deployment_says_so_other_sites_show_it_and_call_as_strangers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("framed")
    with (
        RunningApp(folder, MOTION_APP_FRAMES="https://hub.example, http://x.example/") as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        answer = client.get("")
        policy = answer.headers["content-security-policy"]
        assert policy == "frame-ancestors 'self' https://hub.example http://x.example"
        assert "x-frame-options" not in answer.headers
        asks = {"Origin": "https://hub.example", "Access-Control-Request-Method": "POST"}
        allowed = client.options(MODEL, headers=asks).headers
        assert allowed["access-control-allow-origin"] == "https://hub.example"
        assert "access-control-allow-credentials" not in allowed
        told = client.post(MODEL, json={"data": []}, headers={"Origin": "https://hub.example"})
        assert told.headers["access-control-allow-origin"] == "https://hub.example"
        assert "access-control-allow-credentials" not in told.headers
        assert client.post(MODEL, json={"data": []}, headers={"Origin": FOREIGN}).status_code == 403

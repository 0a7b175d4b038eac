"""The server that goes wrong: right without a fault, wrong in just the way that was asked for."""

import itertools
import json
from http.client import HTTPConnection, IncompleteRead

import pytest

from bad_server import (
    HubServer,
    bad_server,
    cut,
    hub_server,
    no_length,
    no_range,
    stall,
    status,
    wrong_bytes,
    wrong_length,
    wrong_range,
)

DATA = bytes(range(100))


@pytest.fixture
def server(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.part").write_bytes(DATA)
    with bad_server(tmp_path, sub_path="some/where") as server:
        yield server


def ask(server, path="below/a.part", method="GET", **headers):
    """(status, headers, body) of a request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=0.3)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        url = path if path.startswith("/") else server.base + path
        connection.request(method, url, headers=names)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_without_faults_it_answers_as_it_should(server):
    code, headers, body = ask(server)
    assert (code, body, headers["Content-Length"]) == (200, DATA, "100")
    tag = headers["ETag"]
    assert ask(server, method="HEAD")[2] == b""
    for asked, part in (("10-", DATA[10:]), ("10-19", DATA[10:20]), ("-5", DATA[-5:])):
        code, headers, body = ask(server, Range=f"bytes={asked}", If_Range=tag)
        start = DATA.index(part[:1])
        assert (code, body) == (206, part)
        assert headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/100"
    assert ask(server, Range="bytes=10-", If_Range='"another"')[::2] == (200, DATA)
    assert ask(server, Range="bytes=100-")[0] == 416
    assert ask(server, "below/b.part")[0] == 404
    assert ask(server, "../secret")[0] == ask(server, "/below/c.part")[0] == 404
    assert (server.count("a.part"), server.count("a.part", "HEAD")) == (6, 1)
    assert server.sent("below/a.part") == 100 + 90 + 10 + 5 + 100
    assert server.seen("a.part")[2].range == "bytes=10-"


def test_each_fault_is_what_its_name_says(server):
    def with_fault(fault, **headers):
        server.faults["a.part"] = [fault]
        return ask(server, **headers)

    with pytest.raises(IncompleteRead) as cut_off:
        with_fault(cut(after=30))
    assert cut_off.value.partial == DATA[:30]
    with pytest.raises(TimeoutError):
        with_fault(stall(after=30))
    assert [seen.sent for seen in server.seen("a.part")] == [30, 30]
    assert with_fault(no_range(), Range="bytes=10-")[::2] == (200, DATA)
    code, headers, body = with_fault(wrong_range(start=1, total=2), Range="bytes=10-")
    assert (code, headers["Content-Range"], body) == (206, "bytes 11-100/102", DATA[10:])
    assert with_fault(wrong_bytes(at=5))[2] == DATA[:5] + b"\xfa" + DATA[6:]
    assert with_fault(wrong_bytes(at=5), Range="bytes=10-")[2] == DATA[10:]
    assert [with_fault(status(code))[0] for code in (503, 416)] == [503, 416]
    code, headers, body = with_fault(no_length())
    assert (code, headers["Content-Length"], body) == (200, None, DATA)
    assert with_fault(wrong_length(by=-1))[2] == DATA[:-1]
    assert with_fault(wrong_length(by=1))[2] == DATA + b"\0"
    assert ask(server)[2] == DATA  # none is left


def test_faults_are_for_one_request_each_or_for_all(server):
    server.faults["a.part"] = [None, status(503), None]
    assert [ask(server)[0] for _ in range(5)] == [200, 503, 200, 200, 200]
    server.faults["a.part"] = itertools.repeat(no_range() | wrong_bytes())
    for _ in range(3):
        code, _, body = ask(server, Range="bytes=10-")
        assert (code, body[0], len(body)) == (200, 255, 100)
    server.forget()
    assert ask(server)[0] == 200 and server.count("a.part") == 1


def test_the_hub_knows_its_models(tmp_path):
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    (tmp_path / "acme" / "tiny" / "config.json").write_text("{}")
    with hub_server(tmp_path) as hub:
        about = json.loads(ask(hub, "/api/models/acme/tiny/revision/main")[2])
        assert (about["sha"], about["siblings"]) == (
            HubServer.COMMIT,
            [{"rfilename": "config.json"}],
        )
        tree = json.loads(ask(hub, f"/api/models/acme/tiny/tree/{about['sha']}?recursive=true")[2])
        assert [(file["path"], file["size"]) for file in tree] == [("config.json", 2)]
        code, headers, _ = ask(hub, "/acme/tiny/resolve/main/config.json", method="HEAD")
        assert (code, headers["X-Repo-Commit"], headers["Content-Length"]) == (
            200,
            about["sha"],
            "2",
        )
        assert ask(hub, f"/acme/tiny/resolve/{about['sha']}/config.json")[2] == b"{}"
        for path, error in (
            ("/acme/tiny/resolve/main/other.json", "EntryNotFound"),
            ("/api/models/acme/tiny/revision/v7", "RevisionNotFound"),
            ("/api/models/acme/none/revision/main", "RepoNotFound"),
        ):
            code, headers, _ = ask(hub, path)
            assert (code, headers["X-Error-Code"]) == (404, error)

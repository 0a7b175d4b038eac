"""A model over a network that breaks: what is mended, what is refused, and by which words."""

import asyncio
import itertools
import json
from email.message import Message
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from bad_server import (
    bad_server,
    cut,
    no_length,
    no_range,
    redirect,
    stall,
    status,
    wrong_bytes,
    wrong_length,
    wrong_range,
)
from gpt2web import CheckpointError, GPT2CausalLM, url_folder
from gpt2web.convert.model_folder import FolderWriter
from gpt2web.preset import hold_to_manifest
from gpt2web.safetensors import MAX_TEXT_BYTES
from gpt2web.url_folder import UrlFolder

SIZES = {
    "vocabulary_size": 257,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "max_sequence_length": 16,
}
CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 257,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "n_inner": 12,
    "n_positions": 16,
}
SHARD = 4000
SECOND = "model-00002-of-00004.part"
IDS = list(range(16))


@pytest.fixture(scope="module")
def model():
    return reference.random_weights(SimpleNamespace(**SIZES), 5)


@pytest.fixture(scope="module")
def wanted(model):
    return reference.forward(SimpleNamespace(**SIZES, layer_norm_epsilon=1e-5), model, IDS)


@pytest.fixture
def folder(tmp_path, model):
    with FolderWriter(
        tmp_path / "host" / "tiny",
        title="Tiny",
        license="MIT",
        precision="f32",
        parameters=sum(values.size for values in model.values()),
        context=16,
        shard_bytes=SHARD,
    ) as writer:
        writer.add_text("config.json", json.dumps(CONFIG))
        writer.add_text("merges.txt", "#version: 0.2\n")
        writer.begin_weights([(name, "F32", values.shape) for name, values in model.items()])
        for values in model.values():
            writer.write(values.astype("<f4").tobytes())
    return tmp_path / "host" / "tiny"


@pytest.fixture
def server(folder):
    with bad_server(folder.parent, sub_path="some/where") as server:
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were made, none of them in earnest."""
    made = []
    monkeypatch.setattr(url_folder, "sleep", made.append)
    return made


@pytest.fixture
def impatient(monkeypatch):
    """A silence is one of 0.2 s."""
    monkeypatch.setattr(url_folder, "TIMEOUT", 0.2)


@pytest.fixture
def devices(devices, monkeypatch):
    """The devices that from_preset asked for; nothing is warmed up."""

    async def nothing(self):
        pass

    monkeypatch.setattr(GPT2CausalLM, "_warm_up", nothing)
    return devices


def load(server):
    return GPT2CausalLM.from_preset(f"{server.url}tiny", adapter="llvmpipe")


def read(server, file="model.safetensors", size=None):
    """A file of the folder as it is read without a manifest."""

    async def read_file():
        stream = await UrlFolder(f"{server.url}tiny").open(file)
        try:
            half = stream.size // 2
            return await stream.read_bytes(half) + await stream.read_bytes(stream.size - half)
        finally:
            stream.close()

    return asyncio.run(read_file())


# ---- with a manifest -----------------------------------------------------------------------------

# What goes wrong with the second shard, and the Range headers of the requests for it.
MENDED = {
    "nothing": ([], [None]),
    "cut": ([cut(1500)], [None, "bytes=1500-"]),
    "cut twice": ([cut(1500), cut(500)], [None, "bytes=1500-", "bytes=2000-"]),
    "cut before the first byte": ([cut(0)], [None, None]),
    "stalled": ([stall(1500)], [None, "bytes=1500-"]),
    "stalled before the first byte": ([stall(0)], [None, None]),
    "busy": ([status(503)], [None, None]),
    "busy when asked for the rest": ([cut(1500), status(503)], [None, *["bytes=1500-"] * 2]),
    "416 for the rest": ([cut(1500), status(416)], [None, "bytes=1500-", None]),
    "no ranges": ([cut(1500), no_range()], [None, "bytes=1500-"]),
    "no ranges, and cut again": (
        [cut(1500), no_range() | cut(700)],
        [None, "bytes=1500-", "bytes=1500-"],
    ),
    "another start": ([cut(1500), wrong_range(start=1)], [None, "bytes=1500-", None]),
    "another total": ([cut(1500), wrong_range(total=-1)], [None, "bytes=1500-", None]),
    "no length": ([no_length()], [None]),
    "no length, and cut": ([no_length() | cut(1500)], [None, "bytes=1500-"]),
    "wrong bytes": ([wrong_bytes(7)], [None, None]),
    "wrong bytes in the rest": ([cut(1500), wrong_bytes(2000)], [None, "bytes=1500-", None]),
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", MENDED)
def test_what_another_request_can_mend_is_mended(server, devices, wanted, case, request):
    if case.startswith("stalled"):
        request.getfixturevalue("impatient")
    server.faults[SECOND], ranges = (list(part) for part in MENDED[case])
    lm = load(server)
    got = lm([IDS]).numpy()[0]
    lm.close()
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert [seen.range for seen in server.seen(SECOND)] == ranges
    assert not server.faults[SECOND]  # each of them has happened
    assert server.count("model-00001-of-00004.part") == server.count("config.json") == 1
    assert not any(device.live for device in devices)


REFUSED = {
    "wrong bytes": (wrong_bytes(7), 2, f"tiny/{SECOND} is not the file that manifest.json lists"),
    "busy": (
        status(503),
        6,
        f"tiny/{SECOND} cannot be read: the server answers 503, after 6 tries",
    ),
    "silent": (stall(0), 6, rf"{SECOND} cannot be read: no byte came for 0\.2 s, after 6 tries"),
    "cut": (cut(0), 6, f"tiny/{SECOND} cannot be read: it was cut short, after 6 tries"),
    "longer": (wrong_length(1), 1, f"tiny/{SECOND}: wanted 4,000 bytes, as .*, got 4,001"),
    "shorter": (wrong_length(-1), 1, f"tiny/{SECOND}: wanted 4,000 bytes, as .*, got 3,999"),
    "not for us": (status(403), 1, f"tiny/{SECOND}: the server answers 403"),
    "gone": (status(404), 1, f"tiny/{SECOND} is missing: manifest.json lists it"),
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", REFUSED)
def test_what_nothing_mends_is_refused_by_name_and_leaves_nothing(server, devices, case, request):
    if case == "silent":
        request.getfixturevalue("impatient")
    fault, requests, message = REFUSED[case]
    server.faults[SECOND] = itertools.repeat(fault)
    with pytest.raises(CheckpointError, match=message):
        load(server)
    assert server.count(SECOND) == requests
    assert len(devices) == 1 and not devices[0].live


def test_pauses_grow_and_start_anew_after_progress(server, pauses, monkeypatch):
    server.faults["config.json"] = itertools.repeat(status(503))
    with pytest.raises(CheckpointError, match="503, after 6 tries"):
        read(server, "config.json")
    assert pauses == [0.5, 1, 2, 4, 8]
    pauses.clear()
    server.faults[SECOND] = [cut(600), cut(600), cut(600)]
    assert len(read(server, SECOND)) == SHARD
    assert pauses == [0.5, 1, 2]
    pauses.clear()
    monkeypatch.setattr(url_folder, "PROGRESS", 500)
    server.faults[SECOND] = [cut(600), cut(600), cut(400), cut(600)]
    assert len(read(server, SECOND)) == SHARD
    assert pauses == [0.5, 0.5, 1, 0.5]


def test_who_never_answered_is_not_asked_again(server, pauses):
    server.stop()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: .*refused$"):
        read(server, "config.json")
    assert pauses == []


# ---- without one ---------------------------------------------------------------------------------


def test_a_file_of_no_known_hash_goes_on_only_as_the_version_that_it_was(server, folder, pauses):
    data = (folder / SECOND).read_bytes()
    for second in (None, no_range()):
        server.forget()
        server.faults[SECOND] = [cut(1500), second]
        assert read(server, SECOND) == data
        first, rest = server.seen(SECOND)
        assert first.if_range is None
        assert rest.range == "bytes=1500-" and rest.if_range.startswith('"')
    assert rest.status == 200 and rest.sent == SHARD


@pytest.mark.parametrize("change", [lambda data: data[::-1], lambda data: data[:-1]])
def test_two_versions_of_a_file_never_mix(server, folder, monkeypatch, change):
    def replace(seconds):
        (folder / SECOND).write_bytes(change((folder / SECOND).read_bytes()))

    monkeypatch.setattr(url_folder, "sleep", replace)
    server.faults[SECOND] = [cut(1500)]
    with pytest.raises(CheckpointError, match=f"{SECOND} was replaced by another version while"):
        read(server, SECOND)


@pytest.mark.parametrize("etags", ["weak", "none"])
def test_where_no_version_can_be_known_nothing_is_resumed(server, folder, etags):
    server.etags = etags
    data = (folder / SECOND).read_bytes()
    assert read(server, SECOND) == data
    server.faults[SECOND] = [cut(1500)]
    message = f"{SECOND}: the transfer broke at byte 1,500 of 4,000, and the server says nothing by"
    with pytest.raises(CheckpointError, match=message):
        read(server, SECOND)
    server.faults[SECOND] = [cut(0)]  # nothing was taken yet
    assert read(server, SECOND) == data


@pytest.mark.parametrize(
    "headers, version",
    [
        ({"ETag": '"a"'}, '"a"'),
        ({"ETag": 'W/"a"'}, ""),
        ({}, ""),
        ({"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}, ""),
        (
            {"Last-Modified": "then", "Date": "Sat, 21 Nov 2026 10:00:00 GMT"},
            "",
        ),
        (
            {
                "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
                "Date": "Sat, 21 Nov 2026 10:01:00 GMT",
            },
            "Sat, 21 Nov 2026 10:00:00 GMT",
        ),
        (
            {
                "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT",
                "Date": "Sat, 21 Nov 2026 10:00:59 GMT",
            },
            "",
        ),
    ],
)
def test_what_vouches_for_a_version(headers, version):
    answer = Message()
    for name, value in headers.items():
        answer[name] = value
    assert url_folder._version(answer) == version


def test_a_redirection_to_another_host_is_followed_with_the_range(server, folder):
    with bad_server(folder.parent) as other:
        to = redirect(f"{other.url}tiny/{SECOND}")
        server.faults[SECOND] = itertools.repeat(to)
        other.faults[SECOND] = [cut(1500)]
        assert read(server, SECOND) == (folder / SECOND).read_bytes()
        assert [seen.range for seen in server.seen(SECOND)] == [None, "bytes=1500-"]
        assert [seen.range for seen in other.seen(SECOND)] == [None, "bytes=1500-"]
        other.faults[SECOND] = itertools.repeat(redirect(f"{server.url}tiny/{SECOND}"))
        with pytest.raises(CheckpointError, match=f"{SECOND}: the server answers 302"):
            read(server, SECOND)


def test_a_large_text_is_refused_before_it_is_read(server, folder):
    path = folder / "tokenizer.json"
    for over in (0, 1):
        with path.open("wb") as file:
            file.truncate(MAX_TEXT_BYTES + over)
        server.forget()
        where = UrlFolder(f"{server.url}tiny")
        if over:
            with pytest.raises(CheckpointError, match="at most 16,000,000 bytes, got 16,000,001"):
                asyncio.run(where.read_text(path.name))
        else:
            assert len(asyncio.run(where.read_text(path.name))) == MAX_TEXT_BYTES
    assert server.sent(path.name) < MAX_TEXT_BYTES


def test_a_manifest_and_its_files_may_not_be_of_two_versions(server, folder):
    held = asyncio.run(hold_to_manifest(UrlFolder(f"{server.url}tiny")))
    assert json.loads(asyncio.run(held.read_text("config.json"))) == CONFIG
    (folder / "config.json").write_text(json.dumps(CONFIG).replace("16", "61"))
    with pytest.raises(CheckpointError, match=r"tiny/config\.json is not the file"):
        asyncio.run(held.read_text("config.json"))

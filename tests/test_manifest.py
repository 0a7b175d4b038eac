"""A model folder's manifest: what is taken, what is refused, and that every byte is checked."""

import asyncio
import hashlib
import itertools
import json
import time

import pytest

from gpt2web.checkpoint import CheckpointError, LocalFolder
from gpt2web.manifest import (
    MANIFEST_FILE,
    SHARD_BYTES,
    ManifestFolder,
    held_to_manifest,
    parse_manifest,
)
from gpt2web.preset import hold_to_manifest, open_folder

TEXT = b'{"a": 1}'
WEIGHTS = bytes(range(256)) * 3
CUTS = (0, 300, 301, len(WEIGHTS))  # the second shard is a single byte


def entry(file, data):
    return {"file": file, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def shards():
    pairs = itertools.pairwise(CUTS)
    return {f"model-{i}.part": WEIGHTS[a:b] for i, (a, b) in enumerate(pairs)}


def fields(**changes):
    """A manifest as JSON's values, with other fields; None takes one out."""
    whole = {
        "format": "gpt2web-model",
        "version": 1,
        "name": "tiny",
        "title": "Tiny",
        "license": "MIT",
        "precision": "f32",
        "parameters": 10,
        "context": 4,
        "files": [entry("config.json", TEXT)],
        "weights": [entry(file, data) for file, data in shards().items()],
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def parse(value):
    return parse_manifest("tiny/manifest.json", json.dumps(value))


def test_a_manifest_says_what_is_in_a_folder():
    manifest = parse(fields())
    assert (manifest.name, manifest.title, manifest.license) == ("tiny", "Tiny", "MIT")
    assert (manifest.precision, manifest.parameters, manifest.context) == ("f32", 10, 4)
    assert [shard.file for shard in manifest.weights] == list(shards())
    assert manifest.weight_bytes == len(WEIGHTS)
    assert manifest.total_bytes == len(WEIGHTS) + len(TEXT)
    assert parse_manifest("again", manifest.to_json()) == manifest


def with_shard(**changes):
    return fields(weights=[{**entry("model.safetensors", WEIGHTS), **changes}])


HOSTILE = {
    "up": (with_shard(file="../model.safetensors"), r"file: wanted the plain name .*'\.\./model"),
    "below": (with_shard(file="a/b"), "plain name"),
    "backwards": (with_shard(file="a\\b"), "plain name"),
    "absolute": (with_shard(file="/etc/passwd"), "plain name"),
    "another origin": (with_shard(file="https://example.org/a"), "plain name"),
    "another scheme": (with_shard(file="data:,a"), "plain name"),
    "a query": (with_shard(file="a?b"), "plain name"),
    "encoded": (with_shard(file="%2e%2e%2fa"), "plain name"),
    "only dots": (with_shard(file=".."), "plain name"),
    "hidden": (with_shard(file=".git"), "plain name"),
    "a line's end": (with_shard(file="a\n"), "plain name"),
    "no name": (with_shard(file=""), "plain name"),
    "a long name": (with_shard(file="a" * 129), "plain name"),
    "no string": (with_shard(file=7), "plain name .* got 7"),
    "negative": (
        with_shard(bytes=-1),
        r"model\.safetensors: bytes: wanted .* 1 to 16777216, got -1",
    ),
    "empty": (with_shard(bytes=0), "bytes: .* got 0"),
    "over 16 MiB": (with_shard(bytes=SHARD_BYTES + 1), "bytes: .* got 16777217"),
    "huge": (with_shard(bytes=10**4000), r"bytes: .* got 10+\.\.\.0+$"),
    "a float": (with_shard(bytes=1e3), r"bytes: .* got 1000\.0"),
    "a truth": (with_shard(bytes=True), "bytes: .* got True"),
    "a short hash": (with_shard(sha256="ab"), "sha256: wanted 64 lower-case"),
    "a loud hash": (with_shard(sha256="A" * 64), "sha256: wanted 64 lower-case"),
    "no hash": (with_shard(sha256=None), "sha256: wanted 64"),
    "no object": (fields(weights=["a"]), "weights: wanted objects with file"),
    "no weights": (fields(weights=[]), "weights: wanted a list of 1 to 65536 files, got 0"),
    "no list": (fields(weights={}), "weights: wanted a list"),
    "no texts": (fields(files=None), "files: wanted a list of 1 to 64"),
    "many texts": (fields(files=[entry(f"{i}", b"") for i in range(65)]), "files: .* got 65"),
    "twice": (fields(weights=[entry("a", b"a"), entry("A", b"b")]), "A is listed twice"),
    "in both": (fields(weights=[entry("config.json", b"a")]), r"config\.json is listed twice"),
    "itself": (fields(files=[entry("manifest.json", b"a")]), r"manifest\.json is listed twice"),
    "a large text": (
        fields(files=[{**entry("config.json", TEXT), "bytes": 16_000_001}]),
        "config.json: bytes: wanted a whole number from 1 to 16000000, got 16000001",
    ),
    "a later version": (fields(version=2), "wanted version 1, got 2"),
    "a version like 1": (fields(version=True), "wanted version 1, got True"),
    "another format": (fields(format="web app"), "wanted an object with format 'gpt2web-model'"),
    "a list": ([], "wanted an object with format"),
    "a name with a path": (fields(name="../x"), "name: wanted a plain name"),
    "a title of two lines": (fields(title="a\nb"), "title: wanted one line"),
    "no title": (fields(title=" "), "title: wanted one line"),
    "another precision": (
        fields(precision="int3"),
        "precision: wanted one of f32, f16, int8, int4",
    ),
    "no parameters": (fields(parameters=0), "parameters: wanted a whole number"),
    "no context": (fields(context=None), "context: wanted .* got None"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_manifest_that_lies_is_refused_by_field(case):
    value, message = HOSTILE[case]
    with pytest.raises(CheckpointError, match=f"tiny/manifest.json: .*{message}"):
        parse(value)


@pytest.mark.parametrize(
    "text",
    ["", "[" * 1_000_000, '{"format": "gpt2web-model", "format": "gpt2web-model"}', "1" * 5000],
    ids=["empty", "deep", "twice", "long number"],
)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(CheckpointError, match=r"tiny/manifest\.json: "):
        parse_manifest("tiny/manifest.json", text)


# ---- a folder held to it -------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    path.mkdir()
    for file, data in {**shards(), "config.json": TEXT, "unlisted.json": b"{}"}.items():
        (path / file).write_bytes(data)
    (path / MANIFEST_FILE).write_text(json.dumps(fields()))
    return path


def read(folder, counts):
    async def read_pieces():
        checked = await held_to_manifest(LocalFolder(folder))
        assert isinstance(checked, ManifestFolder)
        assert await checked.read_text("config.json") == TEXT.decode()
        stream = await checked.open("model.safetensors")
        assert stream.size == len(WEIGHTS)
        pieces = [await stream.read_bytes(count) for count in counts]
        stream.close()
        stream.close()
        return pieces

    return asyncio.run(read_pieces())


@pytest.mark.parametrize("first", [0, 1, 299, 300, 301, 302, len(WEIGHTS)])
def test_shards_are_read_as_one_file(folder, first):
    pieces = read(folder, [first, len(WEIGHTS) - first])
    assert pieces == [WEIGHTS[:first], WEIGHTS[first:]]
    with pytest.raises(CheckpointError, match="tiny: the weights end early, after 768 bytes"):
        read(folder, [first, len(WEIGHTS) - first, 1])


@pytest.mark.parametrize("file", [*shards(), "config.json"])
def test_a_file_that_is_not_as_the_manifest_says_is_refused_by_name(folder, file):
    whole = [len(WEIGHTS)]
    assert read(folder, whole) == [WEIGHTS]
    data = (folder / file).read_bytes()
    for spoilt, message in (
        (data + b"x", f"tiny/{file}: wanted {len(data)} bytes, as .*, got {len(data) + 1}"),
        (data[:-1], f"tiny/{file}: wanted {len(data)} bytes, as .*, got {len(data) - 1}"),
        (data[:-1] + bytes([data[-1] ^ 1]), f"tiny/{file} is not the file .* SHA-256 .* twice"),
        (None, f"tiny/{file} is missing: manifest.json lists it"),
    ):
        (folder / file).unlink()
        if spoilt is not None:
            (folder / file).write_bytes(spoilt)
        with pytest.raises(CheckpointError, match=message):
            read(folder, whole)
        (folder / file).write_bytes(data)


def test_no_byte_of_a_wrong_shard_is_given(folder):
    data = (folder / "model-2.part").read_bytes()
    (folder / "model-2.part").write_bytes(data[:-1] + b"?")
    assert read(folder, [301]) == [WEIGHTS[:301]]
    with pytest.raises(CheckpointError, match=r"model-2\.part is not the file"):
        read(folder, [301, 1])


def test_a_file_that_the_manifest_does_not_list_is_not_there(folder):
    checked = asyncio.run(held_to_manifest(LocalFolder(folder)))
    for file in ("unlisted.json", "nothing.json", "model-0.part", MANIFEST_FILE):
        with pytest.raises(FileNotFoundError, match=f"tiny/{file} is not in manifest.json"):
            asyncio.run(checked.read_text(file))
    assert asyncio.run(held_to_manifest(checked)) is checked


def test_a_manifest_of_100_mb_is_refused_before_it_is_read(folder):
    with (folder / MANIFEST_FILE).open("r+b") as file:
        file.truncate(100_000_000)
    before = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"at most 16,000,000 bytes, got 100,000,000"):
        read(folder, [1])
    assert time.perf_counter() - before < 0.5


def test_the_bundled_model_is_held_to_its_manifest():
    held = asyncio.run(hold_to_manifest(open_folder("stories")))
    assert isinstance(held, ManifestFolder) and held.manifest.name == "stories"


def test_a_folder_without_a_manifest_stays_as_it_is(folder):
    (folder / MANIFEST_FILE).unlink()
    plain = LocalFolder(folder)
    assert asyncio.run(held_to_manifest(plain)) is plain

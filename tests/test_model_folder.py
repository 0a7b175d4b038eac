"""Writing a model folder: what a reader finds is what was written, and it is whole or not there."""

import asyncio
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from gpt2web.checkpoint import CheckpointError, LocalFolder, open_checkpoint
from gpt2web.config import GPT2Config
from gpt2web.convert import model_folder
from gpt2web.convert.model_folder import FolderWriter, list_model, write_manifest
from gpt2web.manifest import MANIFEST_FILE, held_to_manifest, parse_manifest
from gpt2web.safetensors import MAX_TEXT_BYTES

STORIES = Path(__file__).parent.parent / "web/models/stories"
SIZES = GPT2Config(257, 1, 2, 8, 12, max_sequence_length=16)
ABOUT = {"title": "Tiny", "license": "MIT", "precision": "f32", "parameters": 2800, "context": 16}
TEXT = "{}\n"


@pytest.fixture(scope="module")
def tensors():
    config = {**SIZES.get_config()}
    return reference.random_weights(SimpleNamespace(**config), 6)


def write(folder, tensors, piece=1000, dtype="F32", **options):
    with FolderWriter(folder, **{**ABOUT, **options}) as writer:
        writer.add_text("config.json", TEXT)
        writer.begin_weights([(name, dtype, values.shape) for name, values in tensors.items()])
        data = b"".join(values.astype("<f4").tobytes() for values in tensors.values())
        for start in range(0, len(data), piece):
            writer.write(memoryview(data)[start : start + piece])
    return parse_manifest(MANIFEST_FILE, (folder / MANIFEST_FILE).read_text())


def left_in(path):
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.parametrize("shard_bytes", [20, 999, 4096, 12_000, 1 << 24])
@pytest.mark.parametrize("piece", [333, 1 << 20])
def test_a_reader_finds_what_was_written(tmp_path, tensors, shard_bytes, piece):
    """With shards of 20 bytes the header lies in dozens of them."""
    folder = tmp_path / "tiny"
    manifest = write(folder, tensors, piece, shard_bytes=shard_bytes)
    assert left_in(tmp_path) == ["tiny"]
    names = [shard.file for shard in manifest.weights]
    assert left_in(folder) == sorted([*names, "config.json", MANIFEST_FILE])
    assert all(shard.bytes == shard_bytes for shard in manifest.weights[:-1])
    if len(names) > 1:
        assert names[1] == f"model-00002-of-{len(names):05}.part"
    else:
        assert names == ["model.safetensors"]

    joined = tmp_path / "joined.safetensors"  # as `cat` would join them
    joined.write_bytes(b"".join((folder / name).read_bytes() for name in names))
    for name, values in reference.read_safetensors(joined).items():
        np.testing.assert_array_equal(values, tensors[name])

    async def read():
        held = await held_to_manifest(LocalFolder(folder))
        assert await held.read_text("config.json") == TEXT
        checkpoint = await open_checkpoint(held, SIZES)
        async for entry, stream in checkpoint.tensors():
            data = await stream.read_bytes(entry.byte_length)
            values = np.frombuffer(data, "<f4").reshape(entry.shape)
            np.testing.assert_array_equal(values, tensors[entry.name])
        return len(checkpoint.entries)

    assert asyncio.run(read()) == len(tensors)


def test_the_same_is_written_twice(tmp_path, tensors):
    first = write(tmp_path / "tiny", tensors, 333, shard_bytes=999)
    assert write(tmp_path / "tiny", tensors, 4000, shard_bytes=999) == first


def test_shards_that_do_not_hold_what_the_header_says_are_refused(tmp_path, tensors):
    folder = tmp_path / "tiny"
    for drop, message in ((-1, "is cut off in tensor"), (0, "wanted a header|not a safetensors")):
        write(folder, tensors, shard_bytes=4096)
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        del manifest["weights"][drop]
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
        held = asyncio.run(held_to_manifest(LocalFolder(folder)))
        with pytest.raises(CheckpointError, match=f"tiny/model.safetensors.*({message})"):
            asyncio.run(open_checkpoint(held, SIZES))


# ---- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [False, True])
def test_a_run_that_stops_leaves_what_was_there(tmp_path, tensors, error, before):
    folder = tmp_path / "tiny"
    if before:
        write(folder, tensors, title="Before")
    with pytest.raises(error), FolderWriter(folder, **ABOUT) as writer:
        writer.add_text("config.json", TEXT)
        writer.begin_weights([("a", "F32", [4])])
        writer.write(bytes(8))
        assert len(left_in(tmp_path)) == 1 + before
        raise error
    assert left_in(tmp_path) == (["tiny"] if before else [])
    if before:
        assert list_model(folder)["title"] == "Before"


def test_a_disk_that_fails_at_the_last_step_leaves_what_was_there(tmp_path, tensors, monkeypatch):
    folder = tmp_path / "tiny"
    write(folder, tensors, title="Before")
    rename = Path.rename

    def fail_for_partial(path, target):
        if path.suffix == ".partial":
            raise OSError("no room")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_partial)
    with pytest.raises(OSError, match="no room"):
        write(folder, tensors, title="After")
    assert left_in(tmp_path) == ["tiny"] and list_model(folder)["title"] == "Before"
    monkeypatch.undo()
    write(folder, tensors, title="After")
    assert left_in(tmp_path) == ["tiny"] and list_model(folder)["title"] == "After"


def put_hugging_face(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")


def put_other_manifest(folder):
    folder.mkdir()
    (folder / MANIFEST_FILE).write_text('{"name": "a web app"}')


OTHERS = {
    "a folder": (put_hugging_face, "a folder without manifest.json"),
    "a web app": (put_other_manifest, "a folder whose manifest can't be read"),
    "a file": (lambda folder: folder.write_text("x"), "it is a file"),
    "a link": (lambda folder: folder.symlink_to("elsewhere"), "it is a link"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_a_model_folder_of_ours_is_never_replaced(tmp_path, tensors, case):
    put, message = OTHERS[case]
    put(tmp_path / "tiny")
    with pytest.raises(FileExistsError, match=f"tiny is there already, and .*{message}"):
        write(tmp_path / "tiny", tensors)
    assert left_in(tmp_path) == ["tiny"]
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", tensors)
    assert list_model(tmp_path / "empty")["name"] == "empty"


# ---- what a writer may not do --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.write(bytes(17)), "tiny: wanted 112 bytes of weights.*got 113"),
        (lambda w: w.write(bytes(15)), "tiny: wanted 112 bytes of weights.*got 111"),
        (lambda w: w.begin_weights([("a", "F32", [1]), ("a", "F32", [1])]), "tensor a comes twice"),
        (lambda w: w.add_text("big.json", bytes(MAX_TEXT_BYTES + 1)), "big.json: wanted at most"),
        (lambda w: w.add_text("../a.json", "x"), r"'../a.json' is no plain name of a file"),
        (lambda w: (w.add_text("up..", "x"), w.add_text("UP..", "x"), w.write(bytes(16))), "twice"),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(tmp_path, change, message):
    def run(what):
        with FolderWriter(tmp_path / "tiny", **ABOUT) as writer:
            writer.add_text("config.json", TEXT)
            writer.begin_weights([("a", "F32", [4])])
            what(writer)

    with pytest.raises(ValueError, match=message):
        run(change)
    assert left_in(tmp_path) == []
    run(lambda writer: writer.write(bytes(16)))
    assert left_in(tmp_path) == ["tiny"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"title": "a\nb"}, "title: wanted one line"),
        ({"license": ""}, "license: wanted one line"),
        ({"precision": "int3"}, "precision: wanted one of"),
        ({"parameters": 0}, "parameters: wanted a whole number"),
        ({"shard_bytes": 0}, "shard_bytes: wanted 1 to"),
        ({"shard_bytes": (1 << 24) + 1}, "shard_bytes: wanted 1 to"),
    ],
)
def test_what_a_manifest_cannot_say_is_refused(tmp_path, tensors, change, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "tiny", tensors, **change)
    with pytest.raises(ValueError, match="is no name for a model"):
        write(tmp_path / "a model", tensors)
    assert left_in(tmp_path) == []


# ---- the manifest of a folder that lies ready ----------------------------------------------------


def test_the_stories_models_manifest_is_what_the_command_writes(tmp_path):
    copy = tmp_path / "stories"
    shutil.copytree(STORIES, copy)
    written = (copy / MANIFEST_FILE).read_text()
    assert model_folder.main(["write", str(copy)]) == 0
    assert (copy / MANIFEST_FILE).read_text() == written
    (copy / MANIFEST_FILE).unlink()
    with pytest.raises(ValueError, match="give its title and its license"):
        write_manifest(copy, title="Stories")
    assert model_folder.main(["write", str(copy), "--title=Stories", "--license=MIT"]) == 0
    assert (copy / MANIFEST_FILE).read_text() == written
    listed = {shard.file for shard in parse_manifest(MANIFEST_FILE, written).files}
    assert listed == {"config.json", "merges.txt", "generation_config.json", "MODEL_CARD.md"}

    ids = json.loads((copy / "vocab.json").read_text())
    ids["!"], ids["#"] = ids["#"], ids["!"]  # these don't follow from the merges
    (copy / "vocab.json").write_text(json.dumps(ids))
    assert "vocab.json" in {shard.file for shard in write_manifest(copy).files}


def test_models_are_listed_as_their_manifests_say(tmp_path, tensors, capsys):
    size = write(tmp_path / "tiny", tensors).total_bytes
    assert model_folder.main(["list", str(tmp_path / "tiny")]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "tiny", **ABOUT, "bytes": size}]
    assert math.isclose(size, 4 * 2800, rel_tol=0.2)
    (tmp_path / "tiny" / "config.json").unlink()
    assert model_folder.main(["list", str(tmp_path / "tiny")]) == 1
    assert "config.json: wanted 3 bytes" in capsys.readouterr().err

"""Checkpoints from static hosts and from the hub, over transfers that go wrong as told."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import forms
from bad_server import bad_server, cut, hub_server, no_range, stall, status, wrong_bytes
from gpt2web import url_folder
from gpt2web.convert import __main__ as command
from gpt2web.convert import fetch
from gpt2web.convert import hub as hub_module
from gpt2web.convert.fetch import PIECE_BYTES, fetch_url
from gpt2web.safetensors import CheckpointError
from reference import STORIES

FORMS = ["transformers", "transformers-sharded", "openai", "openai-sharded", "tfjs", "tfjs-uint16"]
WEIGHTS = "model.safetensors"
SIZE = (forms.FORMS / "transformers" / WEIGHTS).stat().st_size


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(url_folder, "PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture
def server(tmp_path):
    with bad_server(forms.FORMS) as server:
        yield server


def same(folder, form):
    """Whether a fetched folder holds the form's files, whole, and nothing half-done."""
    assert not list(folder.glob("*.part"))
    for path in folder.iterdir():
        if not path.name.endswith(".about"):
            assert path.read_bytes() == (forms.FORMS / form / path.name).read_bytes()
    return True


# --- static hosts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_fetched_whole_and_converts_to_the_same(server, tmp_path, form):
    words = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path), "--name"]
    assert command.main([server.url + form, *words, "fetched"]) == 0
    assert command.main([str(forms.FORMS / form), *words, "local"]) == 0
    fetched, local = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("fetched", "local")
    )
    del fetched["manifest.json"], local["manifest.json"]  # they hold the names
    assert fetched == local


@pytest.mark.parametrize("end", ["/", "/model.json", "/model.json?download=1"])
def test_an_address_may_name_the_file_in_the_folder(server, tmp_path, end):
    folder = command.locate(f"{server.url}tfjs{end}", tmp_path)
    assert same(folder, "tfjs") and folder.name == "tfjs"


def test_a_transfer_that_breaks_goes_on_where_it_stopped(server, tmp_path):
    server.faults[WEIGHTS] = [None, cut(after=10_000), cut(after=9_000), None]  # None: the look
    folder = fetch_url(server.url + "transformers", tmp_path)
    assert same(folder, "transformers")
    ranges = [seen.range for seen in server.seen(WEIGHTS)]
    assert ranges[-2:] == ["bytes=10000-", "bytes=19000-"]


def test_the_next_run_goes_on_where_the_last_one_gave_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "PIECE_BYTES", 1000)
    server.faults[WEIGHTS] = [None, cut(after=10_500), *[status(503)] * 9]
    with pytest.raises(CheckpointError, match="the transfer broke at byte 10,500 of 31,352"):
        fetch_url(server.url + "transformers", tmp_path)
    server.forget()
    folder = fetch_url(server.url + "transformers", tmp_path)
    assert same(folder, "transformers")
    assert server.seen(WEIGHTS)[-1].range == "bytes=10000-"


def test_a_run_that_was_killed_is_gone_on_with(server, tmp_path, capsys):
    """As a killed run leaves it: part of a file, and what is known of it."""
    folder = fetch_url(server.url + "transformers", tmp_path)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.part").write_bytes(data[:20_000])
    server.forget()
    assert same(fetch_url(server.url + "transformers", tmp_path), "transformers")
    last = server.seen(WEIGHTS)[-1]
    assert (last.range, last.status, last.sent) == ("bytes=20000-", 206, SIZE - 20_000)

    (folder / WEIGHTS).unlink()  # and where the server cannot send the rest alone
    (folder / f"{WEIGHTS}.part").write_bytes(data[:20_000])
    server.faults[WEIGHTS] = itertools.repeat(no_range())
    assert same(fetch_url(server.url + "transformers", tmp_path), "transformers")


def test_interrupted_while_it_waits_it_ends_at_once_and_keeps_what_has_come(tmp_path):
    with bad_server(STORIES.parent) as server:
        server.faults["manifest.json"] = itertools.repeat(status(404))
        server.faults[WEIGHTS] = [None, stall(after=5_000_000)]  # None: the look
        words = [f"{server.url}stories", "--cache", str(tmp_path), "--out", str(tmp_path / "out")]
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt2web.convert", *words], stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 30
        while server.sent(WEIGHTS) < 5_000_000 or not list(tmp_path.rglob("*.part")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130 and "Interrupted" in errors and "Traceback" not in errors
        assert time.monotonic() - start < 5
        (part,) = tmp_path.rglob("*.part")
        begun = part.stat().st_size
        assert begun and begun % PIECE_BYTES == 0
        assert not (tmp_path / "out").exists()
        server.forget()
        server.faults["manifest.json"] = itertools.repeat(status(404))
        folder = fetch_url(f"{server.url}stories", tmp_path)
        assert (folder / WEIGHTS).read_bytes() == (STORIES / WEIGHTS).read_bytes()
        assert server.seen(WEIGHTS)[-1].range == f"bytes={begun}-"


def test_a_part_of_another_version_is_thrown_away(tmp_path):
    source = forms.copy("transformers", tmp_path)
    with bad_server(tmp_path) as server:
        folder = fetch_url(server.url + "transformers", tmp_path / "cache")
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).rename(folder / f"{WEIGHTS}.part")
        with (folder / f"{WEIGHTS}.part").open("r+b") as part:
            part.truncate(20_000)
        changed = data[:-1] + bytes([data[-1] ^ 1])
        (source / WEIGHTS).write_bytes(changed)
        folder = fetch_url(server.url + "transformers", tmp_path / "cache")
        assert (folder / WEIGHTS).read_bytes() == changed


def test_what_is_whole_is_not_fetched_again_but_what_has_changed_is(tmp_path):
    source = forms.copy("transformers", tmp_path)
    with bad_server(tmp_path) as server:
        server.speed = 2e7  # so that a body that nobody reads is not sent in one go
        fetch_url(server.url + "transformers", tmp_path / "cache")
        folder = fetch_url(server.url + "transformers", tmp_path / "cache")
        before = (folder / WEIGHTS).stat().st_mtime_ns
        folder = fetch_url(server.url + "transformers", tmp_path / "cache")
        assert (folder / WEIGHTS).stat().st_mtime_ns == before
        data = (source / WEIGHTS).read_bytes()
        (source / WEIGHTS).write_bytes(data[::-1])
        (source / "generation_config.json").unlink()
        folder = fetch_url(server.url + "transformers", tmp_path / "cache")
        assert (folder / WEIGHTS).read_bytes() == data[::-1]
        assert not (folder / "generation_config.json").exists()


@pytest.fixture
def ours(tmp_path):
    """A model folder of gpt2web's own, in shards of 8 kB; its parent is served."""
    from gpt2web.convert import model_folder

    parent = tmp_path / "served"
    with pytest.MonkeyPatch.context() as patch:
        whole = model_folder.FolderWriter.__init__
        patch.setattr(
            model_folder.FolderWriter,
            "__init__",
            lambda self, *words, **more: whole(self, *words, **more, shard_bytes=8192),
        )
        words = [str(forms.FORMS / "openai"), "--out", str(parent), "--name", "ours"]
        assert command.main(words) == 0
    assert len(list((parent / "ours").glob("*.part"))) == 4
    return parent / "ours"


def test_a_wrong_shard_is_fetched_once_more_and_then_refused_by_name(ours, tmp_path):
    shard = "model-00002-of-00004.part"
    with bad_server(ours.parent) as server:
        server.faults[shard] = [wrong_bytes(at=7)]
        folder = fetch_url(server.url + "ours", tmp_path / "cache")
        assert (folder / shard).read_bytes() == (ours / shard).read_bytes()
        assert server.count(shard) == 2
        (folder / shard).unlink()
        server.forget()
        server.faults[shard] = itertools.repeat(wrong_bytes(at=7))
        with pytest.raises(CheckpointError, match=f"ours/{shard} is not the file .* twice"):
            fetch_url(server.url + "ours", tmp_path / "cache")
        assert server.count(shard) == 2 and not (folder / shard).exists()
        server.forget()
        fetch_url(server.url + "ours", tmp_path / "cache")
        assert {seen for seen in server.requests if ".part" in seen} == {f"GET /ours/{shard}"}


def test_an_address_without_a_checkpoint_or_without_a_server_is_refused(server, tmp_path):
    with pytest.raises(CheckpointError, match="nothing holds no weights: looked for"):
        fetch_url(server.url + "nothing", tmp_path)
    for url in ("ftp://example.org/model", "http:///model"):
        with pytest.raises(CheckpointError, match="wanted an http:// or https:// address"):
            fetch_url(url, tmp_path)
    server.stop()
    with pytest.raises(CheckpointError, match=r"cannot be read: .*refused"):
        fetch_url(server.url + "openai", tmp_path)


def test_a_server_that_refuses_is_told_of(server, tmp_path):
    server.faults["manifest.json"] = itertools.repeat(status(403))
    with pytest.raises(CheckpointError, match="the server answers 403"):
        fetch_url(server.url + "openai", tmp_path)


def test_a_pickle_at_an_address_is_refused_without_fetching_it(tmp_path):
    source = forms.copy("transformers", tmp_path)
    (source / WEIGHTS).rename(source / "pytorch_model.bin")
    with (
        bad_server(tmp_path) as server,
        pytest.raises(CheckpointError, match=r"weights in pytorch_model\.bin: a pickle"),
    ):
        fetch_url(server.url + "transformers", tmp_path / "cache")


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path):
    """A hub with owner/<form>, each as `folder`."""
    owner = tmp_path / "hub" / "owner"
    owner.mkdir(parents=True)
    for form in FORMS:
        forms.copy(form, owner)
    (owner / "transformers" / "pytorch_model.bin").write_bytes(b"not wanted")
    (owner / "transformers" / "README.md").write_text("---\nlicense: mit\n---\n")
    with hub_server(tmp_path / "hub") as server:
        yield server


def run(hub, tmp_path, *words, command=("-m", "gpt2web.convert")):
    """The command in a process of its own: huggingface_hub reads its settings when imported."""
    settings = {
        "HF_ENDPOINT": hub.origin,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }
    places = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")] if words else []
    return subprocess.run(
        [sys.executable, *command, *words, *places],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("form", ["transformers", "openai-sharded", "tfjs-uint16"])
def test_a_hub_name_is_fetched_and_converted(hub, tmp_path, form):
    done = run(hub, tmp_path, f"owner/{form}", "--precision", "int8")
    assert done.returncode == 0, done.stderr
    made = forms.read_folder(tmp_path / "out" / f"{form}-int8")
    words = ["--out", str(tmp_path), "--name", "local", "--precision", "int8"]
    assert command.main([str(forms.FORMS / form), *words]) == 0
    local = forms.read_folder(tmp_path / "local")
    assert all((made[name] == local[name]).all() for name in local)
    manifest = json.loads((tmp_path / "out" / f"{form}-int8" / "manifest.json").read_text())
    assert manifest["license"] == ("mit" if form == "transformers" else "unknown")
    assert hub.count("pytorch_model.bin") == 0


def test_a_cut_transfer_from_the_hub_resumes_and_nothing_is_fetched_twice(hub, tmp_path):
    hub.faults[WEIGHTS] = [cut(after=10_000)]
    done = run(hub, tmp_path, "owner/transformers")
    assert done.returncode == 0, done.stderr
    seen = [request.range for request in hub.seen(WEIGHTS) if request.method == "GET"]
    assert seen == [None, "bytes=10000-"] and hub.sent(WEIGHTS) == SIZE
    made = forms.read_folder(tmp_path / "out" / "transformers")
    assert all((made[name] == values).all() for name, values in forms.model().weights.items())


def test_a_transfer_that_broke_off_resumes_in_the_next_run(hub, tmp_path):
    folder = hub.folder / "owner" / "stories"
    folder.mkdir()
    for name in ("config.json", "merges.txt", WEIGHTS):  # 11.8 MB
        shutil.copyfile(STORIES / name, folder / name)
    hub.faults[WEIGHTS] = [cut(after=5_000_000), *[status(403)] * 20]
    done = run(hub, tmp_path, "owner/stories")
    assert done.returncode == 1
    assert "the server answers 403" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    hub.forget()
    assert run(hub, tmp_path, "owner/stories").returncode == 0
    whole = 5_000_000 // PIECE_BYTES * PIECE_BYTES
    assert hub.seen(WEIGHTS)[-1].range == f"bytes={whole}-"
    assert hub.sent(WEIGHTS) == (STORIES / WEIGHTS).stat().st_size - whole


def test_what_the_hub_s_own_cache_holds_is_taken_from_there(hub, tmp_path):
    code = "import huggingface_hub; huggingface_hub.snapshot_download('owner/transformers')"
    done = run(hub, tmp_path, command=["-c", code])
    assert done.returncode == 0, done.stderr
    hub.forget()
    assert run(hub, tmp_path, "owner/transformers", "--precision", "f16").returncode == 0
    assert hub.sent(WEIGHTS) == 0


def test_a_hub_that_is_gone_is_told_of(hub, tmp_path):
    hub.stop()
    done = run(hub, tmp_path, "owner/transformers")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "owner/transformers cannot be fetched from the hub: " in done.stderr


def test_a_name_that_the_hub_has_not_is_refused(hub, tmp_path):
    done = run(hub, tmp_path, "owner/nothing")
    assert done.returncode == 1
    assert "owner/nothing is not on the hub, or it is private" in done.stderr


def test_short_names_are_those_of_openai_s_models(monkeypatch):
    asked = []
    monkeypatch.setattr(hub_module, "fetch_hub", lambda name, cache: asked.append(name))
    for name in ("gpt2", "gpt2-xl", "distilgpt2", "gpt2_medium_en", "someone/gpt2-poems"):
        command.locate(name, None)
    assert asked == [
        "openai-community/gpt2",
        "openai-community/gpt2-xl",
        "distilbert/distilgpt2",
        "openai-community/gpt2-medium",
        "someone/gpt2-poems",
    ]


def test_without_huggingface_hub_the_command_says_what_to_run(hub, tmp_path):
    blocked = "import sys; sys.modules['huggingface_hub'] = None; "
    code = f"{blocked}from gpt2web.convert.__main__ import main; sys.exit(main(sys.argv[1:]))"

    def run_code(source):
        command = [sys.executable, "-c", code, source, "--out", str(tmp_path / "out")]
        return subprocess.run(command, capture_output=True, text=True)

    done = run_code("owner/transformers")
    assert done.returncode == 1
    assert "huggingface_hub is not installed" in done.stderr
    assert "python3 build.py model" in done.stderr
    assert run_code(str(forms.FORMS / "openai")).returncode == 0  # nothing else needs it

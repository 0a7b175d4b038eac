"""Where a model lies (by name, by alias, in a folder, at an address), and what is said when it is
not there or not whole."""

import asyncio
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import reference
from gpt2web import CheckpointError, DeviceError, GPT2CausalLM, preset, selftest, url_folder
from gpt2web.checkpoint import LocalFolder, open_checkpoint
from gpt2web.preset import open_folder, read_config, read_tokenizer, reads_start_token
from gpt2web.url_folder import UrlFolder

SIZES = {
    "vocabulary_size": 259,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "max_sequence_length": 16,
}
FILES = ("config.json", "merges.txt", "model.safetensors")
MERGES = "#version: 0.2\nt h\nth e\n"
CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 259,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "n_inner": 12,
    "n_positions": 16,
    "activation_function": "gelu_new",
}


@pytest.fixture(scope="session")
def weights():
    return reference.random_weights(SimpleNamespace(**SIZES), 4)


@pytest.fixture
def folder(tmp_path, weights):
    """A model folder, whole."""
    return write_folder(tmp_path / "tiny", weights)


def write_folder(folder, weights):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "merges.txt").write_text(MERGES)
    reference.write_safetensors(folder / "model.safetensors", weights)
    return folder


def read_all(where):
    """What a folder holds: config, tokenizer, tensors, whether a start token is wanted."""

    async def read():
        config = await read_config(where)
        tokenizer = await read_tokenizer(where, config)
        checkpoint = await open_checkpoint(where, config)
        tensors = {}
        async for entry, stream in checkpoint.tensors():
            data = await stream.read_bytes(entry.byte_length)
            tensors[entry.name] = np.frombuffer(data, "<f4").reshape(entry.shape)
        return config, tokenizer, tensors, await reads_start_token(where)

    return asyncio.run(read())


def check_all(where, weights, start=False):
    config, tokenizer, tensors, add_start = read_all(where)
    assert {name: getattr(config, name) for name in SIZES} == SIZES
    assert tokenizer.tokenize("the") == [257]
    assert tensors.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(tensors[name], values)
    assert add_start is start


# ---- names and folders ---------------------------------------------------------------------------


def test_a_bundled_model_comes_by_its_name():
    where = open_folder("stories")
    assert where.name == "stories"
    assert asyncio.run(read_config(where)).num_parameters == 5_885_952
    assert asyncio.run(reads_start_token(where)) is True


@pytest.mark.parametrize("name", ["gpt2", "gpt2_base_en", "openai-community/gpt2"])
def test_an_alias_is_the_model_of_the_name_it_stands_for(folder, weights, monkeypatch, name):
    bundled = folder.parent / "models"
    bundled.mkdir()
    folder.rename(bundled / "gpt2")
    monkeypatch.setattr(preset, "files", lambda package: bundled)
    where = open_folder(name)
    assert where.name == "gpt2"
    check_all(where, weights)
    with pytest.raises(CheckpointError, match="the weights of distilgpt2 do not come"):
        open_folder("distilgpt2")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_read_where_it_lies(folder, weights, kind):
    check_all(open_folder(kind(folder)), weights)
    (folder / "generation_config.json").write_text('{"add_start_token": true}')
    check_all(open_folder(kind(folder)), weights, start=True)


@pytest.mark.parametrize("name", ["nowhere", "no/such/folder", "", "../models"])
def test_what_is_no_model_is_refused_with_what_was_wanted(name):
    wanted = r"wanted a bundled model \(stories\), or the path or URL of a folder with config.json"
    with pytest.raises(CheckpointError, match=f"no model at {name!r}: {wanted}"):
        open_folder(name)


# ---- at an address -------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """The files of server.folder, as server.answers says otherwise."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        how = self.server.answers.get(name, "whole")
        file = self.server.folder / name
        if how == "garbage":
            self.wfile.write(b"no HTTP at all\r\n\r\n")
        elif isinstance(how, int) or not file.is_file():
            self.send_error(how if isinstance(how, int) else 404)
        else:
            data = file.read_bytes()
            self.send_response(200)
            if how != "no length":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if how == "half" else data)
        self.close_connection = True

    def log_message(self, *values):
        pass


@pytest.fixture
def server(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.folder, server.answers = folder, {}
    server.url = f"http://127.0.0.1:{server.server_address[1]}/some/tiny"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("end", ["", "/"])
def test_an_address_is_read_as_a_folder_is(server, weights, end):
    where = open_folder(server.url + end)
    assert isinstance(where, UrlFolder)
    assert where.name == "tiny"
    check_all(where, weights)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "how, message",
    [
        (403, "{url}/{file}: the server answers 403"),
        (503, "{url}/{file} cannot be read: the server answers 503, after 6 tries"),
        ("half", r"{url}/{file}: the transfer broke at byte [\d,]+ of [\d,]+, and the server says"),
        ("no length", "{url}/{file} cannot be read: the server gives no Content-Length"),
        ("garbage", "{url}/{file} cannot be read: "),
    ],
)
def test_a_server_that_fails_is_named_with_the_file(
    server, weights, file, how, message, monkeypatch
):
    monkeypatch.setattr(url_folder, "sleep", lambda seconds: None)
    server.answers[file] = how
    with pytest.raises(CheckpointError, match=message.format(url=server.url, file=file)):
        read_all(open_folder(server.url))
    server.answers.clear()
    check_all(open_folder(server.url), weights)


@pytest.mark.parametrize("gone", [404, 410])
def test_a_file_that_is_not_at_the_address_is_missing_as_in_a_folder(server, weights, gone):
    for file, message in (
        ("config.json", "tiny has no config.json"),
        ("merges.txt", "tiny has no merges.txt"),
        ("model.safetensors", r"tiny .*model\.safetensors"),
    ):
        server.answers = {file: gone}
        with pytest.raises(CheckpointError, match=message):
            read_all(open_folder(server.url))
    server.answers = {"generation_config.json": gone}
    check_all(open_folder(server.url), weights)


def test_an_address_where_nobody_listens_or_that_is_none_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/tiny", "nothing://tiny", "http://"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_all(open_folder(url))


def test_a_server_that_falls_silent_is_given_up(server, monkeypatch):
    monkeypatch.setattr(url_folder, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(CheckpointError, match=r"cannot be read: no byte came for 0\.2 s"):
            read_all(open_folder(f"http://127.0.0.1:{port}/tiny"))


# ---- what lies there -----------------------------------------------------------------------------


def without(file):
    return lambda folder: (folder / file).unlink()


def with_text(file, text):
    return lambda folder: (folder / file).write_bytes(text.encode("latin-1"))


def with_config(**changes):
    return with_text("config.json", json.dumps(CONFIG | changes))


SPOILT = {
    "no config": (without("config.json"), "tiny has no config.json: wanted a model folder"),
    "no JSON": (with_text("config.json", "{"), "tiny/config.json"),
    "a list": (
        with_text("config.json", "[]"),
        r"tiny/config.json: wanted a JSON object, got '\[\]'",
    ),
    "a text": (with_text("generation_config.json", '"x"'), "generation_config.json: wanted a JSON"),
    "not UTF-8": (with_text("config.json", "\xff"), "tiny/config.json is not UTF-8 text"),
    "another model": (with_config(model_type="bert"), "tiny/config.json: .* 'gpt2', got 'bert'"),
    "heads": (with_config(n_head=3), "tiny/config.json: .* divisible by num_heads"),
    "no size": (with_config(n_layer=None), "tiny/config.json: .* no n_layer"),
    "no merges": (without("merges.txt"), "tiny has no merges.txt"),
    "a bad merge": (with_text("merges.txt", "t h e\n"), "tiny/merges.txt"),
    "other merges": (
        with_text("merges.txt", "t h\n"),
        "merges.txt makes 258 tokens, config.json says vocab_size 259",
    ),
    "no weights": (without("model.safetensors"), r"tiny .*model\.safetensors"),
    "other sizes": (with_config(n_inner=16), r"tiny/model\.safetensors.*c_fc"),
    "a bad generation config": (with_text("generation_config.json", "{"), "generation_config"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_folder_that_is_not_right_is_refused_by_file(folder, weights, case):
    check_all(LocalFolder(folder), weights)
    spoil, message = SPOILT[case]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        read_all(LocalFolder(folder))


# ---- from_preset ---------------------------------------------------------------------------------


def load(where, **options):
    return GPT2CausalLM.from_preset(where, adapter="llvmpipe", **options)


@pytest.mark.gpu
def test_a_model_is_the_same_from_a_folder_and_from_an_address(folder, server, devices, weights):
    config = SimpleNamespace(**SIZES, layer_norm_epsilon=1e-5)
    ids = np.arange(16)
    wanted = reference.forward(config, weights, ids)
    for where in (str(folder), folder, LocalFolder(folder), server.url):
        done = []
        lm = load(where, progress=lambda *bytes_: done.append(bytes_))  # noqa: B023
        got = lm([ids.tolist()]).numpy()[0]
        assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
        assert done == sorted(done) and done[-1] == (4 * lm.info["parameters"],) * 2
        assert (lm.info["model"], lm.info["context"]) == ("tiny", 16)
        assert lm.info["precision"] == "f32" and "llvmpipe" in lm.info["adapter"]
        assert lm.generate("the") and lm.preprocessor.sequence_length == 16
        lm.close()
    assert len(devices) == 4 and not any(device.live for device in devices)


@pytest.mark.gpu
def test_a_folder_of_f16_stays_f16_unless_asked_otherwise(folder, devices, weights):
    reference.write_safetensors(folder / "model.safetensors", weights, "F16")
    for asked, precision in ((None, "f16"), ("f32", "f32"), ("f16", "f16")):
        lm = load(folder, precision=asked)
        assert lm.info["precision"] == precision
        lm.close()
    with pytest.raises(ValueError, match=r"precision must be one of f32, .*int4, got 'int3'"):
        load(folder, precision="int3")
    assert not any(device.live for device in devices)


@pytest.mark.gpu
def test_a_model_whose_vocabulary_was_rounded_up_is_loaded(folder, devices):
    rounded = {"vocabulary_size": 264}
    weights = reference.random_weights(SimpleNamespace(**SIZES | rounded), 4)
    reference.write_safetensors(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 264}))
    lm = load(folder)
    assert lm([[1, 2]]).shape == (1, 2, 264)
    assert lm.generate("the", max_length=9).startswith("the")
    lm.close()


@pytest.mark.gpu
def test_a_folder_of_floats_can_be_had_in_any_precision(folder, devices, weights):
    for precision in ("int8", "int4"):  # and f32 and f16: above
        lm = load(folder, precision=precision)
        assert lm.info["precision"] == lm.backbone.precision == precision
        lm.compile("greedy")
        text = lm.generate("the", max_length=12)
        assert len(text) > 3 and lm.generate("the", max_length=12) == text
        lm.close()
    assert not any(device.live for device in devices)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_packed_folder_is_the_model_of_what_it_keeps(folder, devices, weights, precision):
    config = SimpleNamespace(**SIZES, layer_norm_epsilon=1e-5)
    wanted = reference.forward(config, reference.kept(weights, precision), np.arange(16))
    packed = reference.packed(weights, precision)
    reference.write_safetensors(folder / "model.safetensors", packed)
    lm = load(folder)
    assert lm.info["precision"] == precision
    got = lm([list(range(16))]).numpy()[0]
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()
    lm.close()
    with pytest.raises(ValueError, match=f"is stored in {precision} and runs in that alone"):
        load(folder, precision="f32")
    assert len(devices) == 1 and not devices[0].live


@pytest.mark.gpu
def test_a_packed_folder_is_refused_by_a_gpu_that_computes_it_wrongly(
    folder, devices, weights, monkeypatch
):
    async def failed(device, precision, memory):
        return "f32", f"passed in f32; {precision} failed (matmul: off)"

    monkeypatch.setattr(selftest, "run", failed)
    lm = load(folder, precision="int4")  # of floats: f32 instead
    assert lm.info["precision"] == "f32" and "int4 failed" in lm.info["self_test"]
    lm.close()
    packed = reference.packed(weights, "int4")
    reference.write_safetensors(folder / "model.safetensors", packed)
    with pytest.raises(DeviceError, match=r"is stored in int4, which .* wrongly .*matmul: off"):
        load(folder)
    assert not any(device.live for device in devices)


@pytest.mark.gpu
def test_a_transfer_that_breaks_leaves_nothing_on_the_gpu(server, devices):
    server.answers["model.safetensors"] = "half"
    with pytest.raises(CheckpointError, match="the transfer broke"):
        load(server.url)
    assert len(devices) == 1 and not devices[0].live


@pytest.mark.gpu
def test_a_model_that_was_loaded_and_closed_asks_for_no_other_device(folder, devices):
    lm = load(folder)
    lm([[1, 2]])
    lm.close()
    for call in (lambda: lm([[1, 2]]), lambda: lm.generate("the"), lambda: lm.perplexity("of the")):
        with pytest.raises(DeviceError, match="this model was closed: load it again"):
            call()
    assert len(devices) == 1 and not devices[0].live


@pytest.mark.gpu
def test_options_that_do_not_exist_are_type_errors(folder):
    with pytest.raises(TypeError, match="load_wights"):
        GPT2CausalLM.from_preset(folder, load_wights=False)
    with pytest.raises(DeviceError, match="no adapter is named 'nothing'; found: "):
        GPT2CausalLM.from_preset(folder, adapter="nothing")

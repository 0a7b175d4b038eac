"""Converting: every form of a checkpoint into every precision, the command, and its refusals."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import forms
import reference
import small_models
from gpt2web import GPT2CausalLM
from gpt2web.checkpoint import CheckpointError, LocalFolder
from gpt2web.convert import __main__ as command
from gpt2web.convert import convert as converting
from gpt2web.convert.convert import own_precision
from gpt2web.convert.forms import open_source
from gpt2web.manifest import held_to_manifest
from gpt2web.preset import read_config, read_tokenizer

MODEL = forms.model()
IDS = [259, 84, 104, 258, 1, 200, 33, 258]
TRUE_LOGITS = reference.forward(MODEL.config, MODEL.weights, IDS)

# form: what it is in, and how far its values may be from the model's before any rounding. Values
# are within 0.5 of 0 (1.5 for the gains of norms).
FORMS = {
    "transformers": ("f32", 0),
    "transformers-sharded": ("f16", 2**-8),  # bf16: 8 bits, of values up to 1.5
    "openai": ("f32", 0),
    "openai-sharded": ("f32", 0),
    "tfjs": ("f32", 0),
    "tfjs-float16": ("f16", 2**-11),
    "tfjs-uint16": ("f16", 1e-5),  # half a step of a range under 1.1: 0.8e-5
    "tfjs-uint8": ("f16", 2.2e-3),
}
# Of the logits' spread, which is 3.2 here; each about twice what was seen. int8 and int4 are large,
# as the matrices are random, tiny and of a large std: see bench for what they cost a real model.
TOLERANCES = {"f32": 1e-5, "f16": 2e-3, "int8": 0.05, "int4": 0.8}


def convert(source, out, precision=None, *more):
    """The command on a folder; the folder that it wrote."""
    words = [str(source), "--out", str(out), "--name", "made", "--replace", *more]
    status = command.main([*words, *(["--precision", precision] if precision else [])])
    assert status == 0
    return out / "made"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{(form, precision): folder}, each written once."""
    folders = {}

    def get(form, precision=None):
        if (form, precision) not in folders:
            out = tmp_path_factory.mktemp(form)
            folders[form, precision] = convert(forms.FORMS / form, out, precision)
        return folders[form, precision]

    return get


# --- every form, every precision -----------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_as_the_values_it_was_written_from(form):
    precision, tolerance = FORMS[form]
    source = open_source(forms.FORMS / form)
    assert own_precision(source) == precision
    assert source.config.get_config().items() >= MODEL.fields.items()
    for name, wanted in MODEL.weights.items():
        columns = wanted.shape[-1]
        rows = wanted.size // columns
        got = source.tensors.rows(name, 0, rows)
        assert got.dtype == np.float32
        assert np.abs(got - wanted.reshape(rows, columns)).max() <= tolerance, name
        half = source.tensors.rows(name, rows // 2, rows - rows // 2)
        assert (half == got[rows // 2 :]).all(), name  # anywhere, not only from the start


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("form", ["transformers", "transformers-sharded", "openai", "tfjs-uint16"])
def test_logits_after_converting_are_the_source_s(made, form, precision):
    folder = made(form, precision)
    weights = forms.read_folder(folder)
    logits = reference.forward(forms.model_config(folder), weights, IDS)
    source = TRUE_LOGITS
    if FORMS[form][1]:  # against what the form holds, not what it was made from
        tensors = open_source(forms.FORMS / form).tensors
        held = {
            name: tensors.rows(name, 0, values.size // values.shape[-1]).reshape(values.shape)
            for name, values in MODEL.weights.items()
        }
        source = reference.forward(MODEL.config, held, IDS)
    error = np.abs(logits - source).max() / source.std()
    assert error <= TOLERANCES[precision]
    if form != "transformers-sharded":  # f16 holds what was bf16
        assert error >= {"f32": 0, "f16": 1e-5, "int8": 1e-3, "int4": 1e-2}[precision]


def test_left_out_the_precision_is_the_source_s_own(made):
    for form in ("openai", "transformers-sharded", "tfjs-float16"):
        manifest = json.loads((made(form) / "manifest.json").read_text())
        assert manifest["precision"] == FORMS[form][0]
    halves = forms.read_folder(made("tfjs-float16"))
    assert all((halves[n] == v.astype(np.float16)).all() for n, v in MODEL.weights.items())


def test_norms_biases_and_positions_stay_as_they_are_where_matrices_are_quantised(made):
    for name, values in forms.read_folder(made("openai", "int4")).items():
        is_kept = values.ndim == 1 or name == "wpe.weight"
        assert (values == MODEL.weights[name]).all() == is_kept, name


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["f32", "int4"])
def test_a_converted_folder_runs_natively_in_its_precision(made, devices, precision):
    folder = made("openai", precision)
    lm = GPT2CausalLM.from_preset(folder, adapter="llvmpipe")
    assert lm.info["precision"] == precision and len(devices) == 1
    logits = lm([IDS]).numpy()[0]
    assert lm.tokenizer.tokenize(" the") == [258]
    lm.close()
    wanted = reference.forward(MODEL.config, forms.read_folder(folder), IDS)
    assert np.abs(logits - wanted).max() < 1e-3


# --- what goes along -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["transformers", "transformers-sharded", "openai", "tfjs"])
def test_config_and_tokenizer_go_along(made, form):
    path = made(form)

    async def read():
        folder = await held_to_manifest(LocalFolder(path))
        config = await read_config(folder)
        return config, await read_tokenizer(folder, config)

    config, tokenizer = asyncio.run(read())
    assert config.get_config().items() >= MODEL.fields.items()
    assert tokenizer.tokenize("the the<|endoftext|>") == [83, 257, 258, 259]
    assert tokenizer.get_vocabulary() == list(forms.vocabulary())


def test_card_licence_and_title_go_along(tmp_path):
    source = forms.copy("transformers", tmp_path)
    (source / "README.md").write_text("---\nlicense: mit\ntags:\n- exbert\n---\n# A model\n")
    (source / "notes.txt").write_text("stays")
    folder = convert(source, tmp_path / "out", None, "--title", "A model")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["title"], manifest["license"], manifest["name"]) == ("A model", "mit", "made")
    assert "# A model" in (folder / "MODEL_CARD.md").read_text()
    names = {path.name for path in folder.iterdir()}
    texts = {"config.json", "merges.txt", "generation_config.json", "MODEL_CARD.md"}
    assert names == {*texts, "manifest.json", "model.safetensors"}

    (source / "README.md").write_bytes("---\nlicense: mit\n---\n# Modèle\n".encode("latin-1"))
    folder = convert(source, tmp_path / "out", None, "--license", "Apache-2.0")
    assert "# Mod\ufffdle" in (folder / "MODEL_CARD.md").read_text("utf-8")
    assert json.loads((folder / "manifest.json").read_text())["license"] == "Apache-2.0"


def test_a_licence_that_nobody_states_is_unknown_and_asked_for(made, tmp_path, capsys):
    folder = convert(forms.FORMS / "openai", tmp_path)
    assert json.loads((folder / "manifest.json").read_text())["license"] == "unknown"
    assert "--license" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: 'apache-2.0'\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: mine\n---\n", "mine"),
        ("---\nlicense:\n- mit\ntags:\n- b\n---\n", "mit"),
        ("---\nlicense:\ntags:\n- b\n---\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("", None),
    ],
)
def test_a_card_states_its_licence_in_its_front_matter(card, license):
    assert command.license_of(card) == license


@pytest.mark.parametrize(
    ("source", "precision", "name"),
    [
        ("openai-community/gpt2", "int8", "gpt2-int8"),
        ("https://example.org/a/My%20Model/?x=1#y", None, "My-20Model"),
        ("../models/124M/", None, "124M"),
        (".", "f16", "model-f16"),
    ],
)
def test_a_folder_is_named_after_its_source_and_precision(source, precision, name):
    assert command.plain_name(source, precision) == name


def test_a_model_folder_can_be_converted_again(made, tmp_path):
    again = forms.read_folder(convert(made("openai", "f32"), tmp_path, "int8"))
    once = forms.read_folder(made("openai", "int8"))
    assert all((again[name] == once[name]).all() for name in once)


# --- refusals ------------------------------------------------------------------------------------


def refusal(capsys, *words):
    assert command.main([str(word) for word in words]) == 1
    return capsys.readouterr().err.strip()


def test_what_could_not_be_written_or_served_is_refused_first(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for models/
    source = forms.copy("transformers", tmp_path)
    assert "--title 'a\\nb': wanted one line" in refusal(capsys, source, "--title", "a\nb")
    assert "--license '': wanted one line" in refusal(capsys, source, "--license", "")
    assert "stories is the name of a bundled" in refusal(capsys, source, "--name", "stories")
    assert "no checkpoint was named" in refusal(capsys, "")
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"")
    assert "a file of a name that is not known" in refusal(capsys, mine)
    assert not (tmp_path / "models").exists()
    assert command.main([str(source), "--name", "mine"]) == 0
    assert (tmp_path / "models/mine/manifest.json").is_file()


def test_a_model_is_replaced_only_where_that_is_said(capsys, tmp_path):
    mine = tmp_path / "mine"
    first = ["--out", str(tmp_path), "--name", "mine"]
    assert command.main([str(forms.FORMS / "openai"), *first]) == 0
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    text = refusal(capsys, "https://nowhere.invalid/model", *first)  # before it is fetched
    assert f"{mine} is a model already" in text and "--replace" in text
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before
    again = [str(forms.FORMS / "openai"), *first, "--precision", "f16", "--replace"]
    assert command.main(again) == 0
    assert {path.name: path.read_bytes() for path in mine.iterdir()} != before


def test_a_quantised_folder_is_not_converted_again(made, tmp_path, capsys):
    text = refusal(capsys, made("openai", "int8"), "--out", tmp_path, "--precision", "int4")
    assert "is quantised already: tensor" in text and "Convert what it was made from" in text


def test_a_changed_shard_is_refused_by_its_hash(tmp_path, capsys):
    folder = convert(forms.FORMS / "openai", tmp_path)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    text = refusal(capsys, folder, "--out", tmp_path / "b")
    assert "made/model.safetensors is not the file that manifest.json lists" in text


def write_model(folder, name, value):
    """A folder whose tensor `name` holds one other value."""
    small = small_models.random_model()
    weights = {key: values.copy() for key, values in small.weights.items()}
    weights[name].flat[7] = value
    return small_models.write_folder(folder, SimpleNamespace(fields=small.fields, weights=weights))


@pytest.mark.parametrize("precision", ["f32", "f16", "int8", "int4"])
@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "wte.weight", "ln_f.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, capsys, name, precision):
    for value in (np.nan, np.inf):
        source = write_model(tmp_path / "source", name, value)
        text = refusal(capsys, source, "--out", tmp_path, "--precision", precision)
        assert f"source: tensor {name} holds {value} at row 0, column 7." in text
    assert not list(tmp_path.glob("*source-*"))


def test_weights_over_f16_s_range_are_refused_where_they_would_be_f16(tmp_path, capsys):
    source = write_model(tmp_path / "source", "h.0.attn.c_attn.weight", 7e4)
    text = refusal(capsys, source, "--out", tmp_path, "--precision", "f16")
    assert "tensor h.0.attn.c_attn.weight holds 70000.0, more than f16 holds (65504)" in text
    convert(source, tmp_path, "f32")
    convert(source, tmp_path, "int8")
    convert(source, tmp_path, "int4")  # a scale of an eighth of it
    source = write_model(tmp_path / "source", "h.0.attn.c_attn.weight", 1e6)
    text = refusal(capsys, source, "--out", tmp_path, "--precision", "int4")
    assert "tensor h.0.attn.c_attn.weight: a group's scale is more than f16 holds" in text


def test_a_tokenizer_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, capsys):
    source = forms.copy("openai", tmp_path)
    (source / "encoder.json").unlink()
    with (source / "vocab.bpe").open("a") as file:
        file.write("Ġthe n\n")
    text = refusal(capsys, source, "--out", tmp_path / "out")
    assert "261" in text and "260" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "way_out"),
    [
        ("pytorch_model.bin", "pickle"),
        ("pytorch_model.bin.index.json", "pickles"),
        ("tf_model.h5", "save_pretrained"),
        ("flax_model.msgpack", "save_pretrained"),
        ("model.weights.h5", "export_to_transformers"),
    ],
)
def test_weights_in_other_files_are_refused_with_the_way_out(tmp_path, capsys, file, way_out):
    source = forms.copy("transformers", tmp_path)
    (source / "model.safetensors").rename(source / file)
    text = refusal(capsys, source, "--out", tmp_path / "out")
    assert f"transformers has its weights in {file}" in text and way_out in text


def test_a_place_without_a_checkpoint_says_what_was_looked_for(tmp_path, capsys):
    text = refusal(capsys, tmp_path, "--out", tmp_path / "out")
    assert "holds no weights: looked for manifest.json, model.safetensors" in text
    text = refusal(capsys, tmp_path / "nothing", "--out", tmp_path / "out")
    assert "no checkpoint at" in text and "gpt2-xl" in text


def test_a_folder_that_is_not_a_model_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "diary.txt").write_text("mine")
    text = refusal(capsys, forms.FORMS / "openai", "--out", tmp_path, "--name", "made")
    assert "not a model folder that could be replaced" in text
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["diary.txt"]
    text = refusal(capsys, forms.FORMS / "openai", "--out", tmp_path, "--name", "../up")
    assert "--name '../up': wanted letters and digits" in text


def test_without_numpy_the_command_says_what_to_run(tmp_path):
    """As in an interpreter that lacks it: the package itself is imported without."""
    blocked = "import sys; sys.modules['numpy'] = None; from gpt2web.convert.__main__ import main; "
    code = f"{blocked}sys.exit(main([{str(forms.FORMS / 'openai')!r}, '--out', {str(tmp_path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs numpy" in done.stderr and "python3 build.py model" in done.stderr
    free = code.replace("sys.modules['numpy'] = None; ", "")
    done = subprocess.run([sys.executable, "-c", free], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the run itself ------------------------------------------------------------------------------


def test_pieces_of_rows_make_the_same_as_whole_tensors(made, tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "PIECE_VALUES", 1)  # 32 rows at a time
    source = write_model(tmp_path / "source", "ln_f.bias", 1.0)
    pieces = forms.read_folder(convert(source, tmp_path, "int4"))
    monkeypatch.undo()
    whole = forms.read_folder(convert(source, tmp_path, "int4"))
    assert all((pieces[name] == whole[name]).all() for name in whole)


def test_interrupted_it_leaves_nothing_half_done(tmp_path):
    """Ctrl-C in the middle of the weights, and the same again afterwards."""
    source = write_model(tmp_path / "source", "ln_f.bias", 1.0)
    code = """if True:
        import sys, time
        from gpt2web.convert import __main__ as command
        from gpt2web.convert import convert as converting
        made = converting.quantize
        def slow(*values):
            print("begun", flush=True)
            time.sleep(60)
            return made(*values)
        converting.quantize = slow
        sys.exit(command.main(sys.argv[1:]))
    """
    out = tmp_path / "out"
    words = [str(source), "--out", str(out), "--name", "made", "--precision", "int8"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "begun\n"
    assert len(list(out.iterdir())) == 1  # hidden, so far
    start = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - start < 10
    assert "Interrupted: nothing half-done is left." in errors and "Traceback" not in errors
    assert list(out.iterdir()) == []
    assert command.main(words) == 0
    assert [path.name for path in out.iterdir()] == ["made"]


def test_a_refused_conversion_leaves_the_model_that_was_there(tmp_path, capsys):
    folder = convert(forms.FORMS / "openai", tmp_path)
    before = (folder / "manifest.json").read_text()
    source = write_model(tmp_path / "source", "ln_f.bias", np.nan)
    words = [source, "--out", tmp_path, "--name", "made", "--replace"]
    assert "ln_f.bias" in refusal(capsys, *words)
    assert (folder / "manifest.json").read_text() == before
    assert {path.name for path in tmp_path.iterdir()} == {"made", "source"}


def test_an_unknown_precision_is_a_wrong_argument(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["gpt2", "--precision", "int3"])
    assert stopped.value.code == 2
    assert "int3" in capsys.readouterr().err


def test_checkpoint_errors_are_what_the_reader_raises(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_source(tmp_path)

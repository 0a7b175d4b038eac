"""The reader's own files: chosen or dropped, refused in a sentence or read from disk and run."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

import reference
import small_models
from browser import TestServer, host, open_blank
from gpt2web.convert.model_folder import FolderWriter

LOAD_MS = 60_000
STORY = "My own words, over and over. "

# What own_files.js makes of files of these paths, without their bytes: names, or the refusal.
CHOOSE = """async ([address, paths]) => {
  const { wholeModel } = await import(address);
  const files = paths.map((path) => {
    const file = new File(["ten bytes."], path.split("/").at(-1));
    if (path.includes("/")) Object.defineProperty(file, "webkitRelativePath", { value: path });
    return file;
  });
  try {
    const { name, bytes, files: named } = wholeModel(files);
    const names = Object.fromEntries(named.map(({ name, file }) => [name, file.name]));
    return { name, bytes, files: names };
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}"""


@pytest.fixture(scope="module")
def bare(quick_browser: Browser, server: TestServer) -> Iterator[Page]:
    """A page of the server's origin that has loaded nothing."""
    page = quick_browser.new_page()
    open_blank(page, f"{server.url}bare.html")
    yield page
    page.context.close()


def choose(bare: Page, *paths: str) -> dict[str, Any]:
    address = bare.url.replace("bare.html", "own_files.js")
    result: dict[str, Any] = bare.evaluate(CHOOSE, [address, paths])
    return result


@pytest.mark.browser
@pytest.mark.parametrize(
    ("paths", "name", "weights"),
    [
        (["config.json", "merges.txt", "model.safetensors"], "your model", "model.safetensors"),
        (["config.json", "tokenizer.json", "mine.safetensors"], "mine", "mine.safetensors"),
        (["a/b/config.json", "a/b/merges.txt", "a/b/x.safetensors"], "b", "x.safetensors"),
        # what else lies in a clone of a hub's repository is no second model
        (
            [
                *("gpt2/config.json", "gpt2/merges.txt", "gpt2/model.safetensors"),
                *("gpt2/onnx/config.json", "gpt2/onnx/merges.txt", "gpt2/onnx/decoder.onnx"),
                *("gpt2/.git/model.safetensors", "gpt2/pytorch_model.bin"),
            ],
            "gpt2",
            "model.safetensors",
        ),
        (["m/manifest.json", "m/model-00001-of-00001.part", "m/config.json"], "m", None),
    ],
)
def test_a_model_is_known_by_the_folder_of_its_weights(
    bare: Page, paths: list[str], name: str, weights: str | None
) -> None:
    chosen = choose(bare, *paths)
    assert chosen["name"] == name
    assert chosen["files"].get("model.safetensors") == weights
    assert chosen["bytes"] == 10 * len(chosen["files"])


@pytest.mark.browser
@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["model.safetensors", "merges.txt"], ["config.json is missing", "model.safetensors and"]),
        (["config.json", "m.safetensors"], ["merges.txt (or tokenizer.json) is missing", "got "]),
        (["vocab.json", "m.safetensors"], ["config.json and merges.txt (or tokenizer.json) are"]),
        (["config.json", "merges.txt"], ["no weights", "got config.json and merges.txt"]),
        (["config.json", "pytorch_model.bin"], ["pytorch_model.bin holds", "save_pretrained"]),
        (
            ["config.json", "merges.txt", "a-1.safetensors", "a-2.safetensors"],
            ["a-1.safetensors and a-2.safetensors", "model.safetensors.index.json"],
        ),
        (["x/a/model.safetensors", "x/b/c.safetensors"], ["more than one model", "x/a and x/b"]),
        ([".DS_Store"], ["no weights", "got no file"]),
    ],
)
def test_what_is_missing_is_said_with_what_was_wanted_and_got(
    bare: Page, paths: list[str], words: list[str]
) -> None:
    refused = choose(bare, *paths)
    assert refused["error"] == "CheckpointError"
    for word in words:
        assert word in refused["message"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 257 tokens in f32 that writes STORY, greedily."""
    script = small_models.tokenizer().tokenize(STORY)
    folder = tmp_path_factory.mktemp("own") / "my <b>own model"
    small_models.write_folder(folder, small_models.writer_model(script))
    (folder / "generation_config.json").write_text('{"do_sample": false}')
    (folder / "MODEL_CARD.md").write_text("# What to expect\n\nAlways the same <i>words</i>.\n")
    return folder


@pytest.fixture(scope="module")
def home(quick_browser: Browser, dist: Path) -> Iterator[tuple[Page, TestServer]]:
    """The page on its own server; the model that it starts with is not waited for."""
    server = host(dist)
    page = quick_browser.new_page()
    page.goto(server.url)
    page.locator("summary", has_text="Use a model of your own").click()
    yield page, server
    page.context.close()
    server.stop()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def load_and_write(page: Page, precision: str) -> str:
    page.select_option("#precision", precision)
    page.click("#load-model")
    expect(page.locator("#generate")).to_be_enabled(timeout=LOAD_MS)
    page.fill("#prompt", "My own")
    page.fill("#max-new-tokens", "23")
    page.click("#generate")
    expect(page.locator("#story-foot")).to_be_visible(timeout=LOAD_MS)
    return page.inner_text("#written")


@pytest.mark.browser
def test_chosen_files_run_in_the_chosen_precision_and_nothing_is_uploaded(
    home: tuple[Page, TestServer], folder: Path
) -> None:
    page, server = home
    before = len(server.requests)
    page.set_input_files("#own-files", files_of(folder))
    assert "model.safetensors" in page.inner_text("#model-facts")
    for precision in ("int8", ""):  # as stored: f32
        assert load_and_write(page, precision) == STORY[6:]
        assert f"weights in {precision or 'f32'}" in page.inner_text("#running")
        assert page.input_value("#temperature") == "0"  # generation_config.json's
        assert page.inner_text("#model-limits") == "Always the same <i>words</i>."
        expect(page.locator("#model-kept")).to_have_text(re.compile("nothing was uploaded"))
    asked = server.requests[before:]
    assert any("wheels/" in line for line in asked)  # the worker's own files
    assert all(line.startswith("GET ") for line in asked)
    assert not any(line.endswith((".safetensors", "own")) for line in asked)


@pytest.mark.browser
def test_a_chosen_folder_in_shards_runs(
    home: tuple[Page, TestServer], folder: Path, tmp_path: Path
) -> None:
    page, _ = home
    sharded = tmp_path / "sharded"
    shutil.copytree(folder, sharded)
    weights = reference.read_safetensors(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(weights)
    index: dict[str, str] = {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        reference.write_safetensors(sharded / file, {name: weights[name] for name in part})
        index |= dict.fromkeys(part, file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    page.set_input_files("#own-folder", sharded)
    assert page.locator("#model option:checked").inner_text() == "sharded (your files)"
    assert load_and_write(page, "f16") == STORY[6:]
    assert re.search(r"Model\s+sharded", page.inner_text("#running"))


def drag(page: Page, kind: str, at: str, files: list[Path], text: str = "") -> None:
    """What the operating system does when something is dragged over an element, or let go."""
    page.locator(at).scroll_into_view_if_needed()
    box = page.locator(at).bounding_box()
    assert box
    items = [{"mimeType": "text/plain", "data": text}] if text else []
    data = {"items": items, "files": [str(file) for file in files], "dragOperationsMask": 1}
    page.context.new_cdp_session(page).send(
        "Input.dispatchDragEvent",
        {"type": kind, "x": box["x"] + 9, "y": box["y"] + 9, "data": data},
    )


@pytest.mark.browser
def test_a_dropped_folder_runs_and_its_name_is_shown_as_text(
    home: tuple[Page, TestServer], folder: Path
) -> None:
    page, _ = home
    address = page.url
    for target in ("h1", "#prompt"):
        for kind in ("dragEnter", "dragOver"):
            drag(page, kind, target, [folder])
        expect(page.locator("body.dropping")).to_be_attached()
        drag(page, "drop", target, [folder])
        expect(page.locator("body.dropping")).not_to_be_attached()
        expect(page.locator("#model option:checked")).to_have_text("my <b>own model (your files)")
        page.select_option("#model", "stories")
    page.select_option("#model", label="my <b>own model (your files)")
    assert load_and_write(page, "f32") == STORY[6:]
    assert "my <b>own model" in page.inner_text("#running")
    assert page.locator("main :is(b, i):not(.notice *)").count() == 0
    assert page.url == address


@pytest.mark.browser
def test_dropped_text_goes_into_the_prompt_and_nowhere_else(
    home: tuple[Page, TestServer], tmp_path: Path
) -> None:
    page, _ = home
    page.fill("#prompt", "")
    address = page.url
    for kind in ("dragEnter", "dragOver"):
        drag(page, kind, "h1", [tmp_path])
    expect(page.locator("body.dropping")).to_be_attached()
    page.mouse.move(5, 5)  # the drag has ended elsewhere
    expect(page.locator("body.dropping")).not_to_be_attached()
    for kind in ("dragEnter", "dragOver", "drop"):
        drag(page, kind, "h1", [], "https://example.com/")
    assert page.input_value("#prompt") == ""
    for kind in ("dragEnter", "dragOver", "drop"):
        drag(page, kind, "#prompt", [], "A dropped line")
    expect(page.locator("#prompt")).to_have_value("A dropped line")
    assert page.url == address and page.locator("body.dropping").count() == 0


@pytest.mark.browser
def test_files_that_are_no_model_are_refused_and_the_model_before_goes_on(
    home: tuple[Page, TestServer], folder: Path, tmp_path: Path
) -> None:
    page, _ = home
    stranger = tmp_path / "<img src=x onerror=alert(1)>.txt"
    stranger.write_text("no model")
    page.set_input_files("#own-files", [stranger, folder / "config.json"])
    said = page.locator("#problem-text")
    expect(said).to_contain_text("There are no weights among these files")
    expect(said).to_contain_text(stranger.name)
    assert page.locator("main img").count() == 0
    expect(page.locator("#way-out")).to_be_hidden()


@pytest.mark.browser
def test_a_file_that_changes_after_it_was_chosen_is_refused_by_name(
    home: tuple[Page, TestServer], folder: Path, tmp_path: Path
) -> None:
    page, _ = home
    own = tmp_path / "changing"
    shutil.copytree(folder, own)
    weights = own / "model.safetensors"
    page.set_input_files("#own-files", files_of(own))
    weights.write_bytes(weights.read_bytes() + b"more")
    page.click("#load-model")
    said = page.locator("#problem-text")
    expect(said).to_contain_text(re.compile("model.safetensors.* was changed"), timeout=LOAD_MS)
    assert "Traceback" not in said.inner_text()
    expect(page.locator("#way-out")).to_have_text("Try again")
    assert page.is_disabled("#generate")


@pytest.mark.browser
def test_a_folder_with_a_manifest_is_held_to_it(
    home: tuple[Page, TestServer], folder: Path, tmp_path: Path
) -> None:
    page, _ = home
    weights = reference.read_safetensors(folder / "model.safetensors")
    about: dict[str, Any] = {"title": "M", "license": "none", "precision": "f32"}
    own = tmp_path / "held"
    with FolderWriter(own, **about, parameters=22_376, context=300, shard_bytes=30_000) as writer:
        for name in ("config.json", "merges.txt", "generation_config.json"):
            writer.add_text(name, (folder / name).read_text())
        writer.begin_weights([(name, "F32", array.shape) for name, array in weights.items()])
        for array in weights.values():
            writer.write(array.tobytes())
    page.set_input_files("#own-folder", own)
    assert load_and_write(page, "f32") == STORY[6:]

    shard = sorted(own.glob("*.part"))[1]
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    page.set_input_files("#own-folder", own)
    page.click("#load-model")
    said = page.locator("#problem-text")
    expect(said).to_contain_text(f"held/{shard.name} is not the file", timeout=LOAD_MS)


@pytest.mark.browser
def test_a_model_that_is_replaced_leaves_nothing_on_the_gpu(
    quick_browser: Browser, home: tuple[Page, TestServer], folder: Path, tmp_path: Path
) -> None:
    page, _ = home
    session = quick_browser.new_browser_cdp_session()

    def megabytes() -> float:
        """What the process that does the GPU's work holds in memory."""
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        (gpu,) = (process["id"] for process in processes if process["type"] == "GPU")
        pages = int(Path(f"/proc/{gpu}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    def load(files: list[Path]) -> float:
        page.set_input_files("#own-files", files)
        page.click("#load-model")
        expect(page.locator("#generate")).to_be_enabled(timeout=LOAD_MS)
        assert len(page.workers) == 1
        return megabytes()

    fields = small_models.SIZES | {"num_layers": 1, "intermediate_dim": 400_000}  # 77 MB in f32
    weights = reference.random_weights(SimpleNamespace(**fields), 1, 0.3)
    big = small_models.write_folder(
        tmp_path / "big", SimpleNamespace(fields=fields, weights=weights)
    )
    small = load(files_of(folder))
    assert load(files_of(big)) > small + 60
    after = load(files_of(folder))
    assert after < small + 30

"""build.py: what it writes, that it writes it once, and the sentence for each way to fail."""

import base64
import csv
import functools
import hashlib
import http.client
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Page

import build
from browser import ROOT, SUB_PATH, TestServer
from gpt2web.convert.__main__ import make_parser
from gpt2web.convert.model_folder import FolderWriter

WHEELS = {"gpt2web", "micropip", "wgpu"}


def load_build(path: Path) -> ModuleType:
    """The build.py that lies there, as a module of its own."""
    spec = importlib.util.spec_from_file_location("build_elsewhere", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare(tmp_path: Path) -> ModuleType:
    """build.py in a clone in which nothing has been set up."""
    for name in ("build.py", "package.json", "package-lock.json", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    return load_build(tmp_path / "build.py")


@pytest.fixture
def clone(bare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """build.py in a clone that uses what is set up here, with a model of zeros."""
    for name in ("py", "shaders", "web", "LICENSES"):
        ignored = shutil.ignore_patterns("__pycache__", "model.safetensors")
        shutil.copytree(ROOT / name, bare.ROOT / name, ignore=ignored)
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, bare.ROOT)
    with (bare.ROOT / "web/models/stories/model.safetensors").open("wb") as weights:
        weights.truncate((ROOT / "web/models/stories/model.safetensors").stat().st_size)
    shutil.copytree(ROOT / ".cache/page-wheels", bare.CACHE / "page-wheels")
    for name in ("VENV", "PYTHON", "PIP", "NODE_MODULES"):
        monkeypatch.setattr(bare, name, getattr(build, name))
    monkeypatch.setattr(bare, "set_up_page", lambda: None)
    return bare


def wheel_files(dist: Path, name: str) -> dict[str, bytes]:
    (path,) = (dist / "wheels").glob(f"{name}-*.whl")
    return build.read_wheel(path)


# --- what dist/ holds ----------------------------------------------------------------------------


def test_dist_holds_the_page_pyodide_the_wheels_and_the_model(dist: Path) -> None:
    names = {path.relative_to(dist).as_posix() for path in dist.rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("pyodide/")} == {
        "pyodide/pyodide.mjs",
        "pyodide/pyodide.asm.mjs",
        "pyodide/pyodide.asm.wasm",
        "pyodide/python_stdlib.zip",
        "pyodide/pyodide-lock.json",
    }
    assert names >= {"index.html", "gpt2web.js", "worker.js", ".nojekyll", "LICENSES.txt"}
    for path in (ROOT / "web/models").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert f"models/{path.relative_to(ROOT / 'web/models').as_posix()}" in names
    assert not [name for name in names if name.endswith((".py", ".pyc", ".map"))]


def test_every_wheel_is_pure_python_and_records_itself_truly(dist: Path) -> None:
    for name in WHEELS:
        contents = wheel_files(dist, name)
        (record,) = (file for file in contents if file.endswith("/RECORD"))
        rows = {row[0]: row[1] for row in csv.reader(io.StringIO(contents[record].decode()))}
        assert set(rows) == set(contents)
        for file, data in contents.items():
            assert not re.search(r"\.(so|dll|dylib|pyd|pyc|h)$", file)
            if file != record:
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
                assert rows[file] == f"sha256={digest.decode()}"
        metadata = contents[record.replace("RECORD", "METADATA")].decode()
        assert not re.search(r"^Requires-Dist: (?!.*extra == 'test')", metadata, re.M)
        assert b"Tag: py3-none-any" in contents[record.replace("RECORD", "WHEEL")]


def test_the_page_s_wheels_leave_out_what_only_a_desktop_needs(dist: Path) -> None:
    ours, wgpu = wheel_files(dist, "gpt2web"), wheel_files(dist, "wgpu")
    assert "gpt2web/page.py" in ours
    assert "gpt2web/shaders/__init__.py" in ours
    assert not [name for name in ours if re.match(r"gpt2web/(models|convert)/", name)]
    assert "wgpu/_classes.py" in wgpu
    assert not [name for name in wgpu if re.search(r"native|imgui|js_webgpu|\.(so|h|idl)$", name)]


def test_the_lock_files_name_the_wheels_by_hash(dist: Path) -> None:
    lock = json.loads((dist / "pyodide/pyodide-lock.json").read_text())["packages"]
    assert set(lock) == WHEELS
    for entry in lock.values():
        data = (dist / "pyodide" / entry["file_name"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    wheels = json.loads((dist / "wheels.json").read_text())
    assert {wheel["name"] for wheel in wheels} == {"gpt2web", "wgpu"}
    for wheel in wheels:
        assert wheel["sha256"] == lock[wheel["name"]]["sha256"]
        assert (dist / "wheels" / wheel["file"]).is_file()


def test_the_licences_of_all_that_dist_carries_are_listed(dist: Path) -> None:
    text = (dist / "LICENSES.txt").read_text()
    for line in (
        "gpt2web .*MIT",
        "models/stories .*MIT",
        "Pyodide 314.0.7 .*MPL-2.0",
        "CPython 3.14.* PSF-2.0",
        "micropip .*MPL-2.0",
        "wgpu-py 0.32.0 .*BSD-2-Clause",
        "hash-wasm 4.13.0 .*MIT",
        "CodeMirror .*@codemirror/view 6.43.15, .*@lezer/python .*MIT",
    ):
        assert re.search(f"^{line}", text, re.M), line
    for sentence in (
        "Permission is hereby granted, free of charge",
        "Mozilla Public License Version 2.0",
        "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2",
        "Almar Klein",
        "Dani Biró",
        "Marijn Haverbeke",
    ):
        assert sentence in text


def test_no_path_of_this_machine_gets_into_dist(dist: Path) -> None:
    paths = [str(ROOT).encode(), str(Path.home()).encode() + b"/", sys.prefix.encode()]
    seen = 0
    for path in dist.rglob("*"):
        if path.suffix == ".whl":
            texts = list(build.read_wheel(path).values())
        elif path.suffix in (".html", ".js", ".css", ".json", ".txt", ".md"):
            texts = [path.read_bytes()]
        else:
            continue
        for text in texts:
            seen += 1
            assert not [word for word in paths if word in text], path
    assert seen > 50


def test_the_page_before_the_model_is_at_most_8_mb(dist: Path) -> None:
    assert 5e6 < build.page_bytes(dist) <= 8e6


def test_the_npm_lock_records_no_address_of_a_registry() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages["node_modules/pyodide"]["version"] == "314.0.7"
    for entry in packages.values():
        assert "resolved" not in entry
        assert entry["integrity"].startswith("sha512-")


def test_every_requirement_is_pinned_with_hashes() -> None:
    for group in ("build", "page", "test"):
        text = (ROOT / "requirements" / f"{group}.txt").read_text()
        entries = re.findall(r"^(?!#|    )(\S+)(.*(?:\n    .*)*)", text, re.M)
        assert entries
        for name, rest in entries:
            assert "==" in name
            assert "--hash=sha256:" in rest
        assert "://" not in text


def test_the_native_package_finds_the_bundled_model() -> None:
    model = files("gpt2web.models") / "stories"
    assert {entry.name for entry in model.iterdir()} >= {"model.safetensors", "merges.txt"}


def test_the_native_wheel_carries_the_model(clone: Any, tmp_path: Path) -> None:
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "-q"]
    command = [*build.PIP, "wheel", *offline, "-w", str(tmp_path / "out"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as contents:
        manifest = json.loads(contents.read("gpt2web/models/stories/manifest.json"))
        for entry in (*manifest["files"], *manifest["weights"]):
            file = contents.getinfo(f"gpt2web/models/stories/{entry['file']}")
            assert file.file_size == entry["bytes"]
        assert "gpt2web/convert/model_folder.py" in contents.namelist()
        assert "gpt2web/shaders/__init__.py" in contents.namelist()


# --- building --------------------------------------------------------------------------------


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_second_build_changes_nothing_and_takes_no_time(dist: Path) -> None:
    before = (ROOT / "dist").stat().st_ino
    start = time.monotonic()
    assert build.main(["build"]) == 0
    assert time.monotonic() - start < 5
    assert (ROOT / "dist").stat().st_ino == before


def test_a_build_elsewhere_gives_the_same_bytes_and_repairs_itself(clone: Any, dist: Path) -> None:
    clone.build()
    first = contents_of(clone.DIST)
    here = contents_of(dist)
    assert set(first) == set(here)
    assert [name for name in first if first[name] != here[name]] == [
        "models/stories/model.safetensors"
    ]
    (clone.DIST / "wheels.json").write_text("[]")
    (clone.DIST / "stray.txt").write_text("x")
    clone.build()
    assert contents_of(clone.DIST) == first


def test_a_failed_build_leaves_the_old_dist(
    clone: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clone.DIST.mkdir()
    (clone.DIST / "old.txt").write_text("old")
    (clone.ROOT / "pyproject.toml").write_text("[project\n")
    assert clone.main(["build"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("build.py: Building gpt2web's wheel failed: ")
    assert ".cache/wheel.log" in error
    assert contents_of(clone.DIST) == {"old.txt": b"old"}


def write_model(folder: Path, **about: object) -> Path:
    """A small model folder; what a manifest says of it can be given."""
    options: dict[str, Any] = {"title": "Own", "license": "Apache-2.0", "precision": "int8"}
    with FolderWriter(folder, **{**options, "parameters": 5, "context": 8, **about}) as writer:
        writer.add_text("config.json", "{}")
        writer.begin_weights([("wte.weight", "F32", [2, 3])])
        writer.write(bytes(24))
    return folder


def test_models_are_listed_from_their_manifests(
    clone: Any, dist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wheel,) = (dist / "wheels").glob("gpt2web-*.whl")  # built once is enough
    monkeypatch.setattr(clone, "write_own_wheel", lambda folder: shutil.copy(wheel, folder))
    own = write_model(clone.MODELS / "own")
    (clone.MODELS / ".own.0.partial").mkdir()
    clone.build()
    first, second = json.loads((clone.DIST / "models.json").read_text())
    assert first["name"] == "stories" and first["precision"] == "f16"
    manifest = json.loads((clone.DIST / "models/own/manifest.json").read_text())
    size = sum(entry["bytes"] for entry in (*manifest["files"], *manifest["weights"]))
    assert second == {
        "name": "own",
        "title": "Own",
        "license": "Apache-2.0",
        "precision": "int8",
        "parameters": 5,
        "context": 8,
        "bytes": size,
    }
    assert contents_of(clone.DIST / "models/own") == contents_of(own)
    weights = [(folder / "model.safetensors").stat() for folder in (own, clone.DIST / "models/own")]
    assert weights[0].st_ino == weights[1].st_ino  # not copied
    assert "models/own (Own): Apache-2.0" in (clone.DIST / "LICENSES.txt").read_text()

    inode = clone.DIST.stat().st_ino
    clone.build()
    assert clone.DIST.stat().st_ino == inode
    write_model(own, title="Renamed")
    clone.build()
    assert json.loads((clone.DIST / "models.json").read_text())[1]["title"] == "Renamed"
    shutil.rmtree(own)
    clone.build()
    assert len(json.loads((clone.DIST / "models.json").read_text())) == 1
    assert not (clone.DIST / "models/own").exists()


def test_a_model_whose_manifest_is_not_right_is_refused_by_name(
    clone: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(file: str, text: str | None) -> None:
        shutil.rmtree(clone.MODELS)
        own = write_model(clone.MODELS / "own")
        (own / file).unlink()
        if text is not None:
            (own / file).write_text(text)

    own = write_model(clone.MODELS / "own")
    assert [entry["name"] for entry in clone.check_models(clone.find_models())][1:] == ["own"]
    for file, text, message in (
        ("manifest.json", None, "models/own has no manifest.json that can be read"),
        ("manifest.json", "{", "models/own/manifest.json: wanted JSON"),
        ("config.json", None, "models/own/config.json: wanted 2 bytes, .* got none"),
        ("config.json", "[]", "models/own/config.json is not the file that manifest.json lists"),
        ("model.safetensors", "x", r"models/own/model\.safetensors: wanted \d+ bytes, .* got 1"),
    ):
        spoil(file, text)
        assert re.search(message, refusal(clone, capsys, ["build"]))
    assert not clone.DIST.exists()
    shutil.rmtree(own)
    write_model(clone.MODELS / "own").rename(clone.MODELS / "other")
    message = refusal(clone, capsys, ["build"])
    assert "models/other/manifest.json: wanted the folder's name, other, got own" in message
    (clone.MODELS / "other").rename(clone.MODELS / "stories")
    assert "models/stories has the name of a bundled model" in refusal(clone, capsys, ["build"])


# --- the ways to fail --------------------------------------------------------------------------


def refusal(build: Any, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one sentence with which the command ends."""
    assert build.main(arguments) == 1
    lines = str(capsys.readouterr().err).splitlines()
    assert not [line for line in lines if "Traceback" in line]
    assert lines[-1].startswith("build.py: ")
    assert lines[-1].endswith(".")
    return lines[-1]


def put_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Makes this shell script the only npm, and all else on the PATH but sh missing."""
    (folder / "bin").mkdir()
    (folder / "bin/npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_an_old_python_is_refused() -> None:
    pretend = "import sys, runpy; sys.version_info = (3, 9); sys.version = '3.9.1 (x)'"
    run = f"{pretend}; runpy.run_path({str(ROOT / 'build.py')!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("build.py: Python 3.11 or newer is needed, and this is 3.9.1:")
    assert ended.stderr.count("\n") == 1


def test_a_python_without_venv_is_refused(
    bare: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "sudo apt-get install -y python3-venv" in refusal(bare, capsys, ["build"])


def test_a_missing_npm_is_named(
    bare: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bare, "set_up_python", lambda group: None)
    monkeypatch.setenv("PATH", str(bare.ROOT))
    sentence = refusal(bare, capsys, ["build"])
    assert "npm is not on the PATH" in sentence
    assert "sudo apt-get install -y npm" in sentence


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo npm error code ENOTFOUND; exit 1", "the network cannot be reached"),
        ("echo x; echo 'npm error code EUSAGE'; echo y; exit 1", "failed: npm error code EUSAGE"),
        ("exit 3", "it said nothing"),
    ],
)
def test_a_failing_npm_is_one_sentence_and_the_next_run_tries_again(
    bare: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(bare, "set_up_python", lambda group: None)
    put_npm(bare.ROOT, monkeypatch, script)
    assert sentence in refusal(bare, capsys, ["build"])
    assert sentence in refusal(bare, capsys, ["build"])


def test_a_step_that_is_done_is_not_done_again(
    bare: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_npm(bare.ROOT, monkeypatch, f"echo x >> {bare.ROOT}/count")
    bare.NODE_MODULES.mkdir()
    for _ in range(2):
        bare.set_up_npm(dev=True)
        bare.set_up_npm(dev=False)
    assert (bare.ROOT / "count").read_text() == "x\n"
    lock = bare.ROOT / "package-lock.json"
    lock.write_text(lock.read_text() + "\n")
    bare.set_up_npm(dev=False)
    assert (bare.ROOT / "count").read_text() == "x\nx\n"


def test_without_root_the_missing_browser_comes_with_the_exact_line(
    bare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(bare.Refusal) as refused:
        bare.set_up_browser()
    assert "The tests need Chromium" in str(refused.value)
    line = "`sudo apt-get install -y chromium mesa-vulkan-drivers libvulkan1`"
    assert line in str(refused.value)


@pytest.mark.parametrize("arguments", [[], ["bake"]])
def test_no_command_or_an_unknown_one_gets_the_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main(arguments) == 2
    shown = "".join(capsys.readouterr())
    for command in ("serve", "build", "test", "run", "model"):
        assert f"\n  {command} " in shown
    assert ("there is no command 'bake'" in shown) == (arguments == ["bake"])


def test_model_is_the_converter_with_its_places_in_the_clone(
    bare: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(bare, "set_up_python", ran.append)

    def execv(*call: Any) -> None:
        ran.append(call)
        raise SystemExit(0)  # it does not come back

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.chdir(bare.ROOT)
    with pytest.raises(SystemExit):
        bare.main(["model", "owner/name", "--precision", "int8"])
    group, (python, command) = ran
    assert group == "convert" and (bare.ROOT / "requirements" / f"{group}.txt").is_file()
    assert command[0] == str(python) and command[1:3] == ["-m", "gpt2web.convert"]
    options = make_parser().parse_args(command[3:])
    assert (options.source, options.precision) == ("owner/name", "int8")
    assert (options.out, options.cache) == (Path("models"), bare.CACHE / "models")


def test_ci_calls_the_test_command_and_nothing_else() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines == [
        "#!/bin/sh", "set -e", 'cd "$(dirname "$0")/.."', "exec python3 build.py test"
    ]  # fmt: skip
    assert os.access(ROOT / ".ci/run", os.X_OK)


# --- serving -----------------------------------------------------------------------------------


def test_serve_takes_the_next_free_port_and_says_so(dist: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "build.py", "serve", "--port", str(port)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        said = process.stdout.readline(), process.stdout.readline()
        assert said[0].startswith(f"Port {port} is in use; taking ")
        address = said[1].split()[1]
        with urllib.request.urlopen(address) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, "Traceback" in errors) == (130, False)


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_an_impossible_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "between 0 and 65535" in refusal(build, capsys, ["serve", "--port", port])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("gpt2web.js", "text/javascript"),
        ("pyodide/pyodide.mjs", "text/javascript"),
        ("pyodide/pyodide.asm.wasm", "application/wasm"),
        ("wheels.json", "application/json"),
        ("index.html", "text/html"),
    ],
)
def test_files_are_served_with_their_types(server: TestServer, path: str, kind: str) -> None:
    with urllib.request.urlopen(server.url + path) as answer:
        assert answer.headers.get_content_type() == kind
        assert "Cross-Origin-Opener-Policy" not in answer.headers


def test_files_are_served_from_a_byte_on(server: TestServer, dist: Path) -> None:
    whole = (dist / "wheels.json").read_bytes()

    def ask(**headers: str) -> tuple[int, Any, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(server.url + "wheels.json", headers=named)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    size = len(whole)
    for asked, first, end in (("10-", 10, size), ("3-7", 3, 8), (f"5-{size + 9}", 5, size)):
        code, headers, body = ask(Range=f"bytes={asked}")
        assert (code, body) == (206, whole[first:end])
        assert headers["Content-Range"] == f"bytes {first}-{end - 1}/{size}"
        assert headers.get_content_type() == "application/json"
        modified = headers["Last-Modified"]
    assert ask(Range="bytes=10-", If_Range=modified)[::2] == (206, whole[10:])
    assert ask(Range="bytes=10-", If_Range='"another"')[::2] == (200, whole)
    for not_ours in ("bytes=-5", "bytes=7-6", "bytes=1-2,4-5", "lines=2-"):
        assert ask(Range=not_ours)[::2] == (200, whole)
    code, headers, body = ask(Range=f"bytes={size}-")
    assert (code, headers["Content-Range"], body) == (416, f"bytes */{size}", b"")


def test_a_stopped_server_is_gone_for_open_connections_too(own_server: TestServer) -> None:
    host, port = own_server.server_address[:2]
    connection = http.client.HTTPConnection(str(host), int(port), timeout=5)
    ask = functools.partial(connection.request, "GET", f"/{SUB_PATH}/wheels.json")
    ask()
    assert connection.getresponse().read()
    kept = connection.sock
    own_server.stop()
    with pytest.raises((http.client.HTTPException, OSError)):
        ask()
        connection.getresponse()
    assert kept is not None
    assert own_server.requests == [f"GET /{SUB_PATH}/wheels.json"]


@pytest.mark.browser
def test_pyodide_takes_the_wheels_from_our_lock_file_and_origin(
    page: Page, server: TestServer
) -> None:
    page.goto(server.url + "LICENSES.txt")
    start = len(server.requests)
    found = page.evaluate(
        """async (base) => {
            const { loadPyodide } = await import(base + "pyodide/pyodide.mjs");
            const pyodide = await loadPyodide({ packages: ["gpt2web", "micropip"] });
            return pyodide.runPython(`
                import importlib.metadata as metadata, micropip, wgpu, gpt2web.config
                ' '.join(metadata.version(name) for name in ("gpt2web", "wgpu", "micropip"))
            `);
        }""",
        server.url,
    )
    assert found == "0.1.0 0.32.0 0.11.1"
    fetched = {request.rsplit("/", 1)[1].split("-")[0] for request in server.requests[start:]}
    assert fetched >= WHEELS

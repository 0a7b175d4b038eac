#!/usr/bin/env python3
"""Set up, build, serve, test and run gpt2web. Needs Python 3.11+ and npm; the rest it installs.

Standard library only. What it installs stays inside the clone: `.venv` (Python packages, pinned
with hashes in requirements/), `node_modules` (Pyodide, pinned in package-lock.json) and `.cache`
(wheels). Each step leaves a stamp with a hash of its inputs and is skipped while they are the same.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
NODE_MODULES = ROOT / "node_modules"
CACHE = ROOT / ".cache"
DIST = ROOT / "dist"

# What pyodide.mjs fetches when it starts; the rest of the npm package is for Node and for editors.
PYODIDE_FILES = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
# wgpu's own files that need its native library, a desktop or PyInstaller.
WGPU_LEFT_OUT = re.compile(
    r"wgpu/(resources/(?!__init__\.py)|backends/(wgpu_native|js_webgpu)/|utils/imgui/"
    r"|utils/glfw_present_info\.py|__pyinstaller/)|wgpu-[^/]+/entry_points\.txt"
)
# Ours that only the native package needs.
OURS_LEFT_OUT = re.compile(r"gpt2web/(convert|models)/")
# The wheels that the worker installs when it starts; micropip lies beside them for who wants it.
START_LICENCES = {"gpt2web": "MIT", "wgpu": "BSD-2-Clause"}
APT_PACKAGES = ("chromium", "mesa-vulkan-drivers", "libvulkan1")


class Refusal(Exception):
    """One sentence for the reader: what is missing and what to do about it."""


# --- steps -----------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def digest(paths: Iterable[Path], *words: str) -> str:
    """sha256 over the names and bytes of these files (folders: all files below), and the words."""
    total = hashlib.sha256(repr(words).encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                name = os.path.relpath(file, ROOT)
                total.update(f"{name}\0{file.stat().st_size}\0".encode())
                total.update(file.read_bytes())
    return total.hexdigest()


def is_done(stamp: Path, key: str) -> bool:
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == key


def step(title: str, command: list[str], log: str, env: dict[str, str] | None = None) -> None:
    """Runs one long command, saying every 15 s that it still runs; its output goes to a log."""
    CACHE.mkdir(exist_ok=True)
    log_path = CACHE / f"{log}.log"
    say(f"{title} ...")
    start = time.monotonic()
    with log_path.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        try:
            while process.poll() is None:
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    say(f"  still at it after {time.monotonic() - start:.0f} s")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise Refusal(failure_of(title, log_path))
    say(f"  done in {time.monotonic() - start:.1f} s")


def failure_of(title: str, log_path: Path) -> str:
    """The sentence for a step that failed, read off its log."""
    text = log_path.read_text(encoding="utf-8", errors="replace")
    where = os.path.relpath(log_path, ROOT)
    if re.search(
        r"name resolution|getaddrinfo|EAI_AGAIN|ENOTFOUND|ECONNREFUSED|ENETUNREACH|ETIMEDOUT"
        r"|Failed to establish a new connection|Connection refused|Max retries exceeded"
        r"|Could not resolve|Temporary failure",
        text,
    ):
        return f"{title}: the network cannot be reached; connect it and run this again ({where})."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(npm error|npm ERR!|ERROR|E:|error)", line)]
    last = (errors or lines or ["it said nothing"])[0 if errors else -1]
    return f"{title} failed: {last.rstrip('.')} (all of it in {where})."


# --- what is needed before anything can be built ------------------------------------------------


def check_python(version: tuple[int, ...] = tuple(sys.version_info)) -> None:
    if version[:2] < (3, 11):
        raise Refusal(
            f"Python 3.11 or newer is needed, this is {version[0]}.{version[1]}: "
            "run build.py with a newer one, for example `python3.13 build.py ...`."
        )


def set_up_python(group: str) -> None:
    """Makes .venv and installs requirements/<group>.txt and gpt2web itself (editable) into it."""
    venv_key = digest([], sys.version, sys.base_prefix, str(ROOT))
    if not (PYTHON.exists() and is_done(VENV / "venv.stamp", venv_key)):
        if not (importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")):
            raise Refusal(
                "This Python lacks the venv and ensurepip modules: install them, on Debian and "
                "Ubuntu with `sudo apt-get install -y python3-venv`."
            )
        step("Making .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)], "venv")
        (VENV / "venv.stamp").write_text(venv_key, encoding="utf-8")
    requirements = ROOT / "requirements" / f"{group}.txt"
    key = digest([requirements, ROOT / "pyproject.toml"], venv_key)
    stamp = VENV / f"{group}.stamp"
    if is_done(stamp, key):
        return
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    step(
        f"Installing requirements/{group}.txt into .venv (about a minute the first time)",
        [*pip, "--require-hashes", "-r", str(requirements)],
        f"pip-{group}",
    )
    step(
        "Installing gpt2web into .venv",
        [*pip, "--no-deps", "--no-build-isolation", "--no-index", "-e", str(ROOT)],
        "pip-gpt2web",
    )
    stamp.write_text(key, encoding="utf-8")


def set_up_npm(dev: bool) -> None:
    """`npm ci` from package-lock.json: Pyodide, and what only the tests need when `dev`."""
    key = digest([ROOT / "package.json", ROOT / "package-lock.json"])
    stamps = [NODE_MODULES / "dev.stamp"] + ([] if dev else [NODE_MODULES / "page.stamp"])
    if any(is_done(stamp, key) for stamp in stamps):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise Refusal(
            "npm is not on the PATH: install Node.js with npm, on Debian and Ubuntu with "
            "`sudo apt-get install -y npm`."
        )
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    step("Fetching Pyodide with npm", command + ([] if dev else ["--omit=dev"]), "npm")
    stamps[-1].write_text(key, encoding="utf-8")


def set_up_page() -> None:
    """What `build` needs: Python packages, Pyodide, micropip's wheel."""
    set_up_python("build")
    set_up_npm(dev=False)
    requirements = ROOT / "requirements" / "page.txt"
    key = digest([requirements])
    folder = CACHE / "page-wheels"
    if is_done(folder / "page.stamp", key):
        return
    shutil.rmtree(folder, ignore_errors=True)
    step(
        "Fetching micropip for the page's Python",
        [str(PYTHON), "-m", "pip", "download", "--disable-pip-version-check", "--no-deps",
         "--require-hashes", "--only-binary=:all:", "--python-version", "3.14",
         "-r", str(requirements), "-d", str(folder)],
        "pip-page",
    )  # fmt: skip
    (folder / "page.stamp").write_text(key, encoding="utf-8")


# --- wheels --------------------------------------------------------------------------------------


def write_wheel(out: Path, files: dict[str, bytes]) -> None:
    """A pure-Python wheel of these files, the same bytes for the same input.

    METADATA loses its requirements (nothing in the page would resolve them), WHEEL says
    py3-none-any, RECORD is written anew.
    """
    (info,) = {name.split("/")[0] for name in files if name.split("/")[0].endswith(".dist-info")}
    head, _, body = files[f"{info}/METADATA"].decode().partition("\n\n")
    head = re.sub(r"^(Requires-Dist|Provides-Extra):.*\n(?:[ \t].*\n)*", "", head + "\n", flags=re.M)
    files = {
        **files,
        f"{info}/METADATA": f"{head}\n{body}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: gpt2web build.py\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files.pop(f"{info}/RECORD", None)
    record = "".join(
        f"{name},sha256={urlsafe_sha256(data)},{len(data)}\n" for name, data in sorted(files.items())
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, data)


def urlsafe_sha256(data: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def read_wheel(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}


def write_wgpu_wheel(folder: Path) -> None:
    """The pure-Python part of the wgpu distribution that is installed in .venv."""
    (info,) = VENV.rglob("wgpu-*.dist-info")
    site = info.parent
    files = {}
    for line in (info / "RECORD").read_text(encoding="utf-8").splitlines():
        name = line.rsplit(",", 2)[0]
        if name.endswith(".pyc") or WGPU_LEFT_OUT.match(name):
            continue
        if name.startswith("wgpu/") or name.split("/", 1)[1] in ("METADATA", "licenses/LICENSE"):
            files[name] = (site / name).read_bytes()
    version = info.name.removesuffix(".dist-info")
    write_wheel(folder / f"{version}-py3-none-any.whl", files)


def write_own_wheel(folder: Path) -> None:
    """gpt2web's wheel for the page: as pip builds it, without the models and the converters.

    Built from a copy, so that nothing is left in the tree and no stale build/ gets in; the copy
    leaves the models' files out, and with them 12 MB of compressing.
    """
    stage = CACHE / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("py", "shaders"):
        shutil.copytree(ROOT / name, stage / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, stage / name)
    (stage / "web/models").mkdir(parents=True)
    step(
        "Building gpt2web's wheel",
        [str(PYTHON), "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "--no-index",
         "--no-build-isolation", "-w", str(stage / "out"), str(stage)],
        "wheel",
    )  # fmt: skip
    (built,) = (stage / "out").glob("*.whl")
    files = {n: data for n, data in read_wheel(built).items() if not OURS_LEFT_OUT.match(n)}
    write_wheel(folder / built.name, files)
    shutil.rmtree(stage)


# --- dist/ ---------------------------------------------------------------------------------------


def build() -> None:
    """Writes dist/; the old one stays until the new one is whole."""
    set_up_page()
    inputs = [ROOT / name for name in (
        "web", "py", "shaders", "pyproject.toml", "README.md", "LICENSE", "LICENSES",
        "package-lock.json", "requirements", "build.py",
    )]  # fmt: skip
    key = digest(inputs, sys.version)
    stamp = CACHE / "dist.stamp"
    if DIST.is_dir() and is_done(stamp, f"{key} {digest([DIST])}"):
        say("dist/ is up to date.")
        return
    fresh, old = CACHE / "dist.new", CACHE / "dist.old"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(ROOT / "web", fresh, ignore=shutil.ignore_patterns("__pycache__", "__init__.py"))
    (fresh / ".nojekyll").touch()  # GitHub Pages would otherwise drop names that start with _
    (fresh / "pyodide").mkdir()
    for name in PYODIDE_FILES:
        shutil.copyfile(NODE_MODULES / "pyodide" / name, fresh / "pyodide" / name)
    (fresh / "wheels").mkdir()
    write_own_wheel(fresh / "wheels")
    write_wgpu_wheel(fresh / "wheels")
    for wheel in (CACHE / "page-wheels").glob("*.whl"):
        shutil.copyfile(wheel, fresh / "wheels" / wheel.name)
    write_lock(fresh)
    write_licenses(fresh)
    if DIST.exists():
        DIST.rename(old)
    fresh.rename(DIST)
    shutil.rmtree(old, ignore_errors=True)
    stamp.write_text(f"{key} {digest([DIST])}", encoding="utf-8")
    say(f"dist/ is written: {page_bytes(DIST) / 1e6:.2f} MB compressed before the model.")


def write_lock(dist: Path) -> None:
    """wheels.json, which the worker installs at start, and pyodide/pyodide-lock.json.

    Pyodide's own lock file names hundreds of packages of its CDN. Ours names the three wheels that
    dist/ carries, so `loadPackage("micropip")` fetches micropip from the page's own origin.
    """
    upstream = json.loads((NODE_MODULES / "pyodide" / "pyodide-lock.json").read_text("utf-8"))
    wheels, packages = [], {}
    for path in sorted((dist / "wheels").glob("*.whl")):
        name, version = path.name.split("-")[:2]
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if name in START_LICENCES:
            wheels.append({
                "name": name,
                "file": path.name,
                "version": version,
                "sha256": sha256,
                "license": START_LICENCES[name],
            })  # fmt: skip
        packages[name] = {
            "name": name,
            "version": version,
            "file_name": f"../wheels/{path.name}",
            "sha256": sha256,
            "install_dir": "site",
            "package_type": "package",
            "imports": [name],
            "depends": {"gpt2web": ["wgpu"]}.get(name, []),
            "unvendored_tests": False,
        }
    write_json(dist / "wheels.json", wheels)
    lock = {"info": upstream["info"], "packages": packages}
    write_json(dist / "pyodide" / "pyodide-lock.json", lock)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_licenses(dist: Path) -> None:
    """LICENSES.txt: every part of dist/, its version, licence and source, then the full texts."""
    pyodide = json.loads((NODE_MODULES / "pyodide" / "package.json").read_text("utf-8"))["version"]
    lock = json.loads((dist / "pyodide" / "pyodide-lock.json").read_text("utf-8"))
    packages = lock["packages"]
    parts = [
        ("gpt2web: this page, its Python and its shaders", packages["gpt2web"]["version"],
         "MIT", "text 1 below"),
        ("models/stories: the story model's weights", "", "MIT", "models/stories/MODEL_CARD.md"),
        ("Pyodide: pyodide/", pyodide, "MPL-2.0", "https://github.com/pyodide/pyodide, text 2"),
        ("CPython: inside pyodide/", lock["info"]["python"], "PSF-2.0",
         "https://github.com/python/cpython, text 3"),
        ("micropip: wheels/", packages["micropip"]["version"], "MPL-2.0",
         "https://github.com/pyodide/micropip, text 2"),
        ("wgpu-py, its pure-Python part: wheels/", packages["wgpu"]["version"], "BSD-2-Clause",
         "https://github.com/pygfx/wgpu-py, text 4"),
    ]  # fmt: skip
    (wgpu,) = (
        data
        for name, data in read_wheel(dist / "pyodide" / packages["wgpu"]["file_name"]).items()
        if name.endswith("/licenses/LICENSE")
    )
    texts = [
        ("MIT License (gpt2web)", (ROOT / "LICENSE").read_text("utf-8")),
        ("MPL-2.0 (Pyodide, micropip)", (ROOT / "LICENSES/MPL-2.0.txt").read_text("utf-8")),
        ("Python's licence (CPython)", (ROOT / "LICENSES/Python.txt").read_text("utf-8")),
        ("BSD-2-Clause (wgpu-py)", wgpu.decode()),
    ]
    lines = ["What this folder carries, and under which licence", ""]
    lines += [f"- {name} {version}: {licence} ({where})" for name, version, licence, where in parts]
    for number, (title, text) in enumerate(texts, 1):
        lines += ["", "=" * 80, f"{number}. {title}", "=" * 80, "", text.strip()]
    (dist / "LICENSES.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def page_bytes(dist: Path) -> int:
    """Bytes, each file gzipped, of everything a visit can fetch before it fetches the model."""
    return sum(
        len(gzip.compress(path.read_bytes()))
        for path in dist.rglob("*")
        if path.is_file() and "models" not in path.parts and path.name != "LICENSES.txt"
    )


# --- serve ---------------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Plain static files; what a static host does, and no special headers."""

    extensions_map = {  # noqa: RUF012 (the base class has it so)
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".json": "application/json",
        ".wasm": "application/wasm",
        ".whl": "application/zip",
        ".wgsl": "text/plain",
        ".md": "text/markdown",
    }
    protocol_version = "HTTP/1.1"

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # ask each time: dist/ changes while working
        super().end_headers()

    def log_message(self, format: str, *values: object) -> None:
        if len(values) > 1 and str(values[1]).startswith(("4", "5")):
            super().log_message(format, *values)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the reader closed the tab
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def listen(port: int, folder: Path = DIST) -> Server:
    """A server on the first free port from `port` on."""
    handler = functools.partial(Handler, directory=str(folder))
    for candidate in range(port, min(port + 100, 65536)):
        try:
            return Server(("127.0.0.1", candidate), handler)
        except OSError:
            continue
    raise Refusal(f"No free port between {port} and {port + 99}: name another with --port.")


def serve(port: int) -> None:
    build()
    with listen(port) as server:
        taken = server.server_address[1]
        if taken != port:
            say(f"Port {port} is in use; taking {taken}.")
        say(f"Open http://127.0.0.1:{taken}/ (Ctrl-C stops the server).")
        server.serve_forever()


COMMANDS: dict[str, Callable[..., int | None]] = {}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("build")
    serve_parser = commands.add_parser("serve")
    serve_parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args(arguments)
    try:
        check_python()
        if options.command == "build":
            build()
        elif options.command == "serve":
            serve(options.port)
        else:
            parser.print_help()
            return 2
    except Refusal as refusal:
        print(f"build.py: {refusal}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

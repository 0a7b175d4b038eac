#!/usr/bin/env python3
"""Sets up, builds, serves, tests and runs gpt2web. Needs Python 3.11+ and npm, nothing else.

What it installs stays inside the clone: `.venv` (Python packages, pinned with hashes in
requirements/), `node_modules` (Pyodide, hash-wasm, the editor and its bundler, pinned in
package-lock.json) and `.cache` (wheels, logs).
Only `test` and `bench` reach further: as root on Debian or Ubuntu they install Chromium and a
Vulkan driver.
Each step leaves a stamp with a hash of its inputs, and is skipped while they are the same.
Progress goes to stderr, results to stdout. Standard library only.
"""

import argparse
import base64
import contextlib
import errno
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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

if sys.version_info < (3, 11):  # noqa: UP036 (an older Python reads no further than here)
    sys.exit(
        f"build.py: Python 3.11 or newer is needed, and this is {sys.version.split()[0]}: "
        "run it with a newer one, for example `python3.13 build.py`."
    )

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
PIP = [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
NODE_MODULES = ROOT / "node_modules"
CACHE = ROOT / ".cache"
DIST = ROOT / "dist"
BUNDLED = ROOT / "web" / "models"
MODELS = ROOT / "models"  # the reader's own, converted by `build.py model`

# What pyodide.mjs fetches when it starts; the rest of the npm package is for Node and for editors.
PYODIDE_FILES = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
# Of hash-wasm, the one hash that web/downloads.js uses; its binary is inside.
HASH_WASM = "sha256.umd.min.js"
# The editor's packages, of which web/codemirror.js names the parts that end up in one file.
EDITOR = ("@codemirror/*", "@lezer/*", "@marijn/*", "crelt", "style-mod", "w3c-keyname")
PYODIDE_HOLDS = """\
Pyodide's binary also holds Emscripten's runtime with musl (MIT), LLVM's compiler-rt and libc++
(Apache-2.0 with LLVM exception), libffi (MIT), zlib (Zlib), bzip2 (bzip2-1.0.6), liblzma (0BSD),
Zstandard (BSD-3-Clause), Expat (MIT), mpdecimal (BSD-2-Clause), HACL* (MIT) and SQLite (public
domain)."""
# wgpu's files that need its native library, a desktop or PyInstaller.
WGPU_LEFT_OUT = re.compile(
    r"wgpu/(resources/(?!__init__\.py)|backends/(wgpu_native|js_webgpu)/|utils/imgui/"
    r"|utils/glfw_present_info\.py|__pyinstaller/)"
)
# Files that the version of dist/ is written into, and those that a page without its server can do
# without: types, for editors; of a model, all but what the page itself reads, as web/downloads.js
# keeps the rest.
VERSIONED = ("sw.js", "version.js")
NOT_KEPT = re.compile(
    r"\.nojekyll|LICENSES\.txt|version\.json|wheels/micropip-.*|.*\.d\.ts"
    r"|models/[^/]+/(?!manifest\.json|generation_config\.json|MODEL_CARD\.md).*"
)
# What a visit of the page itself does not fetch, or not before the model.
NOT_VISITED = re.compile(
    r"models/|LICENSES|wheels/micropip|completions\.js|gpt2-writer\.js|.*\.d\.ts"
    r"|codemirror\.js|editor\.js|workshop\.js|edits\.js|experiments\.js|compare\.js"
)
# Ours that only the native package needs.
OURS_LEFT_OUT = re.compile(r"gpt2web/(convert|models)/")
# The wheels that the worker installs at start; micropip lies beside them for who wants it.
START_LICENCES = {"gpt2web": "MIT", "wgpu": "BSD-2-Clause"}

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT_INSTALL = "apt-get install -y chromium mesa-vulkan-drivers libvulkan1"
NO_NETWORK = re.compile(
    r"name resolution|getaddrinfo|EAI_AGAIN|ENOTFOUND|ECONNREFUSED|ENETUNREACH|ETIMEDOUT|ECONNRESET"
    r"|Failed to establish a new connection|connection broken by|Max retries exceeded"
    r"|from versions: none|Could not resolve",
)


class Refusal(Exception):
    """One sentence for the reader: what is missing and what to do about it."""


# --- steps -----------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keeps two build.py in one clone from installing and building over each other."""
    try:
        import fcntl
    except ImportError:  # Windows: no such lock, and nobody has asked for one
        yield
        return
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another build.py in this clone ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(paths: Iterable[Path], *words: str) -> str:
    """sha256 over the names and bytes of these files (folders: all files below), and the words.

    Of weights, which can be gigabytes, over name, length and time of writing.
    """
    total = hashlib.sha256(repr(words).encode())
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                name = os.path.relpath(file, ROOT)
                total.update(f"{name}\0{file.stat().st_size}\0".encode())
                if file.suffix in (".safetensors", ".part"):
                    total.update(f"{file.stat().st_mtime_ns}".encode())
                else:
                    total.update(file.read_bytes())
    return total.hexdigest()


def is_done(stamp: Path, key: str) -> bool:
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == key


def step(title: str, command: list[str], log: str, env: dict[str, str] | None = None) -> None:
    """Runs one long command, saying every 15 s that it still runs; its output goes to a log."""
    log_path = CACHE / f"{log}.log"
    log_path.parent.mkdir(exist_ok=True)
    say(f"{title} ...")
    start = time.monotonic()
    with log_path.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
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
    title = title.partition(" (")[0]
    where = f"its output is in {os.path.relpath(log_path, ROOT)}"
    if NO_NETWORK.search(text):
        return f"{title} failed: the network cannot be reached; try again once it can ({where})."
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    errors = [line for line in lines if re.match(r"npm (error|ERR!)|ERROR|E:|error", line)]
    return f"{title} failed: {(errors or lines[-1:])[0].rstrip('.')} ({where})."


# --- what is needed before anything can be built ------------------------------------------------


def set_up_python(group: str) -> None:
    """Makes .venv and installs requirements/<group>.txt and gpt2web itself (editable) into it."""
    venv_key = digest([], sys.version, sys.base_prefix, str(ROOT))
    if not (PYTHON.exists() and is_done(VENV / "venv.stamp", venv_key)):
        if not (importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")):
            raise Refusal(
                "This Python lacks the venv and ensurepip modules: install them, on Debian and "
                "Ubuntu with `sudo apt-get install -y python3-venv`."
            )
        base = getattr(sys, "_base_executable", sys.executable)  # not the .venv's own
        step("Making .venv", [base, "-m", "venv", "--clear", str(VENV)], "venv")
        (VENV / "venv.stamp").write_text(venv_key, encoding="utf-8")
    requirements = ROOT / "requirements" / f"{group}.txt"
    key = digest([requirements, ROOT / "pyproject.toml"], venv_key)
    stamp = VENV / f"{group}.stamp"
    if is_done(stamp, key):
        return
    step(
        f"Installing requirements/{group}.txt into .venv (about a minute the first time)",
        [*PIP, "install", "--require-hashes", "-r", str(requirements)],
        f"pip-{group}",
    )
    step(
        "Installing gpt2web into .venv",
        [*PIP, "install", "--no-deps", "--no-index", "--no-build-isolation", "-e", "."],
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
    step("Fetching npm's packages", command + ([] if dev else ["--omit=dev"]), "npm")
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
    choice = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", "3.14"]
    step(
        "Fetching micropip for the page's Python",
        [*PIP, "download", *choice, "-r", str(requirements), "-d", str(folder)],
        "pip-page",
    )
    (folder / "page.stamp").write_text(key, encoding="utf-8")


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def find_vulkan_drivers() -> dict[str, Path | None]:
    """The manifests of the two software adapters: Mesa's llvmpipe, and Chromium's SwiftShader."""
    llvmpipe = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
    homes = ("/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome")
    swiftshader = [Path(home, "vk_swiftshader_icd.json") for home in homes]
    return {
        "llvmpipe": next(iter(llvmpipe), None),
        "SwiftShader": next(filter(Path.is_file, swiftshader), None),
    }


def set_up_browser() -> None:
    """Chromium, and the Vulkan drivers that give the tests their two software adapters."""

    def missing() -> list[str]:
        lacking = [name for name, path in find_vulkan_drivers().items() if path is None]
        return lacking if find_chromium() else ["Chromium", *lacking]

    if not missing():
        return
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        step("Reading apt's package lists", ["apt-get", "update"], "apt-update", quiet)
        step("Installing Chromium and a Vulkan driver", APT_INSTALL.split(), "apt-install", quiet)
    if missing():
        raise Refusal(
            f"The tests need {' and '.join(missing())}: install them, on Debian and Ubuntu with "
            f"`sudo {APT_INSTALL}`."
        )


# --- wheels --------------------------------------------------------------------------------------


def write_wheel(out: Path, files: dict[str, bytes]) -> None:
    """A pure-Python wheel of these files, the same bytes for the same input.

    METADATA keeps its head without requirements, which nothing in the page would resolve; WHEEL
    says py3-none-any; RECORD is written anew.
    """
    (info,) = {name.split("/")[0] for name in files if ".dist-info/" in name}
    head = files[f"{info}/METADATA"].decode().partition("\n\n")[0] + "\n"
    head = re.sub(r"^(Requires-Dist|Provides-Extra):.*\n", "", head, flags=re.M)
    files = {
        **files,
        f"{info}/METADATA": head.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: gpt2web build.py\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files.pop(f"{info}/RECORD", None)
    record = "".join(
        f"{name},sha256={record_hash(data)},{len(data)}\n" for name, data in sorted(files.items())
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, data)


def record_hash(data: bytes) -> str:
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
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    step(
        "Building gpt2web's wheel",
        [*PIP, "wheel", *offline, "-w", str(stage / "out"), str(stage)],
        "wheel",
    )
    (built,) = (stage / "out").glob("*.whl")
    files = {n: data for n, data in read_wheel(built).items() if not OURS_LEFT_OUT.match(n)}
    write_wheel(folder / built.name, files)
    shutil.rmtree(stage)


# --- dist/ ---------------------------------------------------------------------------------------


def build() -> None:
    with alone():
        set_up_page()
        write_dist()


def write_dist() -> None:
    """Writes dist/ unless it is as it would be; the old one stays until the new one is whole."""
    folders = ["web", "py", "shaders", "requirements", "LICENSES"]
    files = ["build.py", "pyproject.toml", "package-lock.json", "README.md", "LICENSE"]
    models = find_models()
    key = digest([*(ROOT / name for name in folders + files), *models])
    stamp = CACHE / "dist.stamp"
    if DIST.is_dir() and is_done(stamp, f"{key} {digest([DIST])}"):
        say("dist/ is up to date.")
        return
    fresh, old = CACHE / "dist.new", CACHE / "dist.old"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    python = shutil.ignore_patterns("__pycache__", "__init__.py")
    listed = check_models(models)
    shutil.copytree(ROOT / "web", fresh, ignore=python)
    for folder in models:
        if folder.parent == MODELS:
            copy = fresh / "models" / folder.name
            shutil.copytree(folder, copy, copy_function=link_or_copy)
    write_json(fresh / "models.json", listed)
    (fresh / ".nojekyll").touch()  # GitHub Pages would otherwise drop names that start with _
    (fresh / "pyodide").mkdir()
    for name in PYODIDE_FILES:
        shutil.copyfile(NODE_MODULES / "pyodide" / name, fresh / "pyodide" / name)
    (fresh / "hash-wasm").mkdir()
    shutil.copyfile(NODE_MODULES / "hash-wasm/dist" / HASH_WASM, fresh / "hash-wasm" / HASH_WASM)
    write_editor(fresh)
    (fresh / "wheels").mkdir()
    write_own_wheel(fresh / "wheels")
    write_wgpu_wheel(fresh / "wheels")
    for wheel in (CACHE / "page-wheels").glob("*.whl"):
        shutil.copyfile(wheel, fresh / "wheels" / wheel.name)
    write_lock(fresh)
    write_licenses(fresh, listed)
    write_version(fresh)
    if DIST.exists():
        DIST.rename(old)
    fresh.rename(DIST)
    shutil.rmtree(old, ignore_errors=True)
    stamp.write_text(f"{key} {digest([DIST])}", encoding="utf-8")
    say(f"dist/ is written: {page_bytes(DIST) / 1e6:.2f} MB, gzipped, before the model.")


def write_editor(fresh: Path) -> None:
    """codemirror.js: what web/codemirror.js exports of npm's packages, as one module."""
    node = shutil.which("node")
    if node is None:
        raise Refusal("node is not on the PATH: install Node.js, which npm belongs to.")
    (fresh / "codemirror.js").unlink()  # its source
    options = ["--bundle", "--minify", "--format=esm", "--legal-comments=none"]
    esbuild = [node, str(NODE_MODULES / "esbuild/bin/esbuild"), "web/codemirror.js", *options]
    output = f"--outfile={fresh / 'codemirror.js'}"
    step("Bundling the editor", [*esbuild, output], "esbuild", {"NODE_PATH": str(NODE_MODULES)})


def find_models() -> list[Path]:
    """The folders of the models that dist/ is to carry, the bundled first."""
    found: dict[str, Path] = {}
    for place in (BUNDLED, MODELS):
        for folder in sorted(place.iterdir()) if place.is_dir() else []:
            if not folder.is_dir() or folder.name.startswith((".", "_")):
                continue
            if folder.name in found:
                raise Refusal(
                    f"models/{folder.name} has the name of a bundled model: give it another, also "
                    "in its manifest.json, or convert it again with --name."
                )
            found[folder.name] = folder
    return list(found.values())


def check_models(folders: list[Path]) -> list[dict[str, object]]:
    """What models.json says of each; a Refusal names the one whose manifest is not right."""
    names = [os.path.relpath(folder, ROOT) for folder in folders]
    command = [str(PYTHON), "-m", "gpt2web.convert.model_folder", "list", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise Refusal(f"{done.stderr.strip().rpartition(chr(10))[2].rstrip('.')}.")
    listed: list[dict[str, object]] = json.loads(done.stdout)
    return listed


def link_or_copy(source: str, target: str) -> None:
    """One file on the disk under two names where that goes, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
            wheel = {"name": name, "file": path.name, "version": version, "sha256": sha256}
            wheels.append({**wheel, "license": START_LICENCES[name]})
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


def write_version(dist: Path) -> None:
    """version.json, which sw.js keeps the page by, and the version in sw.js and version.js.

    {"version": SHA-256 of `files` as JSON, "files": {path: SHA-256}}: everything that a visit
    without the server needs, but for what web/downloads.js keeps of models.
    """
    files = {}
    for path in sorted(path for path in dist.rglob("*") if path.is_file()):
        name = path.relative_to(dist).as_posix()
        if not (name in VERSIONED or NOT_KEPT.fullmatch(name)):
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    text = json.dumps(files, separators=(",", ":"))  # as JSON.stringify writes it
    version = hashlib.sha256(text.encode()).hexdigest()
    (dist / "version.json").unlink(missing_ok=True)  # it may be a second name of a file elsewhere
    write_json(dist / "version.json", {"version": version, "files": files})
    for name in VERSIONED:
        path = dist / name
        new = re.sub(
            r'const VERSION = "\w*";', f'const VERSION = "{version}";', path.read_text("utf-8")
        )
        path.unlink()  # so may this
        path.write_text(new, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_licenses(dist: Path, models: list[dict[str, object]]) -> None:
    """LICENSES.txt: every part of dist/, its version, licence and source, then the full texts.

    What is said of models of the reader's own is what their manifests say.
    """
    own = [model for model in models if not (BUNDLED / str(model["name"])).is_dir()]
    pyodide, hash_wasm = (
        json.loads((NODE_MODULES / name / "package.json").read_text("utf-8"))["version"]
        for name in ("pyodide", "hash-wasm")
    )
    editor = [folder for name in EDITOR for folder in sorted(NODE_MODULES.glob(name))]
    packages = [json.loads((folder / "package.json").read_text("utf-8")) for folder in editor]
    names = ", ".join(f"{package['name']} {package['version']}" for package in packages)
    lock = json.loads((dist / "pyodide" / "pyodide-lock.json").read_text("utf-8"))
    python = lock["info"]["python"]
    ours, wgpu, micropip = (lock["packages"][name] for name in ("gpt2web", "wgpu", "micropip"))
    wgpu_files = read_wheel(dist / "pyodide" / wgpu["file_name"])
    github = "https://github.com"
    lines = [
        "What this folder carries, and under which licence; the texts follow.",
        "",
        f"gpt2web {ours['version']} (the page, its Python, its shaders): MIT, text 1",
        "models/stories (weights and tokenizer): MIT, text 1; see models/stories/MODEL_CARD.md",
        *(f"models/{model['name']} ({model['title']}): {model['license']}" for model in own),
        f"Pyodide {pyodide} (pyodide/): MPL-2.0, text 2; source: {github}/pyodide/pyodide",
        f"CPython {python} (inside pyodide/): PSF-2.0, text 3; source: {github}/python/cpython",
        f"micropip {micropip['version']} (wheels/): MPL-2.0, text 2; source: in the wheel itself",
        f"wgpu-py {wgpu['version']} (wheels/, its pure-Python part): BSD-2-Clause, text 4",
        f"hash-wasm {hash_wasm} (hash-wasm/, its SHA-256): MIT, text 5",
        f"CodeMirror (codemirror.js): {names}: MIT, text 6",
        "",
        PYODIDE_HOLDS,
    ]
    texts = {
        "MIT (gpt2web, models/stories)": (ROOT / "LICENSE").read_text("utf-8"),
        "MPL-2.0 (Pyodide, micropip)": (ROOT / "LICENSES/MPL-2.0.txt").read_text("utf-8"),
        "PSF-2.0 (CPython)": (ROOT / "LICENSES/Python.txt").read_text("utf-8"),
        "BSD-2-Clause (wgpu-py)": next(
            data.decode() for name, data in wgpu_files.items() if name.endswith("LICENSE")
        ),
        "MIT (hash-wasm)": (NODE_MODULES / "hash-wasm/LICENSE").read_text("utf-8"),
        "MIT (CodeMirror's packages, each under its own notice)": "\n\n".join(
            dict.fromkeys((folder / "LICENSE").read_text("utf-8").strip() for folder in editor)
        ),
    }
    for number, (title, text) in enumerate(texts.items(), 1):
        lines += ["", "=" * 80, f"{number}. {title}", "=" * 80, "", text.strip()]
    (dist / "LICENSES.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def page_bytes(dist: Path) -> int:
    """Bytes, each file gzipped, of what a visit fetches before it fetches the model."""
    return sum(
        len(gzip.compress(path.read_bytes()))
        for path in dist.rglob("*")
        if path.is_file() and not NOT_VISITED.match(path.relative_to(dist).as_posix())
    )


# --- serve ---------------------------------------------------------------------------------------


class Part:
    """So many bytes of an open file, from where it stands."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data

    def close(self) -> None:
        self.file.close()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Plain static files with the right types, also from a byte on: a download that broke off goes
    on where it was."""

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

    def send_head(self) -> Any:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file() or int(wanted[2] or wanted[1]) < int(wanted[1]):
            return super().send_head()  # several ranges, and the last bytes, nobody needs
        file = path.open("rb")
        about = os.fstat(file.fileno())
        modified = self.date_time_string(int(about.st_mtime))
        if self.headers.get("If-Range", modified) != modified:
            file.close()
            return super().send_head()
        first = int(wanted[1])
        end = min(int(wanted[2]) + 1 if wanted[2] else about.st_size, about.st_size)
        if first >= end:
            file.close()
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{about.st_size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(206)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Range", f"bytes {first}-{end - 1}/{about.st_size}")
        self.send_header("Content-Length", str(end - first))
        self.send_header("Last-Modified", modified)
        self.end_headers()
        file.seek(first)
        return Part(file, end - first)

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


def listen(port: int) -> Server:
    """A server for dist/ on the first free port from `port` on."""
    handler = functools.partial(Handler, directory=str(DIST))
    for candidate in range(port, min(port + 100, 65536)):
        try:
            return Server(("127.0.0.1", candidate), handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise Refusal(f"No free port between {port} and {port + 99}: name another with --port.")


# --- commands ------------------------------------------------------------------------------------


def command_serve(arguments: list[str]) -> int:
    """set up, build dist/ and serve it [--port 8000]"""
    parser = argparse.ArgumentParser(prog="build.py serve", description=command_serve.__doc__)
    parser.add_argument("--port", type=int, default=8000, help="8000; the next free one if taken")
    port: int = parser.parse_args(arguments).port
    if not 0 <= port <= 65535:
        raise Refusal(f"--port must be between 0 and 65535, not {port}.")
    build()
    with listen(port) as server:
        taken = server.server_address[1]
        if port not in (0, taken):
            print(f"Port {port} is in use; taking {taken}.")
        print(f"Open http://127.0.0.1:{taken}/ (Ctrl-C stops the server).", flush=True)
        server.serve_forever()
    return 0


def command_build(arguments: list[str]) -> int:
    """set up and write dist/, nothing else"""
    parser = argparse.ArgumentParser(prog="build.py build", description=command_build.__doc__)
    parser.parse_args(arguments)
    build()
    return 0


def command_test(arguments: list[str]) -> int:
    """set up, also a browser, and run every check and test [options of pytest]"""
    with alone():
        set_up_python("test")
        set_up_npm(dev=True)
        set_up_browser()
    build()
    failed = [name for name in ("ruff check", "ruff format --check", "mypy") if not passes(name)]
    if failed:
        say(f"Failed: {', '.join(failed)}. The tests run all the same.")
    drivers = os.pathsep.join(str(path) for path in find_vulkan_drivers().values())
    env = {"VK_DRIVER_FILES": drivers, "XDG_RUNTIME_DIR": runtime_folder()}
    # Two files at a time: a page that starts Python, and most of what has no page, fill one core.
    two = ["-n", "2", "--dist", "loadfile"]
    tests = [str(PYTHON), "-m", "pytest", *two, "--durations=10", *arguments]
    status = subprocess.run(tests, cwd=ROOT, env={**os.environ, **env}).returncode
    return status or int(bool(failed))


def runtime_folder() -> str:
    """What Mesa's drivers ask for, and warn without."""
    runtime = CACHE / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return str(runtime)


def passes(check: str) -> bool:
    say(f"{check} ...")
    return subprocess.run([str(PYTHON), "-m", *check.split()], cwd=ROOT).returncode == 0


def command_run(arguments: list[str]) -> int:
    """generate natively: run "Once upon a time" [options, see run --help]"""
    with alone():
        set_up_python("build")
    command = [str(PYTHON), "-m", "gpt2web", *arguments]
    if os.name == "posix":
        os.execv(PYTHON, command)  # signals and pipes then reach it directly
    return subprocess.run(command).returncode


def command_model(arguments: list[str]) -> int:
    """convert a GPT-2 for the page: model gpt2 --precision int8 [see model --help]"""
    with alone():
        set_up_python("convert")
    folders = ["--out", os.path.relpath(MODELS), "--cache", str(CACHE / "models")]
    command = [str(PYTHON), "-m", "gpt2web.convert", *folders, *arguments]
    if os.name == "posix":
        os.execv(PYTHON, command)
    return subprocess.run(command).returncode


def command_bench(arguments: list[str]) -> int:
    """measure, and write the figures into README.md [native|sizes|precision|soak]"""
    what = arguments[0] if arguments else "all"
    everything = what not in ("native", "sizes", "precision", "-h", "--help")
    with alone():
        set_up_python("build" if what in ("native", "-h", "--help") else "test")
        if everything:
            set_up_browser()
    if everything:
        build()
    env = {"XDG_RUNTIME_DIR": runtime_folder(), **os.environ}
    swiftshader = find_vulkan_drivers()["SwiftShader"]
    if swiftshader and "VK_DRIVER_FILES" not in os.environ:
        env["VK_ADD_DRIVER_FILES"] = str(swiftshader)  # beside the machine's own drivers
    command = [str(PYTHON), "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env).returncode


COMMANDS = {
    "serve": command_serve,
    "build": command_build,
    "test": command_test,
    "run": command_run,
    "model": command_model,
    "bench": command_bench,
}


def usage() -> str:
    lines = ["usage: python3 build.py COMMAND", "", __doc__.strip(), "", "commands:"]
    lines += [f"  {name:<7} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name in ("", "-h", "--help"):
        print(usage())
        return 0 if name else 2
    if name not in COMMANDS:
        print(f"{usage()}\n\nbuild.py: there is no command {name!r}.", file=sys.stderr)
        return 2
    try:
        return COMMANDS[name](arguments[1:])
    except Refusal as refusal:
        print(f"build.py: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

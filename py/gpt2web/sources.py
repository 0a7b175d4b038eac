"""The files of this package, as it runs: read, changed, and imported anew.

The page shows them, and has a reader's changed ones run: gpt2web.js's `load` with `edits`. That is
for a worker of its own, which ends with the model. Natively nothing calls `edit`: it writes over
the installed files.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
import traceback
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import gpt2web
from gpt2web.gpu import Device, ShaderError, shader_file

SHADERS = "gpt2web/shaders/"
MODULE_FOLDER = Path(str(files(gpt2web)))
SHADER_FOLDER = Path(str(files("gpt2web.shaders")))


def paths() -> dict[str, Path]:
    """Every module and shader: "gpt2web/sampling.py", "gpt2web/shaders/attention.wgsl" -> file."""
    named = {f"gpt2web/{file.name}": file for file in sorted(MODULE_FOLDER.glob("*.py"))}
    return named | {f"{SHADERS}{file.name}": file for file in sorted(SHADER_FOLDER.glob("*.wgsl"))}


def read() -> dict[str, str]:
    """The text of each file."""
    return {path: file.read_text(encoding="utf-8") for path, file in paths().items()}


def edit(edits: Mapping[str, str]) -> ModuleType:
    """Write texts over the installed files, and import the package anew: the new gpt2web.page.

    What was imported before goes on with the old texts. Raises ValueError for a path that `read`
    does not have; and what the new texts raise, SyntaxError for instance.
    """
    known = paths()
    for path in edits:
        if path not in known:
            raise ValueError(
                f"edits: there is no file {path!r}; a file is named as in sources(), for example "
                "'gpt2web/sampling.py'"
            )
    for path, text in edits.items():
        known[path].write_text(text, encoding="utf-8")
        if path.endswith(".py"):
            Path(importlib.util.cache_from_source(str(known[path]))).unlink(missing_ok=True)
    for name in list(sys.modules):
        if name.split(".")[0] == "gpt2web":
            del sys.modules[name]
    importlib.invalidate_caches()
    linecache.clearcache()  # tracebacks show the new lines
    return importlib.import_module("gpt2web.page")


async def check_shaders(edited: Collection[str]) -> None:
    """Compile every kernel that edited shaders are part of, as far as its bind group. Raises
    ShaderError for the first that fails: a browser tells of it late, and not where."""
    texts = {file: text for file, text in read().items() if file.startswith(SHADERS)}
    changed = {file.removeprefix(SHADERS) for file in edited}
    parts = {}  # file -> those that it includes
    for file, text in texts.items():
        first, _, _ = text.partition("\n")
        included = first.removeprefix("// include:").split()
        parts[file.removeprefix(SHADERS)] = included if first.startswith("// include:") else []
    shared = {part for included in parts.values() for part in included}
    device: Device | None = None
    try:
        for file, included in parts.items():
            if file not in shared and {file, *included} & changed:
                device = device or await Device.request()
                await device.check_shader(file.removesuffix(".wgsl"))
    finally:
        if device is not None:
            device.destroy()


def place_of(error: BaseException, edited: Collection[str]) -> tuple[str, int] | None:
    """Which of our files, and line of it, an error comes from: the innermost that is edited, else
    the innermost of all; None where it has been in none."""
    if isinstance(error, ShaderError):
        file, line = shader_file(error.name, error.line)
        return f"{SHADERS}{file}", line
    ours = {str(file): path for path, file in paths().items()}
    places: list[tuple[str, int]] = []  # outermost first
    for each in reversed(_chain(error)):
        for frame in traceback.extract_tb(each.__traceback__):
            if frame.filename in ours and frame.lineno is not None:
                places.append((ours[frame.filename], frame.lineno))
        if isinstance(each, SyntaxError) and each.filename in ours and each.lineno is not None:
            places.append((ours[each.filename], each.lineno))
        if isinstance(each, ImportError) and places and places[-1][0] not in edited:
            lacking = ours.get(each.path or "", "")
            if lacking in edited:
                places.append((lacking, 1))  # it has not what the other file imports
    mine = [place for place in places if place[0] in edited]
    found = mine or places
    return found[-1] if found else None


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and what it was raised from."""
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in found:
        found.append(each)
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return found

"""Everything that the page may need of this package, loaded at once: for a memory snapshot.

A Pyodide memory snapshot holds the interpreter's memory and not its file system. web/
snapshot_worker.js makes one behind `preload`; an interpreter that starts from it has these modules
and texts, and could not read them any more. Seeds are drawn from os.urandom, never from the state
of `random`, which is in the snapshot too.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.resources import files

import gpt2web
from gpt2web import gpu, selftest

# What never runs in the page: what is native only, and what shows things in a notebook.
NATIVE = ("__main__", "convert", "notebook", "url_folder")


def preload() -> None:
    """Import every module, and read every file that is read while the page runs."""
    for name in module_names():
        importlib.import_module(f"gpt2web.{name}")
    read_files()


def module_names() -> list[str]:
    """Ours, all that the page may use."""
    names = (module.name for module in pkgutil.iter_modules(gpt2web.__path__))
    return [name for name in names if name not in NATIVE]


def read_files() -> None:
    """Shaders and the self-test's answers: whoever reads them keeps them."""
    for file in files("gpt2web.shaders").iterdir():
        if file.name.endswith(".wgsl"):
            gpu.shader_source(file.name.removesuffix(".wgsl"))
    selftest.recorded_answers()

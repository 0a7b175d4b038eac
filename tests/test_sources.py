"""The package's own files, read, edited and imported anew: in a copy, by a Python of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from browser import ROOT
from gpt2web import gpu, sources
from gpt2web.gpu import DeviceError, OutOfMemory, ShaderError
from gpt2web.page import describe

# Makes edits in the copy, then evaluates an expression; what went wrong as the page is told of it.
SCRIPT = """
import asyncio, json, sys
from gpt2web.page import Page
edits, code = json.loads(sys.stdin.read())
posted = []
page = Page("", posted.append)
asyncio.run(page.handle({"type": "load", "id": 1, "model": "none", "edits": edits}))
if code:
    from gpt2web import gpu, sampling, sources
print(json.dumps([posted[-1]["error"], eval(code) if code else None]))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package as a wheel installs it."""
    for folder, into in (("py/gpt2web", "gpt2web"), ("shaders", "gpt2web/shaders")):
        for file in (ROOT / folder).iterdir():
            if file.is_file():
                (tmp_path / into).mkdir(exist_ok=True)
                (tmp_path / into / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edited(copy: Path, edits: dict[str, str], code: str = "") -> tuple[dict[str, Any], Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([edits, code]),
        capture_output=True,
        text=True,
        cwd=copy,
        env={"PYTHONPATH": str(copy), "PYTHONSAFEPATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    error, value = json.loads(done.stdout)
    return error, value


def test_every_module_and_shader_is_there_as_it_runs() -> None:
    read = sources.read()
    modules = {f"gpt2web/{path.name}" for path in (ROOT / "py/gpt2web").glob("*.py")}
    shaders = {f"gpt2web/shaders/{path.name}" for path in (ROOT / "shaders").glob("*.wgsl")}
    assert read.keys() == modules | shaders
    assert read["gpt2web/sampling.py"] == (ROOT / "py/gpt2web/sampling.py").read_text("utf-8")
    assert read["gpt2web/shaders/head.wgsl"] == (ROOT / "shaders/head.wgsl").read_text("utf-8")


def test_edited_files_are_what_is_imported_and_compiled(copy: Path) -> None:
    texts = sources.read()
    number, shader = "gpt2web/sampling.py", "gpt2web/shaders/select.wgsl"
    edits = {
        number: texts[number].replace("WEIGHT_ONE = 1 << 30", "WEIGHT_ONE = 7"),
        shader: texts[shader] + "// the end\n",
    }
    code = "[sampling.WEIGHT_ONE, gpu.shader_source('select')[-11:], list(sources.read()) != []]"
    error, value = edited(copy, edits, code)
    assert value == [7, "// the end\n", True]
    assert error["code"] == "checkpoint-missing"  # it came as far as the model
    assert edited(copy, {}, code)[1][0] == 7  # it is written, in the copy alone
    assert sources.read() == texts


def test_an_unknown_path_is_refused_by_name_and_nothing_is_written(copy: Path) -> None:
    before = (copy / "gpt2web/turn.py").read_bytes()
    for path in ("gpt2web/new.py", "../turn.py", "gpt2web/shaders/../turn.py", "/etc/hosts"):
        error, _ = edited(copy, {"gpt2web/turn.py": "", path: ""})
        assert (error["name"], error["code"]) == ("ValueError", "option-invalid")
        assert repr(path) in error["message"] and "gpt2web/sampling.py" in error["message"]
    assert (copy / "gpt2web/turn.py").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a = 1\nb = = 2\n", 2, "SyntaxError: invalid syntax"),
        ("a = 1\n\nc = 1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("a = 1\nraise ValueError('mine')\n", 2, "ValueError: mine"),
        ("import nothing\n", 1, "ModuleNotFoundError: No module named 'nothing'"),
    ],
)
def test_what_fails_at_import_is_told_with_file_and_line(
    copy: Path, text: str, line: int, says: str
) -> None:
    error, _ = edited(copy, {"gpt2web/turn.py": text})
    assert (error["name"], error["code"]) == ("EditError", "edit-failed")
    assert error["place"] == {"file": "gpt2web/turn.py", "line": line}
    assert f"gpt2web/turn.py, line {line}: {says}. Correct that" in error["message"]
    assert error["detail"].startswith("Traceback") and f"line {line}" in error["detail"]


@pytest.mark.parametrize(
    ("edits", "file"),
    [
        ({"gpt2web/turn.py": ""}, "gpt2web/turn.py"),
        # the one that asks for it is edited, too
        (
            {"gpt2web/turn.py": "", "gpt2web/backbone.py": "from gpt2web.turn import Turn"},
            "gpt2web/backbone.py",
        ),
    ],
)
def test_a_name_that_an_edited_file_has_no_more_is_missed_there(
    copy: Path, edits: dict[str, str], file: str
) -> None:
    error, _ = edited(copy, edits)
    assert error["place"] == {"file": file, "line": 1}
    assert f"{file}, line 1: ImportError: cannot import name 'Turn'" in error["message"]


def raised() -> ValueError:
    """One that our sampling.py raises, by its own cause."""
    try:
        from gpt2web.sampling import Sampling

        Sampling(temperature=-1)
    except ValueError as error:
        return error
    raise AssertionError


def test_an_error_is_placed_in_an_edited_file_before_any_other() -> None:
    error = raised()
    file, line = sources.place_of(error, []) or ("", 0)
    text = sources.read()[file].splitlines()
    assert file == "gpt2web/sampling.py" and "raise ValueError(" in text[line - 1]
    outer = RuntimeError("around")
    outer.__cause__ = error
    assert sources.place_of(outer, ["gpt2web/sampling.py"]) == (file, line)
    assert sources.place_of(RuntimeError("elsewhere"), ["gpt2web/sampling.py"]) is None


def test_a_refusal_stays_one_unless_an_edited_file_has_raised_it() -> None:
    error = raised()
    assert describe(error)["place"] is None
    other = describe(error, ["gpt2web/turn.py"])
    assert (other["name"], other["message"]) == ("ValueError", str(error))
    assert other["place"]["file"] == "gpt2web/sampling.py"
    assert describe(error, ["gpt2web/sampling.py"])["code"] == "edit-failed"


def test_what_the_gpu_reports_of_edited_shaders_is_an_error_of_the_edit() -> None:
    error = DeviceError("the GPU reports: wrong")
    told = describe(error, ["gpt2web/shaders/select.wgsl"])
    assert (told["code"], told["place"]) == ("edit-failed", None)
    assert "WGSL: the GPU reports: wrong. Correct that" in told["message"]
    assert describe(error, ["gpt2web/turn.py"])["code"] == "device-failed"
    memory = OutOfMemory("no room", 2, 1)
    assert describe(memory, ["gpt2web/shaders/select.wgsl"])["code"] == "device-memory"


def test_a_line_of_a_shader_is_found_in_the_file_that_it_comes_from() -> None:
    texts = sources.read()
    for name in ("select", "embed", "attention", "pack", "copy_words"):
        for number, line in enumerate(gpu.shader_source(name).splitlines(), 1):
            file, own = gpu.shader_file(name, number)
            lines = texts[sources.SHADERS + file].splitlines()
            between = own == len(lines) + 1 and line == ""  # what joins two files
            assert between or lines[own - 1] == line, (name, number)
    error = ShaderError("select", 1, "unresolved identifier 'x'")
    told = describe(error, ["gpt2web/shaders/state.wgsl"])
    assert told["place"] == {"file": "gpt2web/shaders/state.wgsl", "line": 1}
    assert "gpt2web/shaders/state.wgsl, line 1: WGSL: unresolved identifier 'x'." in told["message"]

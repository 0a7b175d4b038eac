"""The README: its examples run, and what it says of files, commands and figures is so."""

import re
import shlex

import pytest
from playwright.sync_api import Browser

import build
from bench import report
from browser import ROOT, TestServer
from gpt2web.__main__ import make_parser, make_score_parser
from gpt2web.convert.__main__ import make_parser as make_model_parser

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def block(language: str) -> str:
    """The one fenced block of a language."""
    (found,) = blocks(language)
    return found


# --- examples ------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_the_python_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPT2WEB_ADAPTER", "llvmpipe")
    first, second, third = blocks("python")
    exec(compile(first, "README.md", "exec"), {})
    info, text = capsys.readouterr().out.split("\n", 1)
    assert "llvmpipe" in info and info.endswith("f16 passed")
    assert text.startswith("Once upon a time")
    assert len(text) > 100

    exec(compile(second, "README.md", "exec"), {})
    shape, perplexity, one, other = capsys.readouterr().out.splitlines()[:4]
    assert re.fullmatch(r"\(1, \d, 4096\) \d+", shape)
    assert 1 < float(perplexity) < 100
    assert one.startswith("The fox") and other.startswith("The fox")

    exec(compile(third, "README.md", "exec"), {})
    shape, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\(6, 4, \d+\)", shape)
    assert [line.split()[0] for line in lines[:7]] == list("0123456")
    assert sum(float(line.split()[-1]) for line in lines[7:13]) == pytest.approx(1)
    assert [line.split()[0] for line in lines[13:]] == ["wte.weight", "wpe.weight"]


@pytest.mark.browser
def test_the_javascript_example_runs(quick_browser: Browser, server: TestServer) -> None:
    page = quick_browser.new_page()
    logged: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    address = f"{server.url}example.html"
    shorter = block("html").replace("maxNewTokens: 40", "maxNewTokens: 8")
    assert shorter != block("html")
    body = f"<!doctype html><body>{shorter}"
    page.route(address, lambda route: route.fulfill(body=body, content_type="text/html"))
    with page.expect_worker() as started:
        page.goto(address)
    with started.value.expect_event("close", timeout=120_000):  # lm.close() ends it
        pass
    assert len(page.inner_text("body")) > 8, logged
    assert any(line.startswith("model ") for line in logged), logged
    assert any("swiftshader f16 passed" in line for line in logged), logged
    assert any(re.fullmatch(r"next .* 0\.\d+", line) for line in logged), logged
    page.context.close()


def commands() -> list[list[str]]:
    """Every command line in an indented block, as words."""
    lines = re.findall(r"^    ((?:.*\| )?(?:python3 build\.py|gpt2web) .*)$", README, re.M)
    return [shlex.split(line.rpartition("| ")[2], comments=True) for line in lines]


def test_every_command_line_is_one_that_the_program_takes() -> None:
    found = commands()
    assert len(found) == 9
    for words in found:
        if words[0] == "python3":
            assert words[2] in build.COMMANDS
        if words[:2] == ["gpt2web", "score"]:
            make_score_parser().parse_args(words[2:])
        elif words[:1] == ["python3"] and words[2] == "model":
            make_model_parser().parse_args(words[3:])
        elif words[0] == "gpt2web" or words[2] == "run":
            make_parser().parse_args(words[1 if words[0] == "gpt2web" else 3 :])


# --- what it says of this folder -----------------------------------------------------------------


FOLDERS = ("py/gpt2web", "shaders", "web", "bench", "tests", "requirements", "LICENSES")
GROUPED = re.compile(r"tests/test_\w+\.py|bench/results/|tests/data/forms/|.*__pycache__")


def own_files() -> set[str]:
    """What the tree should name: all but a file of tests per module, and results."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = {path.relative_to(ROOT).as_posix() for path in paths}
    return {name for name in names if not GROUPED.match(name)}


def missing_in(tree: str, files: set[str]) -> set[str]:
    """The files whose name is no word of the tree."""
    words = {word.rpartition("/")[2] for word in tree.split()}
    return {name for name in files if name.rpartition("/")[2] not in words}


def test_the_tree_names_every_file() -> None:
    files = own_files()
    assert len(files) > 80
    assert missing_in(block("text"), files) == set()
    assert missing_in("a.py  what a.js does", {"py/a.py", "b.py"}) == {"b.py"}


def test_what_stands_first_on_a_line_of_the_tree_exists() -> None:
    firsts = re.findall(r"^ *(\S*[./]\S*)", block("text"), re.M)
    assert len(firsts) > 70
    there = "".join(f"/{name}\n" for name in own_files())
    gone = [name for name in firsts if not (ROOT / name).exists() and f"/{name}" not in there]
    assert gone == []


def test_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_figures_are_those_of_the_results() -> None:
    _, _, rest = README.partition(report.BEGIN)
    measured, _, after = rest.partition(report.END)
    assert after.startswith("\n\n## ")
    assert measured.strip() == report.markdown(report.read())


def test_the_preset_that_is_bundled_is_the_only_one_it_promises() -> None:
    folders = [path.name for path in (ROOT / "web/models").iterdir() if path.is_dir()]
    assert [name for name in folders if not name.startswith("__")] == ["stories"]
    parameters = re.search(r"(\d) million parameters, (\d+) MB", README)
    assert parameters is not None
    size = (ROOT / "web/models/stories/model.safetensors").stat().st_size
    assert int(parameters[2]) == round(size / 1e6)

"""Imports run one way: read from the source, without importing anything."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "py" / "gpt2web"

# A module may import from its own line (not in a circle) and from the lines above it.
LAYERS = (
    "arguments blocking notebook nudge progress unicode_table",
    "config precision safetensors bpe vocabulary tokenizer tokenizer_files packer sampling",
    "preprocessor prompts checkpoint manifest webgpu url_folder browser_folder",
    "own_files sampler searchers samplers",
    "gpu",
    "head_start kernels turn limits",
    "array_checkpoint weights chunks decoder",
    "backbone variables layer masks embedding attention layers",
    "generate search stream generation selftest preset likeliest next_tokens inspection origin",
    "causal_lm views sources",
    "page preload convert __main__ __init__",
)
RANKS = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}
# Who may import what is not everywhere; everywhere else it would break the page or the tests.
IN_THE_PAGE = {"webgpu", "browser_folder", "own_files"}
ONLY_IN = {
    "wgpu": {"gpu", "webgpu"},
    "js": IN_THE_PAGE,
    "pyodide": IN_THE_PAGE,
    "gpt2web_downloads": {"browser_folder"},
}


def imports(tree: ast.AST, inside: bool = False) -> list[tuple[str, bool]]:
    """Every import as a dotted name, and whether it stands inside a function."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            found += [(f"{node.module}.{alias.name}", inside) for alias in node.names]
        deeper = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        found += imports(node, inside or deeper)
    return found


def wrong_imports(sources: dict[str, str]) -> list[str]:
    """One sentence for each import that runs the wrong way. sources: module name -> text."""
    wrong = []
    graph: dict[str, set[str]] = {}
    for module, text in sources.items():
        if module not in RANKS:
            wrong.append(f"{module} is not in LAYERS: say there where it belongs")
            continue
        graph[module] = set()
        for name, inside in imports(ast.parse(text)):
            top, _, rest = name.partition(".")
            if module not in ONLY_IN.get(top, {module}):
                wrong.append(f"{module} imports {top}, which only {sorted(ONLY_IN[top])} may")
            if top == "numpy" and not inside and module != "convert":
                wrong.append(f"{module} imports numpy where the page would import it too")
            target = rest.partition(".")[0]
            if top != "gpt2web" or target not in RANKS or target == module:
                continue
            graph[module].add(target)
            if RANKS[target] > RANKS[module]:
                wrong.append(f"{module} imports {target}, which lies above it")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        wrong.append("a circle: " + " -> ".join(error.args[1]))
    return wrong


def own_sources() -> dict[str, str]:
    files = {path.relative_to(PACKAGE): path for path in sorted(PACKAGE.rglob("*.py"))}
    sources: dict[str, str] = {}
    for name, path in files.items():
        module = name.parts[0].removesuffix(".py")  # convert/ counts as one module
        sources[module] = sources.get(module, "") + path.read_text("utf-8") + "\n"
    return sources


def test_our_imports_run_one_way() -> None:
    sources = own_sources()
    assert len(sources) > 10
    assert wrong_imports(sources) == []


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ({"kernels": "from gpt2web.backbone import x"}, "kernels imports backbone, which lies"),
        ({"kernels": "def f():\n    from gpt2web import page"}, "kernels imports page, which lies"),
        ({"backbone": "import wgpu.backends"}, "backbone imports wgpu, which only"),
        ({"page": "if True:\n    from pyodide.ffi import x"}, "page imports pyodide, which only"),
        ({"sampler": "import numpy as np"}, "sampler imports numpy where"),
        ({"helpers": ""}, "helpers is not in LAYERS"),
        (
            {"tokenizer": "from gpt2web.bpe import x", "bpe": "from gpt2web import tokenizer"},
            "a circle: ",
        ),
    ],
)
def test_a_wrong_import_is_found(sources: dict[str, str], sentence: str) -> None:
    (wrong,) = wrong_imports(sources)
    assert wrong.startswith(sentence)


def test_a_right_import_is_let_through() -> None:
    sources = {
        "gpu": "import wgpu\ndef numpy(self):\n    import numpy",
        "kernels": "from gpt2web.gpu import x",
        "page": "from gpt2web import kernels, nothing_of_ours",
        "convert": "import numpy",
    }
    assert wrong_imports(sources) == []

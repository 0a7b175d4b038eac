"""examples/notebook.ipynb, executed by a kernel: what its cells show are the API's own numbers, and
a kernel that runs an event loop and is interrupted does what the documentation says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from browser import ROOT
from gpt2web import notebook
from test_notebook import Read

NOTEBOOK = ROOT / "examples/notebook.ipynb"
pytestmark = pytest.mark.gpu


class Kernel:
    """The example's cells, and more of them, in one kernel."""

    def __init__(self, client: NotebookClient) -> None:
        self.client = client

    def run(self, source: str) -> list[Any]:
        """What a cell puts out."""
        cells = self.client.nb.cells
        cells.append(nbformat.v4.new_code_cell(source))
        return list(self.client.execute_cell(cells[-1], len(cells) - 1).outputs)

    def value(self, expression: str) -> Any:
        """The value of an expression, by way of JSON."""
        outputs = self.run(f"import json; print(json.dumps({expression}))")
        written = [output.text for output in outputs if output.get("name") == "stdout"]
        return json.loads("".join(written))


@pytest.fixture(scope="module")
def example() -> list[Any]:
    """The code cells but for the last, which closes the model; they get their outputs."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert cells.pop().source == "lm.close()"
    return cells


@pytest.fixture(scope="module")
def kernel(example: list[Any]) -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT2WEB_ADAPTER", "llvmpipe")
        patch.setenv("IPYTHONDIR", "/nonexistent")  # nobody's own settings
        client = NotebookClient(nbformat.v4.new_notebook(cells=example), timeout=120)
        with client.setup_kernel():
            for number, cell in enumerate(example):
                client.execute_cell(cell, number)  # raises CellExecutionError
            yield Kernel(client)


def html(outputs: list[Any]) -> list[str]:
    found = [
        output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})
    ]
    return [text for text in found if text]


def cell(example: list[Any], beginning: str) -> Any:
    (found,) = (cell for cell in example if beginning in cell.source)
    return found


def test_it_is_committed_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)
    nbformat.validate(nbformat.read(NOTEBOOK, 4))


def test_the_readme_shows_lines_of_it() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    shown = re.findall(r"^    (.+)$", text.split("### In a notebook")[1].split("\n#")[0], re.M)
    sources = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, 4).cells)
    assert len(shown) == 2 and set(shown) <= set(sources.splitlines())


def test_every_cell_shows_what_the_api_says(kernel: Kernel, example: list[Any]) -> None:
    (shown,) = html(cell(example, "story = lm.write").outputs)
    read = Read(shown)
    tokens = kernel.value("[(t.text, t.logprob, [a[1:] for a in t.top]) for t in story.tokens]")
    assert len(tokens) == 60 and all(text for text, _, _ in tokens)
    told = []
    for text, logprob, top in tokens:
        likeliest = ", ".join(
            f"{notebook.visible(other)} {notebook.percent(math.exp(value))}" for other, value in top
        )
        share = notebook.percent(math.exp(logprob))
        told.append(f"{notebook.visible(text)}: {share}. Likeliest: {likeliest}.")
    assert read.texts("span", "card") == told
    assert "60 tokens in" in read.texts("div", "about")[0]

    read = Read(html(cell(example, "inspection = lm.inspect").outputs)[0])
    attention = kernel.value("inspection.attention.numpy()[-1].ravel().tolist()")
    assert [title.rpartition(": ")[2] for title in read.texts("title")] == [
        notebook.percent(share) for share in attention
    ]
    read = Read(html(cell(example, "inspection.next_tokens").outputs)[0])
    found = "inspection.next_tokens(temperature=0.8, top_k=5, top=8)"
    after = kernel.value(f"[c.after_cuts for c in {found}]")
    assert read.texts("td")[2::3] == [f" {notebook.percent(share)}" for share in after]
    assert "5,885,952 parameters" in html(cell(example, "lm.parameters()").outputs)[0]

    usual, unusual = kernel.value("[usual, unusual]")
    printed = cell(example, "class NeverTwice").outputs
    assert f"{usual}\n\n{unusual}\n" in "".join(output.get("text", "") for output in printed)
    assert usual.startswith("The fox and the bear") and usual != unusual
    score = cell(example, "lm.perplexity").outputs
    bar = "".join(output.text for output in score if output.get("name") == "stderr")
    count = kernel.value("len(lm.log_probabilities(text, False))")
    assert f" {count}/{count} " in bar
    assert (
        1
        < float(score[-1].data["text/plain"])
        == kernel.value("lm.perplexity(text, progress=False)")
    )


def test_a_result_is_shown_once_and_grows_before(kernel: Kernel, example: list[Any]) -> None:
    batch = html(cell(example, '"The little fox"').outputs)
    assert len(batch) == 1 and len(Read(batch[0]).texts("div", "text")) == 2
    kernel.run(
        "from gpt2web import notebook\n"
        "states, show = [], notebook.Live.show\n"
        "def counted(live, html, plain):\n"
        "    states.append(plain)\n"
        "    show(live, html, plain)\n"
        "notebook.Live.show = counted; notebook.UPDATE_SECONDS = 0.01"
    )
    (output,) = kernel.run("once = lm.write('Once', max_new_tokens=30, seed=1)")
    states = kernel.value("states")
    assert len(states) > 3 and states[-1] == output.data["text/plain"]
    assert [len(state) for state in states] == sorted(len(state) for state in states)
    assert states[-1] == kernel.value("once.prompt + once.text")
    assert len(html(kernel.run("once"))) == 1  # in another cell the display is left alone
    assert kernel.value("states") == states
    assert kernel.run("lm.write('Once', max_new_tokens=3, show=False).text")[0].data.keys() == {
        "text/plain"
    }


def test_plain_and_awaited_calls_work_in_the_running_loop(kernel: Kernel) -> None:
    outputs = kernel.run(
        "import asyncio\n"
        "await asyncio.sleep(0)\n"
        "asyncio.get_running_loop()\n"
        "options = dict(max_new_tokens=5, seed=3, show=False)\n"
        "one = lm.write('The fox', **options)\n"
        "two = await lm.write_async('The fox', **options)\n"
        "print(one.tokens == two.tokens, len(one.tokens))"
    )
    assert outputs[-1].text == "True 5\n"


def test_an_interrupt_gives_what_was_written_back(kernel: Kernel) -> None:
    outputs = kernel.run(
        "import os, signal, threading\n"
        "notebook.Live.show = show\n"
        "threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "cut = lm.write('Once', max_new_tokens=350, seed=1, stop='\\0', steps_per_submit=1)"
    )
    (shown,) = html(outputs)
    reason, count = kernel.value("[cut.finish_reason, len(cut.tokens)]")
    assert reason == "cancelled" and 0 < count < 350
    assert re.search(rf"^{count} tokens in .*, interrupted; ", Read(shown).texts("div", "about")[0])
    assert kernel.value("lm.write('Once', max_new_tokens=2, show=False).finish_reason") == "length"

"""Results as Markdown, and the README's part that is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results")
README = ROOT / "README.md"
BEGIN = "<!-- measured: `python3 build.py bench` writes from here -->"
END = "<!-- measured: to here -->"

NOTHING = "Nothing has been measured yet: `python3 build.py bench` does it and writes it here."
NO_GPU = (
    "**No figure of a real GPU is among these: none could be had so far.** A software adapter "
    "says nothing of a GPU's speed. `python3 build.py bench native --adapter NAME` on a machine "
    "that has one adds its figures here."
)
NAMES = {"stories": "stories", "gpt2": "GPT-2 small's shape"}


def write_readme() -> None:
    """Puts the tables of all results between the README's two marks."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n\n{markdown(read())}\n\n{END}{after}", encoding="utf-8")


def read() -> list[dict[str, Any]]:
    """Every file of results, by name."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def markdown(results: list[dict[str, Any]]) -> str:
    if not results:
        return NOTHING
    models = [model for result in results for model in result["models"]]
    parts = [
        *(f"Measured {r['date']} at commit {r['commit']}: {r['machine']}." for r in results),
        *([NO_GPU] if all(model["software"] for model in models) else []),
        "**What one generated token costs**, K tokens going to the GPU in one submit. A pair is "
        "for a cache of up to 256 tokens / a longer one.",
        table(
            [
                *("model", "where", "dispatches", "passes, submits per K tokens"),
                *("objects made, buffers written", "bytes copied back, mapped"),
                *("CPU time, K = 4", "CPU time, K = 16"),
            ],
            [cost_row(model) for model in models],
        ),
        "**Speed**: tokens a second behind a prompt of so many tokens, and the time until the "
        "first one is there (temperature 0.8, top-k 40).",
        table(
            ["model", "where", "GPU memory", "prompt", "tokens a second", "first token after"],
            [row for model in models for row in speed_rows(model)],
        ),
    ]
    for result in results:
        if "visits" in result:
            parts += visits(result)
    return "\n\n".join(parts)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cost_row(model: dict[str, Any]) -> list[str]:
    steps = model["counts"]["steps_per_submit"]
    short, long = model["counts"]["short"], model["counts"]["long"]

    def pair(key: str, each: int = 1) -> str:
        values = [f"{counts[key] / each:g}" for counts in (short, long)]
        return values[0] if values[0] == values[1] else " / ".join(values)

    return [
        *(name(model), model["place"]),
        pair("dispatches", steps),
        f"{pair('passes')}, {pair('submits')}",
        f"{pair('objects_made', steps)}, {pair('buffers_written', steps)}",
        f"{pair('bytes_copied', steps)}, {pair('bytes_mapped', steps)}",
        *(milliseconds(times) for times in model["cpu_seconds_per_token"].values()),
    ]


def milliseconds(times: dict[str, float]) -> str:
    return f"{1000 * times['short']:.2f} / {1000 * times['long']:.2f} ms"


def speed_rows(model: dict[str, Any]) -> list[list[str]]:
    return [
        [
            *(name(model), model["place"], f"{model['gpu_bytes'] / 1e6:.0f} MB"),
            str(speed["context"]),
            f"{speed['tokens_per_second']:.3g}",
            f"{speed['first_token_seconds']:.3g} s",
        ]
        for speed in model["speeds"]
    ]


def name(model: dict[str, Any]) -> str:
    return f"{NAMES[model['model']]}, {model['precision']}"


def visits(result: dict[str, Any]) -> list[str]:
    rows = [
        [which, f"{times['ready']:.1f} s", f"{times['first']:.1f} s"]
        for which, times in result["visits"].items()
    ]
    return [
        f"**The page** with the stories model, in {result['browser']} on its software adapter, "
        f"served from the same machine. Before the model it fetches "
        f"{result['page_bytes'] / 1e6:.2f} MB, counted gzipped. *Cold* is the first visit with a "
        "fresh profile, *warm* the second with the same.",
        table(["visit", "ready to generate after", "first token after"], rows),
    ]

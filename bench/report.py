"""Results as Markdown, and the README's part that is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median
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
SHAPES = {
    "gpt2": "GPT-2 small",
    "gpt2-medium": "GPT-2 medium",
    "gpt2-large": "GPT-2 large",
    "gpt2-xl": "GPT-2 XL",
}


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
    timed = [result for result in results if "models" in result]
    parts = speeds(timed) if timed else [NOTHING]
    for result in results:
        if "starts" in result:
            parts += starts(result)
        if "precisions" in result:
            parts += precisions(result)
        if "sizes" in result:
            parts += sizes(result)
        if "soak" in result:
            parts += soak(result)
    return "\n\n".join(parts)


def measured(result: dict[str, Any]) -> str:
    return f"Measured {result['date']} at commit {result['commit']}: {result['machine']}."


def busy(load: float, most: float) -> str:
    """A sentence where the load of a core was more than the bench itself makes."""
    return (
        f" Other programs ran too (load {load:.0f} a core): times are long." if load > most else ""
    )


def speeds(results: list[dict[str, Any]]) -> list[str]:
    models = [model for result in results for model in result["models"]]
    parts = [
        *map(measured, results),
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
    return parts


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


def starts(result: dict[str, Any]) -> list[str]:
    """How long visits to the page wait."""
    rows = [
        [each["setting"], each["visit"], str(len(each["first"]))]
        + [f"{median(each[key]):.2f} s" for key in ("ready", "first", "gpu_cpu")]
        for each in result["starts"]
    ]
    return [
        f"**Opening the page** with the stories model, in {result['browser']} on its software "
        f"adapter, served from the same machine; medians. Before the model it fetches "
        f"{result['page_bytes'] / 1e6:.2f} MB, counted gzipped. *Cold*: the first visit of a fresh "
        "profile. *Warm*: the page and what was found out about the GPU are kept, Python starts "
        "anew. *Snapshot*: Python starts from its snapshot too. The last column is what the "
        "browser's GPU process used of both cores until then: there the software adapter compiles "
        "pipelines, longer where it is to zero workgroup memory (Chromium does without under "
        f"`--enable-dawn-features=disable_workgroup_init`), and computes. {measured(result)}"
        f"{busy(result['load'], 0.5)}",
        table(
            [
                *("Chromium", "visit", "visits", "ready to generate after", "first token after"),
                "CPU time of the GPU process",
            ],
            rows,
        ),
    ]


def precisions(result: dict[str, Any]) -> list[str]:
    """What each precision costs: in quality on the stories model, in bytes on all shapes."""
    found = result["precisions"]
    exact = found["stories"][0]
    quality = [
        [
            model["precision"],
            megabytes(model["bytes"]["weights"]),
            megabytes(model["stored_bytes"]),
            f"{model['perplexity']:.4f}",
            f"{100 * (model['perplexity'] / exact['perplexity'] - 1):+.2f} %",
            f"{model['divergence']:.2g}",
        ]
        for model in found["stories"]
    ]
    return [
        f"**Precision.** The stories model on {found['texts']} stories that it was not trained on "
        f"({found['tokens']:,} tokens, [bench/held_out.txt](bench/held_out.txt)): perplexity, and "
        "the mean Kullback-Leibler divergence from f32, in nats for each token. The model is "
        f"published in f16, so f16 loses nothing. {measured(result)} On {found['adapter']}.",
        table(
            [
                *("precision", "weights on the GPU", "weights in the folder"),
                *("perplexity", "over f32", "divergence"),
            ],
            quality,
        ),
        "Bytes on the GPU of GPT-2's shapes: weights, the K/V cache of one text of 1,024 tokens, "
        "and everything else with its part of the weights.",
        table(
            ["shape", "precision", "weights", "cache", "all else", "together"],
            [
                [SHAPES[m["model"]], m["precision"], *byte_cells(m["bytes"])]
                for m in found["shapes"]
            ],
        ),
    ]


def sizes(result: dict[str, Any]) -> list[str]:
    """All four sizes with random weights."""
    found = result["sizes"]
    adapters = ", ".join(dict.fromkeys(model["adapter"] for model in found))
    load = max(model["load"] for model in found)
    rows = [
        [
            f"{SHAPES[model['model']]}, {model['precision']}",
            f"{model['parameters']:,}",
            *byte_cells(model["bytes"]),
            ", ".join(model["split"]) or "none",
            f"{model['logits_difference']:.1e} of {model['largest_logit']:.1f}",
            f"{model['seconds_per_token']:.2g} s",
            megabytes(model["peak_rss_bytes"]),
        ]
        for model in found
    ]
    return [
        f"**All sizes**, with random weights, on {adapters}, which computes on the CPU and binds "
        f"{found[0]['binding_limit'] / 2**20:g} MiB at most: what matters here is bytes and "
        "logits, not speed. Logits are compared with numpy's at "
        f"{found[0]['positions']} positions: the largest difference, and the largest logit. "
        f"The process's memory holds the adapter's too. {measured(result)}"
        f"{busy(load, 2)}",
        table(
            [
                *("model", "parameters", "weights", "cache", "all else", "together"),
                *("matrices in parts", "logits differ by", "a token takes", "peak memory"),
            ],
            rows,
        ),
    ]


SOAK_MODELS = {"stories": "the stories model", "small": "a model of two layers"}
SOAK = {  # what is sampled: its name in words, its unit, and how many of it the unit is
    "page": ("JavaScript heap, page", "kB", 1e3),
    "worker": ("JavaScript heap, worker", "kB", 1e3),
    "python": ("Python's memory in use", "kB", 1e3),
    "wasm": ("WebAssembly memory", "kB", 1e3),
    "gpu_buffers": ("GPU buffers", "", 1),
    "gpu_bytes": ("GPU buffers' bytes", "kB", 1e3),
    "seconds": ("a token takes", "ms", 1e-3),
    "worker_cpu": ("CPU time, worker", "ms", 1e-3),
    "gpu_cpu": ("CPU time, GPU process", "ms", 1e-3),
}


def soak(result: dict[str, Any]) -> list[str]:
    """What ten thousand tokens leave behind, beside what the control was found to leak."""
    found = result["soak"]
    control = found["control"]
    rows = [
        [
            SOAK[name][0],
            f"{short(grown['level'] / SOAK[name][2])} {SOAK[name][1]}".strip(),
            growth(name, grown),
            grown.get("verdict", ""),
            growth(name, control["slopes"][name]),
            control["slopes"][name].get("verdict", ""),
        ]
        for name, grown in found["slopes"].items()
    ]
    busy = (
        f" Other programs ran too (load {found['load']:.0f} a core)." if found["load"] > 2 else ""
    )
    return [
        f"**Soak.** {found['tokens']:,} tokens in the page, {SOAK_MODELS[found['model']]}, in "
        f"{found['browser']}: what is in use after each of {found['samples']} rounds, garbage "
        "collected, and its growth in 10,000 tokens over the last 80 %, with the ends of its 95 % "
        f"interval. The control leaks on purpose, for {control['tokens']:,} tokens. What the two "
        "heaps still gain is machine code that the browser makes of what runs often, and its own "
        f"records of slow frames. {measured(result)}{busy}",
        table(["", "level", "growth", "found", "control's growth", "found"], rows),
    ]


def growth(name: str, grown: dict[str, Any]) -> str:
    """+1.2 kB (-0.3 to +2.5)"""
    _, unit, each = SOAK[name]
    per, low, high = (short(grown[key] / each, "+") for key in ("per", "low", "high"))
    return f"{per} {unit} ({low} to {high})".replace("  ", " ")


def short(value: float, sign: str = "") -> str:
    """1,234 or 12.3"""
    return f"{value:{sign},.0f}" if abs(value) >= 100 else f"{value:{sign}.3g}"


def byte_cells(held: dict[str, int]) -> list[str]:
    """Weights, cache, the rest with its part of the weights, and their sum."""
    part = 100 * held["rest"] / held["weights"]
    return [
        megabytes(held["weights"]),
        megabytes(held["cache"]),
        f"{megabytes(held['rest'])}, {part:.1f} %",
        megabytes(sum(held.values())),
    ]


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"

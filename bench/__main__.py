"""`python3 build.py bench`: measures, prints the tables, and writes them into the README.

    bench                        both software adapters natively, and in the page; and starts
    bench native                 only natively, on every adapter of this machine
    bench native --adapter NAME  only on that one: how to measure a real GPU
    bench starts                 how long a visit to the page waits for its first token
    bench sizes                  GPT-2's four sizes with random weights: bytes, logits against numpy
    bench precision              f32, f16, int8 and int4: bytes, and quality on held-out text
    bench download               only printed: the memory that a download takes in the page
    bench soak                   ten thousand tokens in the page: does memory or time grow
    bench soak --model small     the same with a model of two layers: minutes, not an hour

Results go to bench/results/: a file for the software adapters with the page, one for each adapter
measured alone, starts.json, sizes.json, precision.json and soak-MODEL.json. Let the machine do
nothing else meanwhile. procedure.py and measure.py, starts.py, sizes.py, precision.py and soak.py
say what is counted and what is not.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from typing import Any

from bench import report

SOFTWARE = ("llvmpipe", "SwiftShader")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="build.py bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=["all", "native", "starts", "sizes", "precision", "download", "soak"],
        default="all",
    )
    parser.add_argument("--adapter", metavar="NAME", help="part of an adapter's name")
    parser.add_argument("--model", choices=["stories", "small"], help="of soak; stories")
    options = parser.parse_args(arguments)
    if options.model and options.what != "soak":
        parser.error("--model goes with soak")
    if options.adapter and options.what in ("all", "starts", "download", "soak"):
        parser.error("--adapter goes with native, sizes and precision")
    if options.what == "download":
        from bench import download

        say("a download")
        print(json.dumps({"machine": machine(), **download.run()}, indent=1))
        return 0
    if options.what == "starts":
        measure_starts()
    elif options.what == "sizes":
        from bench import sizes

        say("sizes")
        write("sizes", {"sizes": sizes.run(options.adapter or SOFTWARE[0])})
    elif options.what == "precision":
        from bench import precision

        say("precisions")
        found = asyncio.run(precision.run(options.adapter or SOFTWARE[0], precision.stories()))
        write("precision", {"precisions": found})
    elif options.what == "soak":
        from bench import soak

        say("a soak")
        model = options.model or "stories"
        write(f"soak-{model}", {"soak": soak.run(model)})
    elif options.what == "native":
        from bench.native import adapters

        for adapter in [options.adapter] if options.adapter else adapters():
            models = measure_native(adapter)
            slug = re.sub(r"\W+", "-", models[0]["adapter"].partition(" (")[0]).strip("-").lower()
            write(slug, {"models": models})
    else:
        write("software", measure_all())
        measure_starts()
    report.write_readme()
    print(report.markdown(report.read()))
    return 0


def measure_starts() -> None:
    from bench import starts

    say("starts of the page")
    write("starts", starts.run())


def measure_all() -> dict[str, Any]:
    from bench import page

    models = [model for adapter in SOFTWARE for model in measure_native(adapter)]
    say("the page")
    in_page = asyncio.run(page.run())
    models += [model | {"place": in_page["browser"]} for model in in_page["models"]]
    return in_page | {"models": models}


def measure_native(adapter: str) -> list[dict[str, Any]]:
    from bench import native

    say(adapter)
    models = asyncio.run(native.run(adapter))
    return [model | {"place": f"native, {short(model['adapter'])}"} for model in models]


def short(adapter: str) -> str:
    """llvmpipe (LLVM 15.0.6, 256 bits) / Mesa 22.3.6 (LLVM 15.0.6) -> llvmpipe / Mesa 22.3.6"""
    return re.sub(r" \([^)]*\)", "", adapter)


def say(what: str) -> None:
    print(f"Measuring {what} ...", file=sys.stderr, flush=True)


def write(name: str, measured: dict[str, Any]) -> None:
    """A file of results, which says on what they were measured."""
    measured = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        **measured,
    }
    report.RESULTS.mkdir(exist_ok=True)
    text = json.dumps(measured, indent=1) + "\n"
    (report.RESULTS / f"{name}.json").write_text(text, encoding="utf-8")


def commit() -> str:
    """The commit that is checked out; a plus where the code measured differs from it."""
    git = ["git", "-C", str(report.ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        paths = ["py", "shaders", "web", "bench", ":!bench/results"]
        changed = subprocess.run([*git, "status", "--porcelain", "--", *paths], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout else "")


def machine() -> str:
    """What a reader needs to judge the figures."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = re.search(r"model name\s*: (.+)", file.read())
        processor = cpu[1] if cpu else platform.machine()
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        processor, system = platform.processor() or platform.machine(), platform.platform()
    return (
        f"{os.cpu_count()} cores of {processor}, {system}, Python {platform.python_version()}, "
        f"wgpu-py {version('wgpu')}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

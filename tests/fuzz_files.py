"""Fuzzes every reader of files that anybody may have made. Run by hand, pytest collects none of it.

    python tests/fuzz_files.py --minutes 10           random decisions
    python tests/fuzz_files.py --minutes 10 --guided  by coverage: needs `pip install atheris`
    python tests/fuzz_files.py --case "config.json" 0a1b2c...   one case again, as it was printed

A case is a whole model folder in which one file was changed (tests/hostile.py), read as loading or
converting reads it. It either gives a model or is refused with a CheckpointError, whose message
names the folder or a file in it, in one line of printable characters; in SECONDS of processor time
and MEGABYTES of memory beyond those before it. Between the cases the unchanged folders are read:
they have to give the same bytes as ever. Each new way to fail is printed once; the exit status
tells of any.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

if "--guided" in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["gpt2web"]):
        import hostile
        from gpt2web.safetensors import MAX_MESSAGE, CheckpointError
else:
    import hostile
    from gpt2web.safetensors import MAX_MESSAGE, CheckpointError

SECONDS = 1.0
MEGABYTES = 130  # what MAX_JSON_VALUES allows
HANGS = 20  # seconds of processor time after which a case is broken off
CASE_BYTES = 48  # of decisions
CONTROLS = 500  # cases between two readings of the unchanged folders


class Hang(BaseException):
    """Raised into a case that goes on and on."""


class Fuzzer:
    """The folders on disk, one of them changed at a time, and what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folders = hostile.whole_folders()
        self.targets = hostile.targets()
        for name, files in self.folders.items():
            (path / name / "tiny").mkdir(parents=True)
            for file, data in files.items():
                (path / name / "tiny" / file).write_bytes(data)
        self.wanted = {name: self.read(name) for name in self.folders}
        self.cases: collections.Counter[str] = collections.Counter()
        self.loaded: collections.Counter[str] = collections.Counter()
        self.found: dict[str, str] = {}
        self.most_seconds = self.most_megabytes = 0.0

    def read(self, name: str) -> bytes:
        path = self.path / name / "tiny"
        if name in hostile.CONVERTED:
            return hostile.convert(path)
        return asyncio.run(hostile.load(path))

    def control(self) -> None:
        for name, wanted in self.wanted.items():
            assert self.read(name) == wanted, f"the whole folder {name!r} is read otherwise"

    def case(self, target: str, decisions: bytes) -> str | None:
        """One case; what is wrong with how it went, or None."""
        name, file, change = self.targets[target]
        whole = self.folders[name][file]
        changed = change(hostile.Choices(decisions), whole)
        path = self.path / name / "tiny" / file
        path.write_bytes(changed)
        self.cases[target] += 1
        forget_peak()
        before, start = memory("VmRSS"), time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, HANGS)
        problem = None
        try:
            self.read(name)
            self.loaded[target] += 1
        except CheckpointError as error:
            problem = wrong_message(str(error), list(self.folders[name]))
        except (Exception, Hang) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
            problem = f"{kind}: {ascii(error)[:300]}"
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            seconds = time.process_time() - start
            megabytes = (memory("VmHWM") - before) / 1e6
            path.write_bytes(whole)
        self.most_seconds = max(self.most_seconds, seconds)
        self.most_megabytes = max(self.most_megabytes, megabytes)
        if problem is None and seconds > SECONDS:
            problem = f"slow: {seconds:.1f} s for {len(changed):,} bytes"
        if problem is None and megabytes > MEGABYTES:
            problem = f"large: {megabytes:.0f} MB for {len(changed):,} bytes"
        if problem is not None:
            self.note(target, decisions, problem)
        return problem

    def note(self, target: str, decisions: bytes, problem: str) -> None:
        kind = f"{target}: {problem.partition(':')[0]}"
        if kind not in self.found:
            self.found[kind] = problem
            print(
                f"{target}: {problem}\n    again: --case {target!r} {decisions.hex()}", flush=True
            )

    def report(self, seconds: float) -> None:
        print(f"{'reader':<24}{'cases':>10}{'loaded':>10}{'refused':>10}")
        for target, count in self.cases.items():
            loaded = self.loaded[target]
            print(f"{target:<24}{count:>10,}{loaded:>10,}{count - loaded:>10,}")
        print(
            f"{sum(self.cases.values()):,} cases in {seconds / 60:.1f} minutes, at most "
            f"{self.most_seconds:.2f} s and {self.most_megabytes:.0f} MB each; "
            f"{len(self.found)} kinds of failure",
            flush=True,
        )


def wrong_message(message: str, files: list[str]) -> str | None:
    if len(message) > MAX_MESSAGE:
        return f"long message: {len(message)} characters: {message[:200]}"
    if not message.isprintable():
        return f"unprintable message: {ascii(message)[:200]}"
    if not (message.startswith("tiny") or any(file in message for file in files)):
        return f"nameless message: {message[:200]}"
    return None


def memory(key: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def break_off(*_: Any) -> None:
    raise Hang(f"not done after {HANGS} s")


def fuzz(fuzzer: Fuzzer, minutes: float, seed: int, only: list[str]) -> None:
    names = only or list(fuzzer.targets)
    start, generator = time.monotonic(), random.Random(seed)
    number = 0
    with contextlib.suppress(KeyboardInterrupt):
        while time.monotonic() - start < 60 * minutes:
            fuzzer.case(names[number % len(names)], generator.randbytes(CASE_BYTES))
            number += 1
            if number % CONTROLS == 0:
                fuzzer.control()
    fuzzer.control()
    fuzzer.report(time.monotonic() - start)


def fuzz_guided(fuzzer: Fuzzer, minutes: float, seed: int) -> None:
    """libFuzzer ends the process itself: the report is printed on the way out."""
    names = list(fuzzer.targets)
    start = time.monotonic()

    def one(data: bytes) -> None:
        if not data:
            return
        fuzzer.case(names[data[0] % len(names)], data[1:])
        if sum(fuzzer.cases.values()) % CONTROLS == 0:
            fuzzer.control()
        if time.monotonic() - start > 60 * minutes:
            fuzzer.control()
            fuzzer.report(time.monotonic() - start)
            shutil.rmtree(fuzzer.path)
            os._exit(bool(fuzzer.found))

    lengths = [f"-max_len={CASE_BYTES + 1}", "-len_control=0"]
    options = [f"-seed={seed + 1}", *lengths, "-rss_limit_mb=4096", "-verbosity=0"]
    options += [f"-artifact_prefix={fuzzer.path}/", "-report_slow_units=1000"]
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzzes every reader of files.")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", action="append", default=[], help="a reader, of those in the table"
    )
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--case", nargs=2, metavar=("READER", "HEX"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGVTALRM, break_off)
    with tempfile.TemporaryDirectory() as path:
        fuzzer = Fuzzer(Path(path))
        if arguments.case:
            target, decisions = arguments.case
            print(fuzzer.case(target, bytes.fromhex(decisions)) or "as it should be")
            fuzzer.report(0)
        elif arguments.guided:
            fuzz_guided(fuzzer, arguments.minutes, arguments.seed)
        else:
            fuzz(fuzzer, arguments.minutes, arguments.seed, arguments.only)
    return 1 if fuzzer.found else 0


if __name__ == "__main__":
    sys.exit(main())

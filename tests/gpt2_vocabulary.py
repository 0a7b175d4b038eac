"""GPT-2's real merges and an independent tokenizer for it, both out of npm's js-tiktoken.

js-tiktoken carries the byte strings of GPT-2's tokens in the order of their ranks, without the
merges. A token's merge is what byte-pair encoding its own bytes with all stronger merges leaves:
always two parts.
"""

import base64
import functools
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

from gpt2web.bpe import BYTE_TO_CHARACTER

TESTS = Path(__file__).parent
JS_TIKTOKEN = TESTS.parent / "node_modules" / "js-tiktoken"


@functools.cache
def gpt2_merges() -> list[str]:
    """The 50,000 rules of GPT-2's merges.txt, "left right" in the byte alphabet."""
    ranks = gpt2_ranks()
    return [
        " ".join("".join(BYTE_TO_CHARACTER[byte] for byte in part) for part in parts)
        for token, rank in ranks.items()
        if len(parts := split_once(token, ranks, rank)) > 1
    ]


def gpt2_ranks() -> dict[bytes, int]:
    """GPT-2's tokens as bytes -> id, without <|endoftext|>."""
    source = (JS_TIKTOKEN / "dist" / "ranks" / "gpt2.js").read_text(encoding="utf-8")
    table = json.loads(source.removeprefix("export default ").rstrip().rstrip(";"))
    ranks = {}
    for line in table["bpe_ranks"].splitlines():  # each line: !, the first rank, then the tokens
        _, first, *tokens = line.split(" ")
        ranks |= {base64.b64decode(token): int(first) + i for i, token in enumerate(tokens)}
    return ranks


def split_once(token: bytes, ranks: dict[bytes, int], rank: int) -> list[bytes]:
    """What the merges stronger than `rank` make of `token`.

    >>> split_once(b"the", {b"t": 0, b"h": 1, b"e": 2, b"th": 3, b"the": 4}, 4)
    [b'th', b'e']
    """
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        best, i = min(
            (ranks.get(left + right, rank), i)
            for i, (left, right) in enumerate(itertools.pairwise(parts))
        )
        if best >= rank:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def js_tiktoken(texts: list[str]) -> dict[str, Any]:
    """What Node has to say: "plain" and "special" hold the ids of each text, the second with
    <|endoftext|> parsed; "letters" and "numbers" the code points of its \\p{L} and \\p{N}, and
    "unicode" the version that those are of.
    """
    node = subprocess.run(
        ["node", str(TESTS / "js_tiktoken.mjs")],
        input=json.dumps(texts),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    answer: dict[str, Any] = json.loads(node.stdout)
    return answer

"""Writes data/tokenizers.json: tokenizer.json files as Transformers saves them, and what its
tokenizers make of odd texts.

Run it with transformers 5 installed (not part of the test environment):

    python tests/record_tokenizers.py
"""

import json
import tempfile
from pathlib import Path

from transformers import GPT2TokenizerFast

HERE = Path(__file__).parent
MERGES = HERE.parent / "web/models/stories/merges.txt"
TEXTS = [
    "",
    "  a  b\n\n\tc ",
    "don't we'll I'M the queen",
    "naïve café — “quoted” …",
    "日本語 12345 👩‍👩‍👧 🇩🇪",
    "\u00a0\u2003x\u200b\x1c\x00",
    "the<|endoftext|> the<|pad|>then dragonfly  queen<|endoftext|>",
    "dragonflydragonflies queen queens<|pad|> <|pad|><|pad",
    "A\r\nB\r",
]


def bytes_first() -> list[str]:
    """GPT-2's 256 bytes in its alphabet, in the order of their ids."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(256 - len(printable))]


def record(tokenizer: GPT2TokenizerFast) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        text = (Path(folder) / "tokenizer.json").read_text("utf-8")
    ids = [tokenizer.encode(text) for text in TEXTS]
    decoded = [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in ids]
    assert decoded == [text.encode().decode() for text in TEXTS]
    return {"tokenizer.json": json.loads(text), "ids": ids}


def main() -> None:
    rules = MERGES.read_text("utf-8").splitlines()[1:81]
    tokens = [*bytes_first(), *(rule.replace(" ", "") for rule in rules), "<|endoftext|>"]
    vocab = {token: token_id for token_id, token in enumerate(dict.fromkeys(tokens))}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(vocab))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n" + "\n".join(rules) + "\n")
        (Path(folder) / "config.json").write_text('{"model_type": "gpt2"}')
        tokenizer = GPT2TokenizerFast.from_pretrained(folder)
        plain = record(tokenizer)
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        tokenizer.add_tokens(["dragonfly", " queen"])
        added = record(tokenizer)
    found = {"texts": TEXTS, "plain": plain, "added": added}
    (HERE / "data/tokenizers.json").write_text(json.dumps(found, indent=None) + "\n")


if __name__ == "__main__":
    main()

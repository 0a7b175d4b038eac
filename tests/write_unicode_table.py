"""Write py/gpt2web/unicode_table.py: the letters and numbers of one fixed Unicode version.

    python3.14 tests/write_unicode_table.py > py/gpt2web/unicode_table.py

Needs a Python whose unicodedata is that version: 3.14, or Pyodide 314 (the tests run it there and
compare). The version is 16.0.0 because the page's Python, OpenAI's tiktoken 0.14 and Hugging Face's
tokenizers 0.23 all have it: their letters and numbers are exactly these.
"""

import sys
import textwrap
import unicodedata

UNICODE_VERSION = "16.0.0"

MODULE = '''"""The letters and numbers of Unicode {version}, as ranges of code points.

Python's own tables differ from version to version, and GPT-2 splits a text by them, so the
same text would get other ids natively than in the page. Written by tests/write_unicode_table.py.
"""

UNICODE_VERSION = "{version}"

# Hexadecimal: "41-5A" is U+0041 to U+005A, both included; "AA" is U+00AA alone.
LETTERS = """
{letters}
"""

NUMBERS = """
{numbers}
"""
'''


def ranges(major_category: str) -> str:
    """The code points whose category starts with `major_category`, as lines of "first-last"."""
    words = []
    first = None
    for code in range(sys.maxunicode + 2):
        member = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == major_category
        if member and first is None:
            first = code
        elif not member and first is not None:
            last = code - 1
            words.append(f"{first:X}" if first == last else f"{first:X}-{last:X}")
            first = None
    return textwrap.fill(" ".join(words), width=100, break_on_hyphens=False)


def module_text() -> str:
    """The whole text of unicode_table.py."""
    if unicodedata.unidata_version != UNICODE_VERSION:
        raise SystemExit(
            f"this needs Unicode {UNICODE_VERSION}, and the unicodedata of Python "
            f"{sys.version.split()[0]} has {unicodedata.unidata_version}; run it with Python 3.14"
        )
    return MODULE.format(version=UNICODE_VERSION, letters=ranges("L"), numbers=ranges("N"))


if __name__ == "__main__":
    sys.stdout.write(module_text())

"""Run by in_pyodide.mjs: the page's ids for {"merges", "texts"}, and the table of its Unicode."""

import json
import sys
import types

# Only modules without a GPU are wanted here, not what gpt2web's own __init__ brings in.
package = types.ModuleType("gpt2web")
package.__path__ = ["/py/gpt2web"]
sys.modules["gpt2web"] = package
sys.path.insert(0, "/tests")
sys.dont_write_bytecode = True

import write_unicode_table  # noqa: E402
from gpt2web.tokenizer import GPT2Tokenizer  # noqa: E402

request = json.loads(stdin)  # type: ignore[name-defined]  # noqa: F821
tokenizer = GPT2Tokenizer(None, request["merges"])
ids = [tokenizer(text) for text in request["texts"]]
stdout = json.dumps(
    {
        "python": sys.version_info[:2],
        "ids": ids,
        "texts": tokenizer.detokenize(ids),
        "unicode_table": write_unicode_table.module_text(),
    }
)

"""Writes py/gpt2web/answers.json, what the self-test expects, from the numpy reference.

    python tests/record_answers.py

tests/test_selftest.py holds the file against a fresh computation.
"""

import json
from pathlib import Path

import numpy as np

import reference
from gpt2web import selftest
from gpt2web.sampling import choose, penalized

ANSWERS = Path(__file__).parents[1] / "py" / "gpt2web" / "answers.json"


def answers():
    """{"int8": {"long/q": values, ...}, "int4": ...}"""
    return {precision: answers_in(precision) for precision in ("int8", "int4")}


def answers_in(precision):
    """{"long/q": values, ...}: what each buffer holds after one step on each prompt."""
    config = selftest.CONFIG
    shapes = reference.weight_shapes(config)
    fixed = selftest.fixed_weights(precision)
    weights = {name: np.array(values).reshape(shapes[name]) for name, values in fixed.items()}
    first, layer = (reference.layer_weights(weights, index) for index in range(2))
    found = {}
    for name, count in selftest.PROMPTS.items():
        ids = selftest.prompt(count)
        x = reference.embed(weights, ids, np.arange(count))
        x = x + reference.self_attention(config, first, reference.norm(config, first, "ln_1", x))
        x = x + reference.feed_forward(first, reference.norm(config, first, "ln_2", x))
        y = reference.norm(config, layer, "ln_1", x)
        qkv = reference.matmul(y, layer["attn.c_attn.weight"], layer["attn.c_attn.bias"])
        q, k, v = reference.split_qkv(qkv, config.num_heads)
        attended = reference.attend(q[-1], k, v).reshape(-1)
        projection = layer["attn.c_proj.weight"], layer["attn.c_proj.bias"]
        x = x[-1] + reference.matmul(attended, *projection)
        y = reference.norm(config, layer, "ln_2", x)
        units = reference.matmul(y, layer["mlp.c_fc.weight"], layer["mlp.c_fc.bias"])
        x = x + reference.feed_forward(layer, y)
        logits = reference.head(config, weights, x)
        choice = choose(list(logits), selftest.SAMPLING, seed=selftest.SEED, seen=ids)
        assert choice.margin > 1e-3, "a self-test must not depend on rounding"
        logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        best = np.argsort(-logits, kind="stable")[: selftest.ALTERNATIVES]
        found |= {
            f"{name}/q": q[-1].reshape(-1),
            f"{name}/attended": attended,
            f"{name}/hidden_units": reference.gelu(units),
            f"{name}/logits": logits,
            f"{name}/scores": penalized(list(logits), selftest.SAMPLING, ids),
            f"{name}/ring": [choice.id, logprobs[choice.id]]
            + [value for i in best for value in (i, logprobs[i])],
        }
    return {name: [float(f"{value:.7g}") for value in values] for name, values in found.items()}


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(answers(), indent=0) + "\n", encoding="utf-8")
    print(f"wrote {ANSWERS.stat().st_size:,} bytes")

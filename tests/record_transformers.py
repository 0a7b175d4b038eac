"""Writes data/forms/transformers and transformers-sharded, as Transformers' save_pretrained does.

    python tests/record_transformers.py      # pip install torch transformers safetensors

The weights are reference.random_weights of FIELDS, so that tests know them.
"""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "py"))
import reference
from forms import FIELDS, FORMS, MERGES, SEED, vocabulary

config = GPT2Config(
    vocab_size=FIELDS["vocabulary_size"],
    n_positions=FIELDS["max_sequence_length"],
    n_embd=FIELDS["hidden_dim"],
    n_layer=FIELDS["num_layers"],
    n_head=FIELDS["num_heads"],
    bos_token_id=FIELDS["vocabulary_size"] - 1,
    eos_token_id=FIELDS["vocabulary_size"] - 1,
)
weights = reference.random_weights(SimpleNamespace(**FIELDS), SEED)
model = GPT2LMHeadModel(config)
state = {f"transformer.{name}": torch.from_numpy(values) for name, values in weights.items()}
missing, unexpected = model.load_state_dict(state, strict=False)
assert set(missing) == {"lm_head.weight"} and not unexpected

single, sharded = FORMS / "transformers", FORMS / "transformers-sharded"
for folder in (single, sharded):
    shutil.rmtree(folder, ignore_errors=True)
model.save_pretrained(single)
(single / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
(single / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8")

model.to(torch.bfloat16).save_pretrained(sharded, max_shard_size="6KB")
tokenizer = GPT2TokenizerFast(
    vocab=vocabulary(), merges=[tuple(rule.split()) for rule in MERGES], model_max_length=24
)
tokenizer.save_pretrained(sharded)

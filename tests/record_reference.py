"""Records what Transformers' GPT2LMHeadModel computes, for the tests to compare with.

    pip install torch transformers
    python tests/record_reference.py

Writes tests/data/random_models.npz, padded.npz, inspections.npz and stories.npz. The model runs in
eval mode, in float32, with eager attention, on the CPU. Random weights are not stored:
`reference.random_weights` makes them again from the seed, and the stored checksum shows that they
are the same.

random_models.npz, for each model `name` of the list `names`:
    name/config      JSON: GPT2Config's fields, the seed, the checksum of the weights
    name/ids         int32 [n]: the tokens, as many as the model's context holds
    name/logits      float32 [n, vocabulary]

padded.npz, for two of those models; positions are columns:
    name/ids         int32 [4, n]
    name/mask        bool [4, n]: no padding, on the right, on the left, and holes
    name/hidden      float32 [4, n, hidden]: after the final norm; no meaning at masked columns
    name/losses      float32 [4, n]: of the next column's id (the last column's: the row's first)

inspections.npz, for two of those models, at each position p of name/positions, behind ids[:p + 1]:
    name/attention/p float32 [layers, heads, p + 1]: output_attentions
    name/lens/p      float32 [layers + 1, vocabulary]: log-probabilities of ln_f and lm_head over
                     output_hidden_states, whose last one has been through ln_f

stories.npz, for the bundled model; every prompt starts with <|endoftext|>:
    about            JSON: versions, the model file's SHA-256, the texts
    logits/i/ids     int32 [n]
    logits/i/positions   int32 [m]: the positions whose logits are stored
    logits/i/logits  float32 [m, vocabulary]
    greedy/i/ids     int32 [n + 200]: the prompt, then 200 greedy tokens (<|endoftext|> is no stop)
    greedy/i/prompt  int: n
    greedy/i/gaps    float32 [200]: the largest logit less the second largest, at each step
    loss/ids         int32 [n]
    loss/losses      float32 [n - 1]: of every token given those before it, in nats
"""

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers

import reference

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data"
STORIES = ROOT / "web" / "models" / "stories"

FIELDS = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "max_sequence_length",
    "layer_norm_epsilon",
)
MODELS = {
    #                vocabulary  layers  heads  hidden  inner  context  epsilon
    "one_wide_heads": (11, 1, 2, 2, 8, 9, 1e-5),
    "odd_everything": (5, 1, 1, 6, 7, 3, 1e-5),
    "three_heads_of_two": (97, 2, 3, 6, 24, 17, 1e-5),
    "five_heads_of_two": (257, 3, 5, 10, 40, 33, 1e-5),
    "heads_of_seven": (97, 1, 3, 21, 50, 65, 1e-3),
    "one_head_of_64": (257, 2, 1, 64, 256, 70, 1e-5),
    "four_heads_of_16": (101, 3, 4, 64, 256, 130, 1e-5),
    "five_heads_of_64": (131, 2, 5, 320, 1280, 40, 1e-5),
}

PROMPTS = {  # text: the positions to store ("all", or the last so many)
    "Once upon a time, there was a little girl named Lily.": "all",
    "": "all",
    'The old man said, "Why, it\'s naïve – 123 dogs!"\n\n\tThen 🐉 flew away.': 4,
    "The cat sat on the mat and the dog ran to the tree. " * 40: 4,  # cut at the context's end
}
GREEDY_STEPS = 200
SMALLEST_GAP = 0.005  # of logits up to about 20: over twice what an error of 1e-4 of that can close
GREEDY_CANDIDATES = [
    "Once upon a time, there was a little girl named Lily.",
    "One day, a boy named Tom went to the park with his mom.",
    "The king had three sons,",
    "There was once a fox who",
    "Long ago, in a small village by the sea,",
    "The little dog was very sad because",
    "In the middle of the forest stood an old house.",
    "Anna and Ben like to play in the garden.",
    "It was a cold winter morning, and the snow",
    "The rabbit looked at the moon and said,",
]
LOSS_TEXT = (
    "One day, a little boy named Tim found a red ball in the garden. He ran to his mother and "
    'said, "Look what I found!" His mother smiled. "That is a very nice ball," she said. "Whose is '
    'it?" Tim did not know. So they went from house to house and asked, until an old woman by the '
    "river clapped her hands and laughed, for it was hers. She gave Tim a warm cake, and they "
    "played together until the sun went down."
)


def run_model(model, ids):
    """Logits: int [n] -> float32 [n, vocabulary]"""
    with torch.no_grad():
        return model(torch.tensor([list(map(int, ids))])).logits[0].numpy()


def make_model(config, weights):
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocabulary_size,
            n_positions=config.max_sequence_length,
            n_embd=config.hidden_dim,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            n_inner=config.intermediate_dim,
            layer_norm_epsilon=config.layer_norm_epsilon,
            activation_function="gelu_new",
            attn_implementation="eager",
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    missing, unexpected = model.transformer.load_state_dict(
        {name: torch.from_numpy(values) for name, values in weights.items()}, strict=False
    )
    assert not unexpected and all(name.endswith(("attn.bias", "masked_bias")) for name in missing)
    model.tie_weights()
    assert model.lm_head.weight is model.transformer.wte.weight
    return model


def record_random_models():
    arrays = {"names": np.array(list(MODELS))}
    for seed, (name, values) in enumerate(MODELS.items(), start=1):
        config = SimpleNamespace(**dict(zip(FIELDS, values, strict=True)))
        weights = reference.random_weights(config, seed)
        # Full context; the ids come from the seed as well, but are stored to be readable.
        raw = np.random.PCG64(1000 + seed).random_raw(config.max_sequence_length)
        ids = (raw % config.vocabulary_size).astype(np.int32)
        logits = run_model(make_model(config, weights), ids)
        spread = np.ptp(logits, axis=-1).mean()
        assert spread > 1, f"{name}: logits spread over {spread} only"
        print(f"{name}: logits spread over {spread:.2f}, largest {np.abs(logits).max():.2f}")
        about = vars(config) | {"seed": seed, "checksum": reference.checksum(weights)}
        arrays[f"{name}/config"] = np.array(json.dumps(about))
        arrays[f"{name}/ids"] = ids
        arrays[f"{name}/logits"] = logits
    np.savez_compressed(DATA / "random_models.npz", **arrays)


def padding_masks(n):
    """bool [4, n]"""
    mask = np.ones((4, n), bool)
    mask[1, n // 2 :] = False
    mask[2, : n // 3] = False
    mask[3, [0, 3, 4, n - 2]] = False
    return mask


def record_padded():
    arrays = {}
    for name in ("three_heads_of_two", "five_heads_of_two"):
        recorded = reference.recorded_model(name)
        n = len(recorded.ids)
        ids = np.stack([np.roll(recorded.ids, shift) for shift in range(4)])
        mask = padding_masks(n)
        model = make_model(recorded.config, recorded.weights)
        with torch.no_grad():
            outputs = model(
                torch.tensor(ids, dtype=torch.long),
                attention_mask=torch.tensor(mask, dtype=torch.long),
                position_ids=torch.arange(n).expand(4, n),
                output_hidden_states=True,
            )
        log_probabilities = torch.log_softmax(outputs.logits.double(), -1).numpy()
        targets = np.roll(ids, -1, axis=1)
        losses = -np.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0]
        arrays[f"{name}/ids"] = ids
        arrays[f"{name}/mask"] = mask
        arrays[f"{name}/hidden"] = outputs.hidden_states[-1].numpy()  # after ln_f
        arrays[f"{name}/losses"] = losses.astype(np.float32)
        print(f"{name}, padded: losses up to {losses.max():.2f}")
    np.savez_compressed(DATA / "padded.npz", **arrays)


def record_inspections():
    arrays = {}
    for name in ("five_heads_of_two", "four_heads_of_16"):
        recorded = reference.recorded_model(name)
        model = make_model(recorded.config, recorded.weights)
        positions = [0, 7, len(recorded.ids) - 1]
        arrays[f"{name}/positions"] = np.array(positions)
        for position in positions:
            ids = torch.tensor([recorded.ids[: position + 1].tolist()])
            with torch.no_grad():
                outputs = model(ids, output_attentions=True, output_hidden_states=True)
                *streams, last = [states[0, -1] for states in outputs.hidden_states]
                states = torch.stack([*map(model.transformer.ln_f, streams), last])
                lens = torch.log_softmax(model.lm_head(states).double(), -1)
            attention = torch.stack([layer[0, :, -1] for layer in outputs.attentions])
            arrays[f"{name}/attention/{position}"] = attention.numpy()
            arrays[f"{name}/lens/{position}"] = lens.numpy().astype(np.float32)
            said = torch.log_softmax(outputs.logits[0, -1].double(), -1)
            assert torch.allclose(lens[-1], said, atol=1e-5)
        spread = np.ptp(arrays[f"{name}/attention/{position}"], axis=-1).mean()
        print(f"{name}, looked into: attention spreads over {spread:.2f}")
    np.savez_compressed(DATA / "inspections.npz", **arrays)


def greedy(model, prompt):
    """200 greedy tokens and the top-2 gap of each, every step with the whole text anew."""
    ids, gaps = list(prompt), []
    for _ in range(GREEDY_STEPS):
        logits = run_model(model, ids)[-1]
        second, first = np.sort(logits)[-2:]
        gaps.append(first - second)
        ids.append(int(logits.argmax()))
    return np.array(ids, np.int32), np.array(gaps, np.float32)


def record_stories():
    tokenizer = transformers.GPT2TokenizerFast(
        str(STORIES / "vocab.json"), str(STORIES / "merges.txt")
    )
    model = transformers.GPT2LMHeadModel.from_pretrained(
        STORIES, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    start, context = model.config.bos_token_id, model.config.n_positions

    def encode(text):
        return np.array([start, *tokenizer(text)["input_ids"]], np.int32)[:context]

    arrays = {}
    for index, (text, count) in enumerate(PROMPTS.items()):
        ids = encode(text)
        positions = np.arange(len(ids), dtype=np.int32)[0 if count == "all" else -count :]
        arrays[f"logits/{index}/ids"] = ids
        arrays[f"logits/{index}/positions"] = positions
        arrays[f"logits/{index}/logits"] = run_model(model, ids)[positions]
        print(f"prompt {index}: {len(ids)} tokens, {len(positions)} positions stored")

    # Greedy ids can only be asked of another implementation where no two logits nearly tie. Of the
    # candidates whose smallest gap is wide enough, the two that repeat themselves least.
    runs = {text: greedy(model, encode(text)) for text in GREEDY_CANDIDATES}
    for text, (ids, gaps) in runs.items():
        print(f"{text!r}: smallest gap {gaps.min():.5f}, {len(set(ids.tolist()))} distinct ids")
    wide = [text for text in GREEDY_CANDIDATES if runs[text][1].min() > SMALLEST_GAP]
    best = sorted(wide, key=lambda text: -len(set(runs[text][0].tolist())))[:2]
    for index, text in enumerate(best):
        ids, gaps = runs[text]
        arrays[f"greedy/{index}/ids"] = ids
        arrays[f"greedy/{index}/prompt"] = np.array(len(ids) - GREEDY_STEPS)
        arrays[f"greedy/{index}/gaps"] = gaps
        print(tokenizer.decode(ids.tolist()))

    ids = encode(LOSS_TEXT)
    log_probabilities = torch.log_softmax(torch.from_numpy(run_model(model, ids)).double(), -1)
    losses = -log_probabilities.numpy()[np.arange(len(ids) - 1), ids[1:]]
    arrays["loss/ids"] = ids
    arrays["loss/losses"] = losses.astype(np.float32)
    print(f"loss: {losses.mean():.4f} nats a token over {len(losses)} tokens")

    about = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "sha256": hashlib.sha256((STORIES / "model.safetensors").read_bytes()).hexdigest(),
        "prompts": list(PROMPTS),
        "greedy": best,
        "loss": LOSS_TEXT,
    }
    np.savez_compressed(DATA / "stories.npz", about=np.array(json.dumps(about)), **arrays)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    DATA.mkdir(exist_ok=True)
    record_random_models()
    record_padded()
    record_inspections()
    record_stories()
    for file in sorted(DATA.glob("*.npz")):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes")

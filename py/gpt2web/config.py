"""GPT2Config: the sizes of a GPT-2 model, and the models known by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from gpt2web.arguments import shown, whole_number

# Far over any GPT-2's: what a file may ask for before anything of it is believed.
MAX_SIZE = 2**31 - 1  # ids are int32
MAX_LAYERS = 1000


@dataclass(frozen=True)
class GPT2Config:
    """The hyperparameters of a GPT-2 model.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of decoder blocks.
        num_heads: attention heads per block; divides hidden_dim.
        hidden_dim: width of the embeddings and of every block's output.
        intermediate_dim: width inside a block's feed-forward part, usually 4 * hidden_dim.
        dropout: kept for round trips; inactive at inference.
        max_sequence_length: number of position embeddings, which is the context's length.
        layer_norm_epsilon: added to the variance in every layer norm.

    ValueError: sizes that aren't whole numbers of 1 to MAX_SIZE, or MAX_LAYERS, heads that don't
    divide hidden_dim, a dropout outside [0, 1), an epsilon that isn't above 0.

    >>> GPT2Config.from_preset("gpt2").num_parameters
    124439808
    """

    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float = 0.1
    max_sequence_length: int = 1024
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                # numpy's integers become plain ones
                number = whole_number(value, field.name)
                most = MAX_LAYERS if field.name == "num_layers" else MAX_SIZE
                if number > most:
                    raise ValueError(f"{field.name}: wanted at most {most:,}, got {shown(number)}")
                object.__setattr__(self, field.name, number)
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{field.name}: wanted a number, got {shown(value)}")
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"hidden_dim must be divisible by num_heads, got hidden_dim {self.hidden_dim} and "
                f"num_heads {self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: wanted 0 or more and less than 1, got {self.dropout}")
        if not 0 < self.layer_norm_epsilon < 1:
            raise ValueError(
                f"layer_norm_epsilon: wanted more than 0 and less than 1, got "
                f"{self.layer_norm_epsilon}"
            )

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.hidden_dim // self.num_heads

    @property
    def num_parameters(self) -> int:
        """The number of weights; the head is the token embedding, so it is counted once."""
        hidden, inner = self.hidden_dim, self.intermediate_dim
        embeddings = (self.vocabulary_size + self.max_sequence_length) * hidden
        attention = hidden * 3 * hidden + 3 * hidden + hidden * hidden + hidden
        feed_forward = hidden * inner + inner + inner * hidden + hidden
        layer_norm = 2 * hidden
        block = attention + feed_forward + 2 * layer_norm
        return embeddings + self.num_layers * block + layer_norm

    @classmethod
    def from_preset(cls, name: str) -> "GPT2Config":
        """The config of a model known by name. ValueError, with all names, for any other.

        Hugging Face's spelling (openai-community/gpt2) and KerasHub's (gpt2_base_en) will do.
        """
        return PRESETS[preset_name(name)]

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> Self:
        """The config of a Hugging Face config.json, already parsed.

        ValueError: another architecture than GPT-2's, a missing size, or an option that would
        change the arithmetic (another activation, unscaled or layer-scaled attention, a head of
        its own, cross-attention).
        """
        for key, (wanted, why) in _HUGGING_FACE_FIXED.items():
            value = config.get(key, wanted[0])
            if value not in wanted:
                raise ValueError(
                    f"config.json: wanted {key} {' or '.join(map(repr, wanted))}, got "
                    f"{shown(value)}: {why}"
                )

        def size(key: str) -> int:
            if config.get(key) is None:
                raise ValueError(f"config.json has no {key}; wanted a GPT-2 config with all sizes")
            return whole_number(config[key], f"config.json, {key}")

        hidden_dim = size("n_embd")
        return cls(
            vocabulary_size=size("vocab_size"),
            num_layers=size("n_layer"),
            num_heads=size("n_head"),
            hidden_dim=hidden_dim,
            intermediate_dim=4 * hidden_dim if config.get("n_inner") is None else size("n_inner"),
            dropout=config.get("resid_pdrop", 0.1),
            # very old files have n_ctx alone
            max_sequence_length=size("n_positions" if "n_positions" in config else "n_ctx"),
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        )

    def summary(self) -> str:
        """Every tensor with its shape and parameters, and their sum, as a table."""
        hidden, inner = self.hidden_dim, self.intermediate_dim
        rows: list[tuple[str, str, int]] = [
            (
                "wte (token embedding, also the head)",
                f"{self.vocabulary_size} x {hidden}",
                self.vocabulary_size * hidden,
            ),
            (
                "wpe (position embedding)",
                f"{self.max_sequence_length} x {hidden}",
                self.max_sequence_length * hidden,
            ),
        ]
        for i in range(self.num_layers):
            rows += [
                (f"h.{i}.ln_1", f"2 x {hidden}", 2 * hidden),
                (
                    f"h.{i}.attn.c_attn",
                    f"{hidden} x {3 * hidden} + {3 * hidden}",
                    3 * hidden * (hidden + 1),
                ),
                (f"h.{i}.attn.c_proj", f"{hidden} x {hidden} + {hidden}", hidden * (hidden + 1)),
                (f"h.{i}.ln_2", f"2 x {hidden}", 2 * hidden),
                (f"h.{i}.mlp.c_fc", f"{hidden} x {inner} + {inner}", inner * (hidden + 1)),
                (f"h.{i}.mlp.c_proj", f"{inner} x {hidden} + {hidden}", hidden * (inner + 1)),
            ]
        rows.append(("ln_f", f"2 x {hidden}", 2 * hidden))
        rows.append(("in all", "", sum(count for *_, count in rows)))
        wide = [max(len(name) for name, _, _ in rows), max(len(shape) for _, shape, _ in rows)]
        lines = [f"{name:<{wide[0]}}  {shape:>{wide[1]}}  {n:>13,}" for name, shape, n in rows]
        head = f"{'GPT-2':<{wide[0]}}  {'shape':>{wide[1]}}  {'parameters':>13}"
        return "\n".join([head, "-" * len(head), *lines])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A config from `get_config`. TypeError: an argument it doesn't know, or lacks."""
        return cls(**config)


_GELU = "the feed-forward part is built on GPT-2's tanh GELU"
_HUGGING_FACE_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "model_type": (("gpt2",), "only GPT-2 models can be loaded"),
    "activation_function": (("gelu_new", "gelu_pytorch_tanh"), _GELU),
    "scale_attn_weights": ((True,), "attention without its scale is not supported"),
    "scale_attn_by_inverse_layer_idx": ((False,), "a scale per layer is not supported"),
    "tie_word_embeddings": ((True,), "the head must be the token embedding"),
    "add_cross_attention": ((False,), "cross-attention is not supported"),
}


def _gpt2(layers: int, heads: int, hidden: int) -> GPT2Config:
    return GPT2Config(50257, layers, heads, hidden, 4 * hidden)


# fmt: off
PRESETS = {
    "stories":                    GPT2Config(4096, 6, 4, 256, 1024, 0.0, 384),
    "gpt2":                       _gpt2(layers=12, heads=12, hidden=768),
    "gpt2-medium":                _gpt2(layers=24, heads=16, hidden=1024),
    "gpt2-large":                 _gpt2(layers=36, heads=20, hidden=1280),
    "gpt2-xl":                    _gpt2(layers=48, heads=25, hidden=1600),
    "distilgpt2":                 _gpt2(layers=6,  heads=12, hidden=768),
    # gpt2's sizes with weights of its own (trained on to summarise news): no alias of gpt2
    "gpt2_base_en_cnn_dailymail": _gpt2(layers=12, heads=12, hidden=768),
}

ALIASES = {
    "openai-community/gpt2":        "gpt2",
    "openai-community/gpt2-medium": "gpt2-medium",
    "openai-community/gpt2-large":  "gpt2-large",
    "openai-community/gpt2-xl":     "gpt2-xl",
    "distilbert/distilgpt2":        "distilgpt2",
    "gpt2_base_en":                 "gpt2",
    "gpt2_medium_en":               "gpt2-medium",
    "gpt2_large_en":                "gpt2-large",
    "gpt2_extra_large_en":          "gpt2-xl",
}
# fmt: on


def preset_name(name: str) -> str:
    """The name in PRESETS for it or an alias of it. ValueError, with all names, for any other."""
    canonical = ALIASES.get(name, name)
    if canonical not in PRESETS:
        raise ValueError(f"no preset is called {name!r}; there are {', '.join(PRESETS | ALIASES)}")
    return canonical

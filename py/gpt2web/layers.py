"""The layers of GPT-2, to be called one by one, as KerasHub's and TensorFlow.js's.

Arguments and call signatures are KerasHub's; TensorFlow.js's spelling of a keyword (numHeads for
num_heads) is taken too. A layer's inputs are numpy arrays, nested lists or gpu.Tensors, its outputs
gpu.Tensors. `layer(...)` and `layer.call(...)` block, natively; `await layer.call_async(...)` works
everywhere. Plain kernels, one operation each: the model itself (backbone.py) has faster ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpt2web import kernels
from gpt2web.arguments import array_shape, whole_number
from gpt2web.attention import (
    CachedMultiHeadAttention,
    check_dropout,
    check_training,
    to_cache,
)
from gpt2web.blocking import blocking
from gpt2web.embedding import PositionEmbedding, ReverseEmbedding, ReversibleEmbedding
from gpt2web.gpu import Dispatch, Tensor
from gpt2web.kernels import Norm
from gpt2web.layer import (
    Layer,
    Shape,
    copy_to,
    default_device,
    dense,
    either_case,
    layer_norm,
    sequence_shape,
    set_default_device,
    to_cpu,
)
from gpt2web.masks import (
    compute_causal_mask,
    computeCausalMask,
    mask_words,
    merge_padding_and_attention_mask,
    mergePaddingAndAttentionMask,
)
from gpt2web.variables import Initializer, Variable, check_initializer, snake_case

__all__ = [
    "CachedMultiHeadAttention",
    "PositionEmbedding",
    "ReverseEmbedding",
    "ReversibleEmbedding",
    "TransformerDecoder",
    "computeCausalMask",
    "compute_causal_mask",
    "default_device",
    "mergePaddingAndAttentionMask",
    "merge_padding_and_attention_mask",
    "set_default_device",
]

# What Keras and TensorFlow.js call them -> kernels.ACTIVATIONS
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_approximate": "gelu_approximate",
    "gelu_new": "gelu_approximate",
}


class TransformerDecoder(Layer):
    """A block of a decoder: self-attention, then a feed-forward network, each added to its input
    and normalised by a norm of its own.

    Args:
        intermediate_dim: width inside of the feed-forward network.
        num_heads: heads; divides the inputs' width.
        dropout: kept in the config and inactive: this is inference.
        activation: "relu", "gelu" (with erf), "gelu_approximate" or "gelu_new" (with tanh, which is
            GPT-2's).
        layer_norm_epsilon: added to the variance in both norms.
        kernel_initializer, bias_initializer: as Keras names them, or functions of a shape.
        normalize_first: True normalises before attention and feed-forward network, as GPT-2;
            False after adding, as the original.

    Weights, in Keras's order: `self_attention/...`, eight as of CachedMultiHeadAttention;
    `self_attention_layer_norm/gamma` and `/beta` [hidden]; `feedforward_intermediate_dense/kernel`
    [hidden, intermediate_dim] and `/bias`; `feedforward_output_dense/kernel` [intermediate_dim,
    hidden] and `/bias`; `feedforward_layer_norm/gamma` and `/beta` [hidden].
    Follows KerasHub's layers/modeling/transformer_decoder.py, without cross-attention.
    """

    @either_case
    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        activation: str = "relu",
        layer_norm_epsilon: float = 1e-5,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        normalize_first: bool = False,
        *,
        decoder_sequence_shape: Sequence[int] | None = None,
        encoder_sequence_shape: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.intermediate_dim = whole_number(intermediate_dim, "intermediate_dim")
        self.num_heads = whole_number(num_heads, "num_heads")
        self.dropout = check_dropout(dropout)
        self.activation = _activation_name(activation)
        self.layer_norm_epsilon = float(layer_norm_epsilon)
        self.kernel_initializer = check_initializer(kernel_initializer, "kernel_initializer")
        self.bias_initializer = check_initializer(bias_initializer, "bias_initializer")
        self.normalize_first = bool(normalize_first)
        _refuse_cross_attention(encoder_sequence_shape=encoder_sequence_shape)
        if decoder_sequence_shape is not None:
            self.build(decoder_sequence_shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "intermediate_dim": self.intermediate_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
            "normalize_first": self.normalize_first,
        }

    def build(self, decoder_sequence_shape: Sequence[int]) -> None:
        """Make the weights, for inputs of a shape [..., hidden].

        Raises ValueError for a hidden that num_heads does not divide.
        """
        hidden = decoder_sequence_shape[-1]
        if hidden < self.num_heads or hidden % self.num_heads:
            raise ValueError(
                f"the inputs' width is {hidden}, num_heads {self.num_heads}: wanted a width that "
                "it divides, so that each head has its share of 1 channel or more"
            )
        kernel, bias = self.kernel_initializer, self.bias_initializer
        self.self_attention = CachedMultiHeadAttention(
            num_heads=self.num_heads,
            key_dim=hidden // self.num_heads,
            kernel_initializer=kernel,
            bias_initializer=bias,
            device=self.device,
            name="self_attention",
        )
        self.self_attention.build((hidden,))
        inner = self.intermediate_dim
        parts: list[tuple[str, tuple[int, ...], Initializer]] = [
            ("self_attention_layer_norm/gamma", (hidden,), "ones"),
            ("self_attention_layer_norm/beta", (hidden,), "zeros"),
            ("feedforward_intermediate_dense/kernel", (hidden, inner), kernel),
            ("feedforward_intermediate_dense/bias", (inner,), bias),
            ("feedforward_output_dense/kernel", (inner, hidden), kernel),
            ("feedforward_output_dense/bias", (hidden,), bias),
            ("feedforward_layer_norm/gamma", (hidden,), "ones"),
            ("feedforward_layer_norm/beta", (hidden,), "zeros"),
        ]
        self.named_weights = {}
        for weight in self.self_attention.weights:
            weight.name = f"self_attention/{weight.name}"
            self.named_weights[weight.name] = weight
        for name, shape, initializer in parts:
            rows = shape[0] if len(shape) == 2 else None
            self.named_weights[name] = Variable(name, shape, initializer, rows)

    def _build_for(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.build(shapes[0][:1] or (0,))

    @either_case
    def compute_output_shape(self, decoder_sequence_shape: Sequence[int | None]) -> Shape:
        """decoder_sequence's."""
        return tuple(decoder_sequence_shape)

    @either_case
    async def call_async(
        self,
        decoder_sequence: Any,
        encoder_sequence: Any = None,
        decoder_padding_mask: Any = None,
        decoder_attention_mask: Any = None,
        encoder_padding_mask: Any = None,
        encoder_attention_mask: Any = None,
        self_attention_cache: Any = None,
        self_attention_cache_update_index: int | None = None,
        cross_attention_cache: Any = None,
        cross_attention_cache_update_index: int | None = None,
        use_causal_mask: bool = True,
        training: bool | None = None,
    ) -> Any:
        """The block's output, and, when a cache is given, the cache.

        Args:
            decoder_sequence: [batch, length, hidden], or one row without its batch axis.
            decoder_padding_mask: [batch, length], or [batch, slots] with a cache: True for a token
                that others may attend to. What comes out at a masked token has no meaning.
            decoder_attention_mask: [batch, length, length or slots].
            self_attention_cache: [batch, 2, slots, num_heads, hidden / num_heads].
            self_attention_cache_update_index: slot of the first token of decoder_sequence; None
                attends to what the cache holds and writes nothing.
            use_causal_mask: whether a token sees only those at and before it.
            training: True is an error where dropout is not 0.
            All others: cross-attention, which is not built here; giving one is an error.

        Returns a Tensor of decoder_sequence's shape; with a cache (output, cache), where the cache
        is a new Tensor and the one given stays as it is.
        Raises ValueError for shapes that do not fit, an index without a cache, tokens beyond the
        cache's end, and cross-attention.
        """
        _refuse_cross_attention(
            encoder_sequence=encoder_sequence,
            encoder_padding_mask=encoder_padding_mask,
            encoder_attention_mask=encoder_attention_mask,
            cross_attention_cache=cross_attention_cache,
            cross_attention_cache_update_index=cross_attention_cache_update_index,
        )
        check_training(training, self.dropout)
        batch, length, hidden = sequence_shape(decoder_sequence, "decoder_sequence")
        if not self.built:
            self.build((hidden,))
        attention = self.self_attention
        attention.check_widths(hidden, hidden, hidden)
        index = self_attention_cache_update_index
        slots = attention.check_cache(self_attention_cache, index, batch, length)
        slots = length if slots is None else slots
        merged = merge_padding_and_attention_mask(
            None, await to_cpu(decoder_padding_mask), await to_cpu(decoder_attention_mask)
        )
        if merged is not None and array_shape(merged) not in (
            (batch, 1, slots),
            (batch, length, slots),
        ):
            raise ValueError(
                f"masks: wanted [{batch}, {slots}] for padding and [{batch}, {length}, {slots}] "
                f"for attention, got {list(array_shape(merged))} from both"
            )
        mask = mask_words(merged, batch, self.num_heads, length, slots)
        device = await self._device_of(decoder_sequence, self_attention_cache)
        cache = to_cache(device, self_attention_cache, index)
        horizon = (cache.first or 0 if cache else 0) + 1 if use_causal_mask else slots

        # [batch * length, hidden]
        x = copy_to(device, decoder_sequence, "decoder_sequence", (batch * length, hidden))
        calls: list[Dispatch] = []
        source = self._norm(calls, x, "self_attention") if self.normalize_first else x
        _, _, kept = attention.attend(
            calls,
            source,
            source,
            source,
            (batch, length),
            slots,
            horizon,
            mask,
            cache,
            residual=x,
        )
        if not self.normalize_first:
            x = self._norm(calls, x, "self_attention")
        source = self._norm(calls, x, "feedforward") if self.normalize_first else x
        inner = self._dense(calls, source, "feedforward_intermediate_dense")
        calls.append(kernels.activation(device, inner, ACTIVATIONS[self.activation]))
        self._dense(calls, inner, "feedforward_output_dense", residual=x)
        if not self.normalize_first:
            x = self._norm(calls, x, "feedforward")
        device.submit(calls)
        given = decoder_sequence
        x.shape = tuple(given.shape) if isinstance(given, Tensor) else array_shape(given)
        return x if kept is None else (x, kept)

    call = blocking(call_async)

    def _norm(self, calls: list[Dispatch], x: Tensor, block: str) -> Tensor:
        gamma, beta = (
            self.named_weights[f"{block}_layer_norm/{name}"] for name in ("gamma", "beta")
        )
        norm = Norm(gamma.vector(x.device), beta.vector(x.device))
        return layer_norm(calls, x, norm, self.layer_norm_epsilon)

    def _dense(
        self, calls: list[Dispatch], source: Tensor, name: str, residual: Tensor | None = None
    ) -> Tensor:
        weight = self.named_weights[f"{name}/kernel"].matrix(source.device)
        bias = self.named_weights[f"{name}/bias"].vector(source.device)
        return dense(calls, source, weight, bias, residual)


def _activation_name(activation: str | Mapping[str, Any] | Callable[..., Any]) -> str:
    """A name in ACTIVATIONS, from it, or from the config of a Keras function."""
    if callable(activation):
        raise ValueError(
            f"activation: a function cannot run on the GPU; wanted one of {', '.join(ACTIVATIONS)}"
        )
    name = activation.get("config") if isinstance(activation, Mapping) else activation
    found = snake_case(name) if isinstance(name, str) else None
    if found not in ACTIVATIONS:
        raise ValueError(f"activation: wanted one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return found


def _refuse_cross_attention(**arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name}: this decoder has no cross-attention, for which an encoder is needed; "
                "GPT-2 has none"
            )

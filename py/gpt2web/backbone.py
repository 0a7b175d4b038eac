"""GPT2Backbone: GPT-2 without its head, a config with weights on the GPU."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gpt2web import kernels
from gpt2web.arguments import PromptTooLong, to_lists, to_rows, whole_numbers
from gpt2web.array_checkpoint import ArrayCheckpoint
from gpt2web.blocking import blocking
from gpt2web.checkpoint import CheckpointError
from gpt2web.chunks import uncached_states
from gpt2web.config import GPT2Config
from gpt2web.embedding import ReverseEmbedding
from gpt2web.gpu import MAX_ROWS, Device, DeviceError, Tensor
from gpt2web.limits import Parameters, parameters
from gpt2web.progress import Report
from gpt2web.turn import Turn
from gpt2web.weights import Source, Weights

DTYPES = {"float32": "f32", "float16": "f16"}  # Keras's words


class GPT2Backbone:
    """The decoder stack of GPT-2: embeddings, blocks, and the norm before the head.

    Args:
        vocabulary_size, num_layers, num_heads, hidden_dim, intermediate_dim, max_sequence_length:
            sizes; attributes of the same names hold them, and `config` all of it.
        dropout: kept in the config and inactive: this is inference.
        precision: "f32", "f16", "int8" or "int4", how matrices are kept; arithmetic is f32 whatever
            it is. int8 has a scale for each 32 weights; int4 for each 16, its embedding is int8.
        dtype: the same in Keras's words, "float32" or "float16".
        device: the GPU to use; None asks for one when it is first needed.

    ValueError: sizes that GPT2Config refuses, more than 256 channels a head, a vocabulary of more
    than 131,072.
    """

    name = "gpt2_backbone"

    def __init__(
        self,
        vocabulary_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        max_sequence_length: int = 1024,
        *,
        layer_norm_epsilon: float = 1e-5,
        precision: str | None = None,
        device: Device | None = None,
        dtype: str | None = None,
        name: str = "gpt2_backbone",
        trainable: bool = True,
    ) -> None:
        self.config = GPT2Config(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
            max_sequence_length=max_sequence_length,
            layer_norm_epsilon=layer_norm_epsilon,
        )
        if self.config.head_dim > kernels.MAX_HEAD_DIM:
            raise ValueError(
                f"head_dim is hidden_dim / num_heads = {self.config.head_dim}; the attention "
                f"kernels hold at most {kernels.MAX_HEAD_DIM}"
            )
        if vocabulary_size > kernels.MAX_VOCABULARY:
            raise ValueError(
                f"vocabulary_size is {vocabulary_size:,}; the sampling kernel's exact sums hold "
                f"at most {kernels.MAX_VOCABULARY:,}"
            )
        self.vocabulary_size = self.config.vocabulary_size
        self.num_layers = self.config.num_layers
        self.num_heads = self.config.num_heads
        self.hidden_dim = self.config.hidden_dim
        self.intermediate_dim = self.config.intermediate_dim
        self.dropout = self.config.dropout
        self.max_sequence_length = self.config.max_sequence_length
        if dtype not in (None, *DTYPES):
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
        self.precision = precision or DTYPES[dtype or "float32"]
        self.name = name
        self.trainable = trainable  # kept in the config: this is inference
        self.device = device
        self.owns_device = device is None  # destroy() frees it then
        self.weights: Weights | None = None
        # puts the weights onto another device (origin.py); None where they came from no folder
        self.restart: Callable[[GPT2Backbone], Awaitable[None]] | None = None
        self.closed = False
        self._turn = Turn()  # generation has one of its own, the model's

    @classmethod
    def from_config(cls, config: GPT2Config | Mapping[str, Any], **options: Any) -> GPT2Backbone:
        """A backbone of a config's sizes, with new weights. TypeError: an argument it doesn't know,
        or lacks."""
        values = config.get_config() if isinstance(config, GPT2Config) else config
        return cls(**values, **options)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, but for the device."""
        keras: dict[str, Any] = {"name": self.name, "trainable": self.trainable}
        dtypes = {kept: name for name, kept in DTYPES.items()}
        if self.precision in dtypes:
            keras["dtype"] = dtypes[self.precision]
        else:
            keras["precision"] = self.precision
        return keras | self.config.get_config()

    @property
    def token_embedding(self) -> ReverseEmbedding:
        """The embedding of ids, and with reverse=True the head, as a layer on this very table."""
        layer = ReverseEmbedding(embedding=self)
        layer.reverse_by_default = False
        return layer

    async def ready(self) -> tuple[Device, Weights]:
        """The device and the weights, as computing() gives them."""
        async with self.computing() as weights:
            return weights.device, weights

    @asynccontextmanager
    async def computing(self) -> AsyncIterator[Weights]:
        """A turn for calls, one after another, with the weights: N(0, 0.02), seed 0, unless others
        were loaded. A device that is known to be lost is replaced first. Raises DeviceError once
        the backbone was destroyed, and for a loss of weights that came from no folder; DeviceLost
        for a loss on the way."""
        await self._turn.take()
        try:
            lost = self.device.lost if self.device is not None else None
            if self.restart is not None and not self.closed:
                if lost is not None or self.weights is None:
                    await self.restart(self)
            elif lost is not None:
                raise DeviceError(
                    f"the GPU was lost, with the weights on it ({lost}): load the model again",
                    code="device-lost",
                )
            if self.weights is None:
                await self._replace(lambda weights: weights.randomize())
            assert self.weights is not None
            yield self.weights
        finally:
            self._turn.give()

    async def call_async(self, inputs: Any) -> Tensor:
        """Hidden states after the final norm: Tensor [batch, length, hidden_dim].

        Args:
            inputs: {"token_ids": [batch, length], "padding_mask": the same or left out}, or the ids
                alone. A token attends to those at and before its column whose mask is True;
                positions are columns. What stands at masked columns has no meaning.

        ValueError: ids outside the vocabulary, rows of different lengths or longer than
        max_sequence_length, more than 256 rows, a mask of another shape.
        """
        token_ids, mask = self.check_inputs(inputs)
        async with self.computing() as weights:
            return await uncached_states(weights, token_ids, mask)

    __call__ = blocking(call_async)
    call = __call__

    def check_inputs(self, inputs: Any) -> tuple[list[list[int]], list[list[bool]] | None]:
        """token_ids and padding_mask as lists, or None for a mask without holes.

        Raises ValueError for anything but rows of one length with ids of the vocabulary.
        """
        mask = None
        if isinstance(inputs, Mapping):
            unknown = set(inputs) - {"token_ids", "padding_mask"}
            if unknown or "token_ids" not in inputs:
                raise ValueError(
                    "inputs: wanted token_ids and padding_mask, got " + ", ".join(map(str, inputs))
                )
            inputs, mask = inputs["token_ids"], inputs.get("padding_mask")
        token_ids = self.check_ids(inputs)
        if mask is not None:
            found, _ = to_rows(mask, "padding_mask")
            if [len(row) for row in found] != [len(row) for row in token_ids]:
                raise ValueError(
                    "padding_mask: wanted the shape of token_ids, "
                    f"{[len(token_ids), len(token_ids[0])]}, got rows of {list(map(len, found))}"
                )
            mask = [[bool(keep) for keep in row] for row in found]
            if all(all(row) for row in mask):
                mask = None
        return token_ids, mask

    def check_ids(self, token_ids: Any, name: str = "token_ids") -> list[list[int]]:
        """token_ids [batch, length] as lists of ints, checked against the config."""
        rows = whole_numbers(to_lists(token_ids))
        if (
            not isinstance(rows, list)
            or not rows
            or not all(isinstance(row, list) and row and len(row) == len(rows[0]) for row in rows)
        ):
            raise ValueError(
                f"{name}: wanted a batch of rows of one length, [batch, length], at least one id "
                f"each, got {_brief(token_ids)}"
            )
        if len(rows) > MAX_ROWS:
            raise ValueError(f"{name}: a batch has at most {MAX_ROWS} rows, got {len(rows)}")
        longest = self.config.max_sequence_length
        if len(rows[0]) > longest:
            raise PromptTooLong(
                f"{name}: a sequence of {len(rows[0]):,} is longer than max_sequence_length, "
                f"{longest:,}"
            )
        for row in rows:
            self.check_row(row, name)
        return rows

    def check_row(self, ids: Iterable[Any], name: str = "token_ids") -> None:
        """Raises ValueError for what is no id of the vocabulary."""
        size = self.config.vocabulary_size
        for i in ids:
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < size:
                raise ValueError(f"{name}: wanted ids of 0 to {size - 1}, got {i!r}")

    async def load_weights_async(self, weights: Mapping[str, Any]) -> None:
        """Take over weights from arrays under their Hugging Face names, with "transformer." or
        without: numpy arrays, or nested lists. Every tensor is wanted; a tied lm_head.weight and
        saved causal masks (h.0.attn.bias) are passed over. Raises ValueError naming the tensor that
        is missing, unknown, misshapen or not finite; the weights stay as they were then."""
        try:
            await self.load(ArrayCheckpoint(self.config, weights))
        except CheckpointError as error:
            raise ValueError(str(error)) from None

    load_weights = blocking(load_weights_async)

    def count_params(self) -> int:
        """The number of weights; the head is the token embedding, so it is counted once."""
        return self.config.num_parameters

    def parameters(self) -> Parameters:
        """Where the weights are: every tensor's name and shape in a checkpoint, its parameters,
        the precision it is kept in, and its bytes on the GPU."""
        return parameters(self.config, self.precision)

    def summary(self) -> str:
        """The model's parts, with shapes and parameters, as a table."""
        return self.config.summary()

    async def load(self, checkpoint: Source, progress: Report | None = None) -> None:
        """Stream the weights of a checkpoint onto the GPU; nothing half-loaded stays behind."""
        await self._turn.take()
        try:
            await self.fill(checkpoint, progress)
            self.restart = None  # it had others
        finally:
            self._turn.give()

    async def _replace(self, fill: Callable[[Weights], Awaitable[None]]) -> None:
        """New weights in place of those there are, once they are filled."""
        weights = await self._allocate()
        try:
            await fill(weights)
            self._check_open()
        except BaseException:
            weights.destroy()
            raise
        if self.weights is not None:
            self.weights.destroy()
        self.weights = weights

    def _check_open(self) -> None:
        if self.closed:
            raise DeviceError("this model was closed: load it again", code="closed")

    async def _allocate(self) -> Weights:
        self._check_open()
        if self.device is None:
            self.device = await Device.request()
        return await Weights.with_room(self.device, self.config, self.precision)

    async def fill(self, checkpoint: Source, progress: Report | None = None) -> None:
        """`load`, for whoever has the turn."""
        await self._replace(lambda weights: weights.load(checkpoint, progress))

    def take_device(self, device: Device) -> None:
        """A device of its own in place of the one it had, with no weights on it yet; for whoever
        has the turn. Raises DeviceError once the backbone was destroyed, and frees it then."""
        self.drop_device()
        self.device, self.owns_device = device, True
        if self.closed:
            self.drop_device()
        self._check_open()

    def drop_device(self) -> None:
        """Free the weights, and the device unless it was given."""
        if self.weights is not None:
            self.weights.destroy()
            self.weights = None
        if self.device is not None and self.owns_device:
            self.device.destroy()
        self.device = None

    def destroy(self) -> None:
        """Free the weights, and the device unless it was given. The backbone is of no use then."""
        self.closed = True
        self.drop_device()


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

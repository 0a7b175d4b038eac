"""PositionEmbedding and ReverseEmbedding: rows of a table, and the table as GPT-2's head."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from gpt2web import kernels
from gpt2web.arguments import array_shape, whole_number
from gpt2web.blocking import block_on, blocking
from gpt2web.config import GPT2Config
from gpt2web.gpu import Device, Dispatch, Tensor, shaped
from gpt2web.kernels import Weight
from gpt2web.layer import Layer, Shape, dense, either_case, to_cpu, to_tensor
from gpt2web.variables import PIECE_BYTES, Initializer, Variable, check_initializer, to_f32
from gpt2web.weights import Weights


class PositionEmbedding(Layer):
    """A learned vector for each position: what GPT-2 adds to its tokens' embeddings.

    Args:
        sequence_length: positions in the table, at least 1.
        initializer: of the table, as Keras names them ("glorot_uniform", {"class_name": ...}), or a
            function of a shape.

    Weight: `position_embeddings` [sequence_length, features]; features is the inputs' last axis.
    Follows KerasHub's layers/modeling/position_embedding.py.
    """

    @either_case
    def __init__(
        self,
        sequence_length: int | None = None,
        initializer: Initializer = "glorot_uniform",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if sequence_length is None:
            raise ValueError("sequence_length: wanted the number of positions, got None")
        self.sequence_length = whole_number(sequence_length, "sequence_length")
        self.initializer = check_initializer(initializer, "initializer")

    def get_config(self) -> dict[str, Any]:
        own = {"sequence_length": self.sequence_length, "initializer": self.initializer}
        return super().get_config() | own

    def build(self, input_shape: Sequence[int]) -> None:
        """Make the weight, for inputs of a shape [..., length, features]."""
        shape = (self.sequence_length, input_shape[-1])
        name = "position_embeddings"
        self.named_weights = {name: Variable(name, shape, self.initializer, shape[0])}

    def _build_for(self, shapes: Sequence[tuple[int, ...]]) -> None:
        self.build(shapes[0] or (1,))

    @either_case
    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Shape:
        """The inputs'."""
        return tuple(input_shape)

    @property
    def position_embeddings(self) -> Variable:
        """The table; may be set to an array."""
        return self._weight("position_embeddings")

    @position_embeddings.setter
    def position_embeddings(self, values: Any) -> None:
        self.set_weights([values])

    @either_case
    async def call_async(self, inputs: Any, start_index: int = 0, positions: Any = None) -> Tensor:
        """The embeddings of the inputs' positions, a Tensor of the inputs' shape.

        Args:
            inputs: [..., length, features], rank 2 or more; only its shape counts.
            start_index: the first position; the others follow.
            positions: in its stead every position, int [..., length], of a shape that broadcasts to
                the inputs' without the last axis.

        Raises ValueError for a position outside the table, or shapes that do not fit.
        """
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else array_shape(inputs)
        if len(shape) < 2:
            raise ValueError(f"inputs: wanted the shape [..., length, features], got {list(shape)}")
        if positions is None:
            first = whole_number(start_index, "start_index", 0)
            if first + shape[-2] > self.sequence_length:
                raise ValueError(
                    f"positions {first} to {first + shape[-2] - 1} are wanted, sequence_length is "
                    f"{self.sequence_length}: make it larger, or the inputs shorter"
                )
            indices = list(range(first, first + shape[-2]))
            found: tuple[int, ...] = shape[-2:-1]
        else:
            positions = await to_cpu(positions)
            found = array_shape(positions)
            indices = _ids(positions, self.sequence_length, "positions")
        if not self.built:
            self.build(shape)
        table = self.position_embeddings
        if table.shape[1] != shape[-1]:
            raise ValueError(
                f"inputs: this layer was built for {table.shape[1]} features, got {shape[-1]}"
            )
        indices = _broadcast(indices, found, shape[:-1])
        device = await self._device_of(inputs)
        return _look_up(device, table.matrix(device, transposed=True), indices, shape)

    call = blocking(call_async)


class TokenEmbedding(Protocol):
    """What ReverseEmbedding may be tied to beside its like: a GPT2Backbone."""

    @property
    def config(self) -> GPT2Config: ...

    async def ready(self) -> tuple[Device, Weights]: ...


class BackboneTable(Variable):
    """A GPT2Backbone's token embedding [vocabulary, hidden], read from its GPU whenever it is asked
    for: by `numpy()` and `value` natively, by `await read()` everywhere."""

    def __init__(self, backbone: TokenEmbedding) -> None:
        config = backbone.config
        shape = (config.vocabulary_size, config.hidden_dim)
        super().__init__("embeddings", shape, "zeros", shape[0])
        self.backbone = backbone

    async def read(self) -> memoryview:
        """The values as a memoryview of `shape`, format "f"."""
        device, weights = await self.backbone.ready()
        count, width = self.shape
        step = max(1, PIECE_BYTES // (4 * width))
        rows = bytearray()
        for first in range(0, count, step):
            ids = list(range(first, min(first + step, count)))
            piece = _look_up(device, weights.matrices["wte.weight"], ids, (len(ids), width))
            rows += await device.read(piece, 4 * piece.size)
        view: memoryview = shaped(memoryview(rows).toreadonly(), self.shape, "f")
        return view

    @property
    def data(self) -> bytes:
        return block_on(self.read(), "embeddings.read").tobytes()

    def take(self, data: bytes) -> None:
        raise ValueError(
            "embeddings: this table is a GPT2Backbone's; use the backbone's load_weights, or give "
            "ReverseEmbedding an array, which it copies"
        )


class ReversibleEmbedding(Layer):
    """An embedding that also runs in reverse, from hidden states to logits: GPT-2's tied head.

    Keras's ReversibleEmbedding, and TensorFlow.js's ReverseEmbedding(embedding).

    Args:
        input_dim: ids, the size of the vocabulary; or, as TensorFlow.js's only argument, what
            `embedding` takes.
        output_dim: width of a vector.
        tie_weights: False gives the reverse direction a weight of its own.
        embeddings_initializer: as Keras names them, or a function of a shape.
        reverse_dtype: kept in the config; arithmetic and logits are float32 whatever it says.
        logit_soft_cap: c makes logits c * tanh(logits / c).
        embedding: tie to this in place of a weight of the layer's own: another ReverseEmbedding or
            its `embeddings`, a GPT2Backbone (its token embedding, on its device), or an array
            [input_dim, output_dim], which is copied. `reverse` is then True unless a call says
            otherwise.

    Weights: `embeddings` [input_dim, output_dim] and, untied, `reverse_embeddings` [output_dim,
    input_dim]; none of its own where it is tied to a backbone.
    """

    @either_case
    def __init__(
        self,
        input_dim: Any = None,
        output_dim: int | None = None,
        tie_weights: bool = True,
        embeddings_initializer: Initializer = "uniform",
        *,
        mask_zero: bool = False,
        reverse_dtype: str | None = None,
        logit_soft_cap: float | None = None,
        embedding: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if mask_zero:
            raise ValueError("mask_zero: tensors carry no mask; pass padding masks to the layers")
        if embedding is None and output_dim is None:
            embedding, input_dim = input_dim, None
        self._backbone: TokenEmbedding | None = None
        self.reverse_by_default = embedding is not None
        shared: Variable | None = None
        if isinstance(embedding, BackboneTable):
            embedding = embedding.backbone
        if isinstance(embedding, ReversibleEmbedding):
            self._backbone = embedding._backbone
            shared = embedding.named_weights.get("embeddings")
            shape: tuple[Any, ...] = (embedding.input_dim, embedding.output_dim)
        elif isinstance(embedding, Variable) and len(embedding.shape) == 2:
            shared, shape = embedding, embedding.shape
        elif hasattr(embedding, "ready"):
            self._backbone = embedding
            shape = (embedding.config.vocabulary_size, embedding.config.hidden_dim)
        elif embedding is not None:
            shape = array_shape(embedding)
            if len(shape) != 2:
                raise ValueError(
                    "embedding: wanted a ReverseEmbedding, a GPT2Backbone or an array [input_dim, "
                    f"output_dim]; got the shape {list(shape)}"
                )
        else:
            shape = (input_dim, output_dim)
        self.input_dim = whole_number(shape[0], "input_dim")
        self.output_dim = whole_number(shape[1], "output_dim")
        shape = (self.input_dim, self.output_dim)
        if embedding is not None and (
            input_dim not in (None, self.input_dim) or output_dim not in (None, self.output_dim)
        ):
            raise ValueError(
                f"embedding: wanted the shape [{input_dim}, {output_dim}], got {list(shape)}"
            )
        if logit_soft_cap is not None and not logit_soft_cap > 0:
            raise ValueError(f"logit_soft_cap: wanted more than 0, got {logit_soft_cap!r}")
        self.tie_weights = bool(tie_weights)
        self.embeddings_initializer = check_initializer(
            embeddings_initializer, "embeddings_initializer"
        )
        self.reverse_dtype = reverse_dtype
        self.logit_soft_cap = logit_soft_cap
        if self._backbone is None:
            self.named_weights["embeddings"] = shared or Variable(
                "embeddings", shape, self.embeddings_initializer, self.input_dim
            )
            if embedding is not None and shared is None:
                self.embeddings = embedding
        if not self.tie_weights:
            self.named_weights["reverse_embeddings"] = Variable(
                "reverse_embeddings", shape[::-1], self.embeddings_initializer, self.output_dim
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, but for the device and what it is tied to."""
        return super().get_config() | {
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "tie_weights": self.tie_weights,
            "embeddings_initializer": self.embeddings_initializer,
            "reverse_dtype": self.reverse_dtype,
            "logit_soft_cap": self.logit_soft_cap,
        }

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the constructor knows all shapes."""

    @either_case
    def compute_output_shape(
        self, input_shape: Sequence[int | None], reverse: bool | None = None
    ) -> Shape:
        """[..., output_dim] of ids [...]; in reverse [..., input_dim] of vectors; `reverse` is as
        call takes it."""
        if self.reverse_by_default if reverse is None else reverse:
            return (*input_shape[:-1], self.input_dim)
        return (*input_shape, self.output_dim)

    @property
    def embeddings(self) -> Variable:
        """The table [input_dim, output_dim]; may be set to an array, unless it is a backbone's,
        which is read from the GPU."""
        if self._backbone is not None:
            return BackboneTable(self._backbone)
        return self._weight("embeddings")

    @embeddings.setter
    def embeddings(self, values: Any) -> None:
        self.embeddings.assign(values)

    @property
    def reverse_embeddings(self) -> Variable:
        """Untied: the head [output_dim, input_dim]; may be set to an array."""
        return self._weight("reverse_embeddings")

    @reverse_embeddings.setter
    def reverse_embeddings(self, values: Any) -> None:
        self._weight("reverse_embeddings").assign(values)

    @either_case
    async def call_async(self, inputs: Any, reverse: bool | None = None) -> Tensor:
        """Vectors of ids, or, in reverse, logits of vectors.

        Args:
            inputs: ids, int [...], to a Tensor [..., output_dim]; in reverse vectors
                [..., output_dim], to logits [..., input_dim].
            reverse: None means False, but for a layer made from an `embedding`: True.

        Raises ValueError for an id outside the vocabulary, or vectors of another width.
        """
        if reverse is None:
            reverse = self.reverse_by_default
        if not reverse:
            ids = await to_cpu(inputs)
            shape = array_shape(ids)
            indices = _ids(ids, self.input_dim, "inputs")
            device, table = await self._table()
            return _look_up(device, table, indices, (*shape, self.output_dim))
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else array_shape(inputs)
        if not shape or shape[-1] != self.output_dim:
            raise ValueError(
                f"inputs: wanted vectors [..., {self.output_dim}], got the shape {list(shape)}"
            )
        if self.tie_weights:
            device, head = await self._table(inputs)
        else:
            device = await self._device_of(inputs)
            head = self.reverse_embeddings.matrix(device)
        if 0 in shape:
            return device.tensor((*shape[:-1], self.input_dim))
        calls: list[Dispatch] = []
        no_bias = device.tensor((self.input_dim,))
        logits = dense(calls, to_tensor(device, inputs, "inputs"), head, no_bias)
        if self.logit_soft_cap is not None:
            calls.append(kernels.activation(device, logits, "soft_cap", self.logit_soft_cap))
        device.submit(calls)
        logits.shape = (*shape[:-1], self.input_dim)
        return logits

    call = blocking(call_async)

    async def _table(self, *inputs: Any) -> tuple[Device, Weight]:
        """The table as a matrix [output_dim, input_dim], and its device."""
        if self._backbone is not None:
            device, weights = await self._backbone.ready()
            await self._device_of(*inputs, device=device)  # raises for another one
            return device, weights.matrices["wte.weight"]
        device = await self._device_of(*inputs)
        return device, self.embeddings.matrix(device, transposed=True)


class ReverseEmbedding(ReversibleEmbedding):
    """TensorFlow.js's name of ReversibleEmbedding, which tells all about it."""


def _ids(values: Any, count: int, name: str) -> list[int]:
    """Nested lists of whole numbers of 0 to count - 1, flat. ValueError: anything else."""
    if array_shape(values) == ():
        values = [values]
    flat = memoryview(to_f32(values, name)).cast("f")
    for value in flat:
        if not (0 <= value < count and value == int(value)):
            raise ValueError(f"{name}: wanted whole numbers of 0 to {count - 1}, got {value:g}")
    return [int(value) for value in flat]


def _broadcast(flat: list[int], found: tuple[int, ...], wanted: tuple[int, ...]) -> list[int]:
    """Row-major values of one shape repeated to another, as numpy broadcasts."""
    full = (1,) * (len(wanted) - len(found)) + found
    if len(found) > len(wanted) or any(a not in (1, b) for a, b in zip(full, wanted, strict=True)):
        raise ValueError(
            f"positions: wanted a shape that broadcasts to {list(wanted)}, got {list(found)}"
        )
    if 0 in wanted:
        return []
    for axis in reversed(range(len(wanted))):
        if full[axis] != wanted[axis]:
            size = math.prod(wanted[axis + 1 :])
            flat = [
                value
                for start in range(0, len(flat), size)
                for value in flat[start : start + size] * wanted[axis]
            ]
    return flat


def _look_up(device: Device, table: Weight, indices: list[int], shape: tuple[int, ...]) -> Tensor:
    """Columns of a table as a Tensor of a shape [..., k]."""
    output = device.tensor(shape)
    if not output.size:
        return output
    ids = device.tensor((len(indices),), "u32")
    device.write(ids, struct.pack(f"<{len(indices)}I", *indices))
    device.submit([kernels.gather(device, ids, table, part, output) for part in table.parts])
    return output

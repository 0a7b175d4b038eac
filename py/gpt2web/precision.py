"""Precisions, and how a weight matrix lies in memory: the facts that the kernels, the loader, files
and the converter share.

A matrix [k, columns] lies in u32 words [k_words, columns rounded up to 4], each with 32 / bits
consecutive k-values of one column, low bits first; int8 and int4 as signed numbers q, and behind
their words rows of scales, one u32 for each column and 32 k-values: an f32 (int8), or two f16, the
low one for the first 16 k-values (int4). weight = scale * q. shaders/weights.wgsl reads it,
shaders/quantize.wgsl makes it.
"""

from __future__ import annotations

BITS = {"f32": 32, "f16": 16, "int8": 8, "int4": 4}
PRECISIONS = tuple(BITS)
SCALED = 32  # k-values of a column whose scale, or two, one u32 holds
GROUPS = {8: 32, 4: 16}  # bits: k-values that share a scale
PACKED_BITS = {"INT8": 8, "INT4": 4}  # what checkpoint.TensorEntry calls tensors stored packed


def check_precision(precision: str) -> None:
    """Raises ValueError for what is none."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def is_packed(precision: str) -> bool:
    """Whether a folder can hold tensors packed in it: int8 and int4."""
    return BITS[precision] in GROUPS


def choose_precision(folder: str, stored: str, asked: str | None) -> str:
    """The precision to load a folder in that is stored in one. ValueError: it cannot be had."""
    if asked is None:
        return stored
    check_precision(asked)
    if is_packed(stored) and asked != stored:
        raise ValueError(
            f"{folder} is stored in {stored} and runs in that alone, got the precision {asked!r}: "
            "leave it out, or convert the model again from its float weights"
        )
    return asked


def is_matrix(name: str) -> bool:
    """Whether a kernel multiplies with this tensor; all others are plain f32 on the GPU."""
    return name == "wte.weight" or (
        name.startswith("h.") and ".c_" in name and name.endswith("weight")
    )


def is_transposed(name: str) -> bool:
    """Whether the checkpoint has it [columns, k]: the embedding, which is also the head."""
    return name == "wte.weight"


def bits_of(name: str, precision: str) -> int:
    """Bits of a tensor's values on the GPU: int4 leaves 8 to the embedding, which is also the head
    and would lose most; norms, biases and wpe have 32 whatever the precision.

    >>> [bits_of(name, "int4") for name in ("h.0.mlp.c_fc.weight", "wte.weight", "wpe.weight")]
    [4, 8, 32]
    """
    if not is_matrix(name):
        return 32
    return 8 if precision == "int4" and name == "wte.weight" else BITS[precision]


def matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(k, columns) of a matrix that has this shape in a checkpoint."""
    rows, columns = shape
    return (columns, rows) if is_transposed(name) else (rows, columns)


def word_rows(k: int, bits: int) -> int:
    """Rows of words that k values of a column take."""
    return -(-k * bits // 32)


def packed_shape(k: int, columns: int, bits: int) -> tuple[int, int]:
    """Shape in u32 of a packed matrix: rows of words, then of scales.

    >>> packed_shape(44, 6, 4)
    (8, 8)
    """
    scales = -(-k // SCALED) if bits in GROUPS else 0
    return word_rows(k, bits) + scales, -(-columns // 4) * 4


def packed_name(name: str, precision: str) -> str:
    """What a file calls a tensor that it holds packed in int8 or int4.

    >>> packed_name("h.0.mlp.c_fc.weight", "int4"), packed_name("wte.weight", "int4")
    ('h.0.mlp.c_fc.weight.int4', 'wte.weight.int8')
    """
    return f"{name}.int{bits_of(name, precision)}"

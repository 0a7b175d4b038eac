"""CRC-32C (Castagnoli, RFC 3720 appendix B.4), as TensorFlow's checkpoints carry it.

The register is linear in the data, so a long piece is cut into lanes that numpy steps through at
once, four bytes a step; each lane's register is then pushed on by the bytes that follow it.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0x82F63B78  # bit-reversed
LANE_BYTES = 1024
MASK_DELTA = 0xA282EAD8

Words = NDArray[np.uint32]


@functools.cache
def _tables() -> tuple[Words, ...]:
    """tables[i][b]: the register after byte b and i zero bytes."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(POLYNOMIAL), table >> 1)
    tables = [table]
    for _ in range(3):
        tables.append(tables[-1] >> 8 ^ table[tables[-1] & 0xFF])
    return tuple(tables)


def _step(registers: Words, words: Words) -> Words:
    """Registers after four more bytes each, as little-endian words."""
    zero, one, two, three = _tables()
    mixed = registers ^ words
    low = three[mixed & 0xFF] ^ two[mixed >> 8 & 0xFF]
    stepped: Words = low ^ one[mixed >> 16 & 0xFF] ^ zero[mixed >> 24]
    return stepped


@functools.cache
def _byte_table() -> list[int]:
    table: list[int] = _tables()[0].tolist()
    return table


@functools.cache
def _push() -> list[list[int]]:
    """Four tables, one for each byte of a register: the register after LANE_BYTES zero bytes."""
    shifts = np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    registers = np.arange(256, dtype=np.uint32) << shifts
    for _ in range(LANE_BYTES // 4):
        registers = _step(registers, np.zeros_like(registers))
    tables: list[list[int]] = registers.tolist()
    return tables


def crc32c(data: bytes | bytearray, crc: int = 0) -> int:
    """The checksum of data, or of what `crc` is the checksum of with data behind it.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    register = crc ^ 0xFFFFFFFF
    whole = len(data) // LANE_BYTES * LANE_BYTES
    lanes = np.frombuffer(data, "<u4", whole // 4).reshape(-1, LANE_BYTES // 4)
    registers = np.zeros(len(lanes), np.uint32)
    for words in np.ascontiguousarray(lanes.T):
        registers = _step(registers, words)
    a, b, c, d = _push()
    for lane in registers.tolist():
        register = (
            lane
            ^ a[register & 0xFF]
            ^ b[register >> 8 & 0xFF]
            ^ c[register >> 16 & 0xFF]
            ^ d[register >> 24]
        )
    table = _byte_table()
    for byte in data[whole:]:
        register = register >> 8 ^ table[(register ^ byte) & 0xFF]
    return register ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """As TensorFlow and LevelDB store it, so that a checksum of a checksum is no trap."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF

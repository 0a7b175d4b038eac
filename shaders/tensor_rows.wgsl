// Rows of a checkpoint's tensor on their way into a weight [K][N], and the tensors that were found to
// hold what no kernel can multiply with. Values are looked at as bits: a compiler may take it for
// granted that floats are finite.

struct Piece {  // in a uniform: one pipeline does for matrices of all sizes
  first_row: u32,       // of the tensor: what the source's first row is
  rows: u32,            // rows in the source
  tensor: u32,          // its number in the file
  source_columns: u32,
  k: u32,               // of the weight [k][columns of all parts]
  columns: u32,         // of this part of it
  first_column: u32,    // where the part stands in the whole
  stride: u32,          // words between the rows of packed
}

@group(0) @binding(0) var<uniform> piece: Piece;
@group(0) @binding(1) var<storage, read> source: array<u32>;  // [rows][source_columns] of SOURCE_TYPE
@group(0) @binding(3) var<storage, read_write> flaws: array<atomic<u32>, 2>;  // first such tensors

override SOURCE_TYPE: u32 = 0u;     // 0: f32, 1: f16, 2: bf16
override TRANSPOSED: bool = false;  // false: a tensor row is a k; true: a column (wte)

const EXPONENT = 0x7f800000u;     // all set: infinite or NaN
const LARGEST_F16 = 0x477fe000u;  // 65504.0

fn k_words() -> u32 {
  return (piece.k + WEIGHTS_PER_WORD - 1u) / WEIGHTS_PER_WORD;
}

fn note_non_finite() {
  atomicMin(&flaws[0], piece.tensor);
}

fn note_too_large() {
  atomicMin(&flaws[1], piece.tensor);
}

// The bits of a value as f32. Notes those that are not finite.
fn source_bits(k: u32, column: u32) -> u32 {
  let row = select(k, column, TRANSPOSED) - piece.first_row;
  let element = row * piece.source_columns + select(column, k, TRANSPOSED);
  var bits: u32;
  if SOURCE_TYPE == 0u {
    bits = source[element];
  } else {
    bits = (source[element / 2u] >> (16u * (element % 2u))) & 0xffffu;
    if SOURCE_TYPE == 2u {
      bits <<= 16u;
    } else if (bits & 0x7c00u) == 0x7c00u {
      bits = EXPONENT;
    } else {
      bits = bitcast<u32>(unpack2x16float(bits).x);
    }
  }
  if (bits & EXPONENT) == EXPONENT {
    note_non_finite();
  }
  return bits;
}

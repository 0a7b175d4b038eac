// include: weights.wgsl tensor_rows.wgsl
// Lays rows of a tensor that a file holds in words of 8 or 4 bits and their scales (weights.wgsl) into a
// part of a weight, as they are. Notes scales that are not finite, or would make a weight that is not.
// One thread per word: dispatch (columns / 64, rows).

@group(0) @binding(2) var<storage, read_write> packed: array<u32>;  // [k words + k / 32][stride]

const LARGEST_SCALE = 0x7b800000u;  // exponent of 2^120; 127 * 2^121 is the last below infinity

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if id.x >= piece.columns || id.y >= piece.rows {
    return;
  }
  let row = piece.first_row + id.y;
  let word = source[id.y * piece.source_columns + piece.first_column + id.x];
  if row >= k_words() {
    if WEIGHT_BITS == 8u {
      if (word & EXPONENT) > LARGEST_SCALE {
        note_non_finite();
      }
    } else if (word & 0x7c00u) == 0x7c00u || (word & 0x7c000000u) == 0x7c000000u {
      note_non_finite();
    }
  }
  packed[row * piece.stride + id.x] = word;
}

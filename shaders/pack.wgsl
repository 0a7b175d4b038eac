// include: weights.wgsl
// Packs rows of a checkpoint tensor into a weight's words (weights.wgsl), or, with 32 bits, into plain
// f32: what is uploaded is the file's bytes, what a kernel reads is made here, on the GPU.
// One thread per word: dispatch (columns / 64, word rows).

struct Piece {
  first_row: u32,  // of the tensor: what the source's first row is
  rows: u32,       // rows in the source
}

@group(0) @binding(0) var<uniform> piece: Piece;
@group(0) @binding(1) var<storage, read> source: array<u32>;            // [rows][SOURCE_COLUMNS] of SOURCE_TYPE
@group(0) @binding(2) var<storage, read_write> packed: array<u32>;      // [K_WORDS][STRIDE]

override SOURCE_TYPE: u32 = 0u;     // 0: f32, 1: f16, 2: bf16
override SOURCE_COLUMNS: u32 = 1u;
override TRANSPOSED: bool = false;  // false: a tensor row is a k; true: a column (wte)
override K: u32 = 1u;
override COLUMNS: u32 = 1u;         // of this part of the weight
override FIRST_COLUMN: u32 = 0u;
override STRIDE: u32 = 1u;          // words between the word rows of packed
override K_WORDS: u32 = (K + WEIGHTS_PER_WORD - 1u) / WEIGHTS_PER_WORD;

fn source_value(k: u32, column: u32) -> f32 {
  let row = select(k, column, TRANSPOSED) - piece.first_row;
  let element = row * SOURCE_COLUMNS + select(column, k, TRANSPOSED);
  if SOURCE_TYPE == 0u {
    return bitcast<f32>(source[element]);
  }
  let half = (source[element / 2u] >> (16u * (element % 2u))) & 0xffffu;
  if SOURCE_TYPE == 1u {
    return unpack2x16float(half).x;
  }
  return bitcast<f32>(half << 16u);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  // a piece's rows are columns of the weight (TRANSPOSED), or word rows: first_row is a whole word then
  var column = FIRST_COLUMN + id.x;
  var word = id.y;
  if TRANSPOSED {
    column = piece.first_row + id.x;
    if id.x >= piece.rows || column < FIRST_COLUMN || column >= FIRST_COLUMN + COLUMNS || word >= K_WORDS {
      return;
    }
  } else {
    word += piece.first_row / WEIGHTS_PER_WORD;
    if id.x >= COLUMNS || word * WEIGHTS_PER_WORD >= piece.first_row + piece.rows {
      return;
    }
  }
  var bits = 0u;
  for (var i = 0u; i < WEIGHTS_PER_WORD; i++) {
    let k = word * WEIGHTS_PER_WORD + i;
    if k < K {
      let value = source_value(k, column);
      if WEIGHT_BITS == 32u {
        bits = bitcast<u32>(value);
      } else {
        bits |= (pack2x16float(vec2<f32>(value, 0.0)) & 0xffffu) << (16u * i);
      }
    }
  }
  packed[word * STRIDE + column - FIRST_COLUMN] = bits;
}

// include: weights.wgsl tensor_rows.wgsl
// Packs rows of a checkpoint tensor into a weight's words of 16 bits (weights.wgsl), or, with 32, into
// plain f32: what is uploaded is the file's bytes, what a kernel reads is made here, on the GPU.
// One thread per word: dispatch (columns / 64, word rows).

@group(0) @binding(2) var<storage, read_write> packed: array<u32>;  // [k words][stride]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  // a piece's rows are columns of the weight (TRANSPOSED), or word rows: first_row is a whole word then
  var column = piece.first_column + id.x;
  var word = id.y;
  if TRANSPOSED {
    column = piece.first_row + id.x;
    if id.x >= piece.rows || column < piece.first_column || column >= piece.first_column + piece.columns || word >= k_words() {
      return;
    }
  } else {
    word += piece.first_row / WEIGHTS_PER_WORD;
    if id.x >= piece.columns || word * WEIGHTS_PER_WORD >= piece.first_row + piece.rows {
      return;
    }
  }
  var bits = 0u;
  for (var i = 0u; i < WEIGHTS_PER_WORD; i++) {
    let k = word * WEIGHTS_PER_WORD + i;
    if k < piece.k {
      let value = source_bits(k, column);
      if WEIGHT_BITS == 32u {
        bits = value;
      } else {
        if (value & 0x7fffffffu) > LARGEST_F16 {
          note_too_large();
        }
        bits |= (pack2x16float(vec2<f32>(bitcast<f32>(value), 0.0)) & 0xffffu) << (16u * i);
      }
    }
  }
  packed[word * piece.stride + column - piece.first_column] = bits;
}

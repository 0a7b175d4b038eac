// include: weights.wgsl
// output[i] = the column of the matrix that ids[i] names: an embedding, with a column per id.
// One thread per channel and id: dispatch (x, y) of 64.

@group(0) @binding(0) var<storage, read> ids: array<u32>;           // [n]
@group(0) @binding(1) var<storage, read> table: array<vec4<u32>>;   // [K words][COLUMNS / 4]: this part of it
@group(0) @binding(2) var<storage, read_write> output: array<f32>;  // [n][K]

override K: u32 = 1u;             // channels
override COLUMNS: u32 = 1u;       // ids in this part of the table
override FIRST_COLUMN: u32 = 0u;  // the part's first id
override COLUMN_GROUPS: u32 = (COLUMNS + 3u) / 4u;
override K_WORDS: u32 = (K + WEIGHTS_PER_WORD - 1u) / WEIGHTS_PER_WORD;

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
) {
  let index = id.y * workgroups.x * 64u + id.x;
  let channel = index % K;
  // of both: a buffer's length is rounded up to 16 bytes
  if index >= arrayLength(&output) || index / K >= arrayLength(&ids) {
    return;
  }
  let token_id = ids[index / K];
  if token_id < FIRST_COLUMN || token_id >= FIRST_COLUMN + COLUMNS {
    return;  // another part of the table holds this id
  }
  let column = token_id - FIRST_COLUMN;
  let words = table[channel / WEIGHTS_PER_WORD * COLUMN_GROUPS + column / 4u];
  var value = load_weight(words, channel % WEIGHTS_PER_WORD)[column % 4u];
  if HAS_SCALES {
    let scales = table[(K_WORDS + channel / 32u) * COLUMN_GROUPS + column / 4u];
    value *= load_scale(scales, channel)[column % 4u];
  }
  output[index] = value;
}

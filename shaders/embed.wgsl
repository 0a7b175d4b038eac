// include: state.wgsl weights.wgsl
// x[row] = wte[last_id] + wpe[position]
// One thread per hidden channel and row: dispatch (HIDDEN / 64, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> wte: array<vec4<u32>>;  // [hidden words][COLUMNS / 4]: a column per id
@group(0) @binding(2) var<storage, read> wpe: array<f32>;        // [positions][HIDDEN]
@group(0) @binding(3) var<storage, read_write> x: array<f32>;    // [rows][HIDDEN]

override HIDDEN: u32 = 1u;
override COLUMNS: u32 = 1u;       // ids in this part of wte
override FIRST_COLUMN: u32 = 0u;  // the part's first id
override COLUMN_GROUPS: u32 = (COLUMNS + 3u) / 4u;
override K_WORDS: u32 = (HIDDEN + WEIGHTS_PER_WORD - 1u) / WEIGHTS_PER_WORD;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let channel = id.x;
  let row = state.rows[id.y];
  if row.done != 0u || channel >= HIDDEN {
    return;
  }
  if row.last_id < FIRST_COLUMN || row.last_id >= FIRST_COLUMN + COLUMNS {
    return;  // another part of wte holds this id
  }
  let column = row.last_id - FIRST_COLUMN;
  let words = wte[channel / WEIGHTS_PER_WORD * COLUMN_GROUPS + column / 4u];
  var token = load_weight(words, channel % WEIGHTS_PER_WORD)[column % 4u];
  if HAS_SCALES {
    let scales = wte[(K_WORDS + channel / 32u) * COLUMN_GROUPS + column / 4u];
    token *= load_scale(scales, channel)[column % 4u];
  }
  x[id.y * HIDDEN + channel] = token + wpe[row.position * HIDDEN + channel];
}

// include: chunk.wgsl weights.wgsl
// x[token] = wte[id] + wpe[position]
// One thread per hidden channel and token: dispatch (HIDDEN / 64, tokens).

@group(0) @binding(0) var<uniform> chunk: Chunk;
@group(0) @binding(1) var<storage, read> ids: array<u32>;        // [tokens]
@group(0) @binding(2) var<storage, read> wte: array<vec4<u32>>;  // [hidden words][COLUMNS / 4]: a column per id
@group(0) @binding(3) var<storage, read> wpe: array<f32>;        // [positions][HIDDEN]
@group(0) @binding(4) var<storage, read_write> x: array<f32>;    // [tokens][HIDDEN]

override HIDDEN: u32 = 1u;
override POSITIONS: u32 = 1u;
override COLUMNS: u32 = 1u;       // ids in this part of wte
override FIRST_COLUMN: u32 = 0u;  // the part's first id
override COLUMN_GROUPS: u32 = (COLUMNS + 3u) / 4u;
override K_WORDS: u32 = (HIDDEN + WEIGHTS_PER_WORD - 1u) / WEIGHTS_PER_WORD;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let channel = id.x;
  let token = id.y;
  let token_id = ids[token];
  if channel >= HIDDEN || token_id < FIRST_COLUMN || token_id >= FIRST_COLUMN + COLUMNS {
    return;  // another part of wte holds this id
  }
  let column = token_id - FIRST_COLUMN;
  let words = wte[channel / WEIGHTS_PER_WORD * COLUMN_GROUPS + column / 4u];
  var embedding = load_weight(words, channel % WEIGHTS_PER_WORD)[column % 4u];
  if HAS_SCALES {
    let scales = wte[(K_WORDS + channel / 32u) * COLUMN_GROUPS + column / 4u];
    embedding *= load_scale(scales, channel)[column % 4u];
  }
  let position = min(chunk.blocks[token / 16u].position + token % 16u, POSITIONS - 1u);  // padding too
  x[token * HIDDEN + channel] = embedding + wpe[position * HIDDEN + channel];
}

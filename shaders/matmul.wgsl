// include: weights.wgsl gelu.wgsl
// output = epilogue(source . weight + bias) for many tokens at once.
// A workgroup makes a tile of 64 tokens x 64 columns, a thread 4 x 4 of it, over K in steps of 16.
// Dispatch (columns / 64, tokens / 64).

@group(0) @binding(0) var<storage, read> source: array<f32>;        // [tokens][K]
@group(0) @binding(1) var<storage, read> weight: array<vec4<u32>>;  // [K][COLUMNS] in words
@group(0) @binding(2) var<storage, read> bias: array<f32>;          // [OUTPUT_COLUMNS]
@group(0) @binding(3) var<storage, read_write> output: array<f32>;  // [tokens][OUTPUT_COLUMNS]

override K: u32 = 1u;
override COLUMNS: u32 = 1u;         // columns of this part of the weight
override FIRST_COLUMN: u32 = 0u;    // where the part stands in the whole weight
override OUTPUT_COLUMNS: u32 = 1u;  // columns of the whole weight
override EPILOGUE: u32 = 0u;        // 0: as it is, 1: gelu, 2: added to what output holds
override COLUMN_GROUPS: u32 = (COLUMNS + 3u) / 4u;
override K_WORDS: u32 = (K + WEIGHTS_PER_WORD - 1u) / WEIGHTS_PER_WORD;

const STEP = 16u;

var<workgroup> source_tile: array<f32, 1024>;        // [STEP][64 tokens]
var<workgroup> weight_tile: array<vec4<f32>, 256>;   // [STEP][16 column groups]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  // of both: a buffer's length is rounded up to 16 bytes, which may look like one token more
  let tokens = min(arrayLength(&source) / K, arrayLength(&output) / OUTPUT_COLUMNS);
  let first_token = workgroup.y * 64u;
  let first_group = workgroup.x * 16u;
  let group = thread % 16u;  // this thread's 4 columns
  let four = thread / 16u;   // this thread's 4 tokens
  var sums: array<vec4<f32>, 4>;

  for (var k0 = 0u; k0 < K; k0 += STEP) {
    for (var i = thread; i < 1024u; i += 256u) {
      let token = first_token + i / STEP;
      let k = k0 + i % STEP;
      var value = 0.0;
      if token < tokens && k < K {
        value = source[token * K + k];
      }
      source_tile[i % STEP * 64u + i / STEP] = value;
    }
    let tile_k = k0 + thread / 16u;
    var weights = vec4<f32>();
    if tile_k < K && first_group + group < COLUMN_GROUPS {
      let words = weight[tile_k / WEIGHTS_PER_WORD * COLUMN_GROUPS + first_group + group];
      weights = load_weight(words, tile_k % WEIGHTS_PER_WORD);
      if HAS_SCALES {
        let scales = weight[(K_WORDS + tile_k / 32u) * COLUMN_GROUPS + first_group + group];
        weights *= load_scale(scales, tile_k);
      }
    }
    weight_tile[thread] = weights;
    workgroupBarrier();
    for (var k = 0u; k < STEP; k++) {
      let columns = weight_tile[k * 16u + group];
      for (var i = 0u; i < 4u; i++) {
        sums[i] += source_tile[k * 64u + four * 4u + i] * columns;
      }
    }
    workgroupBarrier();
  }

  for (var i = 0u; i < 4u; i++) {
    let token = first_token + four * 4u + i;
    for (var j = 0u; j < 4u; j++) {
      let column = (first_group + group) * 4u + j;
      if token < tokens && column < COLUMNS {
        let index = token * OUTPUT_COLUMNS + FIRST_COLUMN + column;
        let value = sums[i][j] + bias[FIRST_COLUMN + column];
        if EPILOGUE == 0u {
          output[index] = value;
        } else if EPILOGUE == 1u {
          output[index] = gelu(value);
        } else {
          output[index] += value;
        }
      }
    }
  }
}

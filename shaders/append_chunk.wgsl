// include: chunk.wgsl
// cache[row][0 | 1][position] = k | v of every token of the chunk; padding is left out.
// One thread per channel of k and v, and token: dispatch (2 * HIDDEN / 64, tokens).

@group(0) @binding(0) var<uniform> chunk: Chunk;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;          // [tokens][3 * HIDDEN]
@group(0) @binding(2) var<storage, read_write> cache: array<f32>;  // [rows][2][CACHE_LENGTH][HIDDEN]

override HIDDEN: u32 = 1u;
override CACHE_LENGTH: u32 = 1u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let token = id.y;
  let block = chunk.blocks[token / 16u];
  if id.x >= 2u * HIDDEN || token % 16u >= block.count {
    return;
  }
  let part = id.x / HIDDEN;  // 0: k, 1: v
  let slot = (block.row * 2u + part) * CACHE_LENGTH + block.position + token % 16u;
  cache[slot * HIDDEN + id.x % HIDDEN] = qkv[token * 3u * HIDDEN + HIDDEN + id.x];
}

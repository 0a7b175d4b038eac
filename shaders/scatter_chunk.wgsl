// include: chunk.wgsl
// output[row][position - FIRST_POSITION] = each token of the chunk; padding is left out.
// One thread per channel and token: dispatch (WIDTH / 64, tokens).

@group(0) @binding(0) var<uniform> chunk: Chunk;
@group(0) @binding(1) var<storage, read> values: array<f32>;        // [tokens][WIDTH]
@group(0) @binding(2) var<storage, read_write> output: array<f32>;  // [rows][LENGTH][WIDTH]

override WIDTH: u32 = 1u;
override LENGTH: u32 = 1u;
override FIRST_POSITION: u32 = 0u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let token = id.y;
  let block = chunk.blocks[token / 16u];
  if id.x >= WIDTH || token % 16u >= block.count {
    return;
  }
  let column = block.position - FIRST_POSITION + token % 16u;
  output[(block.row * LENGTH + column) * WIDTH + id.x] = values[token * WIDTH + id.x];
}

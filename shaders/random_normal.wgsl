// include: random.wgsl
// values[i] = SCALE * a normal variable (Box and Muller 1958): weights before any are loaded.
// Key (SEED, STREAM), counter the index of the pair. One thread per pair: dispatch (x, y) of 64.

@group(0) @binding(0) var<uniform> piece: vec4<u32>;                 // first pair, pairs
@group(0) @binding(1) var<storage, read_write> values: array<f32>;

override SEED: u32 = 0u;
override STREAM: u32 = 0u;
override SCALE: f32 = 1.0;

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
) {
  let pair = id.y * workgroups.x * 64u + id.x;
  if pair >= piece.y {
    return;
  }
  let bits = threefry(vec2<u32>(SEED, STREAM), vec2<u32>(piece.x + pair, 0u));
  let radius = SCALE * sqrt(-2.0 * log(1.0 - unit_interval(bits.x)));
  let angle = 6.283185307179586 * unit_interval(bits.y);
  values[2u * pair] = radius * cos(angle);
  if 2u * pair + 1u < arrayLength(&values) {
    values[2u * pair + 1u] = radius * sin(angle);
  }
}

// include: random.wgsl
// values[i] = SCALE * a normal variable (Box and Muller 1958): weights before any are loaded.
// Key (seed, stream), counter the index of the pair. One thread per pair: dispatch (x, y) of 64.

struct Piece {
  first_pair: u32,
  pairs: u32,
  seed: u32,
  stream: u32,  // a tensor's own
}

@group(0) @binding(0) var<uniform> piece: Piece;
@group(0) @binding(1) var<storage, read_write> values: array<f32>;

override SCALE: f32 = 1.0;

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
) {
  let pair = id.y * workgroups.x * 64u + id.x;
  if pair >= piece.pairs {
    return;
  }
  let bits = threefry(vec2<u32>(piece.seed, piece.stream), vec2<u32>(piece.first_pair + pair, 0u));
  let radius = SCALE * sqrt(-2.0 * log(1.0 - unit_interval(bits.x)));
  let angle = 6.283185307179586 * unit_interval(bits.y);
  values[2u * pair] = radius * cos(angle);
  if 2u * pair + 1u < arrayLength(&values) {
    values[2u * pair + 1u] = radius * sin(angle);
  }
}

// Threefry-2x32 with 20 rounds: random bits from a key and a counter, no state (Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3").

fn threefry(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
  var rotations = array<u32, 8>(13u, 15u, 26u, 6u, 17u, 29u, 16u, 24u);
  var keys = array<u32, 3>(key.x, key.y, key.x ^ key.y ^ 0x1bd11bdau);
  var a = counter.x + keys[0];
  var b = counter.y + keys[1];
  for (var i = 0u; i < 20u; i++) {
    let rotation = rotations[i % 8u];
    a += b;
    b = ((b << rotation) | (b >> (32u - rotation))) ^ a;
    if i % 4u == 3u {
      let round = i / 4u + 1u;
      a += keys[round % 3u];
      b += keys[(round + 1u) % 3u] + round;
    }
  }
  return vec2<u32>(a, b);
}

// 24 random bits as a number in [0, 1).
fn unit_interval(bits: u32) -> f32 {
  return f32(bits >> 8u) * 0x1p-24;
}

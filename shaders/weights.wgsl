// A weight matrix [K][N] lies in words: 32 / WEIGHT_BITS consecutive K-values of one column to a
// u32, low bits first; four neighbouring columns make the vec4 that a thread loads at once:
// array<vec4<u32>>, [K_WORDS][N / 4 rounded up]. Words of 8 or 4 bits hold signed integers q; behind
// them come rows of scales, a u32 for each column and 32 K-values: one f32 (8 bits), or two f16 of 16
// K-values each, the first's in the low half (4 bits). weight = scale * q

override WEIGHT_BITS: u32 = 32u;  // 32: f32, 16: f16 (unpacked without the shader-f16 feature), 8, 4
override WEIGHTS_PER_WORD: u32 = 32u / WEIGHT_BITS;
override HAS_SCALES: bool = WEIGHT_BITS < 16u;

// The i-th K-value of each of the four columns, before its scale where there is one.
fn load_weight(words: vec4<u32>, i: u32) -> vec4<f32> {
  if WEIGHT_BITS == 32u {
    return bitcast<vec4<f32>>(words);
  }
  if WEIGHT_BITS == 16u {
    let halves = words >> vec4<u32>(16u * i);
    return vec4<f32>(
      unpack2x16float(halves.x).x,
      unpack2x16float(halves.y).x,
      unpack2x16float(halves.z).x,
      unpack2x16float(halves.w).x,
    );
  }
  return vec4<f32>(extractBits(bitcast<vec4<i32>>(words), WEIGHT_BITS * i, WEIGHT_BITS));
}

// The four columns' scales of K-value k, out of row K_WORDS + k / 32.
fn load_scale(scales: vec4<u32>, k: u32) -> vec4<f32> {
  if WEIGHT_BITS == 8u {
    return bitcast<vec4<f32>>(scales);
  }
  let halves = scales >> vec4<u32>(k & 16u);
  return vec4<f32>(
    unpack2x16float(halves.x).x,
    unpack2x16float(halves.y).x,
    unpack2x16float(halves.z).x,
    unpack2x16float(halves.w).x,
  );
}

// A weight matrix [K][N] lies in words: 32 / WEIGHT_BITS consecutive K-values of one column to a
// u32, low bits first; four neighbouring columns make the vec4 that a thread loads at once:
// array<vec4<u32>>, [K_WORDS][N / 4 rounded up].

override WEIGHT_BITS: u32 = 32u;  // 32: f32, 16: f16 (unpacked without the shader-f16 feature)
override WEIGHTS_PER_WORD: u32 = 32u / WEIGHT_BITS;

// The i-th K-value of each of the four columns.
fn load_weight(words: vec4<u32>, i: u32) -> vec4<f32> {
  if WEIGHT_BITS == 32u {
    return bitcast<vec4<f32>>(words);
  }
  return vec4<f32>(
    unpack2x16float(words.x)[i],
    unpack2x16float(words.y)[i],
    unpack2x16float(words.z)[i],
    unpack2x16float(words.w)[i],
  );
}

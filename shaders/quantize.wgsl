// include: weights.wgsl tensor_rows.wgsl
// Packs rows of a checkpoint tensor into a weight's words of 8 or 4 bits and their scales (weights.wgsl).
//   8 bits: groups of 32 K-values, scale = max |x| / 127, q = round(x / scale)
//   4 bits: groups of 16. Of 8 scales that put the value of largest magnitude at 6.5 to 8 steps on one
//           side or the other, and of each one's least-squares refit, sum(q x) / sum(q q): the one that
//           leaves the smallest squared error. A scale may be negative: -8 has no positive twin.
// One thread per column and 32 K-values: dispatch (columns / 64, rows of scales).

@group(0) @binding(2) var<storage, read_write> packed: array<u32>;  // [k words + k / 32][stride]

const SMALLEST = 1e-36;  // a group below it is 0: its scale's reciprocal would overflow
const LARGEST = 524032.0;  // 8 steps of 65504, the largest f16
const GROUP = 16u;       // of 4 bits

var<private> x: array<f32, 32>;

// The bits of value as f16, rounded to nearest even, which pack2x16float need not do; 0x7c00 (infinite)
// from 65520 on.
fn to_f16(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if magnitude >= 0x477ff000u {
    return sign | 0x7c00u;
  }
  if magnitude <= 0x33000000u {  // up to 2^-25: 0, never -0
    return 0u;
  }
  if magnitude < 0x38800000u {  // under 2^-14: multiples of 2^-24
    return sign | u32(round(abs(value) * 0x1p24));
  }
  return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13u) & 1u)) >> 13u);
}

struct Fit {
  scale: u32,   // f16
  error: f32,   // sum of squares
  refit: f32,   // the scale that would have been best for these q
}

fn quantized(value: f32, scale: f32) -> f32 {
  return clamp(round(value / scale), -8.0, 7.0);
}

// How well a scale, rounded to f16, does for the group of 4 bits at x[first].
fn fit(first: u32, wanted: f32) -> Fit {
  var found = Fit(to_f16(wanted), 0.0, 0.0);
  let scale = unpack2x16float(found.scale).x;
  var products = 0.0;
  var squares = 0.0;
  for (var i = first; i < first + GROUP; i++) {
    var q = 0.0;
    if scale != 0.0 {
      q = quantized(x[i], scale);
    }
    let error = q * scale - x[i];
    found.error += error * error;
    products += q * x[i];
    squares += q * q;
  }
  if squares > 0.0 {
    found.refit = products / squares;
  }
  return found;
}

// The f16 bits of the best scale found for the group at x[first].
fn best_scale(first: u32) -> u32 {
  var largest = 0.0;
  for (var i = first; i < first + GROUP; i++) {
    if abs(x[i]) > abs(largest) {
      largest = x[i];
    }
  }
  var best = Fit(0u, 3.4e38, 0.0);
  for (var candidate = 0u; candidate < 8u; candidate++) {
    let steps = 0.5 * f32(candidate % 4u) - 8.0;  // -8, -7.5, -7, -6.5
    var found = fit(first, largest / select(-steps, steps, candidate < 4u));
    for (var refits = 0u; refits < 2u; refits++) {
      if found.error < best.error {
        best = found;
      }
      found = fit(first, found.refit);
    }
  }
  return best.scale;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  // a piece's rows are columns of the weight (TRANSPOSED), or K-values: first_row is a whole 32 then
  var column = piece.first_column + id.x;
  var scale_row = id.y;
  if TRANSPOSED {
    column = piece.first_row + id.x;
    if id.x >= piece.rows || column < piece.first_column || column >= piece.first_column + piece.columns || scale_row * 32u >= piece.k {
      return;
    }
  } else {
    scale_row += piece.first_row / 32u;
    if id.x >= piece.columns || scale_row * 32u >= piece.first_row + piece.rows {
      return;
    }
  }
  var magnitude = 0.0;
  for (var i = 0u; i < 32u; i++) {
    x[i] = 0.0;
    if scale_row * 32u + i < piece.k {
      x[i] = bitcast<f32>(source_bits(scale_row * 32u + i, column));
      magnitude = max(magnitude, abs(x[i]));
    }
  }
  let at = column - piece.first_column;
  let scale_index = (k_words() + scale_row) * piece.stride + at;
  var scales = vec2<f32>();  // of the first and of the last 16
  if WEIGHT_BITS == 8u {
    if magnitude > SMALLEST {
      scales = vec2<f32>(magnitude / 127.0);
    }
    packed[scale_index] = bitcast<u32>(scales.x);
  } else {
    let low = best_scale(0u);
    let high = best_scale(GROUP);
    if magnitude > LARGEST {
      note_too_large();
    }
    packed[scale_index] = low | (high << 16u);
    scales = unpack2x16float(low | (high << 16u));
  }
  let last = select(7.0, 127.0, WEIGHT_BITS == 8u);
  let first = select(-8.0, -127.0, WEIGHT_BITS == 8u);
  let first_word = scale_row * WEIGHT_BITS;  // 32 K-values are as many words
  for (var word = 0u; word < WEIGHT_BITS && first_word + word < k_words(); word++) {
    let scale = scales[word * WEIGHTS_PER_WORD / 16u];
    var bits = 0u;
    if scale != 0.0 {
      for (var i = 0u; i < WEIGHTS_PER_WORD; i++) {
        let q = i32(clamp(round(x[word * WEIGHTS_PER_WORD + i] / scale), first, last));
        bits = insertBits(bits, bitcast<u32>(q), WEIGHT_BITS * i, WEIGHT_BITS);
      }
    }
    packed[(first_word + word) * piece.stride + at] = bits;
  }
}

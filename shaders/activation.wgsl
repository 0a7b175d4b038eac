// include: gelu.wgsl
// values = f(values), in place; f is
//   KIND 0: relu(x) = max(x, 0)
//   KIND 1: gelu in GPT-2's tanh form
//   KIND 2: gelu(x) = x / 2 * (1 + erf(x / sqrt(2)))
//   KIND 3: CAP * tanh(x / CAP), which keeps logits between -CAP and CAP
// One thread per value: dispatch (x, y) of 64.

@group(0) @binding(0) var<storage, read_write> values: array<f32>;

override KIND: u32 = 0u;
override CAP: f32 = 1.0;

// Abramowitz and Stegun 7.1.26: off by at most 1.5e-7.
fn erf(value: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.3275911 * abs(value));
  let tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return sign(value) * (1.0 - tail * exp(-value * value));
}

fn activation(value: f32) -> f32 {
  if KIND == 0u {
    return select(value, 0.0, value < 0.0);  // max(NaN, 0) may be 0
  }
  if KIND == 1u {
    return gelu(value);
  }
  if KIND == 2u {
    return 0.5 * value * (1.0 + erf(0.7071067811865476 * value));
  }
  return CAP * tanh(clamp(value / CAP, -15.0, 15.0));  // clamped as in gelu.wgsl
}

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
) {
  let index = id.y * workgroups.x * 64u + id.x;
  if index < arrayLength(&values) {
    values[index] = activation(values[index]);
  }
}

// include: state.wgsl weights.wgsl layernorm.wgsl matvec.wgsl gelu.wgsl
// hidden = gelu(layernorm(x) . c_fc + bias)
// Dispatch (columns / 16, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // [rows][HIDDEN]
@group(0) @binding(2) var<storage, read> norm_weight: array<f32>;  // [HIDDEN]
@group(0) @binding(3) var<storage, read> norm_bias: array<f32>;    // [HIDDEN]
@group(0) @binding(4) var<storage, read> weight: array<vec4<u32>>; // [HIDDEN][INTERMEDIATE] in words
@group(0) @binding(5) var<storage, read> bias: array<f32>;         // [INTERMEDIATE]
@group(0) @binding(6) var<storage, read_write> hidden: array<f32>; // [rows][INTERMEDIATE]

override INTERMEDIATE: u32 = 1u;

fn input_value(k: u32) -> f32 {
  return normed[k];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = workgroup.y;
  if state.rows[row].done != 0u {
    return;
  }
  layernorm(row, thread);
  let group = workgroup.x * 4u + thread % 4u;
  let sums = matvec(group, thread);
  if thread >= 4u {
    return;
  }
  for (var i = 0u; i < 4u; i++) {
    if group * 4u + i < COLUMNS {
      let column = FIRST_COLUMN + group * 4u + i;
      hidden[row * INTERMEDIATE + column] = gelu(sums[i] + bias[column]);
    }
  }
}

// include: state.wgsl weights.wgsl layernorm.wgsl matvec.wgsl
// logits = layernorm(x) . wte: the final norm and the head tied to the token embedding.
// An id from TOKENS on has an embedding, but no text: its logit is too low for it to be chosen.
// Dispatch (columns / 16, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // [rows][HIDDEN]
@group(0) @binding(2) var<storage, read> norm_weight: array<f32>;  // [HIDDEN]
@group(0) @binding(3) var<storage, read> norm_bias: array<f32>;    // [HIDDEN]
@group(0) @binding(4) var<storage, read> weight: array<vec4<u32>>; // [HIDDEN][VOCABULARY] in words
@group(0) @binding(5) var<storage, read_write> logits: array<f32>; // [rows][VOCABULARY]

override VOCABULARY: u32 = 1u;
override TOKENS: u32 = VOCABULARY;

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
    let id = FIRST_COLUMN + group * 4u + i;
    if group * 4u + i < COLUMNS {
      logits[row * VOCABULARY + id] = select(sums[i], -1.0e30, id >= TOKENS);
    }
  }
}

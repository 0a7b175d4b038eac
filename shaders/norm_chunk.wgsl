// include: layernorm.wgsl
// normalized = layernorm(x), a workgroup per token: dispatch (tokens).

@group(0) @binding(0) var<storage, read> x: array<f32>;                  // [tokens][HIDDEN]
@group(0) @binding(1) var<storage, read> norm_weight: array<f32>;        // [HIDDEN]
@group(0) @binding(2) var<storage, read> norm_bias: array<f32>;          // [HIDDEN]
@group(0) @binding(3) var<storage, read_write> normalized: array<f32>;   // [tokens][HIDDEN]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  layernorm(workgroup.x, thread);
  for (var i = thread; i < HIDDEN; i += 256u) {
    normalized[workgroup.x * HIDDEN + i] = normed[i];
  }
}

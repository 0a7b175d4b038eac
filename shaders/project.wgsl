// include: state.wgsl weights.wgsl matvec.wgsl
// x += source . weight + bias: the projection that ends attention and MLP, with its residual.
// Dispatch (columns / 16, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> source: array<f32>;       // [rows][K]
@group(0) @binding(2) var<storage, read> weight: array<vec4<u32>>; // [K][HIDDEN] in words
@group(0) @binding(3) var<storage, read> bias: array<f32>;         // [HIDDEN]
@group(0) @binding(4) var<storage, read_write> x: array<f32>;      // [rows][HIDDEN]

override HIDDEN: u32 = 1u;

var<private> source_row: u32;

fn input_value(k: u32) -> f32 {
  return source[source_row * K + k];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = workgroup.y;
  if state.rows[row].done != 0u {
    return;
  }
  source_row = row;
  let group = workgroup.x * 4u + thread % 4u;
  let sums = matvec(group, thread);
  if thread >= 4u {
    return;
  }
  for (var i = 0u; i < 4u; i++) {
    if group * 4u + i < COLUMNS {
      let column = FIRST_COLUMN + group * 4u + i;
      x[row * HIDDEN + column] += sums[i] + bias[column];
    }
  }
}

// include: state.wgsl
// Joins what attention.wgsl left for each split of the cache:
//   attended = sum_s exp(maximum_s - maximum) values_s / sum_s exp(maximum_s - maximum) sum_s
// One thread per head channel: dispatch (heads, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> splits: array<f32>;          // [rows][heads][SPLITS][HEAD_DIM + 2]
@group(0) @binding(2) var<storage, read_write> attended: array<f32>;  // [rows][HIDDEN]

override HIDDEN: u32 = 1u;
override HEAD_DIM: u32 = 1u;
override SPLITS: u32 = 1u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let row = workgroup.y;
  if state.rows[row].done != 0u {
    return;
  }
  let used = state.rows[row].position / 256u + 1u;  // splits that hold a visible slot
  let first = (row * (HIDDEN / HEAD_DIM) + head) * SPLITS;
  var maximum = -3.0e38;
  for (var s = 0u; s < used; s++) {
    maximum = max(maximum, splits[(first + s) * (HEAD_DIM + 2u) + HEAD_DIM]);
  }
  for (var d = thread; d < HEAD_DIM; d += 64u) {
    var value = 0.0;
    var sum = 0.0;
    for (var s = 0u; s < used; s++) {
      let split = (first + s) * (HEAD_DIM + 2u);
      let scale = exp(splits[split + HEAD_DIM] - maximum);
      value += scale * splits[split + d];
      sum += scale * splits[split + HEAD_DIM + 1u];
    }
    attended[row * HIDDEN + head * HEAD_DIM + d] = value / sum;
  }
}

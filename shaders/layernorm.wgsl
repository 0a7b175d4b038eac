// normed[i] = (x[i] - mean) / sqrt(variance + EPSILON) * norm_weight[i] + norm_bias[i]
// One row of x, by a workgroup of 256 threads. The including file binds x ([rows][HIDDEN]),
// norm_weight and norm_bias ([HIDDEN]).

override HIDDEN: u32 = 1u;
override EPSILON: f32 = 1e-5;

var<workgroup> normed: array<f32, HIDDEN>;
var<workgroup> sums: array<f32, 256>;
var<workgroup> group_sums: array<f32, 16>;

// The sum of every thread's value, for every thread.
fn workgroup_sum(value: f32, thread: u32) -> f32 {
  sums[thread] = value;
  workgroupBarrier();
  if thread < 16u {
    var sum = 0.0;
    for (var i = 0u; i < 16u; i++) {
      sum += sums[thread * 16u + i];
    }
    group_sums[thread] = sum;
  }
  workgroupBarrier();
  var total = 0.0;
  for (var i = 0u; i < 16u; i++) {
    total += group_sums[i];
  }
  return total;
}

fn layernorm(row: u32, thread: u32) {
  var sum = 0.0;
  for (var i = thread; i < HIDDEN; i += 256u) {
    let value = x[row * HIDDEN + i];
    normed[i] = value;
    sum += value;
  }
  let mean = workgroup_sum(sum, thread) / f32(HIDDEN);
  var squares = 0.0;
  for (var i = thread; i < HIDDEN; i += 256u) {
    let centred = normed[i] - mean;
    squares += centred * centred;
  }
  let scale = inverseSqrt(workgroup_sum(squares, thread) / f32(HIDDEN) + EPSILON);
  for (var i = thread; i < HIDDEN; i += 256u) {
    normed[i] = (normed[i] - mean) * scale * norm_weight[i] + norm_bias[i];
  }
  workgroupBarrier();
}

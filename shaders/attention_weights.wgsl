// include: state.wgsl
// How much the first row's token takes of each token up to its own, which attention.wgsl keeps to itself:
//   weights[h][t] = softmax_t(q[h] . k[h][t] / sqrt(HEAD_DIM))        t = 0..=position
// A workgroup takes a head, a thread every 256th slot. Dispatch (heads).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> q: array<f32>;              // [HIDDEN]
@group(0) @binding(2) var<storage, read> cache: array<f32>;          // [2][CACHE_LENGTH][HIDDEN]: the keys
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;  // [heads][position + 1]

override HIDDEN: u32 = 1u;
override HEAD_DIM: u32 = 1u;

var<workgroup> query: array<f32, HEAD_DIM>;
var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let count = state.rows[0].position + 1u;
  for (var d = thread; d < HEAD_DIM; d += 256u) {
    query[d] = q[head * HEAD_DIM + d] * inverseSqrt(f32(HEAD_DIM));
  }
  workgroupBarrier();

  var maximum = -3.0e38;
  for (var t = thread; t < count; t += 256u) {
    var score = 0.0;
    for (var d = 0u; d < HEAD_DIM; d++) {
      score += query[d] * cache[t * HIDDEN + head * HEAD_DIM + d];
    }
    weights[head * count + t] = score;  // this thread alone reads it again
    maximum = max(maximum, score);
  }
  partial[thread] = maximum;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if thread < half {
      partial[thread] = max(partial[thread], partial[thread + half]);
    }
  }
  workgroupBarrier();
  maximum = partial[0];
  workgroupBarrier();

  var sum = 0.0;
  for (var t = thread; t < count; t += 256u) {
    let weight = exp(weights[head * count + t] - maximum);
    weights[head * count + t] = weight;
    sum += weight;
  }
  partial[thread] = sum;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if thread < half {
      partial[thread] += partial[thread + half];
    }
  }
  workgroupBarrier();
  for (var t = thread; t < count; t += 256u) {
    weights[head * count + t] /= partial[0];
  }
}

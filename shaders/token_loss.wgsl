// loss[token] = log(sum(exp(logits))) - logits[target]: the cross-entropy of each token's target.
// One workgroup per token: dispatch (tokens).

@group(0) @binding(0) var<storage, read> logits: array<f32>;       // [tokens][VOCABULARY]
@group(0) @binding(1) var<storage, read> targets: array<u32>;      // [tokens]
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;   // [tokens]

override VOCABULARY: u32 = 1u;

var<workgroup> maxima: array<f32, 256>;
var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = workgroup.x;
  var maximum = -3.0e38;
  for (var id = thread; id < VOCABULARY; id += 256u) {
    maximum = max(maximum, logits[token * VOCABULARY + id]);
  }
  var sum = 0.0;
  for (var id = thread; id < VOCABULARY; id += 256u) {
    sum += exp(logits[token * VOCABULARY + id] - maximum);
  }
  maxima[thread] = maximum;
  sums[thread] = sum;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if thread < half {
      let larger = max(maxima[thread], maxima[thread + half]);
      sums[thread] = sums[thread] * exp(maxima[thread] - larger)
        + sums[thread + half] * exp(maxima[thread + half] - larger);
      maxima[thread] = larger;
    }
  }
  if thread == 0u {
    loss[token] = maxima[0] + log(sums[0]) - logits[token * VOCABULARY + targets[token]];
  }
}

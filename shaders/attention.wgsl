// include: state.wgsl
// One query per row and head over the cached keys and values:
//   scores[t] = q . k[t] / sqrt(HEAD_DIM),  attended = softmax(scores) . v        t = 0..=position
// A workgroup takes one split of 256 slots, a thread one slot. With SPLITS = 1 it writes the result;
// beyond, its maximum, its sum and its unnormalised values for attention_reduce.wgsl.
// Dispatch (heads, SPLITS, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> q: array<f32>;             // [rows][HIDDEN]
@group(0) @binding(2) var<storage, read> cache: array<f32>;         // [rows][2][CACHE_LENGTH][HIDDEN]
@group(0) @binding(3) var<storage, read_write> attended: array<f32>;
// SPLITS = 1: [rows][HIDDEN]; else [rows][heads][SPLITS][HEAD_DIM + 2], the maximum and the sum last

override HIDDEN: u32 = 1u;
override HEAD_DIM: u32 = 1u;
override CACHE_LENGTH: u32 = 1u;
override SPLITS: u32 = 1u;
override LANES: u32 = min(HEAD_DIM, 256u);  // threads that walk a value vector together
override TEAMS: u32 = 256u / LANES;         // teams of lanes that share the slots

var<workgroup> query: array<f32, HEAD_DIM>;
var<workgroup> weights: array<f32, 256>;  // scores, then exp(score - maximum)
var<workgroup> partial: array<f32, 256>;
var<workgroup> group_partial: array<f32, 16>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let row = workgroup.z;
  let first = workgroup.y * 256u;
  let position = state.rows[row].position;
  if state.rows[row].done != 0u || first > position {
    return;
  }
  let count = min(position + 1u - first, 256u);  // slots of this split
  let keys = (row * 2u * CACHE_LENGTH + first) * HIDDEN + head * HEAD_DIM;
  let values = keys + CACHE_LENGTH * HIDDEN;

  for (var d = thread; d < HEAD_DIM; d += 256u) {
    query[d] = q[row * HIDDEN + head * HEAD_DIM + d] * inverseSqrt(f32(HEAD_DIM));
  }
  workgroupBarrier();

  var score = -3.0e38;
  if thread < count {
    score = 0.0;
    for (var d = 0u; d < HEAD_DIM; d++) {
      score += query[d] * cache[keys + thread * HIDDEN + d];
    }
  }
  partial[thread] = score;
  workgroupBarrier();
  if thread < 16u {
    var maximum = partial[thread * 16u];
    for (var i = 1u; i < 16u; i++) {
      maximum = max(maximum, partial[thread * 16u + i]);
    }
    group_partial[thread] = maximum;
  }
  workgroupBarrier();
  var maximum = group_partial[0];
  for (var i = 1u; i < 16u; i++) {
    maximum = max(maximum, group_partial[i]);
  }
  weights[thread] = select(0.0, exp(score - maximum), thread < count);
  workgroupBarrier();
  if thread < 16u {
    var sum = 0.0;
    for (var i = 0u; i < 16u; i++) {
      sum += weights[thread * 16u + i];
    }
    group_partial[thread] = sum;
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < 16u; i++) {
    sum += group_partial[i];
  }

  let split = (row * (HIDDEN / HEAD_DIM) + head) * SPLITS + workgroup.y;
  for (var d0 = 0u; d0 < HEAD_DIM; d0 += LANES) {
    let d = d0 + thread % LANES;
    var value = 0.0;
    if thread < TEAMS * LANES && d < HEAD_DIM {
      for (var t = thread / LANES; t < count; t += TEAMS) {
        value += weights[t] * cache[values + t * HIDDEN + d];
      }
    }
    partial[thread] = value;
    workgroupBarrier();
    if thread < LANES && d < HEAD_DIM {
      for (var team = 1u; team < TEAMS; team++) {
        value += partial[team * LANES + thread];
      }
      if SPLITS == 1u {
        attended[row * HIDDEN + head * HEAD_DIM + d] = value / sum;
      } else {
        attended[split * (HEAD_DIM + 2u) + d] = value;
      }
    }
    workgroupBarrier();
  }
  if SPLITS > 1u && thread == 0u {
    attended[split * (HEAD_DIM + 2u) + HEAD_DIM] = maximum;
    attended[split * (HEAD_DIM + 2u) + HEAD_DIM + 1u] = sum;
  }
}

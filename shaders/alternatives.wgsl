// include: state.wgsl sampling.wgsl
// The ALTERNATIVES most probable ids of each row with their log-probabilities, of the raw logits,
// into the ring entry of this step: [id, log-probability, then pairs of them]. Equal ones: lower id
// first. Runs before select.wgsl, only when asked for. One workgroup per row: dispatch (1, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<storage, read> logits: array<f32>;         // [rows][VOCABULARY]
@group(0) @binding(2) var<storage, read> summaries: array<Summary>;  // [rows][BLOCKS]
@group(0) @binding(3) var<storage, read_write> ring: array<u32>;     // [RING_STEPS][rows][RING_WORDS]

override ALTERNATIVES: u32 = 1u;
override RING_STEPS: u32 = 1u;
override RING_WORDS: u32 = 2u + 2u * ALTERNATIVES;

var<workgroup> best_logits: array<f32, 256>;
var<workgroup> best_ids: array<u32, 256>;

// Whether (a, id_a) stands before (b, id_b). VOCABULARY is no id: it stands behind all, also -inf.
fn stands_before(a: f32, id_a: u32, b: f32, id_b: u32) -> bool {
  return id_a < VOCABULARY && (id_b == VOCABULARY || a > b || (a == b && id_a < id_b));
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = workgroup.y;
  if state.rows[row].done != 0u {
    return;
  }
  var logit_maximum = summaries[row * BLOCKS].logit_maximum;
  for (var i = 1u; i < BLOCKS; i++) {
    logit_maximum = max(logit_maximum, summaries[row * BLOCKS + i].logit_maximum);
  }
  var logit_sum = 0.0;
  for (var i = 0u; i < BLOCKS; i++) {
    let block = summaries[row * BLOCKS + i];
    logit_sum += block.logit_sum * exp(block.logit_maximum - logit_maximum);
  }
  let log_sum = logit_maximum + log(logit_sum);
  let slot = (state.rows[row].step % RING_STEPS * workgroups.y + row) * RING_WORDS + 2u;

  var last_logit = 3.4e38;
  var last_id = 0u;
  for (var n = 0u; n < ALTERNATIVES; n++) {
    var best_logit = -3.4e38;
    var best_id = VOCABULARY;
    for (var id = thread; id < VOCABULARY; id += 256u) {
      let logit = logits[row * VOCABULARY + id];
      if (n == 0u || stands_before(last_logit, last_id, logit, id))
        && stands_before(logit, id, best_logit, best_id) {
        best_logit = logit;
        best_id = id;
      }
    }
    best_logits[thread] = best_logit;
    best_ids[thread] = best_id;
    for (var half = 128u; half > 0u; half /= 2u) {
      workgroupBarrier();
      if thread < half
        && stands_before(best_logits[thread + half], best_ids[thread + half], best_logits[thread], best_ids[thread]) {
        best_logits[thread] = best_logits[thread + half];
        best_ids[thread] = best_ids[thread + half];
      }
    }
    workgroupBarrier();
    last_logit = best_logits[0];
    last_id = best_ids[0];
    if thread == 0u {
      ring[slot + 2u * n] = last_id;
      ring[slot + 2u * n + 1u] = bitcast<u32>(last_logit - log_sum);
    }
    workgroupBarrier();
  }
}

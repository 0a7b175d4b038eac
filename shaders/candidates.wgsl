// include: sampling.wgsl cuts.wgsl
// What sampling makes of a row: the weight of all ids together and of those that the cuts leave, and
// the weights of the CANDIDATES ids of highest score. Weights are those that select.wgsl draws with.
// An id is kept when it can be drawn; greedy gives its one id the whole weight. One workgroup per row:
// dispatch (1, rows).

@group(0) @binding(0) var<uniform> samplings: Samplings;
@group(0) @binding(1) var<storage, read> logits: array<f32>;          // [rows][VOCABULARY]
@group(0) @binding(2) var<storage, read> scores: array<f32>;          // [rows][VOCABULARY]
@group(0) @binding(3) var<storage, read> summaries: array<Summary>;   // [rows][BLOCKS]
@group(0) @binding(4) var<storage, read> highest: array<u32>;         // [rows][2 + 2 * CANDIDATES]: alternatives.wgsl's, of the scores
@group(0) @binding(5) var<storage, read_write> report: array<u32>;    // [rows][1 + CANDIDATES][5]
// first [high, low of all weights, high, low and number of those kept], where a sum is high << 15 + low;
// then for each candidate [id, its logit, its log-probability (f32, of the raw logits), weight, 1 where kept]

override CANDIDATES: u32 = 1u;

fn weight_at(id: u32) -> u32 {
  if temperature == 0.0 {
    return select(0u, weight_of(1.0), id == summary.score_id);
  }
  return weight_of(exp((scores[first + id] - maximum) / temperature));
}

// Whether an id of this weight can be drawn; select.wgsl compares the same probability with min_p.
fn can_be_drawn(id: u32, min_p: f32) -> bool {
  if weight_at(id) == 0u {
    return false;
  }
  let score = scores[first + id];
  return temperature == 0.0
    || (exp((score - maximum) / temperature) >= min_p && is_kept(key_of(score), place_of(id)));
}

// The number and the weights of the ids that can be drawn, in the first bin.
fn add_weights(min_p: f32, thread: u32) {
  clear_bins(thread);
  var count = 0u;
  var high = 0u;
  var low = 0u;
  for (var id = thread; id < VOCABULARY; id += 256u) {
    if can_be_drawn(id, min_p) {
      let weight = weight_at(id);
      count += 1u;
      high += weight >> 15u;
      low += weight & 0x7fffu;
    }
  }
  add_to_bin(0u, count, high, low);
  workgroupBarrier();
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = workgroup.y;
  if thread == 0u {
    summary = whole_summary(row);
  }
  let all = workgroupUniformLoad(&summary);
  let sampling = samplings.rows[row];
  maximum = all.score_maximum;
  temperature = sampling.temperature;
  first = row * VOCABULARY;
  cutoff = vec2<u32>();
  let start = row * (1u + CANDIDATES) * 5u;

  add_weights(0.0, thread);
  if thread == 0u {
    report[start] = atomicLoad(&highs[0]);
    report[start + 1u] = atomicLoad(&lows[0]);
  }
  workgroupBarrier();
  if sampling.temperature > 0.0 {
    cut_all(sampling, thread);
  }
  add_weights(sampling.min_p, thread);
  if thread == 0u {
    report[start + 2u] = atomicLoad(&highs[0]);
    report[start + 3u] = atomicLoad(&lows[0]);
    report[start + 4u] = atomicLoad(&counts[0]);
  }

  let log_sum = all.logit_maximum + log(all.logit_sum);
  for (var n = thread; n < CANDIDATES; n += 256u) {
    let id = highest[row * (2u + 2u * CANDIDATES) + 2u + 2u * n];
    let logit = logits[first + id];
    let at = start + (1u + n) * 5u;
    report[at] = id;
    report[at + 1u] = bitcast<u32>(logit);
    report[at + 2u] = bitcast<u32>(logit - log_sum);
    report[at + 3u] = weight_at(id);
    report[at + 4u] = select(0u, 1u, can_be_drawn(id, sampling.min_p));
  }
}

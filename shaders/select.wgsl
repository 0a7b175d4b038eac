// include: state.wgsl sampling.wgsl random.wgsl cuts.wgsl
// Chooses the next id of each row, exactly, and steps the row's state: what the cuts keep (cuts.wgsl)
// is drawn from by inverting its cumulative distribution, in the order of ids. One workgroup per row:
// dispatch (1, rows).

@group(0) @binding(0) var<storage, read_write> state: State;
@group(0) @binding(1) var<uniform> samplings: Samplings;
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [rows][VOCABULARY]
@group(0) @binding(3) var<storage, read> scores: array<f32>;          // [rows][VOCABULARY]
@group(0) @binding(4) var<storage, read> summaries: array<Summary>;   // [rows][BLOCKS]
@group(0) @binding(5) var<storage, read_write> flags: array<u32>;     // [rows][seen | stop][VOCABULARY_WORDS]
@group(0) @binding(6) var<storage, read_write> ring: array<u32>;      // [RING_STEPS][rows][RING_WORDS]

override RING_STEPS: u32 = 1u;
override RING_WORDS: u32 = 1u;  // the id; with probabilities also its log-probability, alternatives

var<workgroup> row_state: Row;

// The id at which the cumulative weight of what is kept exceeds `share` of it all.
fn draw(share: f32, min_p: f32, thread: u32) -> u32 {
  var start = 0u;
  var size = VOCABULARY;
  var at = Found();
  loop {
    let each = (size + 255u) / 256u;  // ids that a thread sums, side by side
    clear_bins(thread);
    var count = 0u;
    var high = 0u;
    var low = 0u;
    for (var i = thread * each; i < min((thread + 1u) * each, size); i++) {
      let id = start + i;
      let score = scores[first + id];
      let probability = exp((score - maximum) / temperature);
      if probability >= min_p && is_kept(key_of(score), place_of(id)) {
        let weight = weight_of(probability);
        count += select(0u, 1u, weight > 0u);
        high += weight >> 15u;
        low += weight & 0x7fffu;
      }
    }
    add_to_bin(thread, count, high, low);
    at = find(MORE_THAN, at, 0u, share, thread);
    start += at.bin * each;
    size = min(each, size - at.bin * each);
    if each == 1u {
      break;
    }
  }
  return start;
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = workgroup.y;
  if thread == 0u {
    row_state = state.rows[row];
    summary = whole_summary(row);
  }
  let now = workgroupUniformLoad(&row_state);
  if now.done != 0u {
    return;
  }
  let sampling = samplings.rows[row];
  let all = workgroupUniformLoad(&summary);
  maximum = all.score_maximum;
  temperature = sampling.temperature;
  first = row * VOCABULARY;
  cutoff = vec2<u32>();

  var id = all.score_id;
  if sampling.temperature > 0.0 {
    cut_all(sampling, thread);
    let bits = threefry(vec2<u32>(sampling.seed, sampling.call), vec2<u32>(now.step, 0u));
    id = draw(unit_interval(bits.x), sampling.min_p, thread);
  }

  if thread == 0u {
    let slot = (now.step % RING_STEPS * workgroups.y + row) * RING_WORDS;
    ring[slot] = id;
    if RING_WORDS > 1u {
      let log_sum = all.logit_maximum + log(all.logit_sum);
      ring[slot + 1u] = bitcast<u32>(logits[row * VOCABULARY + id] - log_sum);
    }
    let seen = row * 2u * VOCABULARY_WORDS + id / 32u;
    let bit = 1u << (id % 32u);
    let stopped = (flags[seen + VOCABULARY_WORDS] & bit) != 0u;
    flags[seen] |= bit;
    state.rows[row] = Row(
      now.position + 1u, id, now.step + 1u, select(select(0u, 2u, now.step + 1u >= sampling.limit), 1u, stopped));
  }
}

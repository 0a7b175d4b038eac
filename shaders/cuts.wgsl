// The cuts of sampling, for select.wgsl, which draws, and candidates.wgsl, which shows what they leave.
//
// The ids stand in one order: higher score first, of equal scores the lower id. top-k, top-p and min-p
// each keep a prefix of it, so what is kept is a cutoff in that order. It is found by radix selection:
// 256 bins of 8 bits, first over the score's sortable bits, then over the id's. A weight is
// exp((score - maximum) / temperature) in units of 2^-30, summed as integers: the order of adding cannot matter.
// The including file binds scores ([rows][VOCABULARY]) and summaries ([rows][BLOCKS]).

const COUNT = 0u;       // the first bin at which target_count ids are reached
const AT_LEAST = 1u;    // ... at which target weight is reached
const MORE_THAN = 2u;   // ... at which target weight is exceeded

// Which bin a sum reaches its target in, and what lies before it.
struct Found {
  bin: u32,
  count: u32,   // ids in the bin
  count_before: u32,
  high_before: u32,
  low_before: u32,
  whole: f32,   // weight of all bins of the first search; 0 before it
}

var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> highs: array<atomic<u32>, 256>;  // weight >> 15
var<workgroup> lows: array<atomic<u32>, 256>;   // weight & 0x7fff
var<workgroup> group_counts: array<u32, 16>;
var<workgroup> group_highs: array<u32, 16>;
var<workgroup> group_lows: array<u32, 16>;
var<workgroup> found: Found;
var<workgroup> summary: Summary;

var<private> maximum: f32;      // the row's highest score
var<private> temperature: f32;
var<private> first: u32;      // the row's place in scores
var<private> cutoff: vec2<u32>;  // kept: key > cutoff.x, or equal and place >= cutoff.y

// Unsigned integers in the order of the scores.
fn key_of(score: f32) -> u32 {
  let bits = bitcast<u32>(select(score, 0.0, score == 0.0));  // -0 is 0
  return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

// Higher for the lower id.
fn place_of(id: u32) -> u32 {
  return 0xffffffu - id;
}

fn is_kept(key: u32, place: u32) -> bool {
  return key > cutoff.x || (key == cutoff.x && place >= cutoff.y);
}

fn weight_of(probability: f32) -> u32 {
  return u32(probability * 0x1p30 + 0.5);
}

fn weight_sum(high: u32, low: u32) -> f32 {
  return f32(high) * 32768.0 + f32(low);
}

fn clear_bins(thread: u32) {
  atomicStore(&counts[thread], 0u);
  atomicStore(&highs[thread], 0u);
  atomicStore(&lows[thread], 0u);
  workgroupBarrier();
}

fn add_to_bin(bin: u32, count: u32, high: u32, low: u32) {
  if count > 0u {
    atomicAdd(&counts[bin], count);
    atomicAdd(&highs[bin], high);
    atomicAdd(&lows[bin], low);
  }
}

fn reached(mode: u32, count: u32, high: u32, low: u32, target_count: u32, goal: f32) -> bool {
  if mode == COUNT {
    return count >= target_count;
  }
  let weight = weight_sum(high, low);
  return select(weight > goal, weight >= goal, mode == AT_LEAST);
}

// Walks the bins from 0, on top of what lies before them, until target_count ids or `share` of the
// whole weight are reached. The last bin that holds anything where rounding lets none reach it.
fn find(mode: u32, before: Found, target_count: u32, share: f32, thread: u32) -> Found {
  workgroupBarrier();
  if thread < 16u {
    var count = 0u;
    var high = 0u;
    var low = 0u;
    for (var i = 0u; i < 16u; i++) {
      count += atomicLoad(&counts[thread * 16u + i]);
      high += atomicLoad(&highs[thread * 16u + i]);
      low += atomicLoad(&lows[thread * 16u + i]);
    }
    group_counts[thread] = count;
    group_highs[thread] = high;
    group_lows[thread] = low;
  }
  workgroupBarrier();
  if thread == 0u {
    var at = before;
    if at.whole == 0.0 {
      var high = 0u;
      var low = 0u;
      for (var i = 0u; i < 16u; i++) {
        high += group_highs[i];
        low += group_lows[i];
      }
      at.whole = weight_sum(high, low);
    }
    let goal = share * at.whole;
    var group = 0u;
    var last_group = 0u;
    for (group = 0u; group < 16u; group++) {
      if group_counts[group] > 0u {
        last_group = group;
      }
      if reached(mode, at.count_before + group_counts[group], at.high_before + group_highs[group],
          at.low_before + group_lows[group], target_count, goal) {
        break;
      }
      at.count_before += group_counts[group];
      at.high_before += group_highs[group];
      at.low_before += group_lows[group];
    }
    if group == 16u {
      group = last_group;
      at.count_before -= group_counts[group];
      at.high_before -= group_highs[group];
      at.low_before -= group_lows[group];
    }
    var last = at;
    for (var bin = group * 16u; bin < group * 16u + 16u; bin++) {
      at.bin = bin;
      at.count = atomicLoad(&counts[bin]);
      if at.count > 0u {
        last = at;
      }
      let high = at.high_before + atomicLoad(&highs[bin]);
      let low = at.low_before + atomicLoad(&lows[bin]);
      if reached(mode, at.count_before + at.count, high, low, target_count, goal) {
        last = at;
        break;
      }
      at.count_before += at.count;
      at.high_before = high;
      at.low_before = low;
    }
    found = last;
  }
  return workgroupUniformLoad(&found);
}

// Lowers the cutoff so that it keeps, of what it keeps now, the first target_count ids (COUNT), or the
// fewest first ids whose weight is at least `share` of all (AT_LEAST).
fn cut(mode: u32, target_count: u32, share: f32, thread: u32) {
  var path = vec2<u32>();  // the digits found so far
  var mask = vec2<u32>();  // where they stand
  var at = Found();
  for (var level = 0u; level < 7u; level++) {
    let in_key = level < 4u;
    let shift = select(48u, 24u, in_key) - 8u * level;
    clear_bins(thread);
    // neighbours often share a bin: a run is added once
    var run = 0u;
    var count = 0u;
    var high = 0u;
    var low = 0u;
    for (var id = thread; id < VOCABULARY; id += 256u) {
      let score = scores[first + id];
      let key = key_of(score);
      let place = place_of(id);
      if is_kept(key, place) && (key & mask.x) == path.x && (place & mask.y) == path.y {
        let bin = 255u - ((select(place, key, in_key) >> shift) & 255u);  // high digits first
        if bin != run {
          add_to_bin(run, count, high, low);
          run = bin;
          count = 0u;
          high = 0u;
          low = 0u;
        }
        let weight = weight_of(exp((score - maximum) / temperature));
        count += 1u;
        high += weight >> 15u;
        low += weight & 0x7fffu;
      }
    }
    add_to_bin(run, count, high, low);
    at = find(mode, at, target_count, share, thread);
    let digit = (255u - at.bin) << shift;
    if in_key {
      path.x |= digit;
      mask.x |= 255u << shift;
    } else {
      path.y |= digit;
      mask.y |= 255u << shift;
    }
    // a bin that is wholly kept needs no further digits
    if select(at.count == 1u, at.count_before + at.count == target_count, mode == COUNT) {
      break;
    }
  }
  if is_kept(path.x, path.y) {  // never lower: what an earlier cut left out stays out
    cutoff = path;
  }
  workgroupBarrier();
}

// A row's summary, out of those of its blocks.
fn whole_summary(row: u32) -> Summary {
  var all = summaries[row * BLOCKS];
  for (var i = 1u; i < BLOCKS; i++) {
    let block = summaries[row * BLOCKS + i];
    let logit_maximum = max(all.logit_maximum, block.logit_maximum);
    all.logit_sum = all.logit_sum * exp(all.logit_maximum - logit_maximum)
      + block.logit_sum * exp(block.logit_maximum - logit_maximum);
    all.logit_maximum = logit_maximum;
    if block.score_maximum > all.score_maximum {
      all.score_maximum = block.score_maximum;
      all.score_id = block.score_id;
    }
  }
  return all;
}

// Sets the cutoff for top-k and top-p. min-p needs none: it compares probabilities.
fn cut_all(sampling: Sampling, thread: u32) {
  if sampling.top_k > 0u && sampling.top_k < VOCABULARY {
    cut(COUNT, sampling.top_k, 0.0, thread);
  }
  if sampling.top_p < 1.0 {
    cut(AT_LEAST, 0u, sampling.top_p, thread);
  }
}

// Attention under any mask, for a query of a row and a head:
//   weights[s] = softmax_s(q . k[s] / sqrt(KEY_DIM)),  attended = sum_s weights[s] v[s]
// over the slots s < horizon + query that the mask lets through. A query that sees none gets zeros;
// what lies in a hidden slot is never multiplied, so it may be NaN.
// Slots come in tiles of 64; the softmax is carried from tile to tile as in attention_chunk.wgsl.
// Dispatch (queries, heads, rows).

struct Sizes {
  slots: u32,
  horizon: u32,      // causal: slots that query 0 sees, one more for each next query; else slots
  key_row: u32,      // elements from a row's keys to the next row's
  value_row: u32,    // the same for values
  value_first: u32,  // element of the first row's first value
  mask_row: u32,     // words from a row's mask to the next row's; 0 where all share one
  mask_head: u32,
  mask_query: u32,
}

@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> q: array<f32>;               // [rows][queries][heads][KEY_DIM]
@group(0) @binding(2) var<storage, read> keys: array<f32>;            // [slots][heads][KEY_DIM] of each row
@group(0) @binding(3) var<storage, read> values: array<f32>;          // [slots][heads][VALUE_DIM] of each row
@group(0) @binding(4) var<storage, read> mask: array<u32>;            // [.. slots / 4]: a byte a slot, 0: hidden
@group(0) @binding(5) var<storage, read_write> attended: array<f32>;  // [rows][queries][heads][VALUE_DIM]
@group(0) @binding(6) var<storage, read_write> weights: array<f32>;   // [rows][heads][queries][slots] if WEIGHTS

override KEY_DIM: u32 = 1u;
override VALUE_DIM: u32 = 1u;
override WEIGHTS: bool = false;

var<workgroup> scores: array<f32, 64>;
var<workgroup> shares: array<f32, 64>;         // exp(score - maximum), 0 for a hidden slot
var<workgroup> mixed: array<f32, VALUE_DIM>;

const HIDDEN_SCORE = -3.0e38;

fn is_visible(mask_first: u32, slot: u32) -> bool {
  return ((mask[mask_first + slot / 4u] >> (8u * (slot % 4u))) & 0xffu) != 0u;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let query = workgroup.x;
  let head = workgroup.y;
  let row = workgroup.z;
  let heads = workgroups.y;
  let q_first = ((row * workgroups.x + query) * heads + head) * KEY_DIM;
  let keys_first = row * sizes.key_row + head * KEY_DIM;
  let values_first = sizes.value_first + row * sizes.value_row + head * VALUE_DIM;
  let mask_first = row * sizes.mask_row + head * sizes.mask_head + query * sizes.mask_query;
  let slots = min(sizes.slots, sizes.horizon + query);
  let out_first = ((row * workgroups.x + query) * heads + head) * VALUE_DIM;
  let weights_first = ((row * heads + head) * workgroups.x + query) * sizes.slots;

  var maximum = HIDDEN_SCORE;
  var sum = 0.0;
  for (var d = thread; d < VALUE_DIM; d += 64u) {
    mixed[d] = 0.0;
  }
  for (var first = 0u; first < slots; first += 64u) {
    let slot = first + thread;
    var score = HIDDEN_SCORE;
    var visible = false;
    if slot < slots {
      visible = is_visible(mask_first, slot);
    }
    if visible {
      score = 0.0;
      for (var d = 0u; d < KEY_DIM; d++) {
        score += q[q_first + d] * keys[keys_first + slot * heads * KEY_DIM + d];
      }
      score *= inverseSqrt(f32(KEY_DIM));
      if WEIGHTS {
        weights[weights_first + slot] = score;
      }
    }
    scores[thread] = score;
    workgroupBarrier();
    var tile_maximum = maximum;
    for (var i = 0u; i < 64u; i++) {
      tile_maximum = max(tile_maximum, scores[i]);
    }
    let scale = exp(maximum - tile_maximum);
    maximum = tile_maximum;
    shares[thread] = select(0.0, exp(score - maximum), visible);
    workgroupBarrier();
    sum *= scale;
    for (var i = 0u; i < 64u; i++) {
      sum += shares[i];
    }
    for (var d = thread; d < VALUE_DIM; d += 64u) {
      var value = mixed[d] * scale;
      for (var i = 0u; i < min(64u, slots - first); i++) {
        if shares[i] != 0.0 {
          value += shares[i] * values[values_first + (first + i) * heads * VALUE_DIM + d];
        }
      }
      mixed[d] = value;
    }
    workgroupBarrier();
  }

  let total = select(sum, 1.0, sum == 0.0);  // 0 if every slot is hidden, else 1 or more
  for (var d = thread; d < VALUE_DIM; d += 64u) {
    attended[out_first + d] = mixed[d] / total;
  }
  if WEIGHTS {
    for (var slot = thread; slot < sizes.slots; slot += 64u) {
      var weight = 0.0;
      if slot < slots && is_visible(mask_first, slot) {
        weight = exp(weights[weights_first + slot] - maximum) / total;  // this thread wrote it
      }
      weights[weights_first + slot] = weight;
    }
  }
}

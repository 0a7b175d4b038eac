// include: chunk.wgsl
// Causal attention of a block of 16 queries over the cached slots up to each query's own that the
// row's mask does not hide:
//   attended[i] = softmax_t(q[i] . k[t] / sqrt(HEAD_DIM)) . v[t]        t = 0..=position + i
// Slots come in tiles of 16; the softmax is carried from tile to tile (Milakov and Gimelshein 2018,
// arXiv 1805.02867; FlashAttention, arXiv 2205.14135). Thread (i, j) scores query i against slot j.
// Dispatch (heads, blocks).

@group(0) @binding(0) var<uniform> chunk: Chunk;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;             // [tokens][3 * HIDDEN]
@group(0) @binding(2) var<storage, read> cache: array<f32>;           // [rows][2][CACHE_LENGTH][HIDDEN]
@group(0) @binding(3) var<storage, read> mask: array<u32>;            // [rows][CACHE_LENGTH / 32]: a bit a slot, 1: visible
@group(0) @binding(4) var<storage, read_write> attended: array<f32>;  // [tokens][HIDDEN]

override HIDDEN: u32 = 1u;
override HEAD_DIM: u32 = 1u;
override CACHE_LENGTH: u32 = 1u;

const DEPTH = 64u;        // channels held in workgroup memory at a time
const MAX_HEAD_DIM = 256u;
const HIDDEN_SLOT = -3.0e38;  // in the place of a score

var<workgroup> queries: array<f32, 1024>;  // [16][DEPTH]
var<workgroup> keys: array<f32, 1024>;     // [16][DEPTH]
var<workgroup> scores: array<f32, 256>;    // [16 queries][16 slots]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let block = chunk.blocks[workgroup.y];
  let first_token = workgroup.y * 16u;
  let i = thread / 16u;
  let j = thread % 16u;
  let key_cache = block.row * 2u * CACHE_LENGTH * HIDDEN + head * HEAD_DIM;
  let value_cache = key_cache + CACHE_LENGTH * HIDDEN;
  let slots = block.position + block.count;  // slots the block's last query sees

  var maximum = HIDDEN_SLOT;
  var sum = 0.0;
  var values: array<f32, MAX_HEAD_DIM / 16u>;  // channels j, j + 16, ... of query i
  for (var t0 = 0u; t0 < slots; t0 += 16u) {
    var score = 0.0;
    for (var d0 = 0u; d0 < HEAD_DIM; d0 += DEPTH) {
      for (var n = thread; n < 16u * DEPTH; n += 256u) {
        let d = d0 + n % DEPTH;
        let t = t0 + n / DEPTH;
        var query = 0.0;
        var key = 0.0;
        if d < HEAD_DIM {
          query = qkv[(first_token + n / DEPTH) * 3u * HIDDEN + head * HEAD_DIM + d];
          if t < slots {
            key = cache[key_cache + t * HIDDEN + d];
          }
        }
        queries[n] = query;
        keys[n] = key;
      }
      workgroupBarrier();
      for (var d = 0u; d < min(DEPTH, HEAD_DIM - d0); d++) {
        score += queries[i * DEPTH + d] * keys[j * DEPTH + d];
      }
      workgroupBarrier();
    }
    let slot = t0 + j;
    let word = block.row * ((CACHE_LENGTH + 31u) / 32u) + min(slot, CACHE_LENGTH - 1u) / 32u;
    let shown = ((mask[word] >> (slot % 32u)) & 1u) == 1u;
    let visible = slot <= block.position + i && slot < slots && shown;
    scores[thread] = select(HIDDEN_SLOT, score * inverseSqrt(f32(HEAD_DIM)), visible);
    workgroupBarrier();
    var tile_maximum = maximum;
    for (var t = 0u; t < 16u; t++) {
      tile_maximum = max(tile_maximum, scores[i * 16u + t]);
    }
    let scale = exp(maximum - tile_maximum);
    maximum = tile_maximum;
    sum *= scale;
    for (var n = 0u; n < (HEAD_DIM + 15u) / 16u; n++) {
      values[n] *= scale;
    }
    for (var t = 0u; t < min(16u, slots - t0); t++) {
      if scores[i * 16u + t] != HIDDEN_SLOT {  // whatever a hidden slot holds, NaN too, stays out
        let weight = exp(scores[i * 16u + t] - maximum);
        sum += weight;
        for (var n = 0u; n < (HEAD_DIM + 15u) / 16u; n++) {
          let d = n * 16u + j;
          if d < HEAD_DIM {
            values[n] += weight * cache[value_cache + (t0 + t) * HIDDEN + d];
          }
        }
      }
    }
    workgroupBarrier();
  }
  for (var n = 0u; n < (HEAD_DIM + 15u) / 16u; n++) {
    let d = n * 16u + j;
    if d < HEAD_DIM && i < block.count {
      attended[(first_token + i) * HIDDEN + head * HEAD_DIM + d] = values[n] / max(sum, 1e-37);
    }
  }
}

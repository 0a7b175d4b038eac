// input . weight for the 16 columns of one workgroup: 4 groups of 4 columns x 64 slices of K.
// The including file binds weight (weights.wgsl) and gives fn input_value(k: u32) -> f32.

override K: u32 = 1u;        // length of the input
override COLUMNS: u32 = 1u;  // columns of this weight, or of this part of it
override FIRST_COLUMN: u32 = 0u;  // where the part stands in the whole weight
override K_WORDS: u32 = (K + WEIGHTS_PER_WORD - 1u) / WEIGHTS_PER_WORD;
override COLUMN_GROUPS: u32 = (COLUMNS + 3u) / 4u;

var<workgroup> slices: array<vec4<f32>, 256>;     // [64 slices of K][4 column groups]
var<workgroup> segments: array<vec4<f32>, 32>;    // [8 segments of 8 slices][4 column groups]

// The four sums of column group `group` = 4 * workgroup + thread % 4, in threads 0 to 3.
fn matvec(group: u32, thread: u32) -> vec4<f32> {
  var sum = vec4<f32>();
  if group < COLUMN_GROUPS {
    for (var word = thread / 4u; word < K_WORDS; word += 64u) {
      let words = weight[word * COLUMN_GROUPS + group];
      let first_k = word * WEIGHTS_PER_WORD;
      let before = sum;
      if HAS_SCALES {
        sum = vec4<f32>();  // of this word, which has one scale
      }
      for (var i = 0u; i < WEIGHTS_PER_WORD; i++) {
        let k = first_k + i;
        if K % WEIGHTS_PER_WORD == 0u || k < K {
          sum += input_value(k) * load_weight(words, i);
        }
      }
      if HAS_SCALES {
        let scales = weight[(K_WORDS + first_k / 32u) * COLUMN_GROUPS + group];
        sum = before + sum * load_scale(scales, first_k);
      }
    }
  }
  slices[thread] = sum;
  workgroupBarrier();
  if thread < 32u {
    var segment = vec4<f32>();
    for (var i = 0u; i < 8u; i++) {
      segment += slices[(thread / 4u * 8u + i) * 4u + thread % 4u];
    }
    segments[thread] = segment;
  }
  workgroupBarrier();
  var total = vec4<f32>();
  if thread < 4u {
    for (var i = 0u; i < 8u; i++) {
      total += segments[i * 4u + thread];
    }
  }
  return total;
}

// include: state.wgsl sampling.wgsl
// scores = logits after repetition penalty (CTRL's, arXiv 1909.05858: a seen id's logit is divided by
// it when positive, multiplied when negative), and each block's summary. select.wgsl divides by the
// temperature, what is left after the maximum is taken off: a division may be off by 2.5 ulp, which
// matters less the smaller the number. A search has it divided here (TEMPERED).
// A workgroup takes 1,024 ids: dispatch (BLOCKS, rows).

@group(0) @binding(0) var<uniform> state: State;
@group(0) @binding(1) var<uniform> samplings: Samplings;
@group(0) @binding(2) var<storage, read> logits: array<f32>;          // [rows][VOCABULARY]
@group(0) @binding(3) var<storage, read> flags: array<u32>;           // [rows][seen | stop][VOCABULARY_WORDS]
@group(0) @binding(4) var<storage, read_write> scores: array<f32>;    // [rows][VOCABULARY]
@group(0) @binding(5) var<storage, read_write> summaries: array<Summary>;  // [rows][BLOCKS]

override TEMPERED: bool = false;

var<workgroup> logit_maxima: array<f32, 256>;
var<workgroup> logit_sums: array<f32, 256>;
var<workgroup> score_maxima: array<f32, 256>;
var<workgroup> score_ids: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = workgroup.y;
  if state.rows[row].done != 0u {
    return;
  }
  let sampling = samplings.rows[row];
  let seen = row * 2u * VOCABULARY_WORDS;

  var logit_maximum = -3.0e38;
  var logit_sum = 0.0;
  var score_maximum = -3.0e38;
  var score_id = VOCABULARY;
  for (var i = 0u; i < 4u; i++) {
    let id = workgroup.x * 1024u + i * 256u + thread;  // ids of a thread ascend: ties go to the lower
    if id < VOCABULARY {
      let logit = logits[row * VOCABULARY + id];
      let maximum = max(logit_maximum, logit);
      logit_sum = logit_sum * exp(logit_maximum - maximum) + exp(logit - maximum);
      logit_maximum = maximum;

      var score = logit;
      if sampling.repetition_penalty != 1.0 && ((flags[seen + id / 32u] >> (id % 32u)) & 1u) != 0u {
        score = select(logit * sampling.repetition_penalty, logit / sampling.repetition_penalty, logit > 0.0);
      }
      if TEMPERED {
        score /= sampling.temperature;
      }
      scores[row * VOCABULARY + id] = score;
      if score > score_maximum || score_id == VOCABULARY {
        score_maximum = score;
        score_id = id;
      }
    }
  }
  logit_maxima[thread] = logit_maximum;
  logit_sums[thread] = logit_sum;
  score_maxima[thread] = score_maximum;
  score_ids[thread] = score_id;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if thread < half {
      let other = thread + half;
      let maximum = max(logit_maxima[thread], logit_maxima[other]);
      logit_sums[thread] = logit_sums[thread] * exp(logit_maxima[thread] - maximum)
        + logit_sums[other] * exp(logit_maxima[other] - maximum);
      logit_maxima[thread] = maximum;
      if score_maxima[other] > score_maxima[thread]
        || (score_maxima[other] == score_maxima[thread] && score_ids[other] < score_ids[thread]) {
        score_maxima[thread] = score_maxima[other];
        score_ids[thread] = score_ids[other];
      }
    }
  }
  if thread == 0u {
    summaries[row * BLOCKS + workgroup.x] =
      Summary(logit_maxima[0], logit_sums[0], score_maxima[0], score_ids[0]);
  }
}

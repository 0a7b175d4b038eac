// experiments.js: changes of the model that are ready to be tried, each a few lines of its true code: in a file, a text
// that stands there once, and what takes its place. The words for them are in index.html: experiment-<name>.

export const EXPERIMENTS = [
  {
    name: "second",
    changes: [
      {
        path: "gpt2web/shaders/select.wgsl",
        find: `  var id = all.score_id;
  if sampling.temperature > 0.0 {
    cut_all(sampling, thread);
    let bits = threefry(vec2<u32>(sampling.seed, sampling.call), vec2<u32>(now.step, 0u));
    id = draw(unit_interval(bits.x), sampling.min_p, thread);
  }
`,
        replace: `  temperature = 1.0;
  cut(COUNT, 2u, 0.0, thread);  // the two likeliest stay
  let low = draw(0.0, 0.0, thread);  // the one of them with the lower id
  let high = draw(0.9999999, 0.0, thread);  // the other one
  let id = select(low, high, low == all.score_id);  // not the likeliest
`,
      },
    ],
  },
  {
    name: "no-e",
    changes: [
      {
        path: "gpt2web/causal_lm.py",
        find: `        stop_ids = frozenset([tokenizer.end_token_id])
`,
        replace: `        with_e = [
            i for i in range(tokenizer.id_count()) if b"e" in tokenizer.id_to_bytes(i).lower()
        ]
        stop_ids = frozenset([tokenizer.end_token_id, *with_e])
`,
      },
      {
        path: "gpt2web/shaders/scores.wgsl",
        find: `      var score = logit;
`,
        replace: `      var score = logit;
      if ((flags[seen + VOCABULARY_WORDS + id / 32u] >> (id % 32u)) & 1u) != 0u {
        score = -3.0e38;  // what would end the text is never chosen
      }
`,
      },
    ],
  },
  {
    name: "short-sight",
    changes: [
      {
        path: "gpt2web/shaders/attention.wgsl",
        find: `  if thread < count {
    score = 0.0;
`,
        replace: `  if thread < count && first + thread + 4u > position {  // the last four tokens
    score = 0.0;
`,
      },
      {
        path: "gpt2web/shaders/attention_chunk.wgsl",
        find: `    let visible = slot <= block.position + i && slot < slots && shown;
`,
        replace: `    let near = slot + 4u > block.position + i;  // the last four tokens
    let visible = slot <= block.position + i && slot < slots && shown && near;
`,
      },
      {
        path: "gpt2web/shaders/attention_weights.wgsl",
        find: `    weights[head * count + t] = score;  // this thread alone reads it again
`,
        replace: `    if t + 4u < count {  // all but the last four tokens
      score = -3.0e38;
    }
    weights[head * count + t] = score;  // this thread alone reads it again
`,
      },
    ],
  },
  {
    name: "no-order",
    changes: [
      {
        path: "gpt2web/shaders/embed.wgsl",
        find: "token + wpe[row.position * HIDDEN + channel]",
        replace: "token + wpe[0u * row.position * HIDDEN + channel]",
      },
      {
        path: "gpt2web/shaders/embed_chunk.wgsl",
        find: "embedding + wpe[position * HIDDEN + channel]",
        replace: "embedding + wpe[0u * position * HIDDEN + channel]",
      },
    ],
  },
  {
    name: "no-layer",
    changes: [
      {
        path: "gpt2web/decoder.py",
        find: `            stages.append(calls)
`,
        replace: `            if i == 2:  # the third layer adds nothing to what is known
                calls = [call for call in calls if call.kernel != "project"]
            stages.append(calls)
`,
      },
      {
        path: "gpt2web/chunks.py",
        find: `            calls += matmul(f"{h}.attn.c_proj", attended, x, residual=True)
`,
        replace: `            if i == 2:  # the third layer adds nothing to what is known
                continue
            calls += matmul(f"{h}.attn.c_proj", attended, x, residual=True)
`,
      },
    ],
  },
];

/** Whether all of it stands in the texts: `textOf(path)`. */
export function isApplied({ changes }, textOf) {
  return changes.every(({ path, replace }) => once(textOf(path), replace));
}

/**
 * The texts with the experiment in them, or out of them where it is there: {path: text}; null where the places that it
 * changes have been changed otherwise.
 */
export function toggled(experiment, textOf) {
  const applied = isApplied(experiment, textOf);
  const texts = {};
  for (const { path, find, replace } of experiment.changes) {
    const [from, to] = applied ? [replace, find] : [find, replace];
    const text = texts[path] ?? textOf(path);
    if (!once(text, from)) return null;
    texts[path] = text.replace(from, () => to);
  }
  return texts;
}

function once(text, part) {
  return text.split(part).length === 2;
}

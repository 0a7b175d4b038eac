// next_token.js: the view of how the next token is chosen: the model's logits, what temperature and penalty make of
// them, what top-k, top-p and min-p cut off, and the probabilities that are left. It follows the page's settings.

import { fitting, measure, onResize, picture, savingButtons, shape, widthFor } from "./picture.js";
import { sampling, samplingOptions } from "./settings.js";
import { $, whole } from "./show.js";
import { counted, text } from "./texts.js";
import { percent, visible } from "./tokens.js";

const HEAD = "--head-font";
const ROW = 26; // pixels
const SAID = 3; // with the picture, by screen readers
const BAR = 0.4; // how dark: words on it keep a contrast of 5:1
const CUTS = ["topK", "topP", "minP"]; // in the order in which they are made

/** The view, in <details id="next-token">. */
export function openNextToken(looking) {
  const view = $("next-token");
  const place = $("next-token-picture");
  let found = null; // what is shown: see ask
  let asking = false;
  let again = false; // whether a setting has changed while the model was asked

  const draw = () => {
    if (!view.open) return;
    place.hidden = $("next-token-table").hidden = !found;
    place.querySelector("svg")?.remove();
    $("next-token-says").textContent = found ? summary(found) : "";
    if (!found) return;
    place.prepend(barsPicture(found, widthFor(place)));
    list(found);
  };
  const update = async () => {
    const { inspection } = looking;
    const settings = samplingOptions();
    if (!view.open) return;
    if (!inspection) {
      found = null;
      return draw();
    }
    if (!settings) return; // a field that is being filled in
    again = asking;
    if (asking) return;
    asking = true;
    try {
      const answer = await ask(inspection, settings);
      if (inspection === looking.inspection) found = answer;
      draw();
    } catch (error) {
      looking.failed(error);
    } finally {
      asking = false;
    }
    if (again || inspection !== looking.inspection) update();
  };
  place.append(savingButtons(place, "next-token"));
  view.addEventListener("toggle", update);
  looking.addEventListener("change", update);
  sampling.addEventListener("change", update);
  onResize(place, draw);
  looking.watch(view);
}

/**
 * What sampling makes of the candidates: {candidates, temperature, cuts}; cuts: of each in use {name, kept: how many
 * ids it leaves}, and each candidate has as its `cut` the name of the one that cuts it off, null where none does.
 */
async function ask(inspection, settings) {
  const given = { temperature: settings.temperature, repetitionPenalty: settings.repetitionPenalty };
  const used = CUTS.filter((name) => settings[name] !== undefined);
  const steps = [];
  for (const name of used) {
    given[name] = settings[name];
    steps.push(await inspection.nextTokens(given));
  }
  const { candidates } = steps.at(-1) ?? (await inspection.nextTokens(given));
  const cutOf = (index) => used.find((_, step) => !steps[step].candidates[index].kept) ?? null;
  return {
    candidates: candidates.map((candidate, index) => ({ ...candidate, cut: cutOf(index) })),
    temperature: settings.temperature ?? 1,
    cuts: used.map((name, step) => ({ name, kept: steps[step].kept })),
  };
}

/** What it comes to, in a sentence or two. */
function summary({ candidates, cuts, temperature }) {
  if (temperature === 0) return text("next-greedy", { token: visible(candidates[0].text) });
  const parts = cuts.map(({ name, kept }) =>
    text("next-cut-left", { cut: text(`cut-${name}`), tokens: counted("tokens", kept, whole(kept)) }),
  );
  return [...parts, text(cuts.length > 0 ? "next-drawn" : "next-no-cuts")].join(" ");
}

/** The columns: of each the heading, the value, its words, and the value of a full bar. */
function columnsOf(candidates) {
  const logits = candidates.map(({ logit }) => logit);
  const [low, high] = [Math.min(...logits), Math.max(...logits)];
  const most = Math.max(...candidates.flatMap((one) => [Math.exp(one.logprob), one.afterTemperature, one.afterCuts]));
  const part = (value) => value / most;
  return [
    { name: "logit", bar: ({ logit }) => (logit - low + 1) / (high - low + 1), words: ({ logit }) => logit.toFixed(2) },
    {
      name: "raw",
      bar: ({ logprob }) => part(Math.exp(logprob)),
      words: ({ logprob }) => percent(Math.exp(logprob)),
    },
    {
      name: "temperature",
      bar: ({ afterTemperature }) => part(afterTemperature),
      words: ({ afterTemperature }) => percent(afterTemperature),
    },
    { name: "cuts", bar: ({ afterCuts }) => part(afterCuts), words: wordsAfterCuts },
  ];
}

function wordsAfterCuts({ afterCuts, cut }) {
  return cut ? text(`cut-${cut}`) : percent(afterCuts);
}

function barsPicture({ candidates }, width) {
  const columns = columnsOf(candidates);
  const first = Math.min(120, 0.22 * width); // the tokens
  const wide = (width - first) / columns.length;
  const heads = columns.map(({ name }, column) => {
    const whole = text(`next-${name}`);
    const fits = measure(whole, HEAD) <= wide - 8;
    const at = { x: first + column * wide + 6, y: 16, class: "head" };
    return shape("text", at, fits ? whole : text(`next-${name}-short`));
  });
  const rows = candidates.flatMap((candidate, index) => {
    const y = 26 + index * ROW;
    const token = fitting(visible(candidate.text), first - 6);
    const made = [shape("text", { x: 0, y: y + 17, class: candidate.kept ? "label" : "out" }, token)];
    if (!candidate.kept) {
      made.push(shape("path", { d: `M 0 ${y + 12.5} H ${first - 4}`, class: "strike" }));
    }
    columns.forEach(({ name, bar, words }, column) => {
      const x = first + column * wide;
      const out = name === "cuts" && !candidate.kept;
      const length = Math.max(0, (wide - 6) * bar(candidate));
      const box = { x: x + 3, y: y + 2, width: length.toFixed(1), height: ROW - 4, rx: 3 };
      if (!out) made.push(shape("rect", { ...box, class: "bar", "fill-opacity": BAR }));
      const [value, room] = [words(candidate), wide - 8];
      const says = measure(value) <= room ? value : fitting(value.replace(" %", ""), room);
      made.push(shape("text", { x: x + 7, y: y + 17, class: out ? "out" : "label" }, says));
    });
    return made;
  });
  const height = 30 + candidates.length * ROW;
  const likeliest = candidates.filter(({ kept }) => kept).slice(0, SAID);
  const shares = likeliest.map((one) => text("share-of", { what: visible(one.text), share: percent(one.afterCuts) }));
  return picture(width, height, text("next-label", { most: shares.join(", ") }), ...heads, ...rows);
}

function list({ candidates }) {
  const columns = columnsOf(candidates);
  $("next-token-rows").replaceChildren(
    ...candidates.map((candidate) => {
      const row = document.createElement("tr");
      const token = document.createElement(candidate.kept ? "span" : "s");
      token.dir = "auto";
      token.textContent = visible(candidate.text);
      row.insertCell().append(token);
      for (const { words } of columns) row.insertCell().textContent = words(candidate);
      return row;
    }),
  );
}

// compare.js: what the original and the changed model wrote to the same prompt, beside each other.

import { $, whole } from "./show.js";
import { counted, text } from "./texts.js";

/**
 * Has a model write, and shows it as it comes.
 *
 * @returns {Promise<{pieces: object[], ids: number[], finish: string | null}>}
 */
export async function write(lm, { prompt, options }, signal, show) {
  const written = { prompt, pieces: [], ids: [], finish: null };
  for await (const { text, ids, finishReason } of lm.generate(prompt, { ...options, signal })) {
    written.pieces.push({ text, from: written.ids.length });
    written.ids.push(...ids);
    written.finish = finishReason;
    show(written);
  }
  return written;
}

/** Shows both, either of which may be missing yet; where they part, both are marked. */
export function showBoth(original, changed) {
  $("both").hidden = !original && !changed;
  $("both-changed").parentElement.hidden = !changed;
  const parted = original && changed ? partedAt(original, changed) : null;
  fill($("both-original"), original, parted);
  fill($("both-changed"), changed, parted);
  const done = original?.finish && changed?.finish;
  $("both-says").textContent = done ? wordsFor(parted, changed.ids.length) : "";
}

/** How many ids are the same at the beginning; null where all are, as far as both go. */
function partedAt(original, changed) {
  const at = original.ids.findIndex((id, index) => id !== changed.ids[index]);
  if (at >= 0) return at < changed.ids.length || changed.finish ? at : null; // else it is still to come
  return changed.ids.length > original.ids.length && original.finish ? original.ids.length : null;
}

function wordsFor(parted, count) {
  if (parted === null) return count > 0 ? counted("both-same", count, whole(count)) : text("both-nothing");
  return parted === 0 ? text("both-none") : counted("both-part", parted, whole(parted));
}

function fill(place, written, parted) {
  if (!written) return place.replaceChildren();
  const prompt = document.createElement("span");
  prompt.className = "quiet";
  prompt.textContent = written.prompt;
  const at = parted === null ? -1 : written.pieces.findLastIndex(({ from }) => from <= parted);
  const shown = written.pieces.map(({ text }, index) => {
    if (index !== at || text === "") return text;
    const marked = document.createElement("mark");
    marked.textContent = text;
    return marked;
  });
  place.replaceChildren(prompt, ...shown);
}

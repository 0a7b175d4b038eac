// scored.js: how likely a model finds the parts of a text that nobody asked it about when they were written: what the
// reader typed, and what was written while nothing was coloured. It knows nothing of the page.

import { promptOf, textOf } from "./story.js";
import { tokensOf } from "./tokens.js";

/** Whether a piece says how likely it was. */
export function isScored({ logprobs }) {
  return logprobs?.length > 0;
}

/**
 * The parts of each piece that does not say it, as a Map from the piece to {text, at, ids, model, logprobs, top}:
 * `at` is where the part's tokens begin in the text, in UTF-16 units; logprobs and top are null of a first token that
 * nothing stands before. A piece with ids of the model is one part; of others every token is one, or several tokens
 * that make up a character. `skip`: pieces whose parts are known.
 *
 * @param {Model} lm
 * @param {{top: number, skip: (piece) => boolean, signal: AbortSignal}} options  top: how many likelier tokens
 */
export async function scoreOf(lm, pieces, { top, skip, signal }) {
  const found = new Map();
  const isWanted = (piece) => piece.text !== "" && !isScored(piece) && !skip(piece);
  const read = pieces.slice(0, pieces.findLastIndex(isWanted) + 1);
  if (read.length === 0) return found;
  const model = lm.info.model;
  const prompt = promptOf(read, model);
  const [own, before] = await Promise.all([
    lm.tokenize(prompt.text, { signal }),
    lm.tokenize(prompt.text, { asPrompt: true, signal }),
  ]);
  const ids = [...before, ...prompt.ids];
  const [scored, bytes] = await Promise.all([lm.score(ids, { top, signal }), lm.tokenBytes(own, { signal })]);
  const scores = [null, ...scored]; // of each of ids: nothing stands before the first
  const groups = grouped(tokensOf(own, bytes), scores.slice(before.length - own.length), model);

  let at = 0; // in the text
  let next = before.length; // in ids, of the pieces that keep theirs
  const anew = prompt.text.length;
  for (const piece of read) {
    const end = at + piece.text.length;
    if (at < anew) {
      if (isWanted(piece)) found.set(piece, within(groups, textOf(read), at, end));
    } else {
      const part = scores.slice(next, next + piece.ids.length);
      next += piece.ids.length;
      if (isWanted(piece) && part.length > 0) found.set(piece, [{ ...piece, at, ...of(part) }]);
    }
    at = end;
  }
  return found;
}

/** Tokens as parts: those of one character together. */
function grouped(tokens, scores, model) {
  const groups = [];
  let at = 0;
  for (let index = 0; index < tokens.length; index += tokens[index].parts) {
    const { text, parts } = tokens[index];
    const ids = tokens.slice(index, index + parts).map(({ id }) => id);
    groups.push({ text, at, ids, model, ...of(scores.slice(index, index + parts)) });
    at += text.length;
  }
  return groups;
}

function of(scores) {
  if (scores.includes(null)) return { logprobs: null, top: null };
  return { logprobs: scores.map(({ logprob }) => logprob), top: scores.map(({ top }) => top) };
}

/** The parts from one place of a text to another; the first and the last may be cut. */
function within(groups, text, from, to) {
  const inside = groups.filter(({ at, text: own }) => at < to && at + own.length > from);
  return inside.map((group) => ({
    ...group,
    text: text.slice(Math.max(from, group.at), Math.min(to, group.at + group.text.length)),
  }));
}

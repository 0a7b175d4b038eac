// tokens.js: tokens as people can read them: their text from their bytes, also where several make up one character,
// and how likely they were, in five steps. It knows nothing of the page.

const SHOWN = { " ": "·", "\n": "↵", "\t": "⇥", "\r": "␍" };
const BOUNDS = [0.5, 0.2, 0.05, 0.01]; // probabilities: the least of each step of likelihood but the last

/**
 * The tokens of a text. Some characters, emoji for instance, take several: these have all its text, and say
 * which part they are.
 *
 * @param {number[]} ids
 * @param {Uint8Array[]} bytes  of each id, as tokenBytes gives them
 * @returns {{id: number, text: string, part: number, parts: number}[]}  part: from 1; 1 of 1 for a token that stands
 *   for itself
 */
export function tokensOf(ids, bytes) {
  const tokens = [];
  let open = []; // bytes of a character that has begun
  let members = []; // the ids that they are of
  for (let index = 0; index < ids.length; index++) {
    open.push(...bytes[index]);
    members.push(ids[index]);
    if (endsWithin(open) && index < ids.length - 1) continue;
    const text = new TextDecoder().decode(Uint8Array.from(open));
    members.forEach((id, at) => tokens.push({ id, text, part: at + 1, parts: members.length }));
    open = [];
    members = [];
  }
  return tokens;
}

/** Whether bytes of UTF-8 end within a character. */
export function endsWithin(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes.at(-back);
    if (byte < 0x80) return false;
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
  }
  return false;
}

/** Whether bytes are characters from the first to the last: half a one can't be put into a text by itself. */
export function isWhole(bytes) {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes));
    return true;
  } catch {
    return false;
  }
}

/** A text whose white space can be seen: " fox\n" -> "·fox↵". */
export function visible(text) {
  return text.replace(/^[ ]+|[ ]+$|[\n\t\r]/g, (space) => [...space].map((one) => SHOWN[one]).join("")) || "∅";
}

/** What a token of tokensOf is called: "·fox", "🦊 2/3". */
export function labelOf({ text, part, parts }) {
  return parts > 1 ? `${visible(text)} ${part}/${parts}` : visible(text);
}

/** How likely, from 0, likely, to 4, a great surprise. */
export function stepOf(probability) {
  const step = BOUNDS.findIndex((bound) => probability >= bound);
  return step < 0 ? BOUNDS.length : step;
}

/** 0.8712 -> "87.1 %", 0.00042 -> "0.042 %", 1e-7 -> "< 0.001 %" */
export function percent(probability) {
  const share = 100 * probability;
  if (share === 0) return "0 %";
  if (share < 0.001) return "< 0.001 %";
  return `${share >= 0.1 ? share.toFixed(1) : share.toPrecision(2)} %`;
}

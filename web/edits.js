// edits.js: the package's files as they are and as the reader has changed them, and which lines differ. Nothing here
// knows of the page. What is changed is kept for this tab, and never runs by itself.

const MOST = 4_000_000; // lines of one times lines of the other that are compared

/** Sends "change" when a text has become another. */
export class Edits extends EventTarget {
  #originals = {};
  #edits = {}; // only what differs
  #kept;

  /** kept: {get(): string | null, set(text)}, where it is kept. */
  constructor(kept) {
    super();
    this.#kept = kept;
  }

  /** The files as they are, {path: text}: what was kept of changes is there again. */
  begin(originals) {
    this.#originals = originals;
    for (const [path, text] of Object.entries(read(this.#kept))) this.#set(path, text);
    this.dispatchEvent(new Event("change"));
  }

  get paths() {
    return Object.keys(this.#originals);
  }

  /** The changed texts by path: what `load` takes as `edits`. */
  get all() {
    return { ...this.#edits };
  }

  original(path) {
    return this.#originals[path];
  }

  text(path) {
    return this.#edits[path] ?? this.#originals[path];
  }

  set(path, text) {
    if (text === this.text(path)) return;
    this.#set(path, text);
    keep(this.#kept, this.#edits);
    this.dispatchEvent(new Event("change"));
  }

  /** How many lines are not as they were. */
  count(path) {
    if (!(path in this.#edits)) return 0;
    const hunks = differences(this.#originals[path], this.#edits[path]);
    return hunks.reduce((sum, { from, to, removed }) => sum + Math.max(to - from, removed), 0);
  }

  #set(path, text) {
    if (typeof text !== "string" || !(path in this.#originals)) return; // of another version
    if (text === this.#originals[path]) delete this.#edits[path];
    else this.#edits[path] = text;
  }
}

function read(kept) {
  try {
    return JSON.parse(kept.get() ?? "{}") ?? {};
  } catch {
    return {};
  }
}

/** A browser may forbid it, or have no room: then a reload forgets the changes. */
function keep(kept, edits) {
  try {
    kept.set(JSON.stringify(edits));
  } catch (error) {
    console.debug(error);
  }
}

/** Whether two lists of edits are the same. */
export function sameEdits(some, others) {
  const paths = Object.keys(some);
  return paths.length === Object.keys(others).length && paths.every((path) => some[path] === others[path]);
}

/**
 * Where a text differs from the one that it was: [{from, to, removed}], its lines from..to - 1, counted from 0, stand in
 * place of `removed` lines.
 */
export function differences(old, text) {
  const [a, b] = [old.split("\n"), text.split("\n")];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end += 1;
  const [olds, news] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  if (olds.length + news.length === 0) return [];
  if (olds.length * news.length > MOST) return [{ from: start, to: start + news.length, removed: olds.length }];
  return hunksOf(olds, news).map(({ from, to, removed }) => ({ from: from + start, to: to + start, removed }));
}

/** By the longest common subsequence of lines. */
function hunksOf(olds, news) {
  const width = news.length + 1;
  const longest = new Uint32Array((olds.length + 1) * width); // of what is left of both
  for (let i = olds.length - 1; i >= 0; i--) {
    for (let j = news.length - 1; j >= 0; j--) {
      const next = longest[(i + 1) * width + j + 1];
      const without = Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
      longest[i * width + j] = olds[i] === news[j] ? next + 1 : without;
    }
  }
  const hunks = [];
  let [i, j] = [0, 0];
  while (i < olds.length || j < news.length) {
    const [from, begin] = [j, i];
    while ((i < olds.length || j < news.length) && !(i < olds.length && j < news.length && olds[i] === news[j])) {
      const takeOld = j === news.length || (i < olds.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1]);
      if (takeOld) i += 1;
      else j += 1;
    }
    if (j > from || i > begin) hunks.push({ from, to: j, removed: i - begin });
    i += 1;
    j += 1;
  }
  return hunks;
}

// texts.js: the sentences that the page's programs show. They stand in index.html, in the template "texts", so that
// all the page's words are in one place; {name} in one is filled in here.

const sentences = new Map(
  [...document.getElementById("texts").content.querySelectorAll("[data-text]")].map((element) => [
    element.dataset.text,
    element.textContent.replace(/\s+/g, " ").trim(),
  ]),
);

/**
 * A sentence of the page: text("load"), text("model-deleted", { model: "Stories" }).
 *
 * @throws {Error} for a name that index.html does not have, a value that is missing or one too many
 */
export function text(name, values = {}) {
  const sentence = sentences.get(name);
  if (sentence === undefined) throw new Error(`index.html has no text "${name}"`);
  const unused = new Set(Object.keys(values));
  const filled = sentence.replace(/\{(\w+)\}/g, (_, key) => {
    if (values[key] === undefined) throw new Error(`the text "${name}" needs a value for {${key}}`);
    unused.delete(key);
    return isolated(`${values[key]}`);
  });
  if (unused.size > 0) throw new Error(`the text "${name}" has no place for {${[...unused].join("}, {")}}`);
  return filled;
}

// Hebrew, Arabic and the other scripts from right to left: the blocks that Unicode keeps for them.
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** What is written from right to left, set apart so that it does not turn the words of the sentence around it. */
function isolated(value) {
  return RIGHT_TO_LEFT.test(value) ? `\u2068${value}\u2069` : value;
}

/** The sentence for a number of things: `${name}-one` for 1, else `${name}-many`, whose {count} is `shown`. */
export function counted(name, number, shown) {
  return number === 1 ? text(`${name}-one`) : text(`${name}-many`, { count: shown });
}

// context.js: how much of the model's context the text takes, and what is left of it.

import { $, whole } from "./show.js";
import { promptOf, textOf, typed } from "./story.js";
import { text } from "./texts.js";
import { keptTokens } from "./writing.js";

const PAUSE = 150; // milliseconds without a key before typed text is counted

export class Context {
  #story;
  #writer;
  #counted = { text: null, tokens: 0 }; // the last text that was tokenized
  #timer = 0;
  #number = 0; // of the count under way: the last one counts

  constructor(story, writer) {
    this.#story = story;
    this.#writer = writer;
    story.addEventListener("change", () => this.count());
    for (const id of ["editor", "prompt"]) {
      $(id).addEventListener("input", () => {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.count(), PAUSE);
      });
    }
  }

  /** Another model has other tokens. */
  reset() {
    this.#counted = { text: null, tokens: 0 };
    this.count();
  }

  /** Counts and shows: the text as it is edited, as it is, or, while there is none, the prompt. */
  async count() {
    const { lm } = this.#writer;
    const { pieces: story } = this.#story;
    const edited = !$("editing").hidden && $("editor").value !== textOf(story);
    const pieces = edited ? typed($("editor").value) : story.length > 0 ? story : typed($("prompt").value);
    const number = ++this.#number;
    if (!lm || pieces.length === 0) {
      $("context").hidden = true;
      return;
    }
    const prompt = promptOf(pieces, lm.info.model);
    if (prompt.text !== this.#counted.text) {
      const ids = await lm.tokenize(prompt.text, { asPrompt: true }).catch(() => null); // generate says why
      if (ids === null || number !== this.#number || lm !== this.#writer.lm) return;
      this.#counted = { text: prompt.text, tokens: ids.length };
    }
    this.#show(this.#counted.tokens + prompt.ids.length, lm.info.context);
  }

  #show(used, context) {
    const full = used >= context;
    const values = { used: whole(used), context: whole(context) };
    $("context-bar").max = context;
    $("context-bar").value = Math.min(used, context);
    $("context-words").textContent = full
      ? text("context-full", { ...values, kept: whole(keptTokens(context)) })
      : text("context-used", { ...values, free: whole(context - used) });
    const label = full ? text("go-on-from-end", { kept: whole(keptTokens(context)) }) : text("go-on");
    $("go-on").textContent = label;
    $("context").hidden = false;
  }
}

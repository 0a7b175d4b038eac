// ways.js: several ways on, side by side, of which the reader takes one.

import { $, say } from "./show.js";
import { textOf } from "./story.js";
import { text } from "./texts.js";

const ROWS = 3;

export class Ways {
  #story;
  #writer;

  constructor(story, writer) {
    this.#story = story;
    this.#writer = writer;
    // They belong to the text as it was: whatever changes it, by taking one or otherwise, ends them.
    story.addEventListener("change", () => this.close());
    $("ways-none").addEventListener("click", () => {
      this.close();
      focusOn("branch", this.#writer);
    });
  }

  get open() {
    return !$("ways").hidden;
  }

  close() {
    if (!this.open) return;
    this.#writer.stop();
    $("ways").hidden = true;
    $("ways-list").replaceChildren();
  }

  /** Has the model write ROWS ways on behind the text as it is. */
  async write(settings) {
    const { pieces } = this.#story;
    const cards = Array.from({ length: ROWS }, (_, row) => card(row));
    $("ways-list").replaceChildren(...cards.map(({ element }) => element));
    $("ways").hidden = false;
    const fits = $("ways").offsetHeight < document.documentElement.clientHeight;
    $("ways").scrollIntoView({ block: fits ? "nearest" : "start" });
    await this.#writer.branch(pieces, settings, ROWS, (row, written, finish) => {
      const { words, take } = cards[row];
      words.textContent = textOf(written).trimStart();
      if (!finish) return;
      take.disabled = written.length === 0;
      take.onclick = () => this.#take(pieces, written);
    });
  }

  #take(pieces, written) {
    this.#writer.stop();
    this.close();
    this.#story.change([...pieces, ...written]);
    say(text("way-taken"));
    focusOn("go-on", this.#writer);
  }
}

/** Gives a button the focus, or, where it is not there because others are still being written, what stops them. */
function focusOn(id, { busy }) {
  $(busy ? "stop-here" : id).focus({ preventScroll: true });
}

function card(row) {
  const element = document.createElement("li");
  const words = document.createElement("p");
  words.dir = "auto";
  words.id = `way-${row + 1}`;
  const take = document.createElement("button");
  take.type = "button";
  take.disabled = true;
  take.textContent = text("way-take", { number: row + 1 });
  take.setAttribute("aria-describedby", words.id);
  element.append(words, take);
  return { element, words, take };
}

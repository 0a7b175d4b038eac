// story_view.js: the text on the page. A click into it makes it a field to edit, in the same place and look.

import { $ } from "./show.js";
import { edited } from "./story.js";

/**
 * @param {Story} story
 * @param {object} listener  changed(): the view was opened or closed for editing; goOn(at): the reader wants
 *   the model to go on from a place in the text, what follows left out
 */
export class StoryView {
  #story;
  #listener;
  #spans = []; // one for each piece, in order

  constructor(story, listener) {
    this.#story = story;
    this.#listener = listener;
    story.addEventListener("change", ({ detail }) => this.#show(detail.from));
    $("story").addEventListener("click", (event) => this.#clicked(event));
    $("edit-done").addEventListener("click", () => this.close());
    $("edit-go-on").addEventListener("click", () => this.goOn());
    $("editor").addEventListener("input", fit);
    // What was typed is not lost with the tab: history.js keeps it then.
    document.addEventListener("visibilitychange", () => document.hidden && this.#commit());
    $("editor").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // it is not to stop the writing as well
      this.close();
    });
  }

  /** The pieces' elements, in order. */
  get spans() {
    return this.#spans;
  }

  get editing() {
    return !$("editing").hidden;
  }

  /** Opens the text for editing, with the cursor at a place in it. */
  edit(at = this.#story.text.length) {
    if (this.#story.writing) return;
    const editor = $("editor");
    editor.value = this.#story.text;
    $("story").hidden = true;
    $("editing").hidden = false;
    fit();
    editor.focus({ preventScroll: true });
    editor.setSelectionRange(at, at);
    this.#listener.changed();
  }

  /** Closes the field, and makes what was changed in it a step. */
  close() {
    if (!this.editing) return;
    const focused = $("editing").contains(document.activeElement);
    this.#commit();
    $("editing").hidden = true;
    this.#show(this.#spans.length);
    this.#listener.changed();
    if (focused) $("edit").focus({ preventScroll: true });
  }

  #commit() {
    if (this.editing) this.#story.change(edited(this.#story.pieces, $("editor").value));
  }

  /** Has the model go on from the cursor. */
  goOn() {
    const at = $("editor").selectionEnd;
    this.close();
    this.#listener.goOn(at);
  }

  #show(from) {
    const { pieces } = this.#story;
    const bottom = () => $("story").getBoundingClientRect().bottom;
    const page = document.documentElement;
    const wasInView = bottom() < page.clientHeight;
    for (const span of this.#spans.splice(from)) span.remove();
    const told = pieces.findIndex(({ by }) => by === "model"); // the first piece that is not
    for (let index = this.#spans.length; index < pieces.length; index++) {
      const piece = pieces[index];
      const span = document.createElement("span");
      span.textContent = piece.text;
      if (piece.by === "reader") span.className = "yours";
      $(told >= 0 && index >= told ? "written" : "told").append(span);
      this.#spans.push(span);
    }
    $("story").hidden = pieces.length === 0 || this.editing;
    $("story-empty").hidden = pieces.length > 0;
    // Follow the text while its end is in view, not when the reader has scrolled away from it.
    const below = bottom() + 24 - page.clientHeight; // in CSS pixels
    if (this.#story.writing && wasInView && below > 0) page.scrollBy({ top: below, behavior: "instant" });
  }

  /**
   * A click edits; one that ends a selection does not, nor does a finger, which may only want to scroll, nor one on
   * a button: see probabilities.js.
   */
  #clicked({ target, clientX, clientY, pointerType }) {
    if (this.#story.writing || !getSelection().isCollapsed || pointerType === "touch") return;
    if (target.closest("[role=button]")) return;
    this.edit(this.#placeAt(clientX, clientY));
  }

  /** The place in the text at a point of the window. */
  #placeAt(x, y) {
    const found = document.caretPositionFromPoint?.(x, y);
    const range = found ? null : document.caretRangeFromPoint?.(x, y); // Safari before 26.2
    const [node, offset] = found ? [found.offsetNode, found.offset] : [range?.startContainer, range?.startOffset];
    const index = this.#spans.findIndex((span) => span.contains(node));
    if (index < 0) return undefined;
    const before = document.createRange(); // a coloured piece may be in parts
    before.setStart(this.#spans[0], 0);
    before.setEnd(node, offset);
    return before.toString().length;
  }
}

/** Makes the field as high as its text: not every browser has field-sizing. */
function fit() {
  const editor = $("editor");
  if (CSS.supports("field-sizing", "content")) return;
  editor.style.height = "auto";
  editor.style.height = `${editor.scrollHeight + 2}px`;
}

// share.js: what of this page can be taken elsewhere, by the reader's own hand: a link in the clipboard, a file.

import { Unusable, fileOf, fragmentOf, stateIn, storyIn } from "./saved.js";
import { save } from "./save.js";
import { FIELDS, settingsAsTexts } from "./settings.js";
import { $, say, whole } from "./show.js";
import { text } from "./texts.js";

/**
 * @param {Story} story
 * @param {object} listener  about(): what fileOf is to say beside the text; model(): the name for a link, or null;
 *   open(story in a file): the reader has opened one; problem(problem): see app.js
 */
export function openShare(story, listener) {
  $("copy-link").addEventListener("click", async () => {
    const withText = $("link-text").checked;
    const state = { model: listener.model(), settings: settingsAsTexts(), text: withText ? story.text : null };
    const link = `${location.origin}${location.pathname}#${fragmentOf(state)}`;
    try {
      await navigator.clipboard.writeText(link);
      told(text(withText ? "link-copied-text" : "link-copied", { characters: whole(link.length) }));
    } catch (error) {
      listener.problem({ error, message: text("link-not-copied"), calm: true });
    }
  });
  $("save-text").addEventListener("click", () => save(`${fileName(story)}.txt`, story.text, "text/plain"));
  $("save-all").addEventListener("click", () => {
    const file = JSON.stringify(fileOf(story.pieces, listener.about()), null, 1);
    save(`${fileName(story)}.json`, file, "application/json");
  });
  $("open-file").addEventListener("change", async () => {
    const [file] = $("open-file").files;
    $("open-file").value = ""; // so that the same file can be chosen again
    if (!file) return;
    try {
      listener.open(storyIn(await file.text()));
    } catch (error) {
      listener.problem({ error, message: reasonOf(error, text("file-unreadable")) });
    }
  });
}

/** The story in a file that was dropped; null where it is another kind of file, which is nobody's fault. */
export async function storyOf(file) {
  try {
    return storyIn(await file.text());
  } catch {
    return null;
  }
}

/** What the link says that this page was opened with: {model, settings, text}, null where it says nothing. */
export function readLink() {
  return stateIn(location.hash.slice(1), FIELDS);
}

/** Why a link or a file can't be used, in a sentence; `otherwise` where it is no error of saved.js. */
export function reasonOf(error, otherwise) {
  return error instanceof Unusable ? text(error.reason, error.values) : otherwise;
}

function told(words) {
  $("share-answer").textContent = words;
  say(words);
}

/** "a-small-fox-found-a" */
function fileName(story) {
  const words = story.text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.slice(0, 5).join("-").slice(0, 60) || text("file-name");
}

// history.js: the texts that were written here, kept in this browser's IndexedDB and nowhere else; and the panel that
// lists them. Where nothing can be kept, in a private window for instance, they last as long as the tab, and it says so.

import { fileOf, storyIn } from "./saved.js";
import { $, say } from "./show.js";
import { text } from "./texts.js";

const DATABASE = `gpt2web-texts ${new URL("./", import.meta.url).pathname}`; // two copies may share an origin
const STORE = "texts"; // of {id, when, file}: `file` as fileOf makes it
const KEEP = "keep"; // a setting beside them
const PAUSE = 500; // milliseconds after a change, before it is kept
const WORDS = 70; // characters of a text that stand for it

let database = null; // a promise of it
const inTab = new Map(); // id -> entry, where there is no database

/**
 * @param {Story} story
 * @param {object} listener  open({pieces, settings, model, when}, identity): the reader wants a text back;
 *   about(): what fileOf is to say beside the text
 */
export function openHistory(story, listener) {
  const ids = new WeakMap(); // a text's identity -> its id here
  let timer = 0;
  const keep = () => {
    const { pieces, identity } = story;
    if (!$("keep-texts").checked || identity === null || !pieces.some(({ by }) => by === "model")) return;
    if (!ids.has(identity)) ids.set(identity, crypto.getRandomValues(new Uint32Array(3)).join("-"));
    const file = fileOf(pieces, listener.about());
    put({ id: ids.get(identity), when: Date.now(), file }).then(() => $("history").open && list());
  };
  story.addEventListener("change", () => {
    clearTimeout(timer);
    if (!story.writing) timer = setTimeout(keep, PAUSE);
  });

  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (document.hidden) keep(); // it may be for good
  });

  async function list() {
    const entries = await all();
    entries.sort((one, other) => other.when - one.when);
    const where = inTab.size === 0 ? "history-here" : "history-no-room";
    $("history-where").textContent = text((await opened()) ? where : "history-in-tab");
    $("history-empty").hidden = entries.length > 0;
    $("delete-all").hidden = entries.length === 0;
    const focused = document.activeElement;
    const its = focused.closest("#history-list li");
    const [id, which] = [its?.dataset.id, [...(its?.querySelectorAll("button") ?? [])].indexOf(focused)];
    $("history-list").replaceChildren(...entries.map(row));
    if (its) $("history-list").querySelectorAll(`[data-id="${id}"] button`)[which]?.focus({ preventScroll: true });
  }

  function row({ id, when, file }) {
    const made = document.createElement("li");
    made.dataset.id = id;
    const words = document.createElement("p");
    words.dir = "auto";
    const whole = file.text.trim();
    words.textContent = whole.length > WORDS ? `${whole.slice(0, WORDS).trimEnd()}…` : whole;
    const about = document.createElement("p");
    const values = { when: new Date(when).toLocaleString(), model: file.model?.title ?? file.model?.model ?? "–" };
    about.textContent = text("history-about", values);
    const open = button(text("open"), () => {
      const identity = {};
      ids.set(identity, id);
      listener.open(storyIn(JSON.stringify(file)), identity);
    });
    const remove = button(text("delete"), async () => {
      const next = made.nextElementSibling ?? made.previousElementSibling;
      await forget(id);
      await list();
      say(text("history-deleted"));
      if (next) $("history-list").querySelector("button")?.focus();
      else $("history").querySelector("summary").focus();
    });
    for (const one of [open, remove]) one.setAttribute("aria-label", `${one.textContent}: ${words.textContent}`);
    made.append(words, about, open, remove);
    return made;
  }

  $("history").addEventListener("toggle", () => $("history").open && list());
  $("delete-all").addEventListener("click", async () => {
    if (!confirm(text("history-delete-all-question"))) return;
    clearTimeout(timer);
    await forgetAll();
    await list();
    say(text("history-deleted"));
    $("history").querySelector("summary").focus();
  });
  const showKeeping = () => {
    $("history-state").textContent = text($("keep-texts").checked ? "history-on" : "history-off");
  };
  $("keep-texts").addEventListener("change", () => {
    setKeeping($("keep-texts").checked);
    showKeeping();
    if ($("keep-texts").checked) keep();
  });
  keeping().then((wanted) => {
    $("keep-texts").checked = wanted;
    showKeeping();
  });
}

function button(label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "plain";
  made.textContent = label;
  made.addEventListener("click", act);
  return made;
}

// ---- Kept ----

/** The database, or null where there can be none. */
function opened() {
  database ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(DATABASE, 1);
    } catch {
      return resolve(null);
    }
    request.onupgradeneeded = () => {
      request.result.createObjectStore(STORE, { keyPath: "id" });
      request.result.createObjectStore(KEEP);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = (event) => {
      event.preventDefault();
      resolve(null);
    };
  });
  return database;
}

/** The answer of one request; undefined where it can't be kept or read. */
async function ask(store, mode, request) {
  const base = await opened();
  if (!base) return undefined;
  try {
    return await new Promise((resolve, reject) => {
      const transaction = base.transaction(store, mode);
      const asked = request(transaction.objectStore(store));
      transaction.oncomplete = () => resolve(asked.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } catch (error) {
    console.debug(error); // no room, or the reader has deleted what this page keeps
    if (error.name === "InvalidStateError") database = null; // it was closed: the next request opens it again
    return undefined;
  }
}

async function put(entry) {
  const key = await ask(STORE, "readwrite", (store) => store.put(entry));
  if (key === undefined) inTab.set(entry.id, entry); // no database, or no room in it
  else inTab.delete(entry.id);
}

async function all() {
  const kept = (await ask(STORE, "readonly", (store) => store.getAll())) ?? [];
  return [...kept.filter(({ id }) => !inTab.has(id)), ...inTab.values()];
}

async function forget(id) {
  inTab.delete(id);
  await ask(STORE, "readwrite", (store) => store.delete(id));
}

async function forgetAll() {
  inTab.clear();
  await ask(STORE, "readwrite", (store) => store.clear());
}

async function keeping() {
  return (await ask(KEEP, "readonly", (store) => store.get(KEEP))) ?? true;
}

function setKeeping(wanted) {
  return ask(KEEP, "readwrite", (store) => store.put(wanted, KEEP));
}

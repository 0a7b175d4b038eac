// settings.js: the fields of the settings, the presets, and what the model is asked with them.

import { $ } from "./show.js";
import { text } from "./texts.js";

// The numbers: element, option of generate, and the value (besides an empty field) that leaves it off.
const NUMBERS = [
  ["temperature", "temperature", null],
  ["max-new-tokens", "maxNewTokens", null],
  ["top-k", "topK", null],
  ["top-p", "topP", 1],
  ["min-p", "minP", 0],
  ["repetition-penalty", "repetitionPenalty", 1],
  ["seed", "seed", null],
];
const OTHERS = ["stop", "when-full"];

/** Sends "change" when the next token may be drawn in another way. */
export const sampling = new EventTarget();

/** All fields that a link or a file of the page may name. */
export const FIELDS = [...NUMBERS.map(([id]) => id), ...OTHERS];

// How the next token is drawn, in the order of PRESET_FIELDS; the model's own come with it.
const PRESET_FIELDS = ["temperature", "top-k", "top-p", "min-p", "repetition-penalty"];
const PRESETS = {
  model: [1, "", 1, 0, 1],
  careful: [0.5, "", 0.9, 0, 1],
  balanced: [0.8, 40, 0.95, 0, 1],
  daring: [1.2, "", 1, 0.05, 1.05],
  likeliest: [0, "", 1, 0, 1],
};

export function openSettings() {
  for (const [id] of NUMBERS) {
    showValue(id);
    $(id).addEventListener("input", () => showValue(id));
  }
  for (const id of PRESET_FIELDS) $(id).addEventListener("input", showPreset);
  $("preset").addEventListener("change", () => apply($("preset").value));
  apply("model");
}

/** The model's own way of sampling, from its generation_config.json: it becomes what is set. */
export function setDefaults(config) {
  const temperature = config.do_sample === false ? 0 : (config.temperature ?? 1);
  const { top_k = "", top_p = 1, min_p = 0, repetition_penalty = 1 } = config;
  PRESETS.model = [temperature, top_k, top_p, min_p, repetition_penalty];
  apply("model");
}

/**
 * What is set: {options: those of generate, slide: whether to go on when the context is full}; null when a
 * field is not valid, and the browser has said so.
 */
export function readSettings() {
  const options = {};
  for (const [id, option, off] of NUMBERS) {
    const input = $(id);
    if (!input.checkValidity()) {
      input.closest("details").open = true;
      input.reportValidity();
      return null;
    }
    const value = input.valueAsNumber; // NaN when empty
    if (!Number.isNaN(value) && value !== off) options[option] = value;
  }
  const stop = stops($("stop-at").value);
  if (stop.length > 0) options.stop = stop;
  return { options, slide: $("when-full").value === "slide" };
}

/** How the next token is drawn, as generate's options; null while a field is not valid. */
export function samplingOptions() {
  const numbers = NUMBERS.filter(([id]) => PRESET_FIELDS.includes(id));
  if (!numbers.every(([id]) => $(id).validity.valid)) return null;
  const set = numbers.map(([id, option, off]) => [option, $(id).valueAsNumber, off]);
  return Object.fromEntries(set.filter(([, value, off]) => !Number.isNaN(value) && value !== off));
}

/** The texts that end the writing: one in each line, in which \n stands for a line break and \\ for \. */
function stops(lines) {
  const meant = (line) => line.replace(/\\(n|\\)/g, (_, what) => (what === "n" ? "\n" : "\\"));
  return lines.split("\n").filter(Boolean).map(meant);
}

/** The fields as texts, by id; those that are empty are left out. */
export function settingsAsTexts() {
  const fields = FIELDS.map((id) => [id, element(id).value]);
  return Object.fromEntries(fields.filter(([, value]) => value !== ""));
}

/**
 * Sets the fields, those that are not named to empty.
 *
 * @param {object} texts  as settingsAsTexts gives them
 * @returns {string | null}  the id of a field that can't have its value: nothing is set, then
 */
export function applyTexts(texts) {
  const before = settingsAsTexts();
  const set = (to) => {
    for (const id of FIELDS) {
      if (to[id] !== undefined || element(id).type !== "range") element(id).value = to[id] ?? "";
    }
    if (to["when-full"] === undefined) $("when-full").value = "stop";
  };
  set(texts);
  // A field that does not take a value has another one, or none, after it was set.
  const same = (id) => element(id).value === texts[id] || element(id).valueAsNumber === Number(texts[id]);
  const wrong = Object.keys(texts).find((id) => !FIELDS.includes(id) || !same(id) || !element(id).checkValidity());
  if (wrong !== undefined) set(before);
  for (const [id] of NUMBERS) showValue(id);
  showPreset();
  return wrong ?? null;
}

export function setValue(id, value) {
  $(id).value = value;
  showValue(id);
}

function element(id) {
  return $(id === "stop" ? "stop-at" : id);
}

function apply(preset) {
  if (!(preset in PRESETS)) return showPreset();
  PRESET_FIELDS.forEach((id, index) => setValue(id, PRESETS[preset][index]));
  showPreset(preset);
}

/** Names the preset whose values are set, `wanted` where several have them. */
function showPreset(wanted) {
  const fits = (name) => PRESET_FIELDS.every((id, index) => $(id).value === String(PRESETS[name][index]));
  const names = [wanted, $("preset").value, ...Object.keys(PRESETS)].filter((name) => name in PRESETS);
  const found = names.find(fits) ?? "own";
  $("preset").value = found;
  $("about-preset").textContent = text(`about-preset-${found}`);
  sampling.dispatchEvent(new Event("change"));
}

/** What a slider stands at, in words where it switches something off: beside it, and to be said with it. */
function showValue(id) {
  const output = document.querySelector(`output[for="${id}"]`);
  if (!output) return;
  const [, , off] = NUMBERS.find(([name]) => name === id);
  const value = $(id).valueAsNumber;
  output.textContent = value === off ? text("off") : value.toFixed(2);
  $(id).setAttribute("aria-valuetext", output.textContent);
}

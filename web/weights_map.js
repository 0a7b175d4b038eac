// weights_map.js: the view of where the weights are: every tensor of the model, as large as it is on the GPU.

import { fitting, measure, onResize, picture, savingButtons, shape, widthFor } from "./picture.js";
import { $, size, whole } from "./show.js";
import { text } from "./texts.js";
import { percent } from "./tokens.js";
import { treemap } from "./treemap.js";

const KINDS = ["embedding", "attention", "feed-forward", "norm"];
const SAID = 3; // tensors with the picture, by screen readers
const GAP = 1; // pixels between tensors, twice that between layers

/** The view, in <details id="weights-map">. */
export class WeightsMap {
  #lm = null;
  #of = null; // the model that #tensors are of
  #tensors = null;

  constructor() {
    const place = $("weights-picture");
    place.append(savingButtons(place, "weights"));
    $("weights-map").addEventListener("toggle", () => this.#update());
    onResize(place, () => this.#draw());
  }

  set lm(lm) {
    this.#lm = lm;
    this.#update();
  }

  async #update() {
    if (!$("weights-map").open) return;
    const lm = this.#lm;
    if (lm === null || lm !== this.#of) this.#tensors = null;
    this.#of = lm;
    this.#draw();
    if (lm === null || this.#tensors) return;
    try {
      const tensors = await lm.parameters();
      if (lm === this.#lm) this.#tensors = tensors;
    } catch (error) {
      if (error.name !== "ClosedError") $("weights-empty").textContent = text("look-failed", { reason: error.message });
    }
    this.#draw();
  }

  #draw() {
    const place = $("weights-picture");
    place.hidden = $("weights-table").hidden = !this.#tensors;
    place.querySelector("svg")?.remove();
    $("weights-kinds").replaceChildren(...(this.#tensors ? kindRows(this.#tensors) : []));
    $("weights-empty").hidden = this.#tensors !== null;
    if (!this.#tensors) return;
    place.prepend(mapPicture(this.#tensors, widthFor(place)));
    $("weights-rows").replaceChildren(...this.#tensors.map(tensorRow));
  }
}

/** What a tensor is for: "h.0.attn.c_attn.weight" -> "attention". */
export function kindOf(name) {
  if (/^(wte|wpe|lm_head)\b/.test(name)) return "embedding";
  if (/\.attn\./.test(name)) return "attention";
  return /\.mlp\./.test(name) ? "feed-forward" : "norm";
}

/** The part of the model that a tensor is in: "h.0.attn.c_attn.weight" -> "h.0". */
export function partOf(name) {
  return /^h\.\d+/.exec(name)?.[0] ?? name.split(".")[0];
}

/** Parts of the model, greatest first, and in them tensors, greatest first: {name, bytes, tensors}. */
export function partsOf(tensors) {
  const parts = new Map();
  for (const tensor of tensors) {
    const name = partOf(tensor.name);
    if (!parts.has(name)) parts.set(name, { name, bytes: 0, tensors: [] });
    parts.get(name).bytes += tensor.gpuBytes;
    parts.get(name).tensors.push(tensor);
  }
  for (const part of parts.values()) part.tensors.sort((one, other) => other.gpuBytes - one.gpuBytes);
  return [...parts.values()].sort((one, other) => other.bytes - one.bytes);
}

function mapPicture(tensors, width) {
  const height = Math.round(width < 500 ? 1.1 * width : 0.6 * width);
  const parts = partsOf(tensors);
  const boxes = treemap(parts.map(({ bytes }) => bytes), { x: 0, y: 0, width, height });
  const all = sum(tensors, "gpuBytes");
  const shapes = parts.flatMap((part, index) => {
    const inside = treemap(part.tensors.map(({ gpuBytes }) => gpuBytes), shrunk(boxes[index], GAP));
    return part.tensors.flatMap((tensor, at) => tensorShapes(tensor, part.name, inside[at], all));
  });
  const largest = parts.flatMap((part) => part.tensors).sort((one, other) => other.gpuBytes - one.gpuBytes);
  const shares = largest.slice(0, SAID).map(({ name, gpuBytes }) => text("share-of", { what: name, share: percent(gpuBytes / all) }));
  return picture(width, height, text("weights-label", { size: size(all), most: shares.join(", ") }), ...shapes);
}

function tensorShapes(tensor, part, box, all) {
  const { name, shape: dims, gpuBytes } = tensor;
  const { x, y, width, height } = shrunk(box, GAP / 2);
  const share = percent(gpuBytes / all);
  const title = text("weights-tensor", { name, shape: dims.join(" × "), bytes: whole(gpuBytes), share });
  const rect = { x, y, width: Math.max(0.3, width), height: Math.max(0.3, height), class: `tensor ${kindOf(name)}` };
  const shapes = [shape("rect", rect, shape("title", {}, title))];
  const short = name.replace(`${part}.`, "").replace(/\.weight$/, "");
  const first = part.startsWith("h.") ? `${part} ${short}` : part;
  [first, size(gpuBytes)].forEach((words, line) => {
    if (width < 40 || height < 20 * (line + 1) || (line > 0 && measure(words) > width - 8)) return;
    const at = { x: (x + 4).toFixed(1), y: (y + 15 + 17 * line).toFixed(1), class: "label" };
    shapes.push(shape("text", at, fitting(words, width - 8)));
  });
  return shapes;
}

function shrunk({ x, y, width, height }, by) {
  return { x: x + by, y: y + by, width: Math.max(0.5, width - 2 * by), height: Math.max(0.5, height - 2 * by) };
}

/** The legend, with what each kind of tensors comes to. */
function kindRows(tensors) {
  const all = sum(tensors, "gpuBytes");
  return KINDS.map((kind) => {
    const these = tensors.filter(({ name }) => kindOf(name) === kind);
    const bytes = sum(these, "gpuBytes");
    const made = document.createElement("li");
    const mark = document.createElement("span");
    mark.className = `swatch ${kind}`;
    const values = { parameters: whole(sum(these, "parameters")), size: size(bytes), share: percent(bytes / all) };
    made.append(mark, text(`weights-${kind}`, values));
    return made;
  });
}

function tensorRow({ name, shape: dims, parameters, precision, gpuBytes }) {
  const row = document.createElement("tr");
  for (const cell of [name, dims.join(" × "), whole(parameters), precision, whole(gpuBytes)]) {
    row.insertCell().textContent = cell;
  }
  return row;
}

function sum(tensors, key) {
  return tensors.reduce((total, tensor) => total + tensor[key], 0);
}

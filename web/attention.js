// attention.js: the view of which earlier tokens a token looked at, head by head.

import { fitting, measure, onResize, picture, savingButtons, shape, widthFor } from "./picture.js";
import { $, whole } from "./show.js";
import { text } from "./texts.js";
import { labelOf, percent } from "./tokens.js";

const FONT = "--word-font";
const LINE = 46; // pixels from one line of the text to the next
const PAD = 4; // pixels beside a token
const ARCS = 5; // drawn, from the token to those it looked at most
const LISTED = 10;
const SAID = 3; // with the picture, by screen readers
const DARKEST = 0.4; // of the shading: words on it keep a contrast of 5:1

/** The view, in <details id="attention">. */
export function openAttention(looking) {
  const view = $("attention");
  const [layer, head, place] = [$("attention-layer"), $("attention-head"), $("attention-picture")];
  const draw = () => {
    const { inspection, tokens, index } = looking;
    if (!view.open) return;
    place.hidden = $("attention-list").hidden = !inspection;
    if (!inspection) return place.querySelector("svg")?.remove();
    offer(inspection.shape, layer, head);
    const weights = weightsOf(inspection, Number(layer.value), head.value === "mean" ? null : Number(head.value));
    const most = strongest(weights, SAID).map(([at, weight]) => shareOf(tokens[at], weight)).join(", ");
    const which = { layer: layer.value, token: labelOf(tokens[index]), most };
    const label =
      head.value === "mean"
        ? text("attention-mean-label", which)
        : text("attention-label", { ...which, head: head.value });
    const drawn = textPicture(tokens, index, weights, label, widthFor(place), (at) => looking.look(at));
    place.querySelector("svg")?.remove();
    place.prepend(drawn);
    list(strongest(weights, LISTED), tokens);
  };
  place.append(savingButtons(place, "attention"));
  layer.addEventListener("change", draw);
  head.addEventListener("change", draw);
  view.addEventListener("toggle", draw);
  looking.addEventListener("change", draw);
  onResize(place, draw);
  looking.watch(view);
}

/** The layers and heads that there are: those chosen stay chosen where they can. */
function offer([layers, heads], layer, head) {
  const fill = (select, values, otherwise) => {
    if (select.options.length === values.length) return;
    const was = select.value;
    select.replaceChildren(...values.map(([value, label]) => new Option(label, value)));
    select.value = values.some(([value]) => value === was) ? was : otherwise;
  };
  const numbers = (count) => Array.from({ length: count }, (_, index) => [String(index + 1), String(index + 1)]);
  fill(layer, numbers(layers), String(layers));
  fill(head, [["mean", text("attention-all-heads")], ...numbers(heads)], "mean");
}

/**
 * How much of each token up to its own a head took, from 1; of all heads of a layer the mean, with head null.
 *
 * @returns {Float64Array}  [position + 1], sums to 1
 */
export function weightsOf({ attention, shape: [, heads, length] }, layer, head) {
  const sum = new Float64Array(length);
  const of = head === null ? Array.from({ length: heads }, (_, index) => index) : [head - 1];
  for (const one of of) {
    const start = ((layer - 1) * heads + one) * length;
    for (let at = 0; at < length; at++) sum[at] += attention[start + at] / of.length;
  }
  return sum;
}

/** The places of the greatest weights, greatest first: [[place, weight]]. */
export function strongest(weights, count) {
  return [...weights.entries()].sort((one, other) => other[1] - one[1] || one[0] - other[0]).slice(0, count);
}

function shareOf(token, weight) {
  return text("share-of", { what: labelOf(token), share: percent(weight) });
}

/** The text, every token as dark as it was looked at, with arcs to the strongest. */
function textPicture(tokens, index, weights, label, width, choose) {
  const read = tokens.slice(0, index + 1);
  const boxes = laidOut(read.map(labelOf), width, getComputedStyle($("look-tokens")).direction === "rtl");
  const from = boxes[index];
  const most = Math.max(...weights);
  const shades = boxes.map((box, at) => {
    const shaded = shadeOf(box, weights[at] / most, shareOf(read[at], weights[at]));
    shaded.addEventListener("click", () => choose(at));
    return shaded;
  });
  const arcs = strongest(weights, ARCS)
    .filter(([at, weight]) => at !== index && weight >= 0.01)
    .map(([at, weight]) => arc(from, boxes[at], weight));
  const words = boxes.map(({ x, y, word }) => shape("text", { x: x + PAD, y: y + 20, class: "word" }, word));
  const ring = { x: from.x, y: from.y, width: from.width, height: 28, rx: 4, class: "ring" };
  const height = boxes.at(-1).y + LINE;
  return picture(width, height, label, ...shades, ...arcs, ...words, shape("rect", ring));
}

/** A token's box. Its shading goes with the square root, so that small shares can be seen beside a great one. */
function shadeOf({ x, y, width }, weight, title) {
  const shading = (DARKEST * Math.sqrt(weight)).toFixed(3);
  const box = { x, y, width, height: 28, rx: 4, class: "shade", "fill-opacity": shading };
  return shape("rect", box, shape("title", {}, title));
}

function arc(from, to, weight) {
  const [x, y] = [from.x + from.width / 2, from.y];
  const [toX, toY] = [to.x + to.width / 2, to.y];
  const rise = from.y === to.y ? Math.min(20, 6 + Math.abs(x - toX) / 12) : 22;
  const path = `M ${x} ${y} C ${x} ${y - rise} ${toX} ${toY - rise} ${toX} ${toY}`;
  return shape("path", { d: path, class: "arc", "stroke-width": (1 + 4 * weight).toFixed(2) });
}

/** Boxes for words one after the other, in lines no wider than `width`, `fromRight` or left: [{x, y, width, word}]. */
function laidOut(words, width, fromRight) {
  const boxes = [];
  let [x, y] = [1, 24];
  for (const each of words) {
    const word = fitting(each, width - 2 * PAD - 2, FONT);
    const wide = Math.ceil(measure(word, FONT)) + 2 * PAD;
    if (x + wide > width && x > 1) [x, y] = [1, y + LINE];
    boxes.push({ x: fromRight ? width - x - wide : x, y, width: wide, word });
    x += wide + 1;
  }
  return boxes;
}

function list(found, tokens) {
  $("attention-rows").replaceChildren(
    ...found.map(([at, weight]) => {
      const row = document.createElement("tr");
      const token = document.createElement("bdi");
      token.textContent = labelOf(tokens[at]);
      for (const cell of [token, whole(at + 1), percent(weight)]) row.insertCell().append(cell);
      return row;
    }),
  );
}

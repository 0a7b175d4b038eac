// lens.js: the view of what each layer would have said, had the model ended behind it.

import { fitting, measure, onResize, picture, savingButtons, shape, widthFor } from "./picture.js";
import { $ } from "./show.js";
import { text } from "./texts.js";
import { percent, visible } from "./tokens.js";

const ROW = 28; // pixels
const NAMES = 76; // pixels, for the layers' names
const SAID = 3; // with the picture, by screen readers
const DARKEST = 0.4; // of the shading: words on it keep a contrast of 5:1

/** The view, in <details id="lens">. */
export function openLens(looking) {
  const view = $("lens");
  const place = $("lens-picture");
  const draw = () => {
    if (!view.open) return;
    const layers = looking.inspection?.lens ?? [];
    place.hidden = $("lens-table").hidden = layers.length === 0;
    place.querySelector("svg")?.remove();
    if (layers.length === 0) return;
    place.prepend(lensPicture(layers, widthFor(place)));
    list(layers);
  };
  place.append(savingButtons(place, "logit-lens"));
  view.addEventListener("toggle", draw);
  looking.addEventListener("change", draw);
  onResize(place, draw);
  looking.watch(view, { withLens: true });
}

function nameOf(layer) {
  return layer === 0 ? text("lens-embedding") : text("lens-layer", { number: layer });
}

/** A row for each layer, the first at the bottom, as the text goes up through them. */
function lensPicture(layers, width) {
  const shown = Math.min(layers[0].length, Math.max(2, Math.floor((width - NAMES) / 100)));
  const wide = (width - NAMES) / shown;
  const rows = layers.flatMap((top, layer) => {
    const y = (layers.length - 1 - layer) * ROW;
    const cells = top.slice(0, shown).flatMap(({ text: words, logprob }, column) => {
      const x = NAMES + column * wide;
      const probability = Math.exp(logprob);
      const box = { x: x + 1, y: y + 1, width: wide - 2, height: ROW - 2, rx: 3, class: "shade" };
      const share = percent(probability);
      const room = wide - 18 - measure(share);
      return [
        shape("rect", { ...box, "fill-opacity": (DARKEST * probability).toFixed(3) }),
        shape("text", { x: x + 6, y: y + 19, class: "label" }, fitting(visible(words), room)),
        shape("text", { x: x + wide - 6, y: y + 19, class: "end" }, share),
      ];
    });
    return [shape("text", { x: 0, y: y + 19, class: "label" }, nameOf(layer)), ...cells];
  });
  const shares = layers.at(-1).slice(0, SAID).map(shareOf);
  return picture(width, layers.length * ROW, text("lens-label", { most: shares.join(", ") }), ...rows);
}

function shareOf({ text: words, logprob }) {
  return text("share-of", { what: visible(words), share: percent(Math.exp(logprob)) });
}

function list(layers) {
  $("lens-rows").replaceChildren(
    ...layers.map((top, layer) => {
      const row = document.createElement("tr");
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = nameOf(layer);
      row.append(name);
      for (const { text: words, logprob } of top) {
        const token = document.createElement("bdi");
        token.textContent = visible(words);
        row.insertCell().append(token, ` ${percent(Math.exp(logprob))}`);
      }
      return row;
    }),
  );
}

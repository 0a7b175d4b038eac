// picture.js: drawings in SVG, coloured by style.css, and saved as files: as SVG with all its colours and fonts written
// into it, and as PNG, painted from the same shapes. No image is loaded for it, so the page's policy needs no
// address for images beyond its own files.

import { save } from "./save.js";
import { text } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg"; // a name, not an address
// What style.css says of shapes, and of words besides.
const STYLES = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width"];
const FONTS = ["font-family", "font-size", "font-weight", "font-style", "text-anchor"];
const MARGIN = 12; // around a saved picture, in pixels
const SCALE = 2; // pixels of a PNG for one of the page

/** A shape: rect, path, text or title, with its attributes, and what is in it: shapes or words. */
export function shape(name, attributes = {}, ...inside) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

/** A picture of width x height pixels, which screen readers call by its label. */
export function picture(width, height, label, ...shapes) {
  const box = { viewBox: `0 0 ${width} ${height}`, width, height };
  return shape("svg", { ...box, class: "picture", role: "img", "aria-label": label }, ...shapes);
}

/** How wide words are in one of the fonts of style.css, in pixels. */
export function measure(words, font = "--label-font") {
  pen ??= document.createElement("canvas").getContext("2d");
  pen.font = getComputedStyle(document.documentElement).getPropertyValue(font);
  return pen.measureText(words).width;
}

let pen = null;

/** Words, cut off where they are wider than `width`. */
export function fitting(words, width, font = "--label-font") {
  if (measure(words, font) <= width) return words;
  const characters = [...words];
  while (characters.length > 0 && measure(`${characters.join("")}…`, font) > width) characters.pop();
  return `${characters.join("")}…`;
}

/** The width for the pictures in an element, in pixels. */
export function widthFor(element) {
  return Math.max(260, Math.min(900, element.clientWidth));
}

/**
 * Calls `draw` when an element's width changes, which nothing tells of where it is the picture itself that makes
 * it wide.
 */
export function onResize(element, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = widthFor(element);
    if (element.clientWidth === 0 || now === width) return;
    if (width !== 0) draw();
    width = now;
  }).observe(element);
}

/**
 * Buttons that save the picture in a place.
 *
 * @param {string} name  of the files, without what follows the dot
 */
export function savingButtons(place, name) {
  const row = document.createElement("div");
  row.classList.add("actions", "saving");
  for (const [kind, label] of [["svg", text("save-svg")], ["png", text("save-png")]]) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "plain";
    made.textContent = label;
    made.addEventListener("click", async () => {
      const drawn = place.querySelector("svg");
      if (!drawn) return;
      if (kind === "svg") save(`${name}.svg`, standalone(drawn), "image/svg+xml");
      else save(`${name}.png`, await painted(drawn), "image/png");
    });
    row.append(made);
  }
  return row;
}

/** A picture as the text of a file that looks the same without this page. */
export function standalone(drawn) {
  const { width, height } = sizeOf(drawn);
  const copy = drawn.cloneNode(true);
  const originals = drawn.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, index) => {
    const styles = getComputedStyle(originals[index]);
    const names = { rect: STYLES, path: STYLES, text: [...STYLES, ...FONTS] }[element.localName] ?? [];
    for (const name of names) element.setAttribute(name, styles.getPropertyValue(name));
    element.removeAttribute("class");
  });
  const all = { x: -MARGIN, y: -MARGIN, width: width + 2 * MARGIN, height: height + 2 * MARGIN };
  copy.setAttribute("viewBox", Object.values(all).join(" "));
  copy.setAttribute("width", all.width);
  copy.setAttribute("height", all.height);
  copy.removeAttribute("class");
  const title = shape("title");
  title.textContent = drawn.getAttribute("aria-label");
  copy.prepend(title, shape("rect", { ...all, fill: paperBehind(drawn) }));
  return new XMLSerializer().serializeToString(copy);
}

/** A picture as the bytes of a PNG: its rects, paths and words, painted one by one. */
export async function painted(drawn) {
  const { width, height } = sizeOf(drawn);
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(SCALE * (width + 2 * MARGIN));
  canvas.height = Math.ceil(SCALE * (height + 2 * MARGIN));
  const brush = canvas.getContext("2d");
  brush.scale(SCALE, SCALE);
  brush.fillStyle = paperBehind(drawn);
  brush.fillRect(0, 0, width + 2 * MARGIN, height + 2 * MARGIN);
  brush.translate(MARGIN, MARGIN);
  for (const element of drawn.querySelectorAll("rect, path, text")) paint(brush, element);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return blob.arrayBuffer();
}

function paint(brush, element) {
  const styles = getComputedStyle(element);
  const number = (name) => Number(element.getAttribute(name) ?? 0);
  if (element.localName === "text") {
    brush.font = `${styles.fontStyle} ${styles.fontWeight} ${styles.fontSize} ${styles.fontFamily}`;
    brush.textAlign = { start: "left", middle: "center", end: "right" }[styles.textAnchor];
    brush.fillStyle = styles.fill;
    brush.globalAlpha = Number(styles.fillOpacity);
    brush.fillText(element.textContent, number("x"), number("y"));
    return;
  }
  const outline = new Path2D(element.getAttribute("d") ?? undefined);
  if (element.localName === "rect") {
    outline.roundRect(number("x"), number("y"), number("width"), number("height"), number("rx"));
  }
  if (styles.fill !== "none") {
    brush.fillStyle = styles.fill;
    brush.globalAlpha = Number(styles.fillOpacity);
    brush.fill(outline);
  }
  if (styles.stroke !== "none") {
    brush.strokeStyle = styles.stroke;
    brush.lineWidth = parseFloat(styles.strokeWidth);
    brush.globalAlpha = Number(styles.strokeOpacity);
    brush.stroke(outline);
  }
}

function sizeOf(drawn) {
  return drawn.viewBox.baseVal;
}

/** The colour that a picture stands on. */
function paperBehind(drawn) {
  return getComputedStyle(drawn).backgroundColor;
}

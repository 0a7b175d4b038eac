// treemap.js: rectangles whose areas are as given, side by side in a larger one and as square as can be: "Squarified
// Treemaps", Bruls, Huizing and van Wijk 2000. It knows nothing of the page.

/**
 * @param {number[]} amounts  positive, greatest first
 * @param {{x: number, y: number, width: number, height: number}} box
 * @returns {{x: number, y: number, width: number, height: number}[]}  of each amount
 */
export function treemap(amounts, box) {
  const scale = (box.width * box.height) / sum(amounts);
  const areas = amounts.map((amount) => amount * scale);
  const found = [];
  let left = { ...box };
  while (found.length < areas.length) {
    const rest = areas.slice(found.length);
    const side = Math.min(left.width, left.height);
    const squareness = (count) => worst(rest.slice(0, count), side);
    let count = 1;
    while (count < rest.length && squareness(count + 1) <= squareness(count)) count += 1;
    left = place(rest.slice(0, count), left, found);
  }
  return found;
}

/** Puts areas along the shorter side of a box; gives what is left of it. */
function place(areas, { x, y, width, height }, found) {
  const upright = width >= height; // one above the other at the left, else side by side at the top
  const thick = sum(areas) / (upright ? height : width);
  let at = upright ? y : x;
  for (const area of areas) {
    const long = area / thick;
    found.push(upright ? { x, y: at, width: thick, height: long } : { x: at, y, width: long, height: thick });
    at += long;
  }
  if (upright) return { x: x + thick, y, width: width - thick, height };
  return { x, y: y + thick, width, height: height - thick };
}

/** How far from square the longest of areas would be in a row along a side. */
function worst(areas, side) {
  const thick = sum(areas) / side;
  return Math.max(...areas.map((area) => Math.max(thick ** 2 / area, area / thick ** 2)));
}

function sum(amounts) {
  return amounts.reduce((total, amount) => total + amount, 0);
}

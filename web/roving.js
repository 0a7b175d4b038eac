// roving.js: one stop of the Tab key for many things in a row, such as the tokens of a text: the arrow keys go from one
// to the next, Home and End to the ends, Enter and Space choose.

/**
 * @param {Element} row  the things' parent, or one further up
 * @param {string} selector  of the things
 * @param {(thing: Element) => void} choose  also called for a click
 * @returns {{make: (thing: Element) => void}}  make: has the Tab key stop at this one
 */
export function roving(row, selector, choose) {
  const things = () => [...row.querySelectorAll(selector)];
  const make = (thing) => {
    for (const other of row.querySelectorAll(`${selector}[tabindex="0"]`)) other.tabIndex = -1;
    if (thing) thing.tabIndex = 0;
  };
  const thingOf = (event) => (event.target instanceof Element ? event.target.closest(selector) : null);
  row.addEventListener("keydown", (event) => {
    const thing = thingOf(event);
    if (!thing || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = things();
    const to = placeAfter(event.key, all.indexOf(thing), all.length, getComputedStyle(row).direction);
    if (to !== null) {
      make(all[to]);
      all[to].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      choose(thing);
    } else {
      return;
    }
    event.preventDefault();
  });
  row.addEventListener("click", (event) => {
    const thing = thingOf(event);
    if (!thing) return;
    make(thing);
    choose(thing);
  });
  return { make };
}

/** Where a key leads from `at`, of `count` things; null for a key that leads nowhere. */
function placeAfter(key, at, count, direction) {
  const forward = direction === "rtl" ? "ArrowLeft" : "ArrowRight";
  const steps = { ArrowLeft: -1, ArrowRight: -1, ArrowUp: -1, ArrowDown: 1 };
  steps[forward] = 1;
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  return key in steps ? Math.max(0, Math.min(count - 1, at + steps[key])) : null;
}

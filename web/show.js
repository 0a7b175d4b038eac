// show.js: the page's elements by their ids, the screen reader's line, and numbers as a reader writes them.

export const $ = (id) => document.getElementById(id);

/** Tells the screen reader. Words that it was told last differ by a blank at their end: else they are no news to it. */
export function say(text) {
  const status = $("status");
  status.textContent = status.textContent === text ? `${text}\u00a0` : text;
}

/** Whether an element that has the keyboard's focus loses it: it is gone, hidden or disabled. */
export function losesFocus(element) {
  return element !== document.body && (element.disabled || !element.checkVisibility());
}

/** 5885952 -> "5,885,952" */
export function whole(number) {
  return number.toLocaleString("en");
}

/** 11778392 -> "11.8" */
export function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}

/** 95504 -> "96 kB", 11778392 -> "11.8 MB", 548105171 -> "548 MB", 6231500000 -> "6.2 GB" */
export function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(1)} GB`;
  if (bytes >= 1e8) return `${Math.round(bytes / 1e6)} MB`;
  return bytes >= 1e6 ? `${megabytes(bytes)} MB` : `${Math.round(bytes / 1e3)} kB`;
}

/** 47 -> "47 s", 125 -> "2 min", 8000 -> "2.2 h" */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

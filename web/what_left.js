// what_left.js: the panel "What left this tab": every request of the page and of its workers since the page
// was opened, as the browser has recorded them (requests.js), and how many while a text was written.

import { watchRequests } from "./requests.js";
import { $, size, whole } from "./show.js";
import { counted, text } from "./texts.js";

const requests = [];
let writing = null; // the last text: {from, to}, in milliseconds since 1970; to is Infinity while it is written

export function openWhatLeft() {
  watchRequests(addRequests);
  navigator.serviceWorker?.addEventListener("message", ({ data }) => addRequests(data.requests)); // sw.js
  show();
}

/** More requests, as requests.js tells of them: the workers' come by way of gpt2web.js. */
export function addRequests(more) {
  requests.push(...more);
  $("left-rows").append(...more.map(row));
  show();
}

export function writingBegins() {
  writing = { from: now(), to: Infinity };
  show();
}

export function writingEnds() {
  writing.to = now();
  show();
}

function show() {
  const made = requests.filter(({ how }) => how !== "refused");
  const elsewhere = made.filter(({ address }) => new URL(address).origin !== location.origin);
  const bytes = made.reduce((sum, request) => sum + request.bytes, 0);
  const values = { requests: requestsOf(made), origin: location.origin, bytes: size(bytes) };
  $("left-total").textContent = elsewhere.length
    ? text("left-elsewhere", { ...values, elsewhere: whole(elsewhere.length) })
    : text("left-total", values);
  const refused = requests.length - made.length;
  $("left-refused").textContent = refused ? text("left-refused", { count: whole(refused) }) : "";
  if (writing === null) return;
  const meanwhile = made.filter(({ began }) => began >= writing.from && began <= writing.to);
  const when = writing.to === Infinity ? "left-since" : "left-meanwhile";
  $("left-writing").textContent = text(when, { requests: requestsOf(meanwhile) });
}

function requestsOf({ length }) {
  return counted("requests", length, whole(length));
}

function row({ address, how, bytes, began }) {
  const made = document.createElement("tr");
  const seconds = ((began - performance.timeOrigin) / 1000).toFixed(1);
  const came = how === "refused" ? "–" : bytes === 0 ? text("left-kept-copy") : size(bytes);
  for (const cell of [`${seconds} s`, how, shortened(address), came]) {
    made.append(document.createElement("td"));
    made.lastChild.textContent = cell;
  }
  return made;
}

/** On the page's own origin an address begins with its path. */
function shortened(address) {
  return address.startsWith(`${location.origin}/`) ? address.slice(location.origin.length) : address;
}

function now() {
  return performance.timeOrigin + performance.now();
}

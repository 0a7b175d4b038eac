// requests.js: what this tab has asked for: the browser's own record of it, of the page or worker that
// this runs in. what_left.js shows it.

/**
 * Tells of all requests: first those that were made before, then each when it has ended.
 *
 * @param {(requests: object[]) => void} tell  takes lists of {address, how, bytes, began}: `how` is who
 *   asked ("fetch", "script", "img" ...), or "refused" where the Content-Security-Policy let nothing
 *   out; bytes: what came over the network, headers included, 0 where a kept copy answered; began:
 *   milliseconds since 1970
 */
export function watchRequests(tell) {
  const observer = new PerformanceObserver((list) => {
    const requests = list.getEntries().filter(({ name }) => !/^(blob|data):/.test(name)); // of this tab's own memory
    if (requests.length > 0) tell(requests.map(described));
  });
  tell(performance.getEntriesByType("navigation").map(described)); // the page itself; a worker has none
  observer.observe({ type: "resource", buffered: true });
  addEventListener("securitypolicyviolation", ({ blockedURI, timeStamp }) => {
    tell([{ address: blockedURI, how: "refused", bytes: 0, began: performance.timeOrigin + timeStamp }]);
  });
}

function described({ name, initiatorType, transferSize, startTime }) {
  return { address: name, how: initiatorType, bytes: transferSize, began: performance.timeOrigin + startTime };
}

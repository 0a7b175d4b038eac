// errors.js: how errors are made here. The name is the kind, as in Python; the code says what can be done
// about it: docs/errors.md has one line for each.

export function failure(name, message, code) {
  return Object.assign(new Error(message), { name, code });
}

/** What a caller got wrong. */
export function invalid(message) {
  return Object.assign(new TypeError(message), { code: "option-invalid" });
}

/** The options that a caller gave to `method`, each of which it has. */
export function known(options, names, method) {
  if (typeof options !== "object" || options === null) {
    throw invalid(`The options of ${method} must be an object, not ${kind(options)}.`);
  }
  const unknown = Object.keys(options).find((key) => !names.includes(key));
  if (unknown === undefined) return options;
  throw invalid(`${method} has no option "${unknown}". Its options are ${names.join(", ")}.`);
}

/** What a value is, for a message. */
export function kind(value) {
  return value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;
}

/** One of this copy's own files; `url` is its address, `path` what to call it; missing: the code where it isn't there. */
export async function fetchOwn(url, path, { missing = "runtime-damaged", ...options } = {}) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    const way = "Look whether the network and the server are there, and try again.";
    throw failure("LoadError", `${path} could not be fetched (${error.message}). ${way}`, "download-broken");
  }
  if (response.ok) return response;
  const message = `${path} could not be fetched: the server answered ${response.status}`;
  if (response.status !== 404 && response.status !== 410) {
    throw failure("LoadError", `${message}. Try again later.`, "download-broken");
  }
  const way = "Look whether the name is right, and whether the whole folder is there as it was built.";
  throw failure("LoadError", `${message}. ${way}`, missing);
}

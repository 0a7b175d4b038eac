// offline.js: asks the browser to keep this page, so that it opens without its server (sw.js does it).

import { VERSION } from "./version.js";

let asked = false;

/** Installs the service worker, where there can be one; it looks for a new version at each visit by itself. */
export async function keepPage() {
  const container = navigator.serviceWorker;
  if (asked || !container) return;
  asked = true;
  // This page may have been opened without a service worker, or put aside and taken up again.
  const tell = () => container.controller?.postMessage({ version: VERSION });
  container.addEventListener("controllerchange", tell);
  addEventListener("pageshow", tell);
  tell();
  const address = new URL("sw.js", import.meta.url);
  // Not being able to, in a private window for instance, changes nothing of this visit.
  await container.register(address, { updateViaCache: "none" }).catch((error) => console.debug(error));
}

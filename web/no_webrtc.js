// no_webrtc.js: takes WebRTC away from the page before anything else runs: no Content-Security-Policy governs
// it. A program could get it back from a frame; no program here makes frames.

for (const name of Object.getOwnPropertyNames(self)) {
  if (/^(webkit|moz)?RTC/.test(name)) delete self[name];
}

// version.js: which copy of this folder this is. build.py puts the version in, the hash that version.json has.

export const VERSION = "";

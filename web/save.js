// save.js: saves a file from this tab's memory on the reader's disk. The page's one link: it leads to no address, only
// to a blob of this tab, and names a file; tests/test_privacy.py holds this file to these lines.

export function save(name, contents, type) {
  const address = URL.createObjectURL(new Blob([contents], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // some browsers read it only after they have asked where to
}

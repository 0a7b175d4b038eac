// Runs a Python file in the page's Python: node tests/in_pyodide.mjs FILE. Both folders are mounted,
// py/ and tests/; stdin is the string `stdin`, and the string `stdout` that the file leaves is printed.
import { readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { text } from "node:stream/consumers"
import { fileURLToPath } from "node:url"
import { loadPyodide } from "pyodide"

const tests = dirname(fileURLToPath(import.meta.url))
const pyodide = await loadPyodide()
for (const [folder, path] of [["/py", join(tests, "..", "py")], ["/tests", tests]]) {
  pyodide.FS.mkdir(folder)
  pyodide.FS.mount(pyodide.FS.filesystems.NODEFS, { root: path }, folder)
}
pyodide.globals.set("stdin", await text(process.stdin))
pyodide.runPython(readFileSync(process.argv[2], "utf-8"))
process.stdout.write(pyodide.globals.get("stdout"))

// Run a Python file inside Pyodide, in Node: node run.mjs PYODIDE REPOSITORY FILE ARGUMENT...
// The repository is seen, read-only by agreement, as /repository.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [pyodide, repository, file, ...words] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(`${pyodide}/pyodide.mjs`));
const python = await loadPyodide({ indexURL: `${pyodide}/` });
const quiet = { messageCallback: () => {} };
await python.loadPackage(["numpy", "matplotlib", "ipython", "packaging", "pygments"], quiet);
for (const [folder, place] of [[repository, "/repository"], [`${pyodide}/tools`, "/tools"]]) {
  python.FS.mkdirTree(place);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: folder }, place);
}
python.globals.set("words", python.toPy(words));
try {
  process.exitCode = python.runPython(readFileSync(file, "utf8"));
} catch (error) {
  console.error(String(error));
  process.exitCode = 2;
}

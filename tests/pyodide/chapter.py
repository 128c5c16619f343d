"""Run the cells of a chapter without a kernel; print them, with their outputs and processor seconds, as JSON:

    python chapter.py NN_NAME.ipynb                                 on NumPy alone, as if Numba were not installed
    node run.mjs PYODIDE REPOSITORY chapter.py NN_NAME.ipynb        the same in Pyodide
"""

import json
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

sys.dont_write_bytecode = True
if IN_NODE := sys.platform == "emscripten":
    ROOT, arguments = Path("/repository"), words  # noqa: F821  # pyright: ignore[reportUndefinedVariable]
    sys.path[:0] = ["/repository", "/tools", "/repository/tests/pyodide/stand_ins/chapters"]
else:
    ROOT, arguments = Path(__file__).resolve().parents[2], sys.argv[1:]
    sys.path.insert(0, str(ROOT))
    sys.modules["numba"] = None  # pyright: ignore[reportArgumentType]
os.environ["TINYMOE_MY"] = (solutions := TemporaryDirectory()).name
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.chdir(ROOT / "chapters")

from IPython.core.displayhook import DisplayHook  # noqa: E402
from IPython.core.displaypub import CapturingDisplayPublisher  # noqa: E402
from IPython.core.interactiveshell import InteractiveShell  # noqa: E402


def processor_seconds():
    """The time that all threads of this process have worked. In Pyodide Python's own clock is the one on the wall."""
    if not IN_NODE:
        return time.process_time()
    from js import process  # pyright: ignore[reportMissingImports]

    used = process.cpuUsage()
    return (used.user + used.system) / 1e6


class Hook(DisplayHook):
    """Keeps the value of a cell's last line, as a kernel would send it."""

    def write_output_prompt(self):
        """Show no prompt."""

    def write_format_data(self, format_dict, md_dict=None):
        """Keep the value in its forms."""
        self.shell.display_pub.publish(format_dict, md_dict)

    def finish_displayhook(self):
        """Write no line end."""


class Shell(InteractiveShell):
    """A shell whose displays and values are kept."""

    displayhook_class = Hook
    display_pub_class = CapturingDisplayPublisher


def run(shell, cell):
    """The cell with its outputs, as in a notebook's file, and the processor's seconds that it took."""
    shell.display_pub.outputs, out, err = [], StringIO(), StringIO()
    began = processor_seconds()
    with redirect_stdout(out), redirect_stderr(err):
        result = shell.run_cell("".join(cell["source"]), store_history=True)
    seconds = processor_seconds() - began
    outputs = [{"output_type": "stream", "name": "stdout", "text": out.getvalue()}] if out.getvalue() else []
    outputs += [{"output_type": "stream", "name": "stderr", "text": err.getvalue()}] if err.getvalue() else []
    outputs += [{"output_type": "display_data", **one} for one in shell.display_pub.outputs if not one.get("update")]
    if failed := result.error_before_exec or result.error_in_exec:
        outputs.append({"output_type": "error", "ename": type(failed).__name__, "evalue": str(failed)})
    return {**cell, "execution_count": result.execution_count, "outputs": outputs, "seconds": round(seconds, 2)}


shell, cells = Shell.instance(), json.loads(Path(*arguments).read_text("utf-8"))["cells"]
for number, cell in enumerate(cells):
    if cell["cell_type"] == "code":
        cells[number] = run(shell, cell)
        if cells[number]["seconds"] > 2:
            print(f"cell {number}: {cells[number]['seconds']} s", file=sys.stderr)
print(json.dumps(cells, default=str))
0  # the exit status, in Pyodide  # noqa: B018

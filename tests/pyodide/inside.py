"""Inside Pyodide: run the package's unit tests that are named in `words`; the last value is pytest's exit status."""

import os
import sys

sys.dont_write_bytecode = True
sys.path[:0] = ["/repository", "/repository/tests", "/repository/tests/pyodide", "/tools"]
sys.path.append("/repository/tests/pyodide/stand_ins/tests")
os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "1", "MPLBACKEND": "Agg"}
os.chdir("/repository")

import pytest  # noqa: E402
from exceptions import Exceptions  # noqa: E402

# Files cannot be asked for their size once they have no name, which is how pytest captures at the level of files.
plain = ["--capture=sys", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "_hypothesis_pytestplugin"]
options = ["-q", "--tb=short", "-ra", "-m", "not slow", "--basetemp=/tmp/pytest"]
int(pytest.main([*plain, *options, *words], plugins=[Exceptions()]))  # noqa: F821

"""Child processes of this program."""

import sys

# `python -m` puts the current folder first on the path, and `-P` exists from Python 3.11 on. `sys`
# is built in, so that no file of that folder is imported before it has left the path.
_RUN_MODULE = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; import runpy; "
    "del sys.argv[0]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command of `python -m MODULE ARGUMENTS` without the current folder on the path.

    A user's `components/` or `random.py` in the folder where a command runs is thus never taken
    for ours or for Python's.

    Args:
      module: the dotted name of an installed module.
      arguments: what `sys.argv` holds after the module's file.
      options: of the interpreter, as `-W`, `ignore`.
    """
    return [sys.executable, *options, "-c", _RUN_MODULE, module, *arguments]

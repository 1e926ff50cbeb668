#!/usr/bin/env bash
# Prints the path of a working Python for the stack of this machine:
#   find_python.sh UV [VERSION...]   the first available VERSION; defaults to those of
#                                    stack_versions.sh
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$1
shift
if [ $# -eq 0 ]; then
  read -r -a versions < <(tools/stack_versions.sh)
  set -- "${versions[@]}"
fi

# The shim of a version manager on PATH may not run, or run only in some folders: every candidate is
# started, and the result is its real path.
if_wanted() {
  "$1" - "$2" 2>/dev/null <<'PYTHON'
import sys
if "%d.%d" % sys.version_info[:2] != sys.argv[1]:
    sys.exit(1)
print(sys.executable)
PYTHON
}

# A version that was requested takes precedence over a newer one.
for wanted in "$@"; do
  [ -n "${PYTHON:-}" ] && if_wanted "$PYTHON" "$wanted" && exit
done
for wanted in "$@"; do
  for candidate in "python$wanted" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$wanted".*/bin/python \
    /usr/bin/"python$wanted" python3; do
    command -v "$candidate" >/dev/null 2>&1 && if_wanted "$candidate" "$wanted" && exit
  done
done
# With network access, uv downloads a Python.
if "$uv" python install --no-bin "$1" >/dev/null 2>&1 &&
  fetched=$("$uv" python find --managed-python --no-project "$1" 2>/dev/null); then
  echo "$fetched"
  exit
fi

wanted=$(printf '%s, ' "$@")
wanted=${wanted%, }
cat >&2 <<REMEDY
set-up needs Python $wanted and found none that runs${PYTHON:+ (PYTHON=$PYTHON is not $wanted)}. One of these helps:

  * with uv, where it may download:   uv python install $1
  * with pyenv:                       pyenv install $1
  * one that is somewhere else:       make setup PYTHON=/path/to/python$1

TFX 1.21 takes Python 3.11 to 3.13, with glibc 2.39 or newer, or a Mac with Apple silicon; TFX 1.16
takes Python 3.10, on any Linux:
                                      make setup SIGHTLINE_PYTHON=3.10
REMEDY
exit 1

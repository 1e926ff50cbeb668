#!/usr/bin/env bash
# Prints the path of a Python that runs, for the stack that this machine can have:
#   find_python.sh UV [VERSION]     VERSION is by default that of .python-version
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$1
wanted=${2:-}
if [ -z "$wanted" ]; then
  wanted=$(cat .python-version)
  # The default stack has no wheels for a Mac; the newer one does.
  [ "$(uname -s)" = Darwin ] && wanted=3.13
fi

# A version manager's shim may be on PATH and refuse to run, or run only in some folders: every
# candidate is tried, and its real path is what counts.
if_wanted() {
  "$1" - "$wanted" 2>/dev/null <<'PYTHON'
import sys
if "%d.%d" % sys.version_info[:2] != sys.argv[1]:
    sys.exit(1)
print(sys.executable)
PYTHON
}

for candidate in "${PYTHON:-}" "python$wanted" \
  "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$wanted".*/bin/python /usr/bin/"python$wanted" python3; do
  command -v "$candidate" >/dev/null 2>&1 && if_wanted "$candidate" && exit
done
# Where the network allows it, uv brings a Python of its own.
if "$uv" python install --no-bin "$wanted" >/dev/null 2>&1 &&
  fetched=$("$uv" python find --managed-python --no-project "$wanted" 2>/dev/null); then
  echo "$fetched"
  exit
fi

cat >&2 <<REMEDY
set-up needs Python $wanted and found none that runs${PYTHON:+ (PYTHON=$PYTHON is not $wanted)}. One of these helps:

  * with uv, where it may download:   uv python install $wanted
  * with pyenv:                       pyenv install $wanted
  * one that is somewhere else:       make setup PYTHON=/path/to/python$wanted

The other stack takes Python 3.11 to 3.13, with glibc 2.39 or newer, or a Mac with Apple silicon:
                                      make setup SIGHTLINE_PYTHON=3.13
REMEDY
exit 1

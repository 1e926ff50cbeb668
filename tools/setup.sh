#!/usr/bin/env bash
# Synchronizes .venv with uv.lock: every extra and the development tools. `make setup` runs it when
# the lock, the project file, or this script has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS

uv=$(tools/find_uv.sh)
stamp=.venv/.sightline-stamp
kept=$(cat "$stamp" 2>/dev/null || true)
if [ -n "${SIGHTLINE_PYTHON:-}" ]; then
  versions=$SIGHTLINE_PYTHON why="as set by SIGHTLINE_PYTHON"
elif [ -n "$kept" ]; then
  versions=$kept why="as .venv has it; \`make clean setup\` chooses again"
else
  { read -r versions && read -r why; } < <(tools/stack_versions.sh)
fi
# shellcheck disable=SC2086 # several versions are several arguments
if [ "${versions#* }" != "$versions" ] && [ "$(uname -s)" = Linux ] &&
  ! python=$(tools/find_python.sh "$uv" $versions 2>/dev/null); then
  why="TFX 1.16 and TensorFlow 2.16, as none of Python ${versions// /, } runs here"
  versions=3.10
fi
# shellcheck disable=SC2086
[ -n "${python:-}" ] || python=$(tools/find_python.sh "$uv" $versions)

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

compiler=""
for candidate in "${CXX:-}" c++ g++ clang++; do
  if command -v "$candidate" >/dev/null 2>&1; then
    compiler=$candidate
    break
  fi
done
[ -n "$compiler" ] || fail \
  "set-up needs a C++ compiler: one dependency of TFX (pyfarmhash) is built from source." \
  "  Debian, Ubuntu:  apt-get install g++" \
  "  Fedora, RHEL:    dnf install gcc-c++" \
  "  macOS:           xcode-select --install"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
[ -f "$header" ] || fail \
  "set-up needs Python's C headers: $header is not there (pyfarmhash is built from source)." \
  "  Debian, Ubuntu:  apt-get install $(basename "$(dirname "$header")")-dev"

echo "set-up: $why"
echo "set-up: $("$python" --version) at $python, $("$uv" --version | cut -d' ' -f1,2), $compiler"
# With --locked, an outdated lock is an error. Bytecode is compiled now, since importing TFX without it
# takes half a minute in every process that does not write bytecode.
"$uv" sync --quiet --locked --all-extras --compile-bytecode --python "$python"
"$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' >"$stamp"
echo "set-up: .venv/bin/sightline is ready after $((SECONDS - started)) s"

#!/usr/bin/env bash
# Prints the path of a usable uv: the one on PATH if it is new enough, or else one that it installs in
# .tools/uv. Changes nothing outside of this folder.
set -euo pipefail
cd "$(dirname "$0")/.."

pinned=0.13.9
oldest=0.9 # older versions cannot read this revision of uv.lock
own=.tools/uv

new_enough() {
  local version
  version=$("$1" --version 2>/dev/null | awk '{print $2}') || return 1
  [ -n "$version" ] && [ "$(printf '%s\n' "$oldest" "$version" | sort -V | head -n 1)" = "$oldest" ]
}

on_path=$(command -v uv || true)
if [ -n "$on_path" ] && new_enough "$on_path"; then
  echo "$on_path"
  exit
fi
if [ -x "$own/bin/uv" ] && new_enough "$own/bin/uv"; then
  echo "$PWD/$own/bin/uv"
  exit
fi

# Any Python 3.8 or newer; shims of version managers on PATH may not run.
mkdir -p "${own%/*}"
log=${own%/*}/uv-install.log
: >"$log"
for python in "${PYTHON:-}" python3 python3.10 python3.11 python3.12 python3.13 \
  "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1*/bin/python /usr/bin/python3; do
  command -v "$python" >/dev/null 2>&1 || continue
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >>"$log" 2>&1 || continue
  rm -rf "$own"
  if "$python" -m venv "$own" >>"$log" 2>&1 &&
    "$own/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$pinned" >>"$log" 2>&1; then
    echo "$PWD/$own/bin/uv"
    exit
  fi
done

cat >&2 <<REMEDY
set-up needs uv, and could not install it into $own. The last lines of $log:

$(tail -n 5 "$log" | sed 's/^/    /')

One of these helps, then run \`make setup\` again:
  * a python3 with venv and pip (Debian, Ubuntu: apt-get install python3-venv)
  * any uv of version $oldest or newer on PATH (pip, pipx, brew and most distributions have it)
  * the package index within reach (pip's proxy and certificate settings are honored)
REMEDY
exit 1

#!/usr/bin/env bash
# Creates an environment for every third-party client and oracle, for `make test-peers`.
#   peers.sh               creates .tools/peers/NAME from NAME.txt where it is missing or out of date
#   peers.sh lock [DATE]   resolves NAME.txt from NAME.in with releases before DATE
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(tools/find_uv.sh)

if [ "${1:-}" = lock ]; then
  date=${2:-2026-11-01}
  for wanted in $(find tests -path '*/peers/environments/*.in' | sort); do
    # Without the project's settings, which would add platforms to every line.
    UV_CUSTOM_COMPILE_COMMAND="tools/peers.sh lock $date" "$uv" pip compile --quiet --no-config \
      --universal --no-annotate --python-version 3.10 --exclude-newer "$date" \
      "$wanted" -o "${wanted%.in}.txt"
  done
  exit
fi

for lock in $(find tests -path '*/peers/environments/*.txt' | sort); do
  environment=.tools/peers/$(basename "$lock" .txt)
  made_of=$(.venv/bin/python --version && cat "$lock")
  [ "$(cat "$environment/made_of" 2>/dev/null)" = "$made_of" ] && continue
  echo "set-up: $environment"
  "$uv" venv --quiet --clear --python .venv/bin/python "$environment"
  "$uv" pip sync --quiet --python "$environment/bin/python" "$lock"
  echo "$made_of" >"$environment/made_of"
done

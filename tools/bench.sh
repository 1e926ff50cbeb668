#!/usr/bin/env bash
# `make bench`: size, latency and throughput of every variant of every bundle that the demo pushed.
set -euo pipefail
cd "$(dirname "$0")/.."

shopt -s nullglob
bundles=(demo/bundles/*/)
if [ ${#bundles[@]} -eq 0 ]; then
  echo "demo/bundles is empty; \`make demo\` fills it" >&2
  exit 1
fi
for bundle in "${bundles[@]}"; do
  .venv/bin/sightline benchmark "${bundle%/}"
done

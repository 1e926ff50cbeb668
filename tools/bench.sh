#!/usr/bin/env bash
# `make bench`: the way from JPEGs to batches, and every variant of every bundle that the demo pushed.
# PICTURES=DIR_OR_TAR measures other pictures than the sample photographs beside the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

pictures=${PICTURES:-../shared/data/imagenet_sample_A.tar}
if [ -e "$pictures" ]; then
  mkdir -p benchmarks
  .venv/bin/sightline benchmark data "$pictures" --out benchmarks/data.json
  .venv/bin/python tools/benchmarks_md.py benchmarks BENCHMARKS.md
else
  echo "$pictures does not exist; PICTURES=DIR make bench measures pictures of your own" >&2
fi

shopt -s nullglob
bundles=(demo/bundles/*/)
if [ ${#bundles[@]} -eq 0 ]; then
  echo "demo/bundles is empty; \`make demo\` fills it" >&2
  exit 1
fi
for bundle in "${bundles[@]}"; do
  .venv/bin/sightline benchmark bundle "${bundle%/}"
done

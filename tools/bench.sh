#!/usr/bin/env bash
# `make bench`: the data input from JPEGs to batches, the models' cost, training steps, the server of
# one bundle, and every variant of every bundle that the demo pushed. IMAGES=DIR_OR_TAR and CLASSES=TAR
# (of class folders) replace the images of ../shared/data, BUNDLE=DIR the served bundle.
set -euo pipefail
cd "$(dirname "$0")/.."

images=${IMAGES:-../shared/data/imagenet_sample_A.tar}
mkdir -p benchmarks
if [ -e "$images" ]; then
  .venv/bin/sightline benchmark data "$images" --out benchmarks/data.json
else
  echo "$images does not exist; set IMAGES=DIR_OR_TAR to measure the data input" >&2
fi

classes=${CLASSES:-../shared/data/cats_dogs_A.tar}
if [ -e "$classes" ]; then
  unpacked=$(mktemp -d)
  trap 'rm -rf "$unpacked"' EXIT
  tar -xf "$classes" -C "$unpacked"
  .venv/bin/sightline benchmark train resnet50 variant=v1 bias=true --against keras_resnet50 \
    --data "$unpacked" --size 224 --batch 16 --rounds 10 --out benchmarks/train.json
else
  echo "$classes does not exist; set CLASSES=TAR to measure training steps" >&2
fi
served=${BUNDLE:-demo/bundles/digits_resnet}
if [ -e "$served" ]; then
  .venv/bin/sightline benchmark serving "$served" --out benchmarks/serving.json
else
  echo "$served does not exist; run \`make demo\` first, or set BUNDLE=DIR" >&2
fi
# These photos are optional: they are not part of the repository.
if [ -e ../shared/data/imagenet_sample_A.tar ]; then
  photos=$(mktemp -d)
  trap 'rm -rf "${unpacked:-}" "$photos"' EXIT
  names=(imagenet_sample_A coco_subset_A coco128_train cats_dogs_A)
  for name in "${names[@]}"; do
    mkdir "$photos/$name"
    tar -xf "../shared/data/$name.tar" -C "$photos/$name"
  done
  .venv/bin/python tools/int8_agreement.py --calibrate "$photos/imagenet_sample_A" \
    --out benchmarks/int8_agreement.json "${names[@]/#/$photos/}"
fi
.venv/bin/sightline describe --table --json >benchmarks/models.json
.venv/bin/python tools/benchmarks_md.py benchmarks BENCHMARKS.md

shopt -s nullglob
bundles=(demo/bundles/*/)
if [ ${#bundles[@]} -eq 0 ]; then
  echo "demo/bundles is empty; run \`make demo\` first" >&2
  exit 1
fi
for bundle in "${bundles[@]}"; do
  .venv/bin/sightline benchmark bundle "${bundle%/}"
done

#!/usr/bin/env bash
# Prints the Python versions that set-up can use on this machine, best first, and the reason on a
# second line:
#   3.13 3.12 3.11
#   TFX 1.21 and TensorFlow 2.21, as glibc 2.41 is not older than 2.39
set -euo pipefail

newest="3.13 3.12 3.11"
needed=2.39 # for the wheels of ML Metadata and TFX 1.17 and newer

# $1 >= $2, as versions.
at_least() {
  [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

case "$(uname -s)/$(uname -m)" in
  Darwin/arm64) printf '%s\n' "$newest" "TFX 1.21 and TensorFlow 2.21, as this is a Mac with Apple silicon" ;;
  Linux/*)
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '$1 == "glibc" { print $2 }') || glibc=""
    if [ -z "$glibc" ]; then
      printf '%s\n' 3.10 "TFX 1.16 and TensorFlow 2.16, as no glibc was found (getconf GNU_LIBC_VERSION)"
    elif at_least "$glibc" "$needed"; then
      printf '%s\n' "$newest" "TFX 1.21 and TensorFlow 2.21, as glibc $glibc is not older than $needed"
    else
      printf '%s\n' 3.10 "TFX 1.16 and TensorFlow 2.16, as glibc $glibc is older than $needed"
    fi
    ;;
  *)
    echo "set-up has no stack for $(uname -s) on $(uname -m): it needs Linux on x86_64, or a Mac with Apple silicon" >&2
    exit 1
    ;;
esac

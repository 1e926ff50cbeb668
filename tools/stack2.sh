#!/usr/bin/env bash
# The newer stack (Python 3.11 to 3.13, TFX 1.21, TensorFlow 2.21; its wheels need glibc 2.39) on
# any Linux. On a recent machine, it runs on the machine itself, in .venv. On an older machine, as
# root, it runs in a Debian trixie root in a temporary folder, with the same uv.lock.
#   tools/stack2.sh test [ARGS]    the tests (what `make stack2` runs)
#   tools/stack2.sh smoke          the demo
#   tools/stack2.sh run CMD...     any command, from the project's folder
#   tools/stack2.sh clean          removes the root
# The root is reused, by one run at a time; SIGHTLINE_STACK2 sets its folder, by default
# ${TMPDIR:-/tmp}/sightline-stack2.
set -euo pipefail
cd "$(dirname "$0")/.."

python=3.13
suite=trixie
base=${SIGHTLINE_STACK2:-${TMPDIR:-/tmp}/sightline-stack2}
root=$base/root
packages=ca-certificates,g++,git,make,python3,python3-dev,python3-venv

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

# The Debian mirror of the host, if any; debootstrap has a default.
mirror() {
  [ "$(. /etc/os-release && echo "$ID")" = debian ] || return 0
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list \
    2>/dev/null | grep -v '^#' | grep -oE '(https?|file):/[^ ]*/debian/?( |$)' | head -n 1 || true
}

build_root() {
  [ -f "$base/complete" ] && return
  if ! command -v debootstrap >/dev/null; then
    echo "stack 2: installing debootstrap"
    apt-get update -qq && apt-get install -y -qq --no-install-recommends \
      debootstrap debian-archive-keyring >/dev/null ||
      fail "stack 2 needs debootstrap; install it with your distribution's package manager"
  fi
  rm -rf "$root"
  mkdir -p "$root"
  echo "stack 2: building a Debian $suite root in $root (about a minute)"
  # shellcheck disable=SC2046 # no mirror found means no argument
  debootstrap --variant=minbase --include="$packages" "$suite" "$root" $(mirror) \
    >"$base/debootstrap.log" 2>&1 ||
    fail "stack 2: debootstrap failed; the end of $base/debootstrap.log:" \
      "$(tail -n 5 "$base/debootstrap.log")"
  touch "$base/complete"
}

# Name resolution, certificates, and package index settings are those of the machine.
copy_settings() {
  local file
  for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/uv/uv.toml \
    /etc/ssl/certs/ca-certificates.crt "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" \
    "${PIP_CERT:-}" "${CURL_CA_BUNDLE:-}" "${PIP_CONFIG_FILE:-}" "${UV_CONFIG_FILE:-}"; do
    [ -f "$file" ] || continue
    rm -f "$root$file"
    install -D -m 644 "$file" "$root$file"
  done
}

copy_tree() {
  mkdir -p "$root/sightline" "$root/shared"
  rm -rf "$root/clone" # of an interrupted run
  # Build results stay, so that a second call is fast; all other files are replaced.
  find "$root/sightline" -mindepth 1 -maxdepth 1 ! -name .venv ! -name .tools ! -name demo \
    -exec rm -rf {} +
  if git rev-parse --git-dir >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard |
      tar --null --ignore-failed-read -T - -cf - 2>/dev/null | tar -xf - -C "$root/sightline"
    # Models record their commit. A clone, since the .git of a work tree is a file with a path of the
    # host; its index is that of the commit, and its files are those of this folder.
    git clone --quiet --no-checkout . "$root/clone"
    mv "$root/clone/.git" "$root/sightline/.git"
    rm -rf "$root/clone"
    git -C "$root/sightline" reset --quiet
  else
    tar --exclude=./.venv --exclude=./.tools --exclude=./demo -cf - . |
      tar -xf - -C "$root/sightline"
  fi
}

# Runs a command in the root; mounts and processes are in separate namespaces and end with it.
inside() {
  local name settings=()
  while read -r name; do
    settings+=("$name=${!name}")
  done < <(compgen -e | grep -iE '^(CI$|PIP_|UV_|SSL_|TF_|.*_proxy$|REQUESTS_CA_BUNDLE$|CURL_CA_BUNDLE$|TERM$)')
  # shellcheck disable=SC2016 # expanded by the inner shell
  unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    root=$1 shared=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs tmpfs "$root/tmp"
    [ -d "$shared" ] && mount --bind -o ro "$shared" "$root/shared"
    exec chroot "$root" env -i -C /sightline "$@"
  ' stack2 "$root" "$PWD/../shared" "${settings[@]}" HOME=/root LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SIGHTLINE_PYTHON=$python "$@"
}

# The .venv of the machine, with the first available Python of the newer stack.
on_this_machine() {
  local version
  version=$("$(tools/find_python.sh "$(tools/find_uv.sh)")" -c \
    'import sys; print("%d.%d" % sys.version_info[:2])')
  export SIGHTLINE_PYTHON=$version
  echo "stack 2: on this machine, with Python $version"
  "$@"
}

in_root() {
  [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] || fail \
    "stack 2 needs glibc 2.39, which this machine does not have, or a Debian root, which takes" \
    "Linux and chroot, so: sudo make stack2"
  mkdir -p "$base"
  exec 9>"$base/lock"
  flock --nonblock 9 || fail "stack 2: another run uses $root; wait for it, or set another folder" \
    "folder:  SIGHTLINE_STACK2=/a/folder make stack2"
  build_root
  copy_settings
  copy_tree
  inside "$@"
}

verb=${1:-test}
[ $# -gt 0 ] && shift
case $verb in
  smoke) command=(make demo) ;;
  test) command=(make test "ARGS=$*") ;;
  run)
    [ $# -gt 0 ] || fail "tools/stack2.sh run takes a command, e.g.: tools/stack2.sh run make lint"
    # shellcheck disable=SC2016 # expanded by the inner shell
    command=(bash -euc 'make setup; "$@"' run "$@")
    ;;
  clean)
    rm -rf --one-file-system "$base"
    exit
    ;;
  *) fail "unknown verb '$verb'; known: test, smoke, run, clean" ;;
esac

if [ "$(tools/stack_versions.sh | head -n 1)" = 3.10 ]; then
  in_root "${command[@]}"
else
  on_this_machine "${command[@]}"
fi

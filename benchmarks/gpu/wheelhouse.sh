#!/usr/bin/env bash
# Everything a GPU machine without network needs beside its own torch, as wheels with their sums. Run it where a package
# index can be reached, copy OUT_DIR/wheels over by any way there is, and run install.sh there.
#
#   bash benchmarks/gpu/wheelhouse.sh OUT_DIR
#
#   PYTHON_VERSION=3.12  of the machine that will install (3.10, 3.11 or 3.12)
#   HAVE=FILE            "python3 -m pip freeze" of that machine: its versions are preferred, and what fits is not carried
#   EVERYTHING=1         carry the packages of LEFT_OUT as well
#   EXTRAS=gpu           extras of pyproject.toml
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
PYTHON_VERSION=${PYTHON_VERSION:-3.12}
EXTRAS=${EXTRAS:-gpu}

# torch and what comes with it: the machine has them, and they are its driver's and not ours.
OF_TORCH='torch|torchvision|torchaudio|triton|nvidia-.*|cuda-(bindings|core|pathfinder|python|toolkit)'
# vLLM and verl name these and run without them on a Hopper GPU with the settings of run.sh: kernels of other GPUs, of
# other number formats and of other attention (flashinfer, cutlass, tilelang and what they need), flash-attn (no wheel
# anywhere on PyPI), verl's trainers that are not used here, and loggers.
LEFT_OUT='flashinfer-cubin|flashinfer-python|quack-kernels|tokenspeed-mla|tokenspeed-triton|humming-kernels|tilelang|z3-solver|cuda-tile|torch-c-dlpack-ext|cupy-cuda13x|flash-attn|flash-linear-attention|fla-core|liger-kernel|trl|wandb|sentry-sdk|mbridge'

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

pinned() { # FILE: name==version of every package that the extras need there
  local uv options=()
  # shellcheck source-path=SCRIPTDIR source=../../recipes/environment.sh
  source "$ROOT/recipes/environment.sh"
  _visionr1_use_pip_settings
  uv=$(_visionr1_uv) || return 1
  for extra in ${EXTRAS//,/ }; do options+=(--extra "$extra"); done
  # What the machine has goes in as the last result: uv keeps those versions where it can.
  if [[ -n ${HAVE:-} ]]; then grep -E '^[A-Za-z0-9._-]+==' "$HAVE" | sed 's/+.*//' >"$1"; fi
  (cd "$ROOT" && "$uv" pip compile --quiet --no-header --no-annotate --python-version "$PYTHON_VERSION" \
    --python-platform x86_64-manylinux_2_28 "${options[@]}" --output-file "$1" pyproject.toml >/dev/null)
}

wanted() { # FILE: the lines of it that have to be carried
  local out="$OF_TORCH|verl-visionr1"
  [[ ${EVERYTHING:-0} == 1 ]] || out="$out|$LEFT_OUT"
  grep -E '^[a-z0-9._-]+==' "$1" | grep -vE "^($out)==" |
    if [[ -n ${HAVE:-} ]]; then grep -vxFf <(sed 's/+.*//' "$HAVE" | tr '[:upper:]_' '[:lower:]-'); else cat; fi
}

download() { # PINS FOLDER: a wheel of each, for that machine; pure Python is built where only its source is published
  local pip=("${PIP[@]}") options platforms=() minor pin left=$2/left.txt log=$2/pip.log
  for minor in $(seq 39 -1 5); do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
  platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
  options=(--no-deps --only-binary=:all: --python-version "$PYTHON_VERSION" --implementation cp "${platforms[@]}")
  for abi in "cp${PYTHON_VERSION/./}" abi3 none; do options+=(--abi "$abi"); done
  cp "$1" "$left"
  until "${pip[@]}" download --quiet "${options[@]}" --dest "$2" --requirement "$left" >"$log" 2>&1; do
    pin=$(sed -n 's/^ERROR: No matching distribution found for \([^ ]*==[^ ]*\).*/\1/p' "$log" | head -n 1)
    [[ -n $pin ]] || fail "the wheels could not be downloaded: $(tail -n 1 "$log")"
    "${pip[@]}" wheel --quiet --no-deps --wheel-dir "$2/built" "$pin" >"$log" 2>&1 || fail "$pin: no wheel, and none could be built: $(tail -n 1 "$log")"
    compgen -G "$2/built/*-none-any.whl" >/dev/null || fail "$pin: no wheel for Python $PYTHON_VERSION, and not pure Python: add it to LEFT_OUT, or build it on the machine"
    mv "$2"/built/*.whl "$2"
    grep -vxF "$pin" "$left" >"$left.new" || true
    mv "$left.new" "$left"
  done
  rm -rf "$2/built" "$left" "$log"
}

sums() { # WHEELS_DIR: what install.sh checks
  (cd "$1" && sha256sum -- *.whl >SHA256SUMS)
}

main() {
  [[ $# == 1 && $1 != -* ]] || { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
  local out=$1 started=$SECONDS
  mkdir -p "$out/wheels"
  out=$(cd "$out" && pwd -P)
  pinned "$out/pinned.txt" || fail "the versions could not be resolved (uv's message is above)"
  wanted "$out/pinned.txt" >"$out/wanted.txt"
  find "$out/wheels" -name '*.whl' -delete
  python3 -m venv --clear "$out/pip" || fail "python3 cannot make an environment; its package python3-venv may be missing"
  PIP=("$out/pip/bin/python" -m pip --disable-pip-version-check --no-input)
  download "$out/wanted.txt" "$out/wheels"
  # This project itself; run.sh puts the repository before it on the path, so that it need not be carried anew.
  "${PIP[@]}" wheel --quiet --no-deps --wheel-dir "$out/wheels" "$ROOT"
  rm -rf "$out/pip"
  sums "$out/wheels"
  printf '%s wheels, %s MiB: %s (%s s)\n' "$(find "$out/wheels" -name '*.whl' | wc -l)" \
    "$(du -sm "$out/wheels" | cut -f1)" "$out/wheels" "$((SECONDS - started))"
}

# Sourced by the test for its functions.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"

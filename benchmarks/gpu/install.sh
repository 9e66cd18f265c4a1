#!/usr/bin/env bash
# The other side of wheelhouse.sh, on the machine without network: takes the parts as they come, checks them, joins them
# and installs the wheels beside the torch that is there.
#
#   bash benchmarks/gpu/install.sh receive FOLDER ...    # parts; any number a call, in any order
#   bash benchmarks/gpu/install.sh install               # when all have come; run again, it only looks
#
#   STORE=/tmp/visionr1-wheelhouse  where the parts are kept
#   VENV=/tmp/visionr1-venv         the environment that is made
#   PYTHON=python3                  the interpreter that has torch
set -euo pipefail
STORE=${STORE:-/tmp/visionr1-wheelhouse}
VENV=${VENV:-/tmp/visionr1-venv}
PYTHON=${PYTHON:-python3}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

receive() { # FOLDER ...: each holds a MANIFEST and at least one part
  local folder part
  mkdir -p "$STORE"
  for folder in "$@"; do
    [[ -f $folder/MANIFEST ]] || fail "$folder: no MANIFEST; give the folders 01, 02, ... that wheelhouse.sh made"
    if [[ -f $STORE/MANIFEST ]]; then
      cmp -s "$folder/MANIFEST" "$STORE/MANIFEST" || fail "$folder: of another wheelhouse than the parts in $STORE; rm -r $STORE starts over"
    else
      cp "$folder/MANIFEST" "$STORE/MANIFEST"
    fi
    for part in "$folder"/wheels.tar.*; do
      [[ -f $part ]] || fail "$folder: no part in it"
      matches "$folder" "$(basename "$part")" || fail "$part: not as it was sent (sha256); carry it again"
      cp "$part" "$STORE/.coming"
      mv "$STORE/.coming" "$STORE/$(basename "$part")"
    done
  done
  local missing
  missing=$(missing_parts)
  printf '%s of %s parts are here%s\n' "$(find "$STORE" -name 'wheels.tar.*' | wc -l)" "$(all_parts | wc -l)" "${missing:+; missing: $missing}"
}

all_parts() { awk '$2 ~ /^wheels\.tar\./ { print $2 }' "$STORE/MANIFEST"; }

missing_parts() {
  local name names=()
  while read -r name; do [[ -f $STORE/$name ]] || names+=("${name##*.}"); done < <(all_parts)
  printf '%s' "${names[*]}"
}

matches() { # FOLDER NAME: the file is what the MANIFEST of the store says
  [[ $(sha256sum "$1/$2" | cut -d' ' -f1) == $(awk -v name="$2" '$2 == name { print $1 }' "$STORE/MANIFEST") ]]
}

join() { # the wheels, each as the MANIFEST says
  local missing name
  [[ -f $STORE/MANIFEST ]] || fail "$STORE: no parts have come yet; see the first lines of this script"
  missing=$(missing_parts)
  [[ -z $missing ]] || fail "parts missing in $STORE: $missing (of $(all_parts | wc -l)); carry them and run receive"
  while read -r name; do matches "$STORE" "$name" || fail "$STORE/$name: not as it was sent (sha256); carry it again"; done < <(all_parts)
  rm -rf "$STORE/wheels"
  all_parts | sort | (cd "$STORE" && xargs cat) | tar -C "$STORE" -xf - || fail "the parts in $STORE do not join to an archive"
  (cd "$STORE" && grep '  wheels/' MANIFEST | sha256sum --check --quiet >&2) || fail "wheels in $STORE/wheels are not as they were packed (named above)"
}

environment() { # an environment that sees the packages of $PYTHON, also where $PYTHON is one of an environment itself
  "$PYTHON" -c 'import torch' 2>/dev/null || fail "$PYTHON: has no torch; PYTHON=<the interpreter that has it>"
  PIP=("$PYTHON" -m pip --python "$VENV/bin/python")
  local options=(--clear --system-site-packages --without-pip)
  "$PYTHON" -m pip --version >/dev/null 2>&1 || { PIP=("$VENV/bin/python" -m pip) options=("${options[@]:0:2}"); }
  "$PYTHON" -m venv "${options[@]}" "$VENV" || fail "$PYTHON: cannot make an environment; its package python3-venv may be missing"
  "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_the_machine.pth"
}

install() {
  local started=$SECONDS stamp=$VENV/.visionr1-wheelhouse log=$STORE/pip.log sum
  sum=$(sha256sum "$STORE/MANIFEST" 2>/dev/null | cut -d' ' -f1) || true
  if [[ ! -f $stamp || $(<"$stamp") != "$sum" ]]; then
    join
    environment
    "${PIP[@]}" install --quiet --disable-pip-version-check --no-input --no-index \
      --no-deps --no-compile --ignore-installed "$STORE"/wheels/*.whl >"$log" 2>&1 || fail "pip: $(grep -m 1 ERROR "$log" || tail -n 1 "$log")"
    printf '%s\n' "$sum" >"$stamp"
  fi
  look
  printf 'ready after %s s: source %s/bin/activate\n' "$((SECONDS - started))" "$VENV"
}

look() { # what cannot be imported, in one line
  "$VENV/bin/python" - <<'EOF' || exit 1
import importlib, sys
missing = []
for name in ("torch", "torchvision", "transformers", "ray", "vllm", "verl", "tensordict", "transfer_queue", "qwen_vl_utils", "verl_visionr1"):
    try:
        importlib.import_module(name)
    except Exception as error:
        missing.append(f"{name} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})")
if missing:
    sys.exit(f"error: cannot be imported: {', '.join(missing)}")
import torch, vllm
where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
sys.stdout.write(f"torch {torch.__version__}, vllm {vllm.__version__}, {where}\n")
EOF
}

main() {
  case ${1:-} in
    receive) [[ $# -gt 1 ]] || fail "receive what? give folders with parts"; receive "${@:2}" ;;
    install) install ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
  esac
}

# Sourced by the test for its functions.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"

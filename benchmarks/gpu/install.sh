#!/usr/bin/env bash
# The other side of wheelhouse.sh, on the machine without network: checks the wheels and installs them beside the torch
# that is there. Run again, it only looks.
#
#   bash benchmarks/gpu/install.sh WHEELS_DIR
#
#   VENV=/tmp/visionr1-venv         the environment that is made
#   PYTHON=python3                  the interpreter that has torch
set -euo pipefail
VENV=${VENV:-/tmp/visionr1-venv}
PYTHON=${PYTHON:-python3}

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

check() { # WHEELS_DIR: each wheel is as it was packed
  [[ -f $1/SHA256SUMS ]] || fail "$1: no SHA256SUMS; give the folder of wheels that wheelhouse.sh made"
  (cd "$1" && sha256sum --check --quiet SHA256SUMS >&2) || fail "$1: wheels are missing or damaged (named above); copy them again"
}

environment() { # an environment that sees the packages of $PYTHON, also where $PYTHON is one of an environment itself
  "$PYTHON" -c 'import torch' 2>/dev/null || fail "$PYTHON: has no torch; PYTHON=<the interpreter that has it>"
  PIP=("$PYTHON" -m pip --python "$VENV/bin/python")
  local options=(--clear --system-site-packages --without-pip)
  "$PYTHON" -m pip --version >/dev/null 2>&1 || { PIP=("$VENV/bin/python" -m pip) options=("${options[@]:0:2}"); }
  "$PYTHON" -m venv "${options[@]}" "$VENV" || fail "$PYTHON: cannot make an environment; its package python3-venv may be missing"
  "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_the_machine.pth"
}

install() { # WHEELS_DIR
  local wheels=$1 started=$SECONDS stamp=$VENV/.visionr1-wheelhouse log=$VENV.log sum
  sum=$(sha256sum "$wheels/SHA256SUMS" 2>/dev/null | cut -d' ' -f1) || true
  if [[ ! -f $stamp || $(<"$stamp") != "$sum" ]]; then
    check "$wheels"
    environment
    "${PIP[@]}" install --quiet --disable-pip-version-check --no-input --no-index \
      --no-deps --no-compile --ignore-installed "$wheels"/*.whl >"$log" 2>&1 || fail "pip: $(grep -m 1 ERROR "$log" || tail -n 1 "$log")"
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
  [[ $# == 1 && $1 != -* ]] || { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
  install "$1"
}

# Sourced by the test for its functions.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"

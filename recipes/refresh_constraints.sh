#!/usr/bin/env bash
# Writes recipes/constraints-cpu.txt and recipes/constraints-gpu.txt anew: installs each extra with `dev` into a fresh
# environment without constraints, imports what a run imports, and keeps the versions that were installed. Needs Linux,
# python3, a package index and 25 GB of disk; about 5 minutes an extra.
#
#   bash recipes/refresh_constraints.sh             both
#   bash recipes/refresh_constraints.sh cpu         one of them
#   bash recipes/refresh_constraints.sh --compare   writes nothing: how the pins differ from what would be resolved today
#
# Each also prints the pins that change: `-` the old, `+` the new.
#
#   WORK=DIR           folder of the fresh environments (default: a temporary one, which is removed)
#   VISIONR1_PYTHON    Python of the install. For the other Pythons of PYTHONS the same versions are taken where they
#                      exist for that Python, and resolved (not installed, not imported) where they do not.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PYTHONS=(3.10 3.11 3.12)
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$ROOT/recipes/environment.sh"

# PYTHON-VERSION FREEZE OUT EXTRA: the versions for that Python, as near to FREEZE as can be. uv keeps what OUT has.
resolve() {
  cp "$2" "$3"
  (cd "$ROOT" && "$UV" pip compile --quiet --no-header --no-annotate --python-version "$1" \
    --python-platform x86_64-manylinux_2_28 --extra "$4" --extra dev --output-file "$3" pyproject.toml >/dev/null)
}

# FOLDER EXTRA: one file of what the Pythons have in common, and of what some have alone, with a marker.
merge() {
  python3 - "$@" "${PYTHONS[@]}" <<'PYTHON'
import sys
from pathlib import Path

folder, extra, *pythons = sys.argv[1:]
pins = {}  # name -> version -> Pythons
for python in pythons:
    for line in (Path(folder) / f"{extra}-{python}.txt").read_text().splitlines():
        name, is_pin, version = line.partition("==")
        if is_pin:
            pins.setdefault(name, {}).setdefault(version.partition("+")[0], []).append(python)
for name, versions in sorted(pins.items()):
    for version, of in versions.items():
        markers = " or ".join(f"python_version == '{python}'" for python in of)
        print(f"{name}=={version}" + ("" if len(of) == len(pythons) else f" ; {markers}"))
PYTHON
}

# OLD NEW: the pins that differ. A difference is no failure.
differences() {
  { diff --unified=0 "$1" "$2" || true; } | grep -E '^[-+][A-Za-z0-9]' || printf 'no pin differs\n'
}

compare() { # EXTRA
  local python
  for python in "${PYTHONS[@]}"; do resolve "$python" /dev/null "$WORK/$1-$python.txt" "$1"; done
  merge "$WORK" "$1" >"$WORK/$1.txt"
  printf '== %s\n' "recipes/constraints-$1.txt, and what is resolved on $(date +%F)"
  differences "$ROOT/recipes/constraints-$1.txt" "$WORK/$1.txt"
}

refresh() { # EXTRA
  local extra=$1 venv=$WORK/$1 python python_version installed=$ROOT/recipes/constraints-$1.txt
  VISIONR1_VENV=$venv VISIONR1_CONSTRAINTS='' VISIONR1_NEEDED_GB=12 visionr1_environment "$extra" dev
  python -c 'import torch, verl, vllm' # the environment was activated
  visionr1 check
  python_version=$(python -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
  "$UV" pip freeze --quiet --python "$venv/bin/python" | grep -E '^[A-Za-z0-9._-]+==' | sed 's/+.*//' >"$WORK/$extra.txt"
  for python in "${PYTHONS[@]}"; do resolve "$python" "$WORK/$extra.txt" "$WORK/$extra-$python.txt" "$extra"; done
  {
    printf '# Versions for the extras %s and dev, installed and imported together with Python %s on %s.\n' "$extra" "$python_version" "$(date +%F)"
    printf '# Other Pythons: resolved only. Written by recipes/refresh_constraints.sh; used by recipes/environment.sh.\n'
    merge "$WORK" "$extra"
  } >"$WORK/constraints.txt"
  differences "$installed" "$WORK/constraints.txt"
  mv "$WORK/constraints.txt" "$installed"
  printf '%s: %s packages\n' "$installed" "$(grep -c == "$installed")"
}

if [[ -z ${WORK:-} ]]; then
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/visionr1-constraints-XXXXXX")
  trap 'rm -rf "$WORK"' EXIT
fi
mkdir -p "$WORK"
unset VISIONR1_SKIP_SETUP
_visionr1_use_pip_settings
UV=$(_visionr1_uv)
task=refresh
[[ ${1:-} != --compare ]] || { task=compare; shift; }
(($#)) || set -- cpu gpu
for extra in "$@"; do
  [[ $extra == cpu || $extra == gpu ]] || { printf 'error: %s: needs cpu or gpu\n' "$extra" >&2; exit 1; }
  ("$task" "$extra")
done

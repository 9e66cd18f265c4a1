#!/usr/bin/env bash
# All checks of the repository, in an environment of its own making; pytest's summary comes last.
#
#   bash tests/run.sh                 what each change needs: all quick tests, then training runs on CPU, the site
#   bash tests/run.sh -m 'not slow'   arguments go to pytest: here without the slow ones; or a file of tests
#   bash tests/run.sh -m nightly      the rest: other frameworks, installs, links; needs the network
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# shellcheck source-path=SCRIPTDIR source=../recipes/environment.sh
source recipes/environment.sh
visionr1_environment cpu dev || exit 1
# tests/tools/test_gallery_browser.py looks at the page in a real browser; without one it fails, and says so.
if ! command -v chromium >/dev/null && ((EUID == 0)) && command -v apt-get >/dev/null; then
  printf 'chromium: installing with apt-get\n'
  { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } >/dev/null || printf 'chromium: apt-get failed\n' >&2
fi

failed=()
check() {
  local name=$1
  shift
  printf '== %s\n' "$name"
  "$@" || failed+=("$name")
}
report_failed() { ((${#failed[@]} == 0)) || printf 'FAILED so far: %s\n' "${failed[*]}"; }
shell_scripts() {
  local script
  for script in recipes/*.sh recipes/cluster/*.sh examples/*/*.sh benchmarks/*/*.sh tests/run.sh .ci/run; do bash -n "$script" || return 1; done
}
check 'ruff check' ruff check .
check 'ruff format' ruff format --check .
check 'imports' lint-imports
check 'types' pyright --pythonpath "$(command -v python)"
check 'shell' shell_scripts

printf '== tests\n'
if (($#)); then
  report_failed
  python -m pytest "$@"
  status=$?
else # the quick ones on both cores; then the slow ones, one at a time: Ray times out on loaded cores
  python -m pytest --numprocesses 2 -m 'not slow' || failed+=('quick tests')
  report_failed
  python -m pytest -m 'slow and not nightly'
  status=$?
fi
# Only pytest's own verdict may follow its summary; the checks above still decide with it.
((status == 0 && ${#failed[@]} == 0)) || exit $((status ? status : 1))

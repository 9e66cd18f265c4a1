#!/usr/bin/env bash
# Runs the study in the recipes' environment, which it creates if needed. Options: see study.py --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=../../recipes/environment.sh
source recipes/environment.sh
visionr1_run_environment cpu
exec python benchmarks/claims/study.py "$@"

#!/usr/bin/env bash
# Runs the study in the recipes' own environment, which it sets up if need be. Options: those of study.py (--help).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=../../recipes/environment.sh
source recipes/environment.sh
visionr1_run_environment cpu
exec python benchmarks/claims/study.py "$@"

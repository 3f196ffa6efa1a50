#!/usr/bin/env bash
# From a fresh machine to a passing test suite: bash scripts/test.sh [pytest arguments]
set -u
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

"$python" -m ruff check . && "$python" -m ruff format --check . && "$python" -m mypy || exit 1
exec "$python" -m pytest -n 2 --dist loadfile "$@"

#!/usr/bin/env bash
# From a fresh machine to a passing test suite: bash scripts/test.sh [pytest arguments]
# Without arguments the tests marked slow are left out; bash scripts/test.sh -m "" runs all.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

"$python" -m ruff check . && "$python" -m ruff format --check . && "$python" -m mypy || exit 1
[ $# -gt 0 ] || set -- -m "not slow"
exec "$python" -m pytest -n 2 --dist loadfile "$@"

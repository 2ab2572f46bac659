#!/usr/bin/env bash
# Runs every Go fuzz target of the module for a bounded time each: scripts/fuzz.sh [20s]
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-20s}
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
  package=./$(dirname "${file#./}")
  grep -oE '^func Fuzz\w+' "$file" | awk '{print $2}' | while read -r target; do
    echo "== $package $target ($time)"
    go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time"
  done
done

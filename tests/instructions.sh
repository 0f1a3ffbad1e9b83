#!/bin/sh
# The processor's loops are compiled for its instructions: of the bodies that `multiversion!` compiles for every set of them, none
# stands in the program as a function of its own, as closures do that are not inlined. Such a function has the instructions of
# the oldest processor, and calls the library for every multiply-add.
#
# Usage: tests/instructions.sh [ACTPATCH], the program to look at (target/release/actpatch). Needs nm; skips (exit 0) without.
set -eu
cd "$(dirname "$0")/.."

program=${1:-target/release/actpatch}
[ -x "$program" ] || { echo "$program is missing: cargo build --release"; exit 1; }
command -v nm > /dev/null || { echo "skipped: no nm (binutils)"; exit 0; }
symbols=$(nm --demangle "$program")
echo "$symbols" | grep -q 'actpatch::backend::cpu' || { echo "$program has no names of functions"; exit 1; }
if echo "$symbols" | grep -E 'actpatch::backend::cpu::[a-z_]+::[a-z_]+_body'; then
    echo "these run without the processor's instructions"
    exit 1
fi

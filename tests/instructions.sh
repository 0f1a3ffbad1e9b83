#!/bin/sh
# The processor's loops use the instructions that they are compiled for: none of them calls the library for a multiply-add,
# which takes a dozen times as long and is what becomes of a closure that is not inlined.
#
# Usage: tests/instructions.sh [ACTPATCH], the program to look at (target/release/actpatch). Needs objdump and readelf of an
# x86-64 Linux; skips (exit 0) without.
set -eu
cd "$(dirname "$0")/.."

program=${1:-target/release/actpatch}
[ -x "$program" ] || { echo "$program is missing: cargo build --release"; exit 1; }
if [ "$(uname -sm)" != "Linux x86_64" ] || ! { command -v objdump && command -v readelf; } > /dev/null; then
    echo "skipped: no objdump and readelf of an x86-64 Linux"
    exit 0
fi
# Where fmaf is, and the place that holds its address: calls go to either.
fmaf=$(objdump --syms "$program" | awk '$NF == "fmaf" { sub(/^0+/, "", $1); print $1 }')
[ -n "$fmaf" ] || exit 0
held=$(readelf -rW "$program" | awk -v at="$fmaf" '$NF == at { sub(/^0+/, "", $1); print $1 }')
callers=$(objdump --disassemble --demangle --no-show-raw-insn "$program" | awk -v at="$fmaf" -v held="$held" '
    /^[0-9a-f]+ <.*>:$/ { name = $0; sub(/^[0-9a-f]+ /, "", name) }
    name ~ /actpatch/ && ((held != "" && index($0, "# " held)) || $0 ~ "(call|jmp) +" at " ") { print name }
' | sort | uniq -c)
if [ -n "$callers" ]; then
    echo "multiply-adds by library calls:"
    echo "$callers"
    exit 1
fi

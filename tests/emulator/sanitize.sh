#!/bin/sh
# The kernels under AddressSanitizer (all operations and whole passes: about a minute) and ThreadSanitizer (small
# shapes of the kernels with barriers: about one), with barriers as the only ordering between a block's threads.
#
# Needs g++ with its sanitizer libraries; skips (exit 0) without. Arguments: address, thread, or nothing for both.
set -eu
cd "$(dirname "$0")/../.."

compiler=${CXX:-g++}
if ! command -v "$compiler" > /dev/null; then
    echo "skipped: no C++ compiler (g++, or the one that CXX names)"
    exit 0
fi
tests=$(cargo test --test cuda_emulated --no-run --message-format=json 2> /dev/null |
    sed -n 's/.*"executable":"\([^"]*cuda_emulated[^"]*\)".*/\1/p' | tail -n 1)
[ -n "$tests" ] || { echo "the tests did not build"; exit 1; }

# The test program itself is not instrumented: the sanitizer's library is preloaded for the emulator's sake.
run() {
    library=$("$compiler" -print-file-name="$1")
    shift
    [ -f "$library" ] || { echo "skipped: $library is missing"; return 0; }
    LD_PRELOAD=$library setarch -R "$tests" --test-threads=1 "$@"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

address() {
    export EMULATOR_FLAGS=-fsanitize=address ASAN_OPTIONS=detect_leaks=0
    run libasan.so ops:: engine::whole
}

thread() {
    # What the test program's own threads do is not under test, and its code carries no instrumentation.
    echo "race:cuda_emulated-" > "$scratch/suppressions"
    export EMULATOR_FLAGS=-fsanitize=thread TSAN_OPTIONS="suppressions=$scratch/suppressions exitcode=66"
    run libtsan.so ops::small_shapes
}

case ${1:-both} in
    address | thread) "$1" ;;
    # Each keeps one processor busy.
    both)
        thread > "$scratch/thread.log" 2>&1 &
        address || failed=1
        wait $! || failed=1
        cat "$scratch/thread.log"
        exit ${failed:-0}
        ;;
    *) echo "expected address or thread, found $1" && exit 2 ;;
esac

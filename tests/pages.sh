#!/usr/bin/env bash
# Pages in a real browser: makes every kind of page from runs on the demo model, one of them on texts that would break out of a
# page, and opens, hovers, clicks and keys them (tests/pages/check.mjs). Screenshots and what was measured stay in target/pages.
#
# Usage: tests/pages.sh [ACTPATCH], the program to test (target/release/actpatch). Needs Chromium, and Node with npm.
set -euo pipefail
cd "$(dirname "$0")/.."

actpatch=$(realpath "${1:-target/release/actpatch}")
[ -x "$actpatch" ] || { echo "$actpatch is missing: cargo build --release"; exit 1; }
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$chromium" ] || ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "skipped: the pages need Chromium, and Node with npm (apt-get install chromium nodejs npm)"
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if ! npm install --prefix "$scratch" --silent --no-audit --no-fund playwright-core@1.65.1 axe-core@4.14.1 \
    >"$scratch/npm.log" 2>&1; then
    echo "skipped: npm cannot install playwright-core and axe-core: $(tail -n 1 "$scratch/npm.log")"
    exit 0
fi

data=$scratch/data
run() { "$actpatch" "$@" --data-dir "$data" >>"$scratch/run.log" 2>&1 || { tail -n 5 "$scratch/run.log"; exit 1; }; }
# What would end a script or an attribute, turn the text around, or be no text at all.
hostile=$'</script><script>alert(1)</script>"\'&\u202eevil\u2066\001'
quoted=${hostile//\"/\"\"}
printf 'clean,corrupted,answer,wrong_answer,position_ADJ\n' >"$scratch/hostile.csv"
for pair in 'good,bad' 'bad,good'; do
    printf '"The film%s was %s so I","The film%s was %s so I", loved, hated,%s\n' \
        "$quoted" "${pair%,*}" "$quoted" "${pair#*,}" "${pair%,*}" >>"$scratch/hostile.csv"
done
run fit-directions --methods kmeans,mean_diff,pca --test-sets simple_test
run random-directions
run direction-patching-suite --eval-sets simple_test --metrics logit_diff
run direction-patching-results
run activation-patching-maps --maps z,resid_pre,post
run attention --heads all --prompts 0 --to ADJ --eval-sets simple,hostile --dataset-file "$scratch/hostile.csv"
run path-patching --senders z --receivers v:2.2,v:2.3
run neuroscope --text "I loved it.$hostile The plot was awful." --text 'It was great.' --directions 'kmeans_*' --layers all
run text-loss --positions COMMA --methods zero,mean_over_places --text "It was great,$hostile I loved it." --text 'It was bad, very bad.' --by-token 2
run logit-lens --eval-sets simple --prompts 0,1 --directions kmeans_simple_train_ADJ_layer1 --sites blocks.2.hook_resid_pre --positions ALL
run logit-lens --text "The film$hostile was great, I loved it."
run steering --prompt "The film$hostile was" --directions kmeans_simple_train_ADJ_layer1 --coefficients -20..20:10 --samples 2

# How large pages become: 24 heads of 99 tokens, and 2,000 tokens along more than 12 directions and layers.
large=random:pythia-14m
words=$(printf 'great film %.0s' $(seq 46))
for pair in 'good,bad' 'bad,good'; do
    printf 'It %s was %s so I,It %s was %s so I, loved, hated\n' "$words" "${pair%,*}" "$words" "${pair#*,}"
done | cat <(printf 'clean,corrupted,answer,wrong_answer\n') - >"$scratch/long.csv"
run attention --models "$large" --heads all --eval-sets long --dataset-file "$scratch/long.csv"
run fit-directions --models "$large" --methods kmeans,mean_diff --layers 0,1
for _ in $(seq 20); do
    echo "The film was great, and I loved it. $words"
done >"$scratch/long.txt"
run neuroscope --models "$large" --corpus "$scratch/long.txt" --every-token --directions 'kmeans_*,mean_diff_*' --layers all

# What is missing and changed, and a table that is not shown whole.
rm "$data/demo/attention_mean_simple_plain_all.png"
echo >>"$data/demo/activation_patching_logit_diff_simple_plain_z.csv"
run report
# The pages that are compared with their tables have those that were written.
sed -i '$ d' "$data/demo/activation_patching_logit_diff_simple_plain_z.csv"

NODE_PATH=$scratch/node_modules node tests/pages/check.mjs "$scratch/node_modules" "$chromium" "$data" target/pages "$actpatch"

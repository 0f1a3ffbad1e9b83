"""What a sweep costs as it grows: time per cell and peak memory of `actpatch direction-patching-suite` on the demo model,
against the number of cells, of prompts, and of layers. Prints a Markdown table.

Usage: python3 benches/scale.py [ACTPATCH] (target/release/actpatch). Standard library only; about five minutes.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/actpatch")
SETS = (
    "simple,simple_train,simple_test,simple_res,simple_product,simple_book,simple_adverb,proper_nouns,medical,"
    "completion,completion_2,classification,classification_2"
)
METRICS = "logit_diff,logit_flip,sign_flip,prob_diff"


def run(arguments):
    """Runs the program; seconds, and peak resident memory in MB."""
    started = time.monotonic()
    pid = os.spawnv(os.P_NOWAIT, PROGRAM, [PROGRAM, *arguments])
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        sys.exit(f"{arguments}: status {status}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def cells(data):
    """Cells that are done, over all models of a data folder."""
    ledgers = Path(data).glob("*/ledger.jsonl")
    return sum(text.count('"kind":"done"') for text in (path.read_text() for path in ledgers))


def sweep(data, arguments):
    """A row of the table: cells, seconds per cell, peak memory."""
    for path in Path(data).glob("*/ledger.jsonl"):
        path.unlink()
    for path in Path(data).glob("*/direction_patching_*.csv"):
        path.unlink()
    seconds, memory = run(["direction-patching-suite", "--data-dir", data, "--json", *arguments])
    done = cells(data)
    return f"{done:,} | {seconds:.1f} | {1e6 * seconds / done:.0f} | {memory:.0f}"


def dataset(name, pairs):
    """A dataset of distinct prompts, as many tokens each, clean and corrupted in turn."""
    words = ["the", "film", "was", "and", "it", "very", "book", "this"]
    entries = []
    for number in range(2 * pairs):
        clean, corrupted = (" good", " bad") if number % 2 == 0 else (" bad", " good")
        digits = [words[(number // 2) // 8**place % 8] for place in range(3)]
        text = f"I thought this movie was{{}}, {' '.join(digits)}. The movie was"
        entries.append(
            f"[[{name}.prompts]]\n"
            f"clean = {text.format(clean)!r}\ncorrupted = {text.format(corrupted)!r}\n"
            f"correct = {clean!r}\nincorrect = {corrupted!r}\n"
            f"label = {'positive' if number % 2 == 0 else 'negative'!r}\n"
        )
    return "\n".join(entries)


def main():
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    head = "cells | seconds | µs a cell | peak MB |\n|---|---|---|---|---|"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n")
    with tempfile.TemporaryDirectory() as data:
        fit = ["fit-directions", "--data-dir", data, "--methods", "mean_diff,pca,svd,kmeans,logistic_regression"]
        positions = ["--positions", "auto,END"]
        run([*fit, "--train-sets", SETS, *positions])
        run(["random-directions", "--data-dir", data])
        every = ["--eval-sets", SETS, "--positions", "auto,END,ALL", "--metrics", METRICS]
        print(f"| cells: directions | {head}")
        for name, directions in [
            ("random", "random*"),
            ("mean_diff on one dataset", "mean_diff_simple_train_*"),
            ("mean_diff", "mean_diff_*"),
            ("all", "*"),
        ]:
            print(f"| {name} | {sweep(data, ['--directions', directions, *every])} |")
        every[1] = "simple_test"
        print(f"\n| layers: patched at | {head}")
        for layer in range(5):
            print(f"| {layer} | {sweep(data, ['--directions', f'*_layer{layer}', *every])} |")
        print(f"\n| prompts | {head}")
        for pairs in [8, 32, 128, 512]:
            path = os.path.join(data, f"prompts{pairs}.toml")
            Path(path).write_text(dataset(f"prompts{pairs}", pairs))
            arguments = ["--dataset-file", path, "--eval-sets", f"prompts{pairs}", "--positions", "ALL"]
            print(f"| {2 * pairs} | {sweep(data, ['--directions', '*', '--metrics', METRICS, *arguments])} |")


main()

"""What the Python package costs beside the arithmetic: milliseconds of the import, microseconds of a call, memory of large arrays
and of many calls, seconds of a suite against the command's. Prints Markdown.

Usage: python3 benches/python.py [ACTPATCH] (target/release/actpatch), with the package of the same build installed; about three
minutes, and 4 GB of memory.
"""

import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import actpatch
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/actpatch")
TINY = ROOT / "tests/fixtures/engine/gpt2-tiny"
SUITE = {
    "eval_sets": "simple,simple_train,simple_test,simple_res,simple_product,simple_book,proper_nouns",
    "positions": "auto,END,ALL",
    "metrics": "logit_diff,logit_flip",
    "directions": "*",
    "device": "cpu",
}
METHODS = "mean_diff,pca,kmeans,svd,logistic_regression"
PAIRS = 9


def microseconds(call, repetitions=2000, rounds=7):
    """Median of rounds, least and most."""
    for _ in range(repetitions // 4):
        call()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(repetitions):
            call()
        found.append(1e6 * (time.perf_counter() - started) / repetitions)
    return f"{statistics.median(found):.1f} | {min(found):.1f} to {max(found):.1f}"


def imports():
    """Fresh interpreters: numpy alone, the package behind it, and both."""
    timed = "import time; started = time.perf_counter(); import {}; print(1e3 * (time.perf_counter() - started))"
    print("| import | ms, median | over 15 processes |\n|---|---|---|")
    for name, code in [
        ("numpy", timed.format("numpy")),
        ("actpatch, numpy being there", "import numpy; " + timed.format("actpatch")),
        ("both", timed.format("actpatch")),
    ]:
        found = [float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(15)]
        print(f"| {name} | {statistics.median(found):.0f} | {min(found):.0f} to {max(found):.0f} |")
    print(f"\nThe module is {os.path.getsize(actpatch._core.__file__) / 1e6:.1f} MB.\n")


def calls():
    """A pass that ends behind the embedding has next to no arithmetic: what it takes is what every call takes."""
    model = actpatch.Model(TINY, progress=False, device="cpu")
    tokens = np.arange(1, 9)[None]
    vector = np.ones(model.cfg.d_model, dtype=np.float32)
    embedding = {"names": "hook_embed", "logits": None}
    add = [actpatch.Add("hook_embed", vector, positions=-1)]
    _, cache = model.run_with_cache(tokens)
    replace = [actpatch.Replace("hook_embed", cache["hook_embed"])]
    names = ["hook_embed"]
    flat, lengths = tokens.reshape(-1), [8]
    print(f"{model.cfg.n_layers} layers, d_model {model.cfg.d_model}, a prompt of 8 tokens:\n")
    print("| call | µs, median | over 7 rounds |\n|---|---|---|")
    for name, call in [
        ("up to the embedding", lambda: model.run_with_cache(tokens, **embedding)),
        ("the same without the layer in Python", lambda: model._core.forward(flat, lengths, names, [], "none")),
        ("the same of a text", lambda: model.run_with_cache("w1 w2 w3 w4 w5 w6 w7 w8", **embedding)),
        ("the same with `Add` at one position", lambda: model.run_with_cache(tokens, interventions=add, **embedding)),
        ("the same with `Replace` by a cache", lambda: model.run_with_cache(tokens, interventions=replace, **embedding)),
        ("`run`, last logits", lambda: model.run(tokens, logits="last")),
        ("`run_with_cache`, every site", lambda: model.run_with_cache(tokens)),
        ("`gradients` at one site", lambda: model.gradients(tokens, (1, 2), ("resid_pre", 1))),
    ]:
        print(f"| {name} | {microseconds(call)} |")


def peak():
    """Peak resident memory in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 * 1.024


def arrays():
    """Peak memory over what was there, of an array of 1 GB that comes out and one that goes in."""
    model = actpatch.Model("demo", progress=False, device="cpu")
    length = 64
    rows = int(1e9) // (4 * model.cfg.d_model * length)
    tokens = np.ones((rows, length), dtype=np.int64)
    model.run_with_cache(tokens[:200], "hook_embed", logits=None)
    before = peak()
    _, cache = model.run_with_cache(tokens, "hook_embed", logits=None)
    values = cache["hook_embed"]
    print(f"\n{values.nbytes / 1e9:.2f} GB out: memory grows by {peak() - before:.2f} GB at most.")
    before = peak()
    model.run_with_cache(tokens, [], interventions=[actpatch.Replace("hook_embed", values)], logits=None)
    print(f"{values.nbytes / 1e9:.2f} GB in: memory grows by {peak() - before:.2f} GB at most.")


def leak():
    """What a thousand calls leave behind, of passes with activations and an intervention, gradients, texts, and errors."""
    model = actpatch.Model("demo", progress=False, device="cpu")
    vector = np.ones(model.cfg.d_model, dtype=np.float32)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def call():
        _, cache = model.run_with_cache("The movie was great", interventions=[actpatch.Add(("resid_pre", 1), vector)])
        model.run("The movie was awful", [actpatch.Replace(("z", 0), cache["z", 0])])
        model.gradients("The movie was great", (1, 2), [("z", 0)])
        model.generate("The movie", 3)
        try:
            model.run_with_cache("The movie was great", ["blocks.0.nothing"])
        except actpatch.errors.SiteError:
            pass

    grown = []
    for _ in range(6):
        before = resident()
        for _ in range(1000):
            call()
        grown.append((resident() - before) / 1e6)
    print(f"\nResident memory grows by {', '.join(f'{mb:.1f}' for mb in grown)} MB over 1,000 calls each, one after the other.")


def seconds(command, output):
    """Wall and processor time."""
    started = time.perf_counter()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600)])
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        sys.exit(f"{command}: status {status}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def suite():
    """The same suite by either, in turns, each in a fresh copy of a folder with directions: of the whole process, and of the call
    alone, without the start of the interpreter and numpy."""
    code = f"""
import sys, time, actpatch
model = actpatch.Model("demo", data_dir=sys.argv[1], progress=False)
wall, processor = time.perf_counter(), time.process_time()
model.study("direction-patching-suite", **{SUITE!r})
print(time.perf_counter() - wall, time.process_time() - processor)
"""
    options = [word for name, value in SUITE.items() for word in ("--" + name.replace("_", "-"), value)]
    with tempfile.TemporaryDirectory() as scratch:
        fitted = Path(scratch) / "fitted"
        fit = [PROGRAM, "fit-directions", "--methods", METHODS, "--positions", "ADJ,VRB,END,DTR", "--data-dir", str(fitted)]
        subprocess.run(fit, check=True, capture_output=True)
        output = str(Path(scratch) / "output")
        ratios, walls = [], []
        for number in range(PAIRS):
            pair = {}
            for who in ["command", "python"][:: 1 if number % 2 == 0 else -1]:
                data = str(Path(scratch) / "run")
                shutil.copytree(fitted, data)
                command = [PROGRAM, "direction-patching-suite", "--data-dir", data, *options]
                pair[who] = seconds([sys.executable, "-c", code, data] if who == "python" else command, output)
                if who == "python":
                    pair["call"] = [float(value) for value in Path(output).read_text().split()]
                shutil.rmtree(data)
            sides = [(pair[who], pair["command"]) for who in ("python", "call")]
            ratios.append([ours / theirs for side in sides for ours, theirs in zip(*side)])
            walls.append(pair["command"][0])
    print(f"\n`direction-patching-suite` on the demo model, {statistics.median(walls):.1f} s by the command; Python over command, {PAIRS} pairs:\n")
    print("| time | ratio, median | least to most |\n|---|---|---|")
    for name, values in zip(["wall", "processor", "wall, the call alone", "processor, the call alone"], zip(*ratios)):
        print(f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} to {max(values):.3f} |")


print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n")
imports()
calls()
arrays()
leak()
suite()

"""Times actpatch beside TransformerLens and hand-written PyTorch: same weights, prompts, cells and DAS starts, all
sides alternating repetition by repetition. See README.md."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models import SHAPES, folder_of

HERE = Path(__file__).parent
SIDES = ["lens-original", "lens-installed", "lens-tuned", "expert"]
FORCED = "+forced"


class Side:
    """A process that does one repetition per line."""

    def __init__(self, command, environment=None, greeting=None):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        if greeting:
            self.say(greeting)
        self.greeting = self.hear()

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} ended with code {self.process.wait()}")
        return json.loads(line)

    def ask(self, line):
        self.say(line)
        return self.hear()

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def forced_shim(folder):
    """A library that tells MKL, which chooses its kernels by the vendor's name, to choose by instruction set."""
    source, library = Path(folder) / "forced.c", Path(folder) / "forced.so"
    source.write_text("int mkl_serv_intel_cpu_true(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def sides(arguments, folder, scratch):
    threads = str(arguments.threads)
    ours = [arguments.actpatch, "bench", "--device", "cpu", "--paced", "--models", str(folder), "--threads", threads]
    shape = ["--prompts", str(arguments.prompts), "--tokens", str(arguments.tokens)]
    started = {"actpatch": Side(ours + shape + ["--dtype", "f32"])}
    if arguments.bf16:
        started["actpatch bf16"] = Side(ours + shape + ["--dtype", "bf16"])
    greeting = json.dumps(started["actpatch"].greeting)
    for name in arguments.sides:
        environment = forced_shim(scratch) if name.endswith(FORCED) else {}
        worker = [sys.executable, str(HERE / "worker.py"), name.removesuffix(FORCED), str(folder), threads]
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        started[name] = Side(worker, environment, greeting)
    return started


def difference(found, expected):
    """Largest difference of two lists, relative to the largest value."""
    return max(abs(a - b) for a, b in zip(found, expected)) / max(abs(b) for b in expected)


def measure(started, workload, repetitions):
    """Rows of (side, seconds, largest difference to actpatch, peak memory)."""
    samples = {name: [] for name in started}
    differences = {name: 0.0 for name in started}
    memory, peaks = {}, []
    for repetition in range(repetitions + 1):
        values = {}
        for name, side in started.items():
            reply = side.ask(workload)
            values[name] = reply["values"]
            memory[name] = reply["peak_resident_bytes"]
            if repetition:
                samples[name].append(reply["seconds"])
            flops = reply.get("flops", flops if name != "actpatch" else 0)
        peaks.append(started["actpatch"].ask("peak")["peak"])
        for name in started:
            differences[name] = max(differences[name], difference(values[name], values["actpatch"]))
    return samples, differences, memory, flops, statistics.median(peaks)


def report(workload, measured):
    samples, differences, memory, flops, peak = measured
    ours = statistics.median(samples["actpatch"])
    lines = []
    for name, seconds in samples.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.3g} - {max(seconds):.3g}"
        share = f"{100 * flops / peak / median:.0f} %"
        lines.append(
            f"| {workload} | {name} | {median:.3g} | {spread} | {median / ours:.2f} | {share} "
            f"| {differences[name]:.0e} | {memory[name] / 1e9:.2f} |"
        )
    return lines


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actpatch", default=str(HERE.parents[1] / "target/release/actpatch"))
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-small")
    parser.add_argument("--workloads", default="forward,cell:0,cell:6,cell:11,das:0,das:6,das:11")
    parser.add_argument("--sides", default="lens-installed,lens-installed+forced,expert+forced", help=f"any of {', '.join(SIDES)}, each also with {FORCED}")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=26)
    parser.add_argument("--tokens", type=int, default=19)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--bf16", action="store_true", help="also actpatch with bf16 products")
    parser.add_argument("--models", default=tempfile.gettempdir() + "/actpatch-peers", help="folder of the random models")
    parser.add_argument("--only-make", action="store_true", help="make the model's folder and stop")
    arguments = parser.parse_args()
    arguments.sides = [side for side in arguments.sides.split(",") if side]
    folder = folder_of(arguments.shape, arguments.models)
    if arguments.only_make:
        return
    with tempfile.TemporaryDirectory() as scratch:
        started = sides(arguments, folder, scratch)
        device = started["actpatch"].greeting["device"]
        versions = [side.greeting["versions"]["torch"] for name, side in started.items() if not name.startswith("actpatch")]
        print(f"{arguments.shape}, {arguments.prompts} prompts of {arguments.tokens} tokens, {time.strftime('%Y-%m-%d')}, "
              f"{processor()}, {device}, torch {', '.join(sorted(set(versions)))}, load {os.getloadavg()[0]:.1f}\n")  # fmt: skip
        print("| workload | side | median, s | spread | x ours | share of peak | difference | memory, GB |")
        print("|---|---|---|---|---|---|---|---|")
        for workload in arguments.workloads.split(","):
            for line in report(workload, measure(started, workload, arguments.repetitions)):
                print(line, flush=True)
        for side in started.values():
            side.stop()


if __name__ == "__main__":
    main()

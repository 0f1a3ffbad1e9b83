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

from models import DRAWN, RANDOM, SHAPES, folder_of
from table import long_table

HERE = Path(__file__).parent
SIDES = ["lens-original", "lens-installed", "lens-tuned", "expert", "expert-tf32", "expert-bf16"]
FORCED = "+forced"
# Workloads of many cells, which one cell warms up.
LONG = {"sweep": "cell:0", "head-map": "cell:0", "resid-map": "cell:0"}


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


def start_sides(arguments, model, scratch):
    """All sides by name, ours in its first number format first."""
    threads, device = str(arguments.threads), arguments.device
    ours = [arguments.actpatch, "bench", "--paced", "--models", model, "--threads", threads, "--device", device]
    shape = ["--prompts", str(arguments.prompts), "--tokens", str(arguments.tokens)]
    sides = {}
    for dtype in arguments.dtypes:
        sides["actpatch" + (f" {dtype}" if dtype != "f32" else "")] = Side(ours + shape + ["--dtype", dtype])
    greeting = json.dumps(next(iter(sides.values())).greeting)
    for name in arguments.sides:
        environment = forced_shim(scratch) if name.endswith(FORCED) else {}
        worker = [sys.executable, str(HERE / "worker.py"), name.removesuffix(FORCED), model, threads, device]
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
        sides[name] = Side(worker, environment, greeting)
    return sides


def difference(reply, expected):
    """Largest difference of the values that a side computed: shares of the clean run's effect, losses near 1, and logit
    differences, which are divided by the largest of them."""
    places = reply.get("places", range(len(reply["values"])))
    largest = max(abs(a - expected[place]) for a, place in zip(reply["values"], places))
    return largest / max(1.0, *(abs(b) for b in expected))


def measure(sides, workload, repetitions, same_weights):
    """The workload's arithmetic, the peak, and per side seconds, differences, memory and how much of it was run."""
    results = {name: {"seconds": [], "difference": 0.0 if same_weights else None} for name in sides}
    peaks, ours = [], next(iter(sides.values()))
    for side in sides.values():
        side.ask(LONG.get(workload, workload))
    for _ in range(repetitions):
        replies = {}
        for name, side in sides.items():
            replies[name] = side.ask(workload)
            # Where the processors' frequency moves, so does the peak: measured beside every repetition.
            peaks.append(ours.ask("peak")["peak"])
        expected = next(iter(replies.values()))
        for name, reply in replies.items():
            result = results[name]
            result["seconds"].append(reply["seconds"])
            result["memory"] = reply["peak_resident_bytes"]
            if same_weights:
                result["difference"] = max(result["difference"], difference(reply, expected["values"]))
            if "places" in reply:
                result["sampled"] = [len(reply["places"]), reply["cells"]]
    peak = None if None in peaks else statistics.median(peaks)
    return {"flops": expected["flops"], "peak": peak, "sides": results}


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    facts = {name.strip(): fact.strip() for name, fact in facts.items()}
    family = f" (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else ""
    return facts.get("model name", platform.processor()) + family


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actpatch", default=str(HERE.parents[1] / "target/release/actpatch"))
    shapes = [*SHAPES, *DRAWN]
    of_each = f"{RANDOM}SHAPE: every side's own random weights, no folder and no values compared (experts only)"
    parser.add_argument("--shape", choices=shapes, default="gpt2-small", metavar="SHAPE", help=of_each)
    parser.add_argument("--workloads", default="forward,cell:0,cell:6,cell:11,das:0,das:6,das:11")
    each = f"any of {', '.join(SIDES)}, each also with {FORCED}"
    parser.add_argument("--sides", default="lens-installed,lens-tuned,expert", help=each)
    parser.add_argument("--dtypes", default="f32", help="number formats of actpatch; the first is compared with")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of all sides")
    parser.add_argument("--repetitions", type=int, default=5, help="behind one that warms up")
    parser.add_argument("--prompts", type=int, default=26)
    parser.add_argument("--tokens", type=int, default=19)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--models", default=tempfile.gettempdir() + "/actpatch-peers", help="folder of the random models")
    parser.add_argument("--only-make", action="store_true", help="make the model's folder and stop")
    parser.add_argument("--record", type=Path, help="append a line of JSON per workload to this file, for table.py")
    arguments = parser.parse_args()
    arguments.sides = [side for side in arguments.sides.split(",") if side]
    arguments.dtypes = arguments.dtypes.split(",")
    own_weights = arguments.shape.startswith(RANDOM)
    if own_weights and any(not side.startswith("expert") for side in arguments.sides):
        parser.error(f"--sides: {arguments.shape} has experts only")
    model = arguments.shape if own_weights else str(folder_of(arguments.shape, arguments.models))
    if arguments.only_make:
        return
    with tempfile.TemporaryDirectory() as scratch:
        sides = start_sides(arguments, model, scratch)
        versions = sorted({side.greeting["torch"] for side in sides.values() if "torch" in side.greeting})
        records = []
        for workload in arguments.workloads.split(","):
            record = {
                "shape": arguments.shape, "prompts": arguments.prompts, "tokens": arguments.tokens, "workload": workload,
                "date": time.strftime("%Y-%m-%d"), "processor": processor(), "torch": versions,
                "device": next(iter(sides.values())).greeting["device"], "load": os.getloadavg()[0],
            }  # fmt: skip
            records.append(record | measure(sides, workload, arguments.repetitions, not own_weights))
            if arguments.record:
                with arguments.record.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
        print(long_table(records))
        for side in sides.values():
            side.stop()


if __name__ == "__main__":
    main()

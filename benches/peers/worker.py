"""One Python side as a process: answers each line on stdin, a workload's name, with one line of JSON, as
`actpatch bench --paced` does. Set-up happens before the clock starts."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from work import Work

kind, _, settings = sys.argv[1].partition("-")
folder, threads = Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
work = Work(json.loads(sys.stdin.readline()))
if kind == "lens":
    from lens import Lens as Side
else:
    from expert import Expert as Side
side = Side(folder, work, settings)
print(json.dumps({"versions": {"torch": torch.__version__}}), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    values = side.run(line.strip())
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "values": values, "peak_resident_bytes": peak}), flush=True)

"""One Python side as a process: answers each line on stdin, a workload's name, with one line of JSON, as
`actpatch bench --paced` does. Set-up happens before the clock starts."""

import json
import resource
import sys

import torch
from work import Sample, Work, clock

# Libraries print as they please; the conversation goes on alone.
conversation, sys.stdout = sys.stdout, sys.stderr

kind, _, settings = sys.argv[1].partition("-")
model, threads, device = sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(threads)
work = Work(json.loads(sys.stdin.readline()), device)
if kind == "lens":
    from lens import Lens as Side
else:
    from expert import Expert as Side
side = Side(model, work, settings)
print(json.dumps({"torch": torch.__version__}), file=conversation, flush=True)
for line in sys.stdin:
    name, _, layer = line.strip().partition(":")
    found, seconds = clock(getattr(side, name.replace("-", "_")), *([int(layer)] if layer else []))
    reply = {"seconds": seconds, "values": found}
    if isinstance(found, Sample):
        reply = {"seconds": found.seconds, "values": found.values, "places": found.places, "cells": found.number}
    reply["peak_resident_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(reply), file=conversation, flush=True)

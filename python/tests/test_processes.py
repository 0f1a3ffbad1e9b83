"""Threads, processes, signals, memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

import actpatch

TEXT = "The movie was great and I"


def test_two_models_in_two_threads(tmp_path: Path) -> None:
    models = [actpatch.Model("demo", data_dir=tmp_path / str(n), progress=False, device="cpu") for n in range(2)]
    expected = models[0].run(TEXT)
    found: List[Any] = []

    def work(model: actpatch.Model) -> None:
        for _ in range(20):
            found.append(model.run(TEXT))
        model.study("activation-patching-maps", maps="z")

    threads = [threading.Thread(target=work, args=(model,)) for model in models for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    for logits in found:
        np.testing.assert_array_equal(logits, expected)


#: Threads that are the first to compute with models, all at once.
FIRST = """
import threading, actpatch
for _ in range(100):
    model = actpatch.Model("demo", device="cpu", progress=False)
    barrier = threading.Barrier(4)
    def work():
        barrier.wait()
        model.run("The movie was great and I")
    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "waits for itself"
"""


def test_threads_that_are_the_first_to_compute_do_not_wait_for_themselves() -> None:
    subprocess.run([sys.executable, "-c", FIRST], check=True, timeout=120)


def test_other_threads_run_while_a_study_computes(demo: actpatch.Model) -> None:
    ticks, over = [], threading.Event()

    def tick() -> None:
        while not over.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.monotonic()
    demo.study("activation-patching-maps", maps="z", overwrite=True)
    wall = time.monotonic() - started
    over.set()
    thread.join()
    # Were the lock held, there would be none but at both ends.
    assert len([t for t in ticks if started + wall / 4 < t < started + 3 * wall / 4]) > 2


#: Fits directions by settings given as JSON, says when it hears of an event, and tells what Ctrl-C has left.
INTERRUPTED = """
import json, sys, actpatch
model = actpatch.Model("demo", data_dir=sys.argv[1], device="cpu", progress=False)
def told(event, text, number):
    if event == sys.argv[2] and not text.startswith("loading"):
        print("under way", flush=True)
try:
    model.study("fit-directions", progress=told, **json.loads(sys.argv[3]))
except KeyboardInterrupt:
    print("interrupted", flush=True)
# The model can be used as before.
print(model.run("The movie was", logits="last").shape[0], flush=True)
"""


#: Fits of which some are done when the first one's end is told of; a fit of days.
FITS: List[Any] = [
    ("progress", {"methods": "das,das2d,das3d", "layers": "all", "epochs": 30}, range(1, 15)),
    ("begin", {"methods": "das", "layers": 1, "epochs": 10**8}, range(1)),
]


@pytest.mark.parametrize("event, settings, done", FITS, ids=["between fits", "between the steps of a fit"])
def test_ctrl_c_ends_a_study_and_leaves_the_model(event: str, settings: Any, done: range, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), event, json.dumps(settings)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "under way"
    if event == "begin":
        time.sleep(1)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out.split()[-2:] == ["interrupted", "1"] and process.returncode == 0, out + err
    # What was done is there, and no more.
    assert len(list((tmp_path / "demo").glob("das*"))) in (2 * count for count in done)


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    model = actpatch.Model("demo", data_dir=tmp_path, progress=False, device="cpu", batch_tokens=256)
    whole = actpatch.Model("demo", data_dir=tmp_path / "whole", progress=False, device="cpu", batch_tokens=256)

    def stop(event: str, text: str, number: int) -> None:
        if event == "progress" and number > 20:
            raise KeyboardInterrupt

    settings: Any = {"maps": "resid_pre"}
    with pytest.raises(KeyboardInterrupt):
        model.study("activation-patching-maps", progress=stop, **settings)
    ledger = (model.folder / "ledger.jsonl").read_text()
    assert "resid_pre" in ledger
    found = model.study("activation-patching-maps", **settings).values
    np.testing.assert_array_equal(found, whole.study("activation-patching-maps", **settings).values)


def spawned(queue: Any) -> None:
    queue.put(float(actpatch.Model("demo", progress=False, device="cpu").run(TEXT).sum()))


def forked(model: actpatch.Model, queue: Any) -> None:
    try:
        model.run(TEXT)
        queue.put("no error")
    except actpatch.errors.DeviceError as error:
        queue.put(str(error))
    queue.put(float(actpatch.Model("demo", progress=False, device="cpu").run(TEXT).sum()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_open_models_of_their_own(demo: actpatch.Model) -> None:
    expected = float(demo.run(TEXT).sum())
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process: Any = spawn.Process(target=spawned, args=(queue,))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join()
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    process = fork.Process(target=forked, args=(demo, queue))
    process.start()
    assert "opened in another process" in queue.get(timeout=120)
    assert queue.get(timeout=120) == expected
    process.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_is_forked_off_leaves_the_files_of_models() -> None:
    code = """
import os, sys, actpatch
model = actpatch.Model("demo", progress=False, device="cpu")
pair = {"clean": "The movie was good", "corrupted": "The movie was bad", "answer": " loved", "wrong_answer": " hated"}
actpatch.datasets.add(model, "own", [pair])
(file,) = model.options["dataset_file"]
if os.fork() == 0:
    sys.exit(0)
os.wait()
assert os.path.exists(file), "taken away"
print(file)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout and not Path(done.stdout.strip()).exists()


def test_a_thousand_calls_leave_nothing_behind(demo: actpatch.Model) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    vector = np.ones(demo.cfg.d_model, dtype=np.float32)

    def call() -> None:
        logits, cache = demo.run_with_cache(TEXT, interventions=[actpatch.Add(("resid_pre", 1), vector)])
        demo.gradients(TEXT, (1, 2), [("z", 0)])
        with pytest.raises(actpatch.errors.SiteError):
            demo.run_with_cache(TEXT, ["blocks.0.nothing"])
        assert logits.size and len(cache)

    for _ in range(100):
        call()
    before = resident()
    for _ in range(1000):
        call()
    # All that one call keeps is about a MB; a thousand would be a GB.
    assert resident() - before < 50e6


def test_the_import_is_quick() -> None:
    code = "import time, numpy; t = time.perf_counter(); import actpatch; print(time.perf_counter() - t)"
    seconds = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert min(seconds) < 0.5, "a tenth of a second where nothing else runs"

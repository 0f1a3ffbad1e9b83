"""Times the circuit analysis of film reviews (data/experiments/toy_movie_review.toml) at the shape of gpt2-small beside the
same maps through TransformerLens, and compares values. See README.md.

actpatch runs whole, as a user starts it: loading, every map, tables and figures. TransformerLens runs some cells of every map
(the loading is not counted); a map is taken to cost as many times their mean as it has cells."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import pandas
import torch
from models import folder_of, transformer_lens
from transformer_lens import patching

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "data/experiments/toy_movie_review.toml"
HEADS = patching.layer_head_vector_patch_setter
POSITIONS = patching.layer_pos_patch_setter
# The heads of the file's groups for gpt2-small.
DIRECT, INDIRECT = [(7, 1), (10, 1), (10, 4), (11, 9)], [(8, 5), (9, 2), (9, 10)]


def run_actpatch(program, folder, threads):
    """(seconds, peak memory in GB, results' folder, arithmetic of the paths as printed)."""
    data = tempfile.mkdtemp()
    command = [program, "circuit", "--config", CONFIG, "--model", folder, "--", "--data-dir", data, "--threads", str(threads)]
    log = Path(data) / "log"
    start = time.perf_counter()
    with log.open("w") as file:
        pid = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file).pid
        _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(log.read_text())
    paths = [line for line in log.read_text().splitlines() if "whole passes" in line]
    return seconds, usage.ru_maxrss / 1e6, Path(data) / Path(folder).name, paths


class Lens:
    """The maps on TransformerLens: clean and corrupted runs are cached once, as the original does."""

    def __init__(self, folder, prompts):
        self.model = transformer_lens(folder)
        tokens = torch.tensor(prompts["sequences"])
        self.clean, self.corrupted = tokens[prompts["clean"]], tokens[prompts["corrupted"]]
        answers = torch.tensor(prompts["answers"])
        self.correct, self.wrong = answers[..., 0], answers[..., 1]
        self.position = prompts["positions"]["SBJ2"]
        clean_logits, self.clean_cache = self.model.run_with_cache(self.clean)
        corrupted_logits, self.corrupted_cache = self.model.run_with_cache(self.corrupted)
        self.clean_value, self.corrupted_value = self.difference(clean_logits), self.difference(corrupted_logits)
        self.z_names = [f"blocks.{layer}.attn.hook_z" for layer in range(self.model.cfg.n_layers)]

    def difference(self, logits):
        last = logits[:, -1]
        return (last.gather(1, self.correct) - last.gather(1, self.wrong)).mean(1).mean().item()

    def fraction(self, logits, start):
        """As a share of the effect, from the unpatched run's value on."""
        return (self.difference(logits) - start) / (self.clean_value - self.corrupted_value)

    def activation(self, name, axes, setter, place):
        index = pandas.DataFrame([place], columns=axes)
        metric = lambda logits: torch.tensor(self.fraction(logits, self.corrupted_value))
        arguments = self.model, self.corrupted, self.clean_cache, metric, setter, name
        return patching.generic_activation_patch(*arguments, index_df=index).item()

    def path(self, receivers, positions, place):
        """From one head's z through MLPs to the receivers' values, or to the end: two passes."""
        *position, layer, head = place
        where = position[0] if position else positions
        received = {f"blocks.{number}.attn.hook_v" for number, _ in receivers} or {"blocks.11.hook_resid_post"}
        arrived = {}

        def freeze(z, hook):
            z[:] = self.clean_cache[hook.name]
            if hook.layer() == layer:
                z[:, where, head] = self.corrupted_cache[hook.name][:, where, head]
            return z

        def keep(value, hook):
            arrived[hook.name] = value.clone()

        def receive(value, hook):
            heads = [number for block, number in receivers if block == hook.layer()]
            if not heads:
                return arrived[hook.name]
            value[:, :, heads] = arrived[hook.name][:, :, heads]
            return value

        hooks = [(name, freeze) for name in self.z_names] + [(name, keep) for name in received]
        self.model.run_with_hooks(self.clean, fwd_hooks=hooks)
        logits = self.model.run_with_hooks(self.clean, fwd_hooks=[(name, receive) for name in received])
        return self.fraction(logits, self.clean_value)


def all_maps(lens):
    """Every map: file name, shape, a cell's value by its place, and forward passes of a cell."""
    cfg, length = lens.model.cfg, lens.clean.shape[1]
    heads, everywhere = (cfg.n_layers, cfg.n_heads), slice(None)
    for name in ["z", "q", "k", "v"]:
        yield f"activation_patching_logit_diff_simple_plain_{name}", heads, activation(lens, name, "head", HEADS), 1
    pattern = activation(lens, "pattern", "head_index", patching.layer_head_pattern_patch_setter)
    yield "activation_patching_logit_diff_simple_plain_pattern", heads, pattern, 1
    for name in ["resid_pre", "attn_out", "mlp_out"]:
        by_position = activation(lens, name, "pos", POSITIONS)
        yield f"activation_patching_logit_diff_simple_plain_{name}", (cfg.n_layers, length), by_position, 1
    for receivers, positions, at in [
        ([], everywhere, "ALL"), (DIRECT, everywhere, "ALL"), (DIRECT, None, "EACH"),
        (INDIRECT, lens.position, "SBJ2"), (INDIRECT, None, "EACH"),
    ]:  # fmt: skip
        ends = "-".join(f"v{layer}.{head}" for layer, head in receivers) or "resid_post11"
        shape = heads if at != "EACH" else (length, *heads)
        cell = lambda place, receivers=receivers, positions=positions: lens.path(receivers, positions, place)
        yield f"path_patching_logit_diff_noising_simple_plain_z_to_{ends}_{at}", shape, cell, 2


def activation(lens, name, axis, setter):
    axes = ("layer", axis)
    return lambda place: lens.activation(name, axes, setter, place)


@torch.no_grad()
def run_lens(folder, data, cells):
    """(seconds of all maps, passes, largest difference to our values in percentage points)."""
    prompts = next((data / "manifests/prompts").glob("*.json"))
    lens = Lens(folder, json.loads(prompts.read_text()))
    seconds, passes, largest = 0.0, 0, 0.0
    for stem, shape, cell, forwards in all_maps(lens):
        ours = numpy.load(data / f"{stem}.npy")
        assert ours.shape == shape, (stem, ours.shape, shape)
        size = ours.size
        places = [numpy.unravel_index((2 * k + 1) * size // (2 * cells) + 5 * k, shape) for k in range(cells)]
        cell(places[0])
        start = time.perf_counter()
        values = [cell(place) for place in places]
        seconds += (time.perf_counter() - start) / cells * size
        passes += forwards * size
        largest = max(largest, *(abs(100 * value - ours[place]) for value, place in zip(values, places)))
    return seconds, passes, largest


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actpatch", default=str(ROOT / "target/release/actpatch"))
    parser.add_argument("--models", default=tempfile.gettempdir() + "/actpatch-peers", help="folder of the random models")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cells", type=int, default=3, help="of every map, that TransformerLens runs per repetition")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = folder_of("gpt2-small", arguments.models)
    ours, theirs, memory, largest = [], [], 0.0, 0.0
    for repetition in range(arguments.repetitions):
        seconds, used, data, paths = run_actpatch(arguments.actpatch, folder, arguments.threads)
        ours.append(seconds)
        memory = max(memory, used)
        seconds, passes, difference = run_lens(folder, data, arguments.cells)
        theirs.append(seconds)
        largest = max(largest, difference)
        print(f"{repetition + 1}: actpatch {ours[-1]:.1f} s, TransformerLens {theirs[-1]:.0f} s", flush=True)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    spread = lambda list: f"{statistics.median(list):.1f} s ({min(list):.1f} - {max(list):.1f})"
    print(f"{time.strftime('%Y-%m-%d')}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"actpatch, everything included: {spread(ours)}, {memory:.2f} GB")
    print(f"TransformerLens, {passes} forward passes ({arguments.cells} cells of every map run): {spread(theirs)}, {own:.2f} GB")
    print(f"ratio {statistics.median(theirs) / statistics.median(ours):.0f}, values differ by at most {largest:.1e} percentage points")
    print("\n".join(paths))


if __name__ == "__main__":
    main()

"""What all Python sides share: the prompts that actpatch names, its directions and DAS starts, and the metric."""

import time
from dataclasses import dataclass

import torch


class Work:
    """Prompts, answers and numbers of one workload, from the first line that `actpatch bench --paced` prints."""

    def __init__(self, greeting, device):
        self.device = device
        self.tokens = torch.tensor(greeting["sequences"], device=device)
        self.corrupted = torch.tensor(greeting["corrupted"], device=device)
        self.position = greeting["patched_position"]
        answers = torch.tensor(greeting["answers"], device=device)
        self.correct, self.wrong = answers[..., 0], answers[..., 1]

    def logit_differences(self, logits):
        """Per prompt, of `(prompts, d_vocab)`."""
        return (logits.gather(1, self.correct) - logits.gather(1, self.wrong)).mean(1)


# The sweep: directions per layer and datasets, as in src/bench/workloads.rs.
METHODS, DATASETS = 5, 5


@dataclass
class Sample:
    """Some cells of a long workload: their values, their places among all values, how many there are, and the seconds
    that all of them would take."""

    values: list
    places: list
    number: int
    seconds: float


def clock(function, *arguments):
    """(result, seconds). Results are numbers on the host, or `function` waits for the device."""
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def sample(cell, places, number, once=0.0):
    """Runs `cell(place)`, a list of numbers, at each of `places`; all `number` cells are taken to cost as much as these
    do on average, behind `once` seconds."""
    results = [clock(cell, place) for place in places]
    seconds = once + number * sum(seconds for _, seconds in results) / len(places)
    return Sample([value for values, _ in results for value in values], list(places), number, seconds)


def spread_layers(n_layers):
    """Three blocks whose mean is the middle of all layers: what costs more the lower it starts averages out."""
    return [1, n_layers // 2, n_layers - 1]


def value(index, seed):
    """As `value` in src/bench/workloads.rs."""
    return ((index * 7919 + seed * 104_729) % 2003).to(torch.float32) / 1001.5 - 1.0


def direction(d_model, layer, device, method=0):
    """One of the five directions of a layer, unit length."""
    values = value(torch.arange(d_model), 1 + METHODS * layer + method)
    return (values / values.norm()).to(device)


def rotation_start(d_model):
    """A strictly lower triangle."""
    row, column = torch.arange(d_model)[:, None], torch.arange(d_model)[None, :]
    return ((3.0 / d_model) ** 0.5 * value(row * row + 613 * column + row * column, 1)).tril(-1)


def swap(base, source, columns):
    """`base + R Rᵀ (source - base)` for `(..., d_model)`."""
    return base + (source - base) @ columns @ columns.T


class Trainer:
    """Adam with clipping on the free triangle; `columns` maps it to R, `metric` R to the patched logit difference."""

    def __init__(self, d_model, device, columns, metric, clean, corrupted):
        self.free = torch.nn.Parameter(rotation_start(d_model).to(device))
        self.optimizer = torch.optim.Adam([self.free], lr=1e-3)
        self.columns, self.metric, self.clean, self.corrupted = columns, metric, clean, corrupted

    def epoch(self):
        loss = (self.metric(self.columns(self.free)) - self.clean) / (self.corrupted - self.clean)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([self.free], 1.0)
        self.optimizer.step()
        return [loss.item()]

"""What all Python sides share: the prompts that actpatch names, its directions and DAS starts, and the metric."""

import torch


class Work:
    """Prompts, answers and numbers of one workload, from the first line that `actpatch bench --paced` prints."""

    def __init__(self, greeting):
        self.tokens = torch.tensor(greeting["sequences"])
        self.corrupted = torch.tensor(greeting["corrupted"])
        self.position = greeting["patched_position"]
        answers = torch.tensor(greeting["answers"])
        self.correct, self.wrong = answers[..., 0], answers[..., 1]

    def logit_differences(self, logits):
        """Per prompt, of `(prompts, d_vocab)`."""
        return (logits.gather(1, self.correct) - logits.gather(1, self.wrong)).mean(1)


def value(index, seed):
    """As `value` in src/bench/workloads.rs."""
    return ((index * 7919 + seed * 104_729) % 2003).to(torch.float32) / 1001.5 - 1.0


def direction(d_model, layer):
    """The first of the five directions of a layer, unit length."""
    values = value(torch.arange(d_model), 1 + 5 * layer)
    return values / values.norm()


def rotation_start(d_model):
    """A strictly lower triangle."""
    row, column = torch.arange(d_model)[:, None], torch.arange(d_model)[None, :]
    return ((3.0 / d_model) ** 0.5 * value(row * row + 613 * column + row * column, 1)).tril(-1)


def swap(base, source, columns):
    """`base + R Rᵀ (source - base)` for `(..., d_model)`."""
    return base + (source - base) @ columns @ columns.T


class Trainer:
    """Adam with clipping on the free triangle; `columns` maps it to R, `metric` R to the patched logit difference."""

    def __init__(self, d_model, columns, metric, clean, corrupted):
        self.free = torch.nn.Parameter(rotation_start(d_model))
        self.optimizer = torch.optim.Adam([self.free], lr=1e-3)
        self.columns, self.metric, self.clean, self.corrupted = columns, metric, clean, corrupted

    def epoch(self):
        loss = (self.metric(self.columns(self.free)) - self.clean) / (self.corrupted - self.clean)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([self.free], 1.0)
        self.optimizer.step()
        return [loss.item()]

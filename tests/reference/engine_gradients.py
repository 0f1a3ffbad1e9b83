"""Gradients of the logit difference under a subspace swap, for `make_engine_fixtures.py`.

The run is the corrupted one with the residual r at (layer, position) replaced by r + R R' (r_clean - r). Stored are the
metric, its gradient by the residual after that replacement (every token of it), and by R with R free.
"""

import torch

from engine_patches import ALL, POSITION, orthonormal


def logit_difference(last, answers):
    """Mean over prompts and answer pairs of logit[correct] - logit[incorrect]; `last` is (prompts, vocabulary)."""
    chosen = last.gather(1, answers.flatten(1)).view(answers.shape)
    return (chosen[..., 0] - chosen[..., 1]).mean()


def site_name(layer, n_layers):
    """Layer L stands for the final residual."""
    return f"blocks.{layer}.hook_resid_pre" if layer < n_layers else f"blocks.{layer - 1}.hook_resid_post"


def patched_metric(lens, clean, corrupted, answers, layer, position, rotation):
    """(metric, residual after the swap, with its gradient kept). Tokens are (prompts, length)."""
    site = site_name(layer, lens.cfg.n_layers)
    source = lens.run_with_cache(clean)[1][site]
    kept = []

    def swap(value, hook):
        chosen = (slice(None), slice(None) if position == ALL else slice(position, position + 1))
        mask = torch.zeros_like(value)
        mask[chosen] = 1
        value = value + mask * ((source - value) @ rotation @ rotation.T)
        value.retain_grad()
        kept.append(value)
        return value

    last = lens.run_with_hooks(corrupted, fwd_hooks=[(site, swap)])[:, -1]
    return logit_difference(last, answers), kept[0]


def gradient_cases(lens, prompts, answers, seed, tensors, thorough, from_start=False):
    """Adds `grad.*` tensors; returns the index. Only the first two prompts, so that the files stay small.

    Without `thorough` the gradients go through the last block, with `from_start` also through all of them.
    """
    clean, corrupted, answers = prompts[:2], prompts.roll(-1, 0)[:2], answers[:2]
    n_layers = lens.cfg.n_layers
    cases = [
        (layer, position, 1 if position == ALL else 2)
        for layer in sorted({0, 1, n_layers - 1, n_layers})
        for position in (POSITION, ALL)
    ]
    cases += [(1, POSITION, 1), (1, ALL, 2)]
    few = [(1, POSITION, 1), (1, ALL, 2), (n_layers, ALL, 1)]
    few += [(0, POSITION, 2), (0, ALL, 1)] if from_start else []
    index = []
    for layer, position, rank in cases if thorough else few:
        name = f"grad.L{layer}.P{position}.K{rank}"
        rotation = orthonormal(lens.cfg.d_model, rank, 600 + seed).float().double().requires_grad_()
        tensors[f"grad.rotation.K{rank}"] = rotation
        metric, residual = patched_metric(lens, clean, corrupted, answers, layer, position, rotation)
        metric.backward()
        tensors |= {f"{name}.metric": metric.view(1), f"{name}.resid": residual.grad, f"{name}.rotation": rotation.grad}
        index.append(
            {"name": name, "site": site_name(layer, n_layers), "position": position, "rank": rank, "prompts": [0, 1]}
        )
    if thorough:
        index.append(ragged_case(lens, seed, tensors))
    return index


def ragged_case(lens, seed, tensors, lengths=(6, 3, 8), layer=1, position=2):
    """Prompts of unequal length, each read at its own last token; clean and corrupted are of one length."""
    generator = torch.Generator().manual_seed(700 + seed)
    rotation = orthonormal(lens.cfg.d_model, 1, 600 + seed).float().double().requires_grad_()
    draw = lambda length: torch.cat(
        [torch.zeros(1, dtype=torch.long), torch.randint(1, lens.cfg.d_vocab, (length - 1,), generator=generator)]
    )
    clean, corrupted = ([draw(length) for length in lengths] for _ in range(2))
    answers = torch.stack([torch.randperm(lens.cfg.d_vocab, generator=generator)[:4].view(2, 2) for _ in lengths])
    parts = [
        patched_metric(lens, clean[row][None], corrupted[row][None], answers[row : row + 1], layer, position, rotation)
        for row in range(len(lengths))
    ]
    metric = torch.stack([part[0] for part in parts]).mean()
    metric.backward()
    name = "grad.ragged"
    tensors |= {
        f"{name}.clean": torch.cat(clean),
        f"{name}.corrupted": torch.cat(corrupted),
        f"{name}.answers": answers,
    }
    tensors |= {
        f"{name}.metric": metric.view(1),
        f"{name}.resid": torch.cat([residual.grad[0] for _, residual in parts]),
    }
    tensors[f"{name}.rotation"] = rotation.grad
    return {
        "name": name,
        "site": site_name(layer, lens.cfg.n_layers),
        "position": position,
        "rank": 1,
        "lengths": lengths,
    }

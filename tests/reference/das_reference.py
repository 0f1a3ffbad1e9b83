"""DAS with full matrix exponentials, in f64: the reference of the fitted directions.

R is the first k columns of exp(T - T'), T strictly lower triangular and free. loss = (LD_patched - LD_clean) /
(LD_corrupted - LD_clean), Adam on T with the gradient's norm clipped at 1, 64 epochs of one batch.
"""

import torch

from engine_gradients import logit_difference, patched_metric, site_name
from engine_patches import ALL, POSITION

EPOCHS = 64
LAYER = 1


def das_fits(lens, prompts, answers, seed, tensors):
    """Adds `das.*` tensors: the common start, the baselines, per fit the loss before each step and the last R."""
    width = lens.cfg.d_model
    corrupted = prompts.roll(-1, 0)
    clean_difference = logit_difference(lens(prompts)[:, -1], answers)
    corrupted_difference = logit_difference(lens(corrupted)[:, -1], answers)
    start = haar(width, 800 + seed).tril(-1).float().double()
    tensors |= {"das.start": start, "das.baselines": torch.stack([clean_difference, corrupted_difference])}
    index = []
    cases = [(rank, position, 1e-3) for rank in (1, 2) for position in (POSITION, ALL)]
    for rank, position, rate in cases + [(1, POSITION, 1e-2), (2, ALL, 1e-2)]:
        free = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.Adam([free], lr=rate)
        losses = []
        for _ in range(EPOCHS):
            metric, _ = patched_metric(lens, prompts, corrupted, answers, LAYER, position, rotation(free, rank))
            loss = (metric - clean_difference) / (corrupted_difference - clean_difference)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([free], 1.0)
            optimizer.step()
            losses.append(loss.detach())
        name = f"das.P{position}.K{rank}.lr{rate:g}"
        tensors |= {f"{name}.loss": torch.stack(losses), f"{name}.rotation": rotation(free.detach(), rank)}
        index.append({
            "name": name, "site": site_name(LAYER, lens.cfg.n_layers), "position": position, "rank": rank,
            "learning_rate": rate, "epochs": EPOCHS,
        })  # fmt: skip
        print(f"  {name}: loss {losses[0]:.4f} to {losses[-1]:.4f}")
    return index


def haar(width, seed):
    """An orthogonal matrix from the Haar measure."""
    rotation, triangle = torch.linalg.qr(
        torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    return rotation * triangle.diagonal().sign()


def rotation(free, rank):
    lower = free.tril(-1)
    return torch.matrix_exp(lower - lower.T)[:, :rank]

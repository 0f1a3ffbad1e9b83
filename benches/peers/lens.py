"""The workloads on TransformerLens.

`original`: as the paper's scripts call it, `use_attn_result` on, every cell with full clean and corrupted caches.
`installed`: the same without `use_attn_result`. `tuned`: as an expert would: baselines and the residuals that are needed
are computed once for a dataset, patched passes start at their layer. The maps are TransformerLens' own functions in every
setting. Long workloads run a sample of their cells.
"""

import pandas
import torch
from models import transformer_lens
from transformer_lens import patching
from work import DATASETS, METHODS, Trainer, clock, direction, sample, spread_layers, swap

# Cells of a map that are run.
MAP_CELLS = 4


class Lens:
    def __init__(self, folder, work, settings):
        self.model, self.work, self.tuned = transformer_lens(folder, work.device), work, settings == "tuned"
        self.model.set_use_attn_result(settings == "original")
        self.n_layers, self.d_model = self.model.cfg.n_layers, self.model.cfg.d_model
        self.trainers, self.shared = {}, None

    @torch.no_grad()
    def forward(self):
        logits = self.model(self.work.tokens, return_type="logits")
        return self.work.logit_differences(logits[:, -1]).tolist()

    @torch.no_grad()
    def once(self):
        """What a tuned sweep computes once per dataset: every layer's residual, and the baselines."""
        residual_alone = lambda name: name.endswith("hook_resid_pre")
        logits, cache = self.model.run_with_cache(self.work.tokens, names_filter=residual_alone)
        differences = self.work.logit_differences(logits[:, -1])
        other = self.work.logit_differences(logits[self.work.corrupted, -1])
        self.shared = cache, differences.mean().item(), other.mean().item()

    @torch.no_grad()
    def cell(self, layer):
        work, name = self.work, f"blocks.{layer}.hook_resid_pre"
        columns = direction(self.d_model, layer, work.device)[:, None]
        if self.tuned:
            if self.shared is None:
                self.once()
            cache, clean, corrupted = self.shared
            residual, base = cache[name], cache[name][work.corrupted]
            inputs, start = base.clone(), {"start_at_layer": layer}
        else:
            clean_logits, clean_cache = self.model.run_with_cache(work.tokens)
            corrupted_logits, corrupted_cache = self.model.run_with_cache(work.tokens[work.corrupted])
            clean = work.logit_differences(clean_logits[:, -1]).mean()
            corrupted = work.logit_differences(corrupted_logits[:, -1]).mean()
            residual, base = clean_cache[name], corrupted_cache[name]
            inputs, start = work.tokens[work.corrupted], {}
        value = swap(base[:, work.position], residual[:, work.position], columns)

        def patch(activation, hook):
            activation[:, work.position] = value
            return activation

        logits = self.model.run_with_hooks(inputs, fwd_hooks=[(name, patch)], **start)
        return [((work.logit_differences(logits[:, -1]).mean() - corrupted) / (clean - corrupted)).item()]

    def sweep(self):
        """Every layer and the last residual, five directions each, on five datasets."""
        once = clock(self.once)[1] if self.tuned else 0.0
        number = DATASETS * METHODS * (self.n_layers + 1)
        found = sample(self.cell, spread_layers(self.n_layers), number, DATASETS * once)
        found.places = [METHODS * layer for layer in found.places]
        return found

    def das(self, layer=None):
        if layer is None:
            return sample(self.das, spread_layers(self.n_layers), self.n_layers)
        if layer not in self.trainers:
            self.trainers[layer] = self.trainer(layer)
        return self.trainers[layer].epoch()

    def trainer(self, layer):
        """The rotation goes through three matrix exponentials a step: into the subspace twice, and back."""
        if self.shared is None:
            self.once()
        work, name, (cache, clean, corrupted) = self.work, f"blocks.{layer}.hook_resid_pre", self.shared
        residual = cache[name]
        source, base = residual[:, work.position], residual[work.corrupted][:, work.position]

        def rotation(free):
            lower = free.tril(-1)
            return torch.matrix_exp(lower - lower.T)

        def metric(free):
            subspace = torch.zeros(self.d_model, device=work.device)
            subspace[0] = 1.0
            mixed = base @ rotation(free) * (1 - subspace) + source @ rotation(free) * subspace
            value = mixed @ rotation(free).T

            def patch(activation, hook):
                activation = activation.clone()
                activation[:, work.position] = value
                return activation

            if self.tuned:
                inputs, start = residual[work.corrupted], {"start_at_layer": layer}
            else:
                inputs, start = work.tokens[work.corrupted], {}
            logits = self.model.run_with_hooks(inputs, fwd_hooks=[(name, patch)], **start)
            return work.logit_differences(logits[:, -1]).mean()

        return Trainer(self.d_model, work.device, lambda free: free, metric, clean, corrupted)

    def head_map(self):
        heads = self.model.cfg.n_heads
        return self.map("z", ("layer", "head"), patching.layer_head_vector_patch_setter, heads)

    def resid_map(self):
        positions = self.work.tokens.shape[1]
        return self.map("resid_pre", ("layer", "pos"), patching.layer_pos_patch_setter, positions)

    @torch.no_grad()
    def map(self, activation, axes, setter, width):
        """Some cells of `patching.get_act_patch_*`, all of whose cells cost the same, and the caches in front of it."""
        work, corrupted_tokens = self.work, self.work.tokens[self.work.corrupted]

        def baselines():
            clean_logits, cache = self.model.run_with_cache(work.tokens)
            both = clean_logits, self.model(corrupted_tokens)
            return cache, *(work.logit_differences(logits[:, -1]).mean().item() for logits in both)

        (cache, clean, corrupted), once = clock(baselines)
        metric = lambda logits: (work.logit_differences(logits[:, -1]).mean() - corrupted) / (clean - corrupted)

        def cell(place):
            index = pandas.DataFrame([divmod(place, width)], columns=axes)
            found = patching.generic_activation_patch(
                self.model, corrupted_tokens, cache, metric, setter, activation, index_df=index
            )
            return found.tolist()

        number = self.n_layers * width
        places = [(2 * k + 1) * number // (2 * MAP_CELLS) + 3 * k for k in range(MAP_CELLS)]
        return sample(cell, [place % number for place in places], number, once)

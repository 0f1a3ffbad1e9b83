"""The workloads on TransformerLens.

`original`: as the paper's scripts call it, `use_attn_result` on, every cell with full clean and corrupted caches.
`installed`: the same without `use_attn_result`. `tuned`: as an expert would: baselines and the one activation that is
needed are computed once for a dataset, patched passes start at their layer.
"""

import torch
from models import transformer_lens
from work import Trainer, direction, swap


class Lens:
    def __init__(self, folder, work, settings):
        self.model, self.work, self.tuned = transformer_lens(folder), work, settings == "tuned"
        self.model.set_use_attn_result(settings == "original")
        self.trainers, self.shared = {}, {}

    def run(self, workload):
        name, _, layer = workload.partition(":")
        return getattr(self, name)(*([int(layer)] if layer else []))

    @torch.no_grad()
    def forward(self):
        logits = self.model(self.work.tokens, return_type="logits")
        return self.work.logit_differences(logits[:, -1]).tolist()

    @torch.no_grad()
    def once(self, layer):
        """What a tuned sweep computes once per dataset and layer."""
        if layer not in self.shared:
            name = f"blocks.{layer}.hook_resid_pre"
            logits, cache = self.model.run_with_cache(self.work.tokens, names_filter=name)
            differences = self.work.logit_differences(logits[:, -1])
            other = self.work.logit_differences(logits[self.work.corrupted, -1])
            self.shared[layer] = cache[name], differences.mean(), other.mean()
        return self.shared[layer]

    @torch.no_grad()
    def cell(self, layer):
        work, name = self.work, f"blocks.{layer}.hook_resid_pre"
        columns = direction(self.model.cfg.d_model, layer)[:, None]
        if self.tuned:
            residual, clean, corrupted = self.once(layer)
            start, base = {"start_at_layer": layer}, residual[work.corrupted]
        else:
            clean_logits, clean_cache = self.model.run_with_cache(work.tokens)
            corrupted_logits, corrupted_cache = self.model.run_with_cache(work.tokens[work.corrupted])
            clean = work.logit_differences(clean_logits[:, -1]).mean()
            corrupted = work.logit_differences(corrupted_logits[:, -1]).mean()
            residual, base = clean_cache[name], corrupted_cache[name]
            start = {}
        value = swap(base[:, work.position], residual[:, work.position], columns)

        def patch(activation, hook):
            activation[:, work.position] = value
            return activation

        inputs = base.clone() if self.tuned else work.tokens[work.corrupted]
        logits = self.model.run_with_hooks(inputs, fwd_hooks=[(name, patch)], **start)
        return [((work.logit_differences(logits[:, -1]).mean() - corrupted) / (clean - corrupted)).item()]

    def das(self, layer):
        if layer not in self.trainers:
            self.trainers[layer] = self.trainer(layer)
        return self.trainers[layer].epoch()

    def trainer(self, layer):
        """The rotation goes through three matrix exponentials a step: into the subspace twice, and back."""
        work, name = self.work, f"blocks.{layer}.hook_resid_pre"
        residual, clean, corrupted = self.once(layer)
        source, base = residual[:, work.position], residual[work.corrupted][:, work.position]

        def rotation(free):
            lower = free.tril(-1)
            return torch.matrix_exp(lower - lower.T)

        def metric(free):
            subspace = torch.zeros(self.model.cfg.d_model)
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

        return Trainer(self.model.cfg.d_model, lambda free: free, metric, clean, corrupted)

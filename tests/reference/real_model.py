"""A Llama model from a folder as a TransformerLens model in f64, and runs of it: what make_real_model_golden.py measures.

transformers computes norms, rotary tables and softmax in f32 even where weights are f64, TransformerLens rounds rotary tables
to f32. Both is undone here, so that the libraries can be compared to the last digits before either is believed.
"""

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_llama_weights
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from make_attribution_fixtures import attribution_patching
from tiny_models import llama_settings

# Longest text.
CONTEXT = 1024


def load(folder):
    """The folder's model as Hugging Face model and as TransformerLens model with the same weights, both in f64."""
    hugging_face = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    theirs = hugging_face.config
    config = HookedTransformerConfig(
        n_ctx=CONTEXT, d_vocab=theirs.vocab_size, dtype=torch.float64, device="cpu", seed=0, default_prepend_bos=False,
        **llama_settings(theirs),
    )  # fmt: skip
    weights = {name: values.detach().clone() for name, values in convert_llama_weights(hugging_face, config).items()}
    lens = HookedTransformer(config)
    # Folding, which TransformerLens does in f32, would change no number that is measured here: residuals, z and centred logits
    # are the same with it.
    lens.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    # TransformerLens rounds its rotary tables to f32.
    angles = rotary_angles(torch.arange(CONTEXT), theirs)
    for block in lens.blocks:
        block.attn.rotary_sin, block.attn.rotary_cos = angles.sin(), angles.cos()
    return hugging_face.eval().requires_grad_(False), lens.eval().requires_grad_(False)


def rotary_angles(positions, config):
    """(…, d_head) in f64."""
    width, theta = config.head_dim, config.rope_parameters["rope_theta"]
    inverse = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = positions[..., None].double() * inverse
    return torch.cat((angles, angles), dim=-1)


def exactly(hugging_face):
    """Makes transformers compute in the precision of its weights."""

    def norm(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotary(self, x, position_ids):
        angles = rotary_angles(position_ids, self.config)
        return angles.cos(), angles.sin()

    def attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
        groups = module.num_key_value_groups
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        length = query.shape[2]
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        pattern = (query @ key.transpose(2, 3) * scaling).masked_fill(hidden, -torch.inf).softmax(-1)
        return (pattern @ value).transpose(1, 2).contiguous(), pattern

    modeling_llama.LlamaRMSNorm.forward = norm
    modeling_llama.LlamaRotaryEmbedding.forward = rotary
    modeling_llama.eager_attention_forward = attention
    return hugging_face


def centred(logits):
    """Logits less their mean over the vocabulary: the same whatever is done to the unembedding's mean."""
    return logits - logits.mean(-1, keepdim=True)


class Runs:
    """Clean and corrupted runs of a dataset, whose rows are positive and negative in turn; a row's corrupted prompt is
    the next row."""

    def __init__(self, lens, tokens, answers):
        self.lens, self.tokens, self.layers = lens, torch.tensor(tokens), lens.cfg.n_layers
        pairs = torch.tensor(answers)
        rows = len(tokens)
        self.answers = torch.stack([pairs if row % 2 == 0 else pairs.flip(1) for row in range(rows)])
        self.positive = torch.arange(rows) % 2 == 0
        kept = lambda name: name.endswith(("hook_resid_pre", "hook_resid_post", "hook_z"))
        resid, self.clean = lens.run_with_cache(self.tokens, names_filter=kept, stop_at_layer=self.layers)
        self.corrupted = {name: values.roll(-1, 0) for name, values in self.clean.items()}
        self.clean_scores = self.scores(resid)
        self.corrupted_scores = self.scores(resid.roll(-1, 0))

    def site(self, layer):
        return f"blocks.{layer - 1}.hook_resid_post" if layer == self.layers else f"blocks.{layer}.hook_resid_pre"

    def scores(self, resid):
        """Of every prompt: logit difference, difference of probabilities, log probability of the right answers."""
        logits = self.lens.unembed(self.lens.ln_final(resid[:, -1:]))[:, 0]
        log_probabilities = logits.log_softmax(-1)
        pick = lambda values: values.gather(1, self.answers.flatten(1)).view(self.answers.shape)
        difference = lambda picked: (picked[..., 0] - picked[..., 1]).mean(1)
        return {
            "logit": difference(pick(logits)),
            "probability": difference(pick(log_probabilities.exp())),
            "log_probability": pick(log_probabilities)[..., 0].mean(1),
        }

    def last_residual(self, own, layer, hooks):
        """The last residual of a run that starts in front of `layer` with the residual of `own`."""
        if layer == self.layers:
            raise ValueError("no block is left")
        with self.lens.hooks(fwd_hooks=hooks):
            return self.lens(own[self.site(layer)], start_at_layer=layer, stop_at_layer=self.layers)

    def patched(self, layer, site, change, noising=False):
        """Scores of the corrupted run with `change(activation, clean one)` at a site of `layer`; noising: of the clean run
        with corrupted ones."""
        own, other = (self.clean, self.corrupted) if noising else (self.corrupted, self.clean)
        hook = lambda activation, hook: change(activation.clone(), other[site])
        return self.scores(self.last_residual(own, layer, [(site, hook)]))

    def along(self, layer, direction, position, noising=False):
        """Scores with the part along a unit direction taken from the other run, at one position or at all (None)."""
        unit = torch.tensor(direction)
        at = slice(None) if position is None else slice(position, position + 1)

        def change(activation, other):
            difference = (other[:, at] - activation[:, at]) @ unit
            activation[:, at] += difference[..., None] * unit
            return activation

        return self.patched(layer, self.site(layer), change, noising)

    def head(self, layer, head):
        def change(activation, other):
            activation[:, :, head] = other[:, :, head]
            return activation

        return self.metric("logit_diff", self.patched(layer, f"blocks.{layer}.attn.hook_z", change))

    def direct(self, layer, head):
        """Noising by a head's path to the last residual: all heads keep their clean z, MLPs and norms are recomputed."""

        def freeze(activation, hook):
            activation = self.clean[hook.name].clone()
            if hook.layer() == layer:
                activation[:, :, head] = self.corrupted[hook.name][:, :, head]
            return activation

        hooks = [(lambda name: name.endswith("hook_z"), freeze)]
        return self.metric("logit_diff_noising", self.scores(self.last_residual(self.clean, layer, hooks)))

    def attributed(self):
        """To first order, recovery with one head's z: heads by layer, in percent."""
        metric = lambda logits: self.difference(logits[:, -1]).mean()
        found = attribution_patching(self.lens, self.tokens.roll(-1, 0), self.tokens, metric, [0.0])["z"]
        low, high = (scores["logit"].mean() for scores in (self.corrupted_scores, self.clean_scores))
        return 100 * found.detach() / (high - low)

    def difference(self, logits):
        picked = logits.gather(1, self.answers.flatten(1)).view(self.answers.shape)
        return (picked[..., 0] - picked[..., 1]).mean(1)

    def metric(self, name, scores):
        """A metric of patched runs in percent, by its name."""
        if name == "sign_flip":
            before, after = (each["logit"] > 0 for each in (self.corrupted_scores, scores))
            return 100 * (before != after).double().mean().item()
        noising = name.endswith("_noising")
        level = lambda each: self.level(name.removesuffix("_noising"), each)
        low, high = level(self.corrupted_scores), level(self.clean_scores)
        return 100 * ((level(scores) - (high if noising else low)) / (high - low)).item()

    def level(self, name, scores):
        if name == "logit_flip":
            signs = torch.where(self.positive, 1.0, -1.0)
            bias = (scores["logit"] * signs).mean()
            return ((scores["logit"] - bias * signs) > 0).double().mean()
        return scores[{"logit_diff": "logit", "prob_diff": "probability", "log_prob": "log_probability"}[name]].mean()

    def ablated(self, directions, places, method):
        """Mean logit difference of the clean run without its part along every layer's direction, at places (a mask of
        prompts and positions): less all of it (`zero`), or with the mean over all places there (`mean_over_places`)."""

        def hook(layer):
            unit = torch.tensor(directions[layer])
            target = 0.0
            if method == "mean_over_places":
                target = (self.clean[self.site(layer)][places] @ unit).mean()

            def apply(activation, hook):
                change = (target - activation @ unit)[..., None] * unit
                return torch.where(places[..., None], activation + change, activation)

            return self.site(layer), apply

        hooks = [hook(layer) for layer in range(self.layers)]
        resid = self.last_residual(self.clean, 0, hooks)
        if self.layers in directions:
            resid = hook(self.layers)[1](resid, None)
        return self.scores(resid)["logit"].mean().item()


def fits(x, positive):
    """Unit directions by method, of arbitrary sign, and which of them are sure: k-means' best start must be the best of
    many more, or another program may find another optimum."""
    kmeans = KMeans(2, n_init=10, random_state=0).fit(x)
    best = KMeans(2, n_init=300, random_state=1, tol=0).fit(x).inertia_
    exact = LogisticRegression(C=1.0, solver="liblinear", tol=1e-10, max_iter=100000, random_state=0)
    found = {
        "mean_diff": x[positive].mean(0) - x[~positive].mean(0),
        "pca": PCA(1, svd_solver="full").fit(x).components_[0],
        "logistic_regression": exact.fit(x, positive.astype(int)).coef_[0],
    }
    if abs(kmeans.inertia_ - best) < 1e-9 * best:
        found["kmeans"] = kmeans.cluster_centers_[1] - kmeans.cluster_centers_[0]
    return {method: direction / np.linalg.norm(direction) for method, direction in found.items()}


def greedy(lens, tokens, count, end, added=None):
    """The likeliest tokens behind a prompt with their log probabilities, up to the one that ends the text; `added` is
    (layer, vector) to add to the residual stream everywhere. The second likeliest must be clearly less likely."""
    hooks = [] if added is None else [(f"blocks.{added[0]}.hook_resid_pre", lambda resid, hook: resid + added[1])]
    written, told = list(tokens), []
    while len(told) < count and (not told or told[-1][0] != end):
        with lens.hooks(fwd_hooks=hooks):
            values = lens(torch.tensor([written]))[0, -1].log_softmax(-1)
        best = values.topk(2)
        assert best.values[0] - best.values[1] > 0.001, (written, best)
        told.append((best.indices[0].item(), best.values[0].item()))
        written.append(told[-1][0])
    return told

"""Beside TransformerLens itself, where it is installed: tiny random models that no fixture knows, in f64 over there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from conftest import ROOT

import actpatch
from actpatch import Model, Replace, patch
from actpatch.errors import ModelError, SettingError

torch = pytest.importorskip("torch")
pytest.importorskip("transformer_lens")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(ROOT / "tests" / "reference"))
import tiny_models  # noqa: E402
from transformer_lens import patching  # noqa: E402

# Of models as small as these, what threads tell each other takes longer than what they compute.
torch.set_num_threads(1)

#: Of no fixture.
SEED = 1000
#: As in the Rust tests: activations and logits are of order 1 to 10.
ABSOLUTE = 1e-4
NAMES = ["gpt2-tiny", "neox-parallel", "neox-sequential", "llama-tiny", "mistral-tiny", "qwen2-tiny", "qwen3-tiny"]


class Pair:
    """One model here and there, and prompts for it."""

    def __init__(self, name: str, weights: str, folder: Path) -> None:
        self.folder, self.processed = folder, weights == "processed"
        hf_model = tiny_models.hugging_face(name, SEED)
        tiny_models.save(hf_model, name, folder)
        self.theirs = tiny_models.transformer_lens(name, hf_model, self.processed)
        processing = None if self.processed else "none"
        self.options = {"weight_processing": processing, "data_dir": folder / "data", "progress": False, "device": "cpu"}
        self.ours = Model(folder, **self.options)
        rng = np.random.default_rng(SEED)
        self.clean = rng.integers(1, self.ours.cfg.d_vocab, (3, 9))
        self.clean[:, 0] = 0
        self.corrupted = np.roll(self.clean, -1, axis=0)
        self.answers = 1 + rng.permutation(self.ours.cfg.d_vocab - 1)[:6].reshape(3, 2)
        #: Every hook name but the inputs of heads, which are not cached.
        self.sites = [site for site in self.ours.hook_names if not site.endswith("_input")]

    def tokenizer(self) -> Any:
        return transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(self.folder / "tokenizer.json"), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
        )


@pytest.fixture(scope="module", params=[(n, w) for n in NAMES for w in ("processed", "unprocessed")], ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    name, weights = request.param
    return Pair(name, weights, tmp_path_factory.mktemp(f"{name}-{weights}"))


def test_every_shared_site_is_theirs(pair: Pair) -> None:
    expected_logits, expected = pair.theirs.run_with_cache(torch.tensor(pair.clean))
    logits, found = pair.ours.run_with_cache(pair.clean, names=pair.sites)
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=ABSOLUTE)
    assert list(found) == pair.sites
    for site in pair.sites:
        np.testing.assert_allclose(found[site], expected[site], rtol=0, atol=ABSOLUTE, err_msg=site)


def their_gradients(pair: Pair, sites: List[str]) -> Dict[str, Any]:
    """Values and gradients of every prompt's logit difference."""
    held: Dict[str, Any] = {}

    def begin(value: Any, hook: Any) -> Any:
        return value.detach().requires_grad_(True)

    def keep(value: Any, hook: Any) -> None:
        value.retain_grad()
        held[hook.name] = value

    hooks = [("hook_embed", begin), *((site, keep) for site in sites)]
    logits = pair.theirs.run_with_hooks(torch.tensor(pair.clean), fwd_hooks=hooks)[:, -1]
    rows = torch.arange(len(pair.clean))
    right, wrong = torch.tensor(pair.answers).T
    (logits[rows, right] - logits[rows, wrong]).sum().backward()
    return held


def test_every_shared_gradient_is_theirs(pair: Pair) -> None:
    sites = [site for site in pair.sites if site.startswith("blocks") and not site.endswith("hook_result")]
    held = their_gradients(pair, sites)
    _, found = pair.ours.gradients(pair.clean, pair.answers, sites)
    for site in sites:
        value, gradient = held[site], held[site].grad
        expected = np.zeros(value.shape) if gradient is None else gradient.numpy()
        # Over there, keys that are masked have a gradient that reaches nothing.
        seen = value.detach().numpy() > 0 if site.endswith("pattern") else np.ones(value.shape, dtype=bool)
        scale = np.abs(expected[seen]).max() + 1e-6
        np.testing.assert_allclose(found[site] * seen, expected * seen, rtol=0, atol=1e-3 * scale, err_msg=site)


def test_every_shared_site_is_patched_as_theirs(pair: Pair) -> None:
    _, cache = pair.ours.run_with_cache(pair.clean, names=pair.sites, logits=None)
    _, their_cache = pair.theirs.run_with_cache(torch.tensor(pair.clean))
    last = pair.ours.cfg.n_heads - 1

    for site in pair.sites:
        place = site.rsplit("hook_", 1)[1]
        heads = {"result": last, "z": [0, last], "k": 0, "pattern": None}.get(place)

        def put(value: Any, hook: Any) -> Any:
            clean = their_cache[hook.name]
            if heads is None:
                return clean.clone()
            value[:, :, heads] = clean[:, :, heads]
            return value

        expected = pair.theirs.run_with_hooks(torch.tensor(pair.corrupted), fwd_hooks=[(site, put)])
        found = pair.ours.run(pair.corrupted, [Replace(site, cache[site], heads=heads)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=ABSOLUTE, err_msg=site)


#: Maps of heads and residuals, and who makes them over there.
MAPS = {
    "z": patching.get_act_patch_attn_head_out_all_pos,
    "q": patching.get_act_patch_attn_head_q_all_pos,
    "k": patching.get_act_patch_attn_head_k_all_pos,
    "v": patching.get_act_patch_attn_head_v_all_pos,
    "pattern": patching.get_act_patch_attn_head_pattern_all_pos,
    "z_by_position": patching.get_act_patch_attn_head_out_by_pos,
    "q_by_position": patching.get_act_patch_attn_head_q_by_pos,
    "k_by_position": patching.get_act_patch_attn_head_k_by_pos,
    "v_by_position": patching.get_act_patch_attn_head_v_by_pos,
    "pattern_by_position": patching.get_act_patch_attn_head_pattern_by_pos,
    "resid_pre": patching.get_act_patch_resid_pre,
    "resid_mid": patching.get_act_patch_resid_mid,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gpt2-tiny", "neox-parallel", "llama-tiny"])
def test_maps_are_theirs(name: str, tmp_path: Path) -> None:
    pair = Pair(name, "processed", tmp_path)
    words = [" ".join(f"w{token}" for token in row[1:]) for row in pair.clean]
    answers = [(f" w{right}", f" w{wrong}") for right, wrong in pair.answers]
    pairs = [
        {"clean": clean, "corrupted": corrupted, "answer": right, "wrong_answer": wrong}
        for clean, corrupted, (right, wrong) in zip(words, np.roll(words, -1), answers)
    ]
    own = actpatch.datasets.add(pair.ours, "own", pairs)
    right, wrong = torch.tensor(own.answers)[:, 0].T
    corrupted = torch.tensor(own.corrupted_tokens)
    clean_logits, clean_cache = pair.theirs.run_with_cache(torch.tensor(own.clean_tokens))

    def difference(logits: Any) -> Any:
        rows = torch.arange(len(right))
        return (logits[rows, -1, right] - logits[rows, -1, wrong]).mean()

    best, worst = difference(clean_logits), difference(pair.theirs(corrupted))

    def percent(logits: Any) -> Any:
        return 100 * (difference(logits) - worst) / (best - worst)

    shared = [map for map in MAPS if not (name == "neox-parallel" and map == "resid_mid")]
    if name == "llama-tiny":
        # Over there, keys and values that heads share cannot be counted.
        shared = [map for map in shared if map[0] not in "kv"]
    for map in shared:
        expected = MAPS[map](pair.theirs, corrupted, clean_cache, percent)
        if map == "pattern_by_position":
            # Theirs alone has heads in front of positions.
            expected = expected.transpose(1, 2)
        found = patch.maps(pair.ours, map, eval_sets="own").values
        scale = float(expected.abs().max())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * scale, err_msg=map)


def test_what_the_documentation_has_instead_of_the_caches_methods(tmp_path: Path) -> None:
    pair = Pair("gpt2-tiny", "unprocessed", tmp_path)
    tokens, n = pair.clean, pair.ours.cfg.n_layers
    _, theirs = pair.theirs.run_with_cache(torch.tensor(tokens))
    _, cache = pair.ours.run_with_cache(tokens, pair.sites, logits=None)
    parts = [cache[part, layer] for layer in range(n) for part in ("attn_out", "mlp_out")]
    for name, found, expected in [
        ("stack", np.stack([cache["z", layer] for layer in range(n)]), theirs.stack_activation("z")),
        ("one", cache["q", 1, "attn"], theirs["q", 1, "attn"]),
        (
            "accumulated",
            np.stack([cache["resid_pre", layer] for layer in range(n)] + [cache["resid_post", -1]]),
            theirs.accumulated_resid(),
        ),
        ("decomposed", np.stack([cache["embed"], cache["pos_embed"], *parts]), theirs.decompose_resid()),
        (
            "heads",
            np.concatenate([np.moveaxis(cache["result", layer], 2, 0) for layer in range(n)]),
            theirs.stack_head_results(),
        ),
    ]:
        np.testing.assert_allclose(found, expected, rtol=0, atol=ABSOLUTE, err_msg=name)
    logits = pair.ours.run(tokens).astype(np.float64)[:, :-1]
    picked = np.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    loss = np.log(np.exp(logits).sum(-1)) - picked
    expected_loss = pair.theirs(torch.tensor(tokens), return_type="loss", loss_per_token=True)
    np.testing.assert_allclose(loss, expected_loss, rtol=0, atol=ABSOLUTE)


def test_hooked_transformers_in_memory(pair: Pair) -> None:
    """As they are, and processed: that changes nothing more where TransformerLens has done it."""
    for processing in ["none", None] if pair.processed else ["none"]:
        options = {**pair.options, "weight_processing": processing}
        model = Model.from_hooked_transformer(pair.theirs, pair.tokenizer(), **options)
        expected_logits, expected = pair.theirs.run_with_cache(torch.tensor(pair.clean))
        logits, found = model.run_with_cache(pair.clean, names=pair.sites)
        np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=ABSOLUTE)
        for site in pair.sites:
            np.testing.assert_allclose(found[site], expected[site], rtol=0, atol=ABSOLUTE, err_msg=site)


def test_hooked_transformers_are_taken_as_they_are_now(tmp_path: Path) -> None:
    pair = Pair("gpt2-tiny", "unprocessed", tmp_path)
    with torch.no_grad():
        pair.theirs.blocks[1].mlp.W_in.mul_(1.5)
    model = Model.from_hooked_transformer(pair.theirs, pair.tokenizer(), **pair.options)
    assert model.bos_token_id is None, "texts begin as over there, where default_prepend_bos is False"
    np.testing.assert_allclose(model.run(pair.clean), pair.theirs(torch.tensor(pair.clean)), rtol=0, atol=ABSOLUTE)
    assert np.abs(model.run(pair.clean) - pair.ours.run(pair.clean)).max() > 1e-2


def test_hooked_transformers_that_cannot_be_taken(tmp_path: Path) -> None:
    pair = Pair("gpt2-tiny", "unprocessed", tmp_path)
    theirs, tokenizer = pair.theirs, pair.tokenizer()
    with pytest.raises(SettingError, match="expected a HookedTransformer, found int"):
        Model.from_hooked_transformer(3, tokenizer)
    with pytest.raises(SettingError, match="tokenizer: expected one of transformers"):
        Model.from_hooked_transformer(theirs)
    for field, value in [("attn_scores_soft_cap", 30.0), ("act_fn", "solu"), ("attn_scale", 3.0), ("final_rms", True)]:
        kept = getattr(theirs.cfg, field)
        setattr(theirs.cfg, field, value)
        with pytest.raises(ModelError, match="built like" if field == "final_rms" else f"cfg.{field}"):
            Model.from_hooked_transformer(theirs, tokenizer, **pair.options)
        setattr(theirs.cfg, field, kept)
    with torch.no_grad():
        theirs.unembed.b_U[3] = 1.0
    with pytest.raises(ModelError, match="unembed.b_U: expected zeros, since a gpt2"):
        Model.from_hooked_transformer(theirs, tokenizer, **pair.options)
    with torch.no_grad():
        theirs.unembed.b_U[3] = 0.0
    theirs.add_hook("blocks.1.hook_resid_pre", lambda value, hook: 2 * value)
    with pytest.raises(ModelError, match="it has hooks"):
        Model.from_hooked_transformer(theirs, tokenizer, **pair.options)

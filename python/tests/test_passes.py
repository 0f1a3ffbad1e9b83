"""Activations, interventions and gradients: against TransformerLens (f64) on tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import Fixture

import actpatch
from actpatch import Ablate, Add, Replace, Swap
from actpatch.interventions import edits

#: As in the Rust tests: activations and logits are of order 1 to 10.
ABSOLUTE = 1e-4
TEXTS = ["I thought this movie was great", "The film was bad"]


def flat(value: Any) -> Any:
    parts = value if isinstance(value, list) else [value]
    return np.concatenate([part.reshape(-1) for part in parts])


def test_every_site_is_that_of_transformer_lens(fixture: Fixture) -> None:
    sequences = [fixture.sequences()[number] for number in fixture.cases["stored_prompts"]]
    names = fixture.cases["sites"]
    _, cache = fixture.model.run_with_cache(sequences, names=names, logits=None)
    assert list(cache) == names
    for name in names:
        expected = fixture.arrays[f"site.{name}"].reshape(-1)
        np.testing.assert_allclose(flat(cache[name]), expected, rtol=0, atol=ABSOLUTE, err_msg=name)


def test_logits_of_prompts_of_different_lengths_are_not_padded(fixture: Fixture) -> None:
    sequences = fixture.sequences()
    logits = fixture.model.run(sequences)
    assert [part.shape for part in logits] == [(n, fixture.model.cfg.d_vocab) for n in fixture.lengths]
    expected = fixture.arrays["logits"].reshape(-1, fixture.model.cfg.d_vocab)
    found = np.concatenate(logits)
    centred = [values - values.mean(axis=1, keepdims=True) for values in (found, expected)]
    np.testing.assert_allclose(centred[0], centred[1], rtol=0, atol=ABSOLUTE)
    padded, cache = fixture.model.run_with_cache(sequences, names=[("resid_pre", -1)], padding="right")
    assert padded.shape == (len(sequences), max(fixture.lengths), fixture.model.cfg.d_vocab)
    assert cache.mask.sum() == sum(fixture.lengths)
    np.testing.assert_array_equal(padded[cache.mask], found)
    assert not padded[~cache.mask].any()
    last = fixture.model.run(sequences, logits="last")
    np.testing.assert_allclose(last, np.stack([part[-1] for part in logits]), rtol=0, atol=1e-5)


def intervention(fixture: Fixture, case: Any, clean: Any, other: Any) -> Any:
    """An intervention of a fixture in the words of the package."""
    name, head, op = case["site"], case["head"], case["op"]
    heads = None if head == "ALL" else head
    positions = None if case["position"] == "ALL" else case["position"]
    value = other[name] if op == "freeze" else clean[name]
    if "mean" in op:
        value = np.broadcast_to(value.mean(axis=0), value.shape)
    if op == "add":
        return Add(name, fixture.arrays["patch.vector"].astype(np.float32), positions=positions)
    if op == "zero":
        return Ablate(name, positions=positions, heads=heads)
    directions = fixture.arrays["patch.subspace"].astype(np.float32)
    if op == "ablate_zero":
        return Ablate(name, positions=positions, heads=heads, directions=directions)
    if op in ("swap", "ablate_mean"):
        return Swap(name, value, directions, positions=positions, heads=heads)
    return Replace(name, value, positions=positions, heads=heads)


def test_interventions_are_the_patches_of_transformer_lens(fixture: Fixture) -> None:
    prompts = fixture.arrays["patch.tokens"].reshape(-1)[:36].reshape(4, 9).astype(np.int64)
    corrupted = np.roll(prompts, -1, axis=0)
    names = [name for name in fixture.model.hook_names if not name.endswith("_input")]
    _, clean = fixture.model.run_with_cache(prompts, names=names, logits=None)
    _, other = fixture.model.run_with_cache(corrupted, names=names, logits=None)
    tried = 0
    for case in fixture.cases["patches"]:
        items = case["interventions"]
        if any(item["site"].endswith("hook_result") and item["head"] == "ALL" for item in items):
            continue
        changes = [intervention(fixture, item, clean, other) for item in items]
        found = fixture.model.run(corrupted, changes, logits="last")
        expected = fixture.arrays[case["logits"]].reshape(found.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=ABSOLUTE, err_msg=case["logits"])
        tried += 1
    assert tried > 5


def test_shapes_are_those_of_transformer_lens(demo: actpatch.Model) -> None:
    config = demo.cfg
    logits, cache = demo.run_with_cache(TEXTS[0], names=[*(name for name in demo.hook_names if "_input" not in name)])
    pos = logits.shape[1]
    assert logits.shape == (1, pos, config.d_vocab)
    assert cache["resid_pre", 0].shape == (1, pos, config.d_model)
    assert cache["z", -1].shape == cache["q", 0].shape == (1, pos, config.n_heads, config.d_head)
    assert cache["pattern", 1].shape == (1, config.n_heads, pos, pos)
    assert cache["result", 0].shape == (1, pos, config.n_heads, config.d_model)
    assert cache["post", 0].shape == (1, pos, config.d_mlp)
    assert cache["blocks.0.hook_resid_pre"] is cache["resid_pre", 0]
    assert ("resid_post", 0) in cache and ("resid_post", 77) not in cache
    np.testing.assert_allclose(cache["pattern", 1].sum(axis=-1), 1, atol=1e-5)
    summed = cache["result", 0].sum(axis=2)
    spread = cache["attn_out", 0] - summed
    np.testing.assert_allclose(spread, np.broadcast_to(spread[0, 0], spread.shape), atol=1e-4)


def test_names_choose_what_is_cached(demo: actpatch.Model) -> None:
    def keys(names: Any) -> Any:
        return list(demo.run_with_cache(TEXTS, names, logits=None)[1])

    everything = keys(None)
    assert "blocks.0.attn.hook_pattern" in everything and not any("result" in name for name in everything)
    assert keys("hook_embed") == ["hook_embed"]
    assert keys(("z", 1)) == ["blocks.1.attn.hook_z"]
    assert keys([("z", 1), "blocks.1.attn.hook_z"]) == ["blocks.1.attn.hook_z"]
    assert keys(("z", -3, "attn")) == ["blocks.1.attn.hook_z"]
    every = demo.gradients(TEXTS, (1, 2), None)[1]
    assert list(every) == [name for name in everything if name.startswith("blocks.")]
    assert keys(lambda name: name.endswith("resid_post")) == [n for n in everything if n.endswith("resid_post")]


def test_texts_and_their_tokens_are_the_same_prompts(demo: actpatch.Model) -> None:
    tokens = demo.to_tokens(TEXTS[0])
    assert tokens.shape[0] == 1 and tokens[0, 0] == demo.bos_token_id
    np.testing.assert_array_equal(demo.run(TEXTS[0]), demo.run(tokens))
    np.testing.assert_array_equal(demo.run(TEXTS[0]), demo.run(tokens[0].tolist()))
    assert "".join(demo.to_str_tokens(TEXTS[0], prepend_bos=False)) == TEXTS[0]
    assert demo.to_string(demo.to_tokens(TEXTS[0], prepend_bos=False)) == [TEXTS[0]]
    ragged = demo.to_tokens(TEXTS)
    assert isinstance(ragged, list) and len(demo.to_str_tokens(TEXTS)) == 2
    for alone, together in zip(TEXTS, demo.run(TEXTS)):
        np.testing.assert_allclose(demo.run(alone)[0], together, atol=1e-5)


def test_positions_and_values_are_read_as_they_are_written(demo: actpatch.Model) -> None:
    vector = np.linspace(-1, 1, demo.cfg.d_model, dtype=np.float32)
    lengths = [len(row) for row in demo.to_tokens(TEXTS)]

    def resid(*args: Any, **settings: Any) -> Any:
        _, cache = demo.run_with_cache(TEXTS, names=[("resid_pre", 1)], interventions=[Add(*args, **settings)], logits=None)
        return cache["resid_pre", 1]

    plain = resid(("resid_pre", 1), 0 * vector)
    pairs = [(0, -1), (1, -1)]
    for positions in (-1, [-1, -1], [length - 1 for length in lengths], pairs, np.array(pairs)):
        moved = resid(("resid_pre", 1), vector, positions=positions)
        for before, after in zip(plain, moved):
            np.testing.assert_array_equal(before[:-1], after[:-1])
            np.testing.assert_allclose(after[-1] - before[-1], vector, atol=1e-5)
    both = resid(("resid_pre", 1), np.stack([vector, 2 * vector]), scale=-1.0)
    for factor, before, after in zip((-1, -2), plain, both):
        np.testing.assert_allclose(after - before, np.broadcast_to(factor * vector, before.shape), atol=1e-5)


def test_a_cache_patched_in_is_its_run(demo: actpatch.Model) -> None:
    clean, corrupted = "The movie was great and I", "The movie was awful and I"
    logits, cache = demo.run_with_cache(clean)
    for site in (("resid_pre", 1), ("resid_post", demo.cfg.n_layers - 1)):
        np.testing.assert_allclose(demo.run(corrupted, [Replace(site, cache[site])]), logits, atol=1e-4)
    heads = range(demo.cfg.n_heads)
    for value, chosen in [(cache["z", 0], None), (cache["z", 0], list(heads)), (cache["z", 0][:, :, 1], 1)]:
        found = demo.run(corrupted, [Replace(("z", 0), value, heads=chosen)])
        one = 1 if chosen == 1 else None
        np.testing.assert_array_equal(found, demo.run(corrupted, [Replace(("z", 0), cache["z", 0], heads=one)]))
    pattern = demo.run(corrupted, [Replace(("pattern", 0), cache["pattern", 0])])
    for chosen, value in [(1, cache["pattern", 0][:, 1]), ([2, 0], cache["pattern", 0][:, [2, 0]])]:
        whole = demo.run(corrupted, [Replace(("pattern", 0), cache["pattern", 0], heads=chosen)])
        np.testing.assert_array_equal(demo.run(corrupted, Replace(("pattern", 0), value, heads=chosen)), whole)
    assert np.abs(pattern - demo.run(corrupted)).max() > 1e-6
    neuron = demo.run(corrupted, [Replace(("post", 0), cache["post", 0], neurons=3)])
    np.testing.assert_array_equal(neuron, demo.run(corrupted, [Replace(("post", 0), cache["post", 0][:, :, [3]], neurons=[3])]))


def test_padded_caches_are_values_too(demo: actpatch.Model) -> None:
    texts = ["The movie was great", "The film was awful and long"]
    others = ["The movie was awful", "The film was great and long"]
    names = [("resid_pre", 1), ("pattern", 0)]
    _, ragged = demo.run_with_cache(texts, names, logits=None)
    _, padded = demo.run_with_cache(texts, names, logits=None, padding="right")
    for site in names:
        for change in (Replace(site, ragged[site]), Replace(site, padded[site])):
            found = demo.run(others, change, logits="last")
            if change.value is ragged[site]:
                expected = found
        np.testing.assert_array_equal(found, expected)


def test_arrays_of_any_layout_are_read(demo: actpatch.Model) -> None:
    site = ("resid_pre", 1)
    vector = np.random.default_rng(0).normal(size=demo.cfg.d_model).astype(np.float32)
    expected = demo.run(TEXTS[0], Add(site, vector))
    unaligned = np.frombuffer(b"x" + vector.tobytes(), dtype=np.uint8)[1:].view(np.float32)
    assert not unaligned.flags.aligned
    for value in (vector.astype(">f4"), np.repeat(vector, 2)[::2], vector[::-1].copy()[::-1], unaligned, vector.tolist()):
        np.testing.assert_array_equal(demo.run(TEXTS[0], [Add(site, value)]), expected)
    tokens = demo.to_tokens(TEXTS[0])
    expected = demo.run(tokens)
    wide = np.repeat(tokens, 2, axis=1)[:, ::2]
    raw = np.frombuffer(b"x" + tokens.tobytes(), dtype=np.uint8)[1:].view(np.int64).reshape(tokens.shape)
    for same in (tokens.astype(">i4"), wide, raw, list(tokens), [tokens], list(tokens[0])):
        np.testing.assert_array_equal(demo.run(same), expected)
    np.testing.assert_array_equal(demo.run(np.array(TEXTS[:1])), expected)
    assert demo.to_string(tokens[0, 1]) == demo.to_string(tokens[0, 1:2]) == demo.to_string(int(tokens[0, 1]))


def test_interventions_are_done_in_their_order_along_the_model(demo: actpatch.Model) -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, demo.cfg.d_model)).astype(np.float32)
    end, begin = ("resid_post", 0), ("resid_pre", 1)
    replaced = demo.run(TEXTS[0], Replace(begin, one))
    # The end of a block comes before the beginning of the next, whatever the order of the list.
    for changes in ([Replace(begin, one), Add(end, two)], [Add(end, two), Replace(begin, one)]):
        np.testing.assert_array_equal(demo.run(TEXTS[0], changes), replaced)
    added = demo.run(TEXTS[0], [Replace(begin, one), Add(begin, two)])
    assert np.abs(added - replaced).max() > 1e-2
    np.testing.assert_array_equal(demo.run(TEXTS[0], [Add(begin, two), Replace(end, one)]), added)


def test_a_heads_result_is_changed_once(demo: actpatch.Model) -> None:
    site, ones = ("result", 1), np.ones(demo.cfg.d_model, dtype=np.float32)
    for changes in (
        [Ablate(site, heads=1), Ablate(site, heads=1)],
        [Replace(site, ones, heads=1), Replace(site, np.ones((demo.cfg.n_heads, demo.cfg.d_model), dtype=np.float32))],
        [Add(site, ones, heads=1), Ablate(site, positions=2)],
    ):
        with pytest.raises(actpatch.errors.SettingError, match="hook_result at position .*: expected one, found two"):
            demo.run(TEXTS[0], changes)
    added = demo.run(TEXTS[0], [Ablate(site, heads=1), Add(site, ones, heads=1)])
    np.testing.assert_allclose(added, demo.run(TEXTS[0], Replace(site, ones, heads=1)), atol=1e-4)


def test_ablating_along_directions_leaves_nothing_of_them(demo: actpatch.Model) -> None:
    columns = np.random.default_rng(0).normal(size=(demo.cfg.d_model, 2)).astype(np.float32)
    ablated = [Ablate(("resid_pre", 2), directions=columns)]
    _, cache = demo.run_with_cache(TEXTS[0], ("resid_pre", 2), interventions=ablated, logits=None)
    assert np.abs(cache["resid_pre", 2] @ columns).max() < 1e-3
    _, plain = demo.run_with_cache(TEXTS[0], ("resid_pre", 2), logits=None)
    assert np.abs(plain["resid_pre", 2] @ columns).max() > 1e-1


def test_gradients_are_slopes(demo: actpatch.Model) -> None:
    tokens = demo.to_tokens(TEXTS)
    answers = [("great", "bad"), ("bad", "great")]
    pairs = [[demo.to_single_token(" " + word) for word in pair] for pair in answers]
    differences, cache = demo.gradients(tokens, pairs, [("resid_pre", 1), ("z", 0)])
    last = demo.run(tokens, logits="last")
    expected = [row[right] - row[wrong] for row, (right, wrong) in zip(last, pairs)]
    np.testing.assert_allclose(differences, expected, atol=1e-4)
    gradient = cache["resid_pre", 1]
    assert [part.shape for part in gradient] == [(len(row), demo.cfg.d_model) for row in tokens]
    answered: Any
    for answered in (np.array(pairs), tuple(map(tuple, pairs)), [np.array(pair) for pair in pairs]):
        np.testing.assert_array_equal(demo.gradients(tokens, answered, ("z", 0))[0], differences)
    step = [1e-2 * part / np.abs(part).max() for part in gradient]

    def moved(sign: float) -> Any:
        values = demo.run(tokens, [Add(("resid_pre", 1), step, scale=sign)], logits="last")
        return np.array([row[right] - row[wrong] for row, (right, wrong) in zip(values, pairs)])

    slopes = (moved(1.0) - moved(-1.0)) / 2
    np.testing.assert_allclose([(g * s).sum() for g, s in zip(gradient, step)], slopes, rtol=2e-2)


def test_texts_are_written_and_steered(demo: actpatch.Model) -> None:
    plain = demo.generate(TEXTS, 5, temperature=0.0, stop_at_eos=False)
    assert [text.prompt[-5:] for text in plain] == [text[-5:] for text in TEXTS]
    assert all(len(text.tokens) == 5 and not text.ended for text in plain)
    first = demo.run(TEXTS[0], logits="last")[0]
    assert plain[0].tokens[0] == first.argmax()
    expected = first[first.argmax()] - np.log(np.exp(first.astype(np.float64)).sum())
    np.testing.assert_allclose(plain[0].log_probabilities[0], expected, atol=1e-4)
    vector = np.random.default_rng(0).normal(size=demo.cfg.d_model)
    steered = demo.generate(TEXTS, 5, temperature=0.0, stop_at_eos=False, interventions=[Add(("resid_pre", 1), vector, scale=9.0)])
    assert [text.text for text in steered] != [text.text for text in plain]
    drawn = demo.generate(TEXTS[0], 5, samples=2, seed=1, stop_at_eos=False)
    again = demo.generate(TEXTS[0], 5, samples=2, seed=1, stop_at_eos=False)
    assert [text.text for text in drawn] == [text.text for text in again] and len(drawn) == 2


def test_many_batches_are_one(tmp_path: Any) -> None:
    small = actpatch.Model("demo", batch_tokens=8, data_dir=tmp_path, progress=False, device="cpu")
    whole = actpatch.Model("demo", data_dir=tmp_path, progress=False, device="cpu")
    texts = ["The movie was great", "I", "The film was awful and long"]
    site = ("resid_pre", 1)
    change = [Add(site, np.ones(small.cfg.d_model, dtype=np.float32), positions=-1)]
    for model in (small, whole):
        logits, cache = model.run_with_cache(texts, names=[("z", 2), ("pattern", 2)], interventions=change)
        if model is small:
            expected = (logits, cache)
    for found, other in [(logits, expected[0]), *((cache[name], expected[1][name]) for name in cache)]:
        np.testing.assert_allclose(flat(found), flat(other), atol=1e-5)


def test_arrays_come_without_a_copy(demo: actpatch.Model) -> None:
    logits, cache = demo.run_with_cache(TEXTS[0], ("resid_pre", 0))
    for array in (logits, cache["resid_pre", 0]):
        owner = array
        while owner.base is not None and isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert not owner.flags.owndata, "numpy would own a copy"


def test_values_go_in_without_a_copy(demo: actpatch.Model) -> None:
    """What the library is handed is the caller's memory."""
    sites = [("resid_pre", 1), ("z", 0), ("post", 2)]
    _, cache = demo.run_with_cache(TEXTS[:1] * 3, sites, logits=None)
    direction = np.ones(demo.cfg.d_model)
    for change in [*(Replace(site, cache[site]) for site in sites), Swap(sites[0], cache[sites[0]], direction)]:
        (edit,) = edits(actpatch.get_act_name(*change.site), change, cache.lengths, demo._shapes)
        values: Any = edit[5]
        assert values.ctypes.data == change.value.ctypes.data and values.size == change.value.size
    # Of one position there is a row per prompt to be copied, and no more.
    (edit,) = edits("blocks.1.hook_resid_pre", Replace(sites[0], cache[sites[0]], positions=2), cache.lengths, demo._shapes)
    values = edit[5]
    assert values.base is None or values.base.size == 3 * demo.cfg.d_model


def test_tensors_go_in_without_a_copy(demo: actpatch.Model) -> None:
    torch = pytest.importorskip("torch")
    tokens = demo.to_tokens(TEXTS[0])
    value = torch.ones((*tokens.shape, demo.cfg.d_model))
    (edit,) = edits("hook_embed", Replace("hook_embed", value), [tokens.shape[1]], demo._shapes)
    values: Any = edit[5]
    assert values.ctypes.data == value.data_ptr()


@pytest.mark.parametrize("name", ["gpt2-tiny"])
def test_transformers_models_in_memory(name: str, tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from conftest import ENGINE

    hf_model = transformers.AutoModelForCausalLM.from_pretrained(ENGINE / name, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(ENGINE / name / "tokenizer.json"))
    with torch.no_grad():
        hf_model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    model = actpatch.Model.from_transformers(hf_model, tokenizer, data_dir=tmp_path, weight_processing="none", progress=False)
    tokens = torch.arange(1, 8)[None]
    with torch.no_grad():
        expected = hf_model(tokens).logits.numpy()
    np.testing.assert_allclose(model.run(tokens), expected, atol=ABSOLUTE)
    vector = torch.ones(model.cfg.d_model, requires_grad=True)
    model.run(tokens, [Add(("resid_pre", 1), vector)])
    with pytest.raises(actpatch.errors.SettingError, match="bfloat16"):
        model.run(tokens, [Add(("resid_pre", 1), vector.to(torch.bfloat16))])
    pair = {"clean": "w1 w2 w3", "corrupted": "w1 w4 w3", "answer": " w5", "wrong_answer": " w6"}
    actpatch.datasets.add(model, "own", [pair])
    assert model.study("self-check", eval_set="own").failed is None

"""Bad input becomes exceptions that say what was expected; nothing ends the interpreter."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import actpatch
from actpatch import Ablate, Add, Replace, Swap
from actpatch.errors import DatasetError, ModelError, SettingError, SiteError

TEXT = "The movie was great"


def test_names_that_there_are_not_offer_the_nearest(demo: actpatch.Model) -> None:
    with pytest.raises(SiteError, match="most like it are blocks.1.hook_resid_pre"):
        demo.run_with_cache(TEXT, ["blocks.1.hook_residpre"])
    with pytest.raises(SiteError, match="expected a hook name, or one of q, k, v"):
        demo.run_with_cache(TEXT, [("resid", 0)])
    with pytest.raises(SiteError, match="expected its layer"):
        demo.run_with_cache(TEXT, ["resid_pre"])
    with pytest.raises(SiteError, match="the model has layers"):
        demo.run_with_cache(TEXT, [("resid_pre", 99)])
    with pytest.raises(SiteError, match="was not cached; there is hook_embed"):
        demo.run_with_cache(TEXT, ["hook_embed"])[1]["z", 0]
    layers: Any = [-99, 1.5, "1", None, True]
    for layer in layers:
        with pytest.raises(SiteError, match=f"expected a layer of -4 to 3, found {layer!r}"):
            demo.run_with_cache(TEXT, [("resid_pre", layer)])
    with pytest.raises(SiteError, match="expected 'attn' behind the layer, or nothing"):
        demo.run_with_cache(TEXT, ("q", 0, "mlp"))
    with pytest.raises(SiteError, match="hook_result is there by its name alone"):
        demo.run_with_cache(TEXT, lambda name: name.endswith("hook_result"))
    numbers: Any = 3
    with pytest.raises(SiteError, match="names: expected hook names"):
        demo.run_with_cache(TEXT, numbers)


def test_values_that_do_not_fit_say_what_would(demo: actpatch.Model) -> None:
    width = demo.cfg.d_model
    site = ("resid_pre", 1)

    class OnGpu:
        device = type("Device", (), {"type": "cuda", "__str__": lambda self: "cuda:0"})()
        dtype = "float32"

    cases: Any = [
        (Add(site, np.full(width, np.nan, dtype=np.float32)), "expected finite numbers, found NaN"),
        (Add(site, np.zeros(width, dtype=np.int64)), "expected floating-point numbers, found int64"),
        (Add(site, np.zeros(width, dtype=np.complex64)), "expected floating-point numbers, found complex64"),
        (Add(site, np.zeros(width + 1)), rf"expected shape \({width},\)"),
        (Add(site, OnGpu()), "found a tensor on cuda:0: use .cpu"),
        (Add(site, "x"), "expected floating-point numbers"),
        (Add(site, np.zeros(width), positions=99), "positions of Add"),
        (Add(site, np.zeros(width), positions=[(7, 0)]), "expected a prompt of 0 to 0, found 7"),
        (Add(site, np.zeros(width), positions=[0, 1]), "expected one per prompt"),
        (Add(site, np.zeros(width), positions=1.5), "expected whole numbers"),
        (Add(site, np.zeros(width), heads=1), "expected a site with heads"),
        (Add(("z", 0), np.zeros(demo.cfg.d_head), heads=99), "heads of Add.*expected 0 to 3, found 99"),
        (Ablate(("z", 0), heads=-1), "expected 0 to 3, found -1"),
        (Ablate(("z", 0), heads=2**70), "expected whole numbers"),
        (Ablate(("z", 0), heads=[]), "expected a number or a list of numbers"),
        (Ablate(("z", 0), heads=[[0, 1]]), "expected a number or a list of numbers"),
        (Ablate(("z", 0), heads=[0, 0]), "expected each number once"),
        (Ablate(("z", 0), heads=1.5), "expected whole numbers, found float64"),
        (Ablate(("z", 0), heads="1"), "expected whole numbers"),
        (Ablate(("z", 0), heads=True), "expected whole numbers, found bool"),
        (Ablate(("post", 0), neurons=-1), "neurons of Ablate.*expected 0 to 511, found -1"),
        (Ablate(("post", 0), neurons=[]), "expected a number or a list of numbers"),
        (Ablate(("z", 0), neurons=1), "expected mlp.hook_pre or mlp.hook_post"),
        (Add(site, np.zeros(width), scale="2"), "scale of Add.*expected a number, found '2'"),
        (Add(site, np.zeros(width), scale=None), "expected a number, found None"),
        (Add(site, np.zeros(width), scale=np.ones(width)), "expected a number"),
        (Add(site, np.zeros(width), scale=np.nan), "expected a finite number, found nan"),
        (Add(site, np.full(width, 1e300)), "expected finite numbers, found inf"),
        (Add(site, {site: np.zeros(width)}), "found dict: take one of what it holds"),
        (Add(site, [np.zeros(width)] * 100), r"\(100 of them\)"),
        (Add(site, None), "expected floating-point numbers, found None"),
        (Replace(("pattern", 0), 3.0), "expected .head, query, key. of every prompt"),
        (Replace(("pattern", 0), np.zeros(3)), "expected .head, query, key. of every prompt"),
        (Swap(site, np.zeros(width), np.zeros(width)), "expected columns that are not zero"),
        (Swap(site, np.zeros(width), np.ones((width, 2))), "do not depend on each other"),
        (Swap(site, np.zeros(width), np.ones(3)), "directions of Swap"),
        ("resid_pre", "expected Replace, Add, Swap or Ablate"),
    ]
    for change, message in cases:
        with pytest.raises(SettingError, match=message):
            demo.run(TEXT, [change])
    other: Any = 3
    with pytest.raises(SettingError, match="expected Replace, Add, Swap or Ablate, found 3"):
        demo.run(TEXT, other)


def test_prompts_that_cannot_be_meant(demo: actpatch.Model) -> None:
    for prompts, message in [
        ([], "found shape|expected|found"),
        ([[]], "sequence 0: it is empty"),
        ([1.5, 2.5], "expected whole numbers"),
        (np.zeros((1, 2, 3), dtype=np.int64), "expected shape"),
        ([[-1]], "expected the number of a token, found -1"),
        (list(range(10**4)), "takes at most"),
        ([np.ones((2, 3), dtype=np.int64)], "expected a list of prompts, .pos,. each, found one of shape .2, 3."),
        ([[1], 2], "found one of shape"),
        (np.array([[2**63 + 5]], dtype=np.uint64), "found 9223372036854775813"),
        ([[2**70]], "found 1180591620717411303424"),
        ({"input_ids": [1]}, "found dict: take one of what it holds"),
        (None, "expected whole numbers, found None"),
        ("half \ud800", "half of one"),
        (["a", None], "expected a text or texts"),
    ]:
        with pytest.raises(SettingError, match=message):
            demo.run(prompts)
    with pytest.raises(actpatch.ActpatchError, match=str(10**7)):
        demo.run([[10**7]])
    logits: Any
    for logits in ("first", "none", "", False, 3):
        with pytest.raises(SettingError, match="expected \"all\", \"last\" or None"):
            demo.run(TEXT, logits=logits)
    with pytest.raises(SettingError, match="padding: expected None or 'right'"):
        demo.run(TEXT, padding="left")
    with pytest.raises(SettingError, match="expected one token"):
        demo.to_single_token("a text of several tokens")
    texts: Any
    for texts in (3, ["a"], None, ""):
        with pytest.raises(SettingError, match="expected (a text of )?one token"):
            demo.to_single_token(texts)
    for texts in (3, None, [3], []):
        with pytest.raises(SettingError, match="expected a text or texts"):
            demo.to_tokens(texts)
    for tokens in ([10**6], 10**6):
        with pytest.raises(SettingError, match="expected ids below 2065, found 1000000"):
            demo.to_string(tokens)
    answers: Any
    for answers in ([("x",)], (1,), 1, None, "x", [(1.0, 2.0)], (True, False), (1, 1), [], np.zeros((1, 2))):
        with pytest.raises(SettingError, match="answers"):
            demo.gradients(TEXT, answers, ("z", 0))
    writing: Any
    for writing in ({"max_new_tokens": -1}, {"max_new_tokens": 1.5}, {"top_k": -1}, {"samples": 0}, {"seed": -1}, {"temperature": "x"}):
        with pytest.raises(SettingError, match=f"{next(iter(writing))}: expected"):
            demo.generate(TEXT, **writing)
    with pytest.raises(SettingError, match="expected finite numbers, found NaN"):
        demo.generate(TEXT, interventions=[Add(("resid_pre", 0), np.full(demo.cfg.d_model, np.nan))])
    with pytest.raises(SiteError, match="no gradient"):
        demo.gradients(TEXT, (1, 2), "hook_embed")
    with pytest.raises(SettingError, match="with Add alone"):
        demo.generate(TEXT, interventions=[Replace(("resid_pre", 0), np.zeros(demo.cfg.d_model))])


def test_settings_that_there_are_not(demo: actpatch.Model) -> None:
    with pytest.raises(SettingError, match="there is no such setting; there are"):
        demo.study("fit-directions", epoch=3, layer_s=1)
    with pytest.raises(SettingError, match="expected a study, found \"fit\""):
        demo.study("fit")
    with pytest.raises(SettingError, match="learning_rate: expected a finite number above zero"):
        actpatch.fit.das(demo, learning_rate=0.0)
    with pytest.raises(SettingError, match="layers: expected text, numbers or lists"):
        demo.study("fit-directions", layers=object())
    other: Any = None
    with pytest.raises(SettingError, match="study: expected the name of one, found None"):
        demo.study(other)
    with pytest.raises(SettingError, match="pattern: expected a text"):
        demo.directions(other)
    with pytest.raises(SettingError, match="there is no such setting"):
        actpatch.Model("demo", colour="cpu")
    with pytest.raises(SettingError, match="device"):
        actpatch.Model("demo", device="tpu")
    with pytest.raises(DatasetError, match="no_such_set"):
        actpatch.datasets.load("no_such_set", demo)
    swapped: Any = (demo, "simple")
    with pytest.raises(SettingError, match="expected the name of a dataset and a model"):
        actpatch.datasets.load(*swapped)
    pair = {"clean": "The movie was good", "corrupted": "The movie was bad", "answer": " loved", "wrong_answer": " hated"}
    pairs: Any
    for pairs in (None, 3, [], [{}], pair, [{**pair, "clean": float("nan")}], [{**pair, "clean": b"x"}]):
        with pytest.raises(SettingError, match="pairs: "):
            actpatch.datasets.add(demo, "own", pairs)
    names: Any
    for names in ("", "..", "a/b", "x" * 300, "a\n", None, 3):
        with pytest.raises(SettingError, match="name: expected up to 200 letters"):
            actpatch.datasets.add(demo, names, [pair])
        with pytest.raises(SettingError, match="name: expected up to 200 letters"):
            demo.store_direction(names, np.ones(demo.cfg.d_model))


def test_models_that_there_are_not(tmp_path: Any) -> None:
    with pytest.raises((ModelError, SettingError), match="no-such-model"):
        actpatch.Model("no-such-model")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="config.json"):
        actpatch.Model(tmp_path)
    with pytest.raises(SettingError, match="expected one of transformers"):
        actpatch.Model.from_transformers(object(), object())

    class TransformerBridge:
        pass

    with pytest.raises(SettingError, match="found a TransformerBridge: give from_transformers"):
        actpatch.Model.from_hooked_transformer(TransformerBridge())


def test_what_is_called_otherwise_is_told_of(demo: actpatch.Model) -> None:
    for name, here in [("run_with_hooks", "Replace"), ("tokenizer", "to_tokens"), ("hook_dict", "hook_names")]:
        with pytest.raises(AttributeError, match=f"{name} is TransformerLens'; here it is .*{here}"):
            getattr(demo, name)
    with pytest.raises(AttributeError, match="no attribute 'w_u'$"):
        getattr(demo, "w_u")
    with pytest.raises(TypeError, match="belongs to the process that opened it"):
        pickle.dumps(demo)
    assert copy.copy(demo).run(TEXT).shape == demo.run(TEXT).shape


def test_a_closed_model_is_told_of() -> None:
    with actpatch.Model("demo", progress=False) as model:
        model.run(TEXT)
    for call in (lambda: model.run(TEXT), lambda: model.study("self-check"), lambda: model.to_tokens(TEXT)):
        with pytest.raises(SettingError, match="this model is closed: open it again"):
            call()


def test_a_mistake_of_the_library_is_an_exception_with_a_report(demo: actpatch.Model) -> None:
    def tell(event: str, text: str, number: int) -> None:
        raise RuntimeError("of the caller")

    # What the caller's own function raises ends the work, and is raised as it is.
    with pytest.raises(RuntimeError, match="of the caller"):
        actpatch.patch.heads(demo, overwrite=True, progress=tell)
    with pytest.raises(actpatch.errors.InternalError, match="a mistake of actpatch and not of yours: please report it"):
        actpatch._core._panic()
    assert demo.study("self-check").failed is None

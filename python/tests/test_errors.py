"""Bad input becomes exceptions that say what was expected; nothing ends the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import actpatch
from actpatch import Add, Replace, Swap
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
        (Add(("z", 0), np.zeros(demo.cfg.d_head), heads=99), "head at blocks.0.attn.hook_z"),
        (Replace(("pattern", 0), np.zeros(3)), "expected .head, query, key. of every prompt"),
        (Swap(site, np.zeros(width), np.zeros(width)), "expected columns that are not zero"),
        (Swap(site, np.zeros(width), np.ones((width, 2))), "do not depend on each other"),
        (Swap(site, np.zeros(width), np.ones(3)), "directions of Swap"),
        ("resid_pre", "expected Replace, Add, Swap or Ablate"),
    ]
    for change, message in cases:
        with pytest.raises(SettingError, match=message):
            demo.run(TEXT, [change])


def test_prompts_that_cannot_be_meant(demo: actpatch.Model) -> None:
    for prompts, message in [
        ([], "found shape|expected|found"),
        ([[]], "sequence 0: it is empty"),
        ([1.5, 2.5], "expected whole numbers"),
        (np.zeros((1, 2, 3), dtype=np.int64), "expected shape"),
        ([[-1]], "expected the number of a token, found -1"),
        (list(range(10**4)), "takes at most"),
    ]:
        with pytest.raises(SettingError, match=message):
            demo.run(prompts)
    with pytest.raises(actpatch.ActpatchError, match=str(10**7)):
        demo.run([[10**7]])
    with pytest.raises(SettingError, match="expected \"all\", \"last\" or None"):
        demo.run(TEXT, logits="first")
    with pytest.raises(SettingError, match="padding: expected None or 'right'"):
        demo.run(TEXT, padding="left")
    with pytest.raises(SettingError, match="expected one token"):
        demo.to_single_token("a text of several tokens")
    with pytest.raises(SettingError, match="answers"):
        demo.gradients(TEXT, [("x",)], ("z", 0))
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
    with pytest.raises(SettingError, match="expected text, numbers or lists"):
        demo.study("fit-directions", layers=object())
    with pytest.raises(SettingError, match="there is no such setting"):
        actpatch.Model("demo", colour="cpu")
    with pytest.raises(SettingError, match="device"):
        actpatch.Model("demo", device="tpu")
    with pytest.raises(DatasetError, match="no_such_set"):
        actpatch.datasets.load("no_such_set", demo)


def test_models_that_there_are_not(tmp_path: Any) -> None:
    with pytest.raises((ModelError, SettingError), match="no-such-model"):
        actpatch.Model("no-such-model")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="config.json"):
        actpatch.Model(tmp_path)
    with pytest.raises(SettingError, match="expected one of transformers"):
        actpatch.Model.from_transformers(object(), object())


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

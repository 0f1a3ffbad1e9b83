"""Studies: the same numbers and the same folders as the commands'."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

import actpatch
from actpatch import fit, patch, studies

PROGRAM = os.environ.get("ACTPATCH_BIN")

#: A study, its settings, and the same as a command line.
SAME: List[Any] = [
    ("fit-directions", {"methods": "das,kmeans", "layers": [1, 2], "epochs": 4}, "--methods das,kmeans --layers 1,2 --epochs 4"),
    ("direction-patching-suite", {"eval_sets": "simple_test", "positions": ["auto", "ALL"]}, "--eval-sets simple_test --positions auto,ALL"),
    ("activation-patching-maps", {"maps": ["z", "resid_pre"]}, "--maps z,resid_pre"),
    ("attribution-patching", {"maps": "z", "exact": True}, "--maps z --exact"),
    ("path-patching", {"senders": "z", "receivers": "v:2.0"}, "--senders z --receivers v:2.0"),
    ("logit-attribution", {}, ""),
    ("logit-lens", {"prompts": [0], "sites": "blocks.1.hook_resid_pre", "top": 2}, "--prompts 0 --sites blocks.1.hook_resid_pre --top 2"),
]


def without(value: Any, names: Any) -> Any:
    """What does not depend on when and where it was computed."""
    if isinstance(value, dict):
        return {name: without(entry, names) for name, entry in value.items() if name not in names}
    return [without(entry, names) for entry in value] if isinstance(value, list) else value


@pytest.mark.skipif(PROGRAM is None, reason="ACTPATCH_BIN names no program")
def test_numbers_are_those_of_the_command_line_bit_for_bit(tmp_path: Path) -> None:
    model = actpatch.Model("demo", data_dir=tmp_path / "python", progress=False, device="cpu")
    for name, settings, options in SAME:
        ours = model.study(name, **settings)
        command = [str(PROGRAM), name, "--json", "--device", "cpu", "--data-dir", str(tmp_path / "command"), *options.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = json.loads(done.stdout)[0]
        places = ("manifest", "folder", "path")
        assert without(ours.json, places) == without(theirs, places), name
    # The folders are the same as well: either goes on from the other's.
    again = actpatch.Model("demo", data_dir=tmp_path / "command", progress=False, device="cpu")
    assert again.study(SAME[2][0], **SAME[2][1]).json["manifest"] is None


def test_fits_are_directions_with_their_provenance(demo: actpatch.Model) -> None:
    fitted = fit.kmeans(demo, layers="1..2")
    assert fitted.names == ["kmeans_simple_train_ADJ_layer1", "kmeans_simple_train_ADJ_layer2"]
    one = fitted.by_layer[1]
    assert one.array.shape == (demo.cfg.d_model,) and one.record is not None and one.record["method"] == "kmeans"
    np.testing.assert_allclose(np.linalg.norm(one.unit), 1, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(one), np.load(demo.folder / f"{one.name}.npy"))
    assert fit.das2d(demo, layers=1, epochs=1)["das2d_simple_train_ADJ_layer1"].array.shape == (demo.cfg.d_model, 2)
    assert "kmeans_simple_train_ADJ_layer1" in demo.directions("kmeans_*").names


def test_suites_are_tables(demo: actpatch.Model) -> None:
    fitted = fit.mean_diff(demo, layers=1)
    result = patch.suite(demo, fitted, eval_sets="simple_test", positions="auto,ALL")
    assert result.values.shape == (2,) and (result.values > 50).all()
    table = pytest.importorskip("pandas") and result.to_pandas()
    assert list(table["direction"]) == ["mean_diff_simple_train_ADJ_layer01"] * 2
    assert list(table["percent"]) == list(result.values)
    assert "mean_diff_simple_train_ADJ_layer01" in repr(result)


def test_maps_have_transformer_lens_shapes(demo: actpatch.Model, tmp_path: Path) -> None:
    config = demo.cfg
    result = patch.heads(demo)
    assert result.values.shape == (config.n_layers, config.n_heads)
    assert next(iter(result.axes.values())) == ["layer", "head"]
    n = len(actpatch.datasets.load("simple", demo).clean_tokens[0])
    assert patch.resid(demo).values.shape == (config.n_layers, n)
    both = patch.maps(demo, ["z", "resid_pre"])
    assert len(both.maps) == 2
    with pytest.raises(actpatch.errors.SettingError, match="expected one map, found 2 maps"):
        both.values
    pandas = pytest.importorskip("pandas")
    assert isinstance(result.to_pandas(), pandas.DataFrame)
    assert list(result.to_pandas().columns) == ["map", "layer", "head", "percent"]
    assert "<svg" in result._repr_html_() and "<pre>" in result._repr_html_()
    saved = result.save(tmp_path / "saved")
    (name,) = result.maps
    np.testing.assert_array_equal(np.load(saved / f"{name}.npy"), result.values)
    assert (saved / f"{name}.svg").is_file() and json.loads((saved / "activation-patching-maps.json").read_text())


def test_a_map_is_what_interventions_make_of_it(demo: actpatch.Model) -> None:
    """The value of one head by hand: its clean `z` put into the corrupted run."""
    prompts = actpatch.datasets.load("simple", demo)
    answers = [np.array(pairs) for pairs in prompts.answers]

    def difference(tokens: Any, changes: Any = ()) -> float:
        logits = demo.run(tokens, changes, logits="last").astype(np.float64)
        return float(np.mean([(row[of[:, 0]] - row[of[:, 1]]).mean() for row, of in zip(logits, answers)]))

    _, cache = demo.run_with_cache(prompts.clean_tokens, ("z", 1), logits=None)
    clean, corrupted = difference(prompts.clean_tokens), difference(prompts.corrupted_tokens)
    found = difference(prompts.corrupted_tokens, [actpatch.Replace(("z", 1), cache["z", 1], heads=0)])
    expected = patch.heads(demo).values[1, 0]
    assert abs(100 * (found - corrupted) / (clean - corrupted) - expected) < 1e-2


def test_pairs_of_ones_own(tmp_path: Path) -> None:
    model = actpatch.Model("demo", data_dir=tmp_path, progress=False, device="cpu")
    pair = {"clean": "The movie was good so I", "corrupted": "The movie was bad so I", "answer": " loved", "wrong_answer": " hated"}
    other = {**pair, "clean": pair["corrupted"], "corrupted": pair["clean"], "answer": " hated", "wrong_answer": " loved"}
    own = actpatch.datasets.add(model, "own", [pair, other])
    assert len(own) == 2 and own.positive is None and own.clean_tokens.shape == own.corrupted_tokens.shape
    assert "own" in actpatch.datasets.names(model)
    assert patch.heads(model, eval_sets="own", overwrite=True).values.shape == (model.cfg.n_layers, model.cfg.n_heads)
    with pytest.raises(actpatch.errors.DatasetError, match="wrong_answer"):
        actpatch.datasets.add(model, "worse", [{**pair, "wrong_answer": " two words"}])
    assert "own" in actpatch.datasets.names(model) and "worse" not in actpatch.datasets.names(model)


def test_directions_of_ones_own(tmp_path: Path) -> None:
    model = actpatch.Model("demo", data_dir=tmp_path, progress=False, device="cpu")
    vector = np.random.default_rng(0).normal(size=model.cfg.d_model)
    stored = model.store_direction("mine_layer1", vector)
    np.testing.assert_array_equal(stored["mine_layer1"].array, vector.astype(np.float32))
    assert patch.suite(model, stored, eval_sets="simple_test").values.shape == (1,)
    with pytest.raises(actpatch.ActpatchError, match=str(model.cfg.d_model)):
        model.store_direction("short_layer1", vector[1:])
    stored["mine_layer1"].save(tmp_path / "copy_layer2.npy")
    assert model.import_directions(tmp_path / "copy_layer2.npy").names == ["copy_layer2"]


def test_every_study_is_there(demo: actpatch.Model) -> None:
    assert "text-loss" in studies.names()
    for name in studies.names():
        settings: Dict[str, Any] = studies.settings(name)
        assert isinstance(settings, dict)
    assert demo.study("self-check").failed is None
    plan = demo.plan("fit-directions", methods="das", layers=3)
    assert plan.operations and plan.memory_bytes and "das_simple_train_ADJ_layer3" in plan.text


def test_circuits_are_lists_of_results(demo: actpatch.Model, tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text('model = "demo"\n[[steps]]\ncommand = "activation-patching-maps"\nmaps = "z"\n[[steps]]\ncommand = "self-check"\n')
    results = demo.circuit(path)
    assert [result.study for result in results] == ["activation-patching-maps", "self-check"]
    np.testing.assert_array_equal(results[0].values, patch.heads(demo).values)


def test_short_names(demo: actpatch.Model) -> None:
    fit.mean_diff(demo, layers=1)
    assert actpatch.attribution(demo, "z").values.shape == (demo.cfg.n_layers, demo.cfg.n_heads)
    read = actpatch.neuroscope(demo, "I loved it. The plot was awful.", directions="mean_diff_simple_train_ADJ_layer1")
    assert "mean_diff" in repr(read) and read._repr_html_()
    assert actpatch.logit_attribution(demo).maps
    lens = actpatch.logit_lens(demo, "I loved it.", top=3)
    assert {row["role"] for row in lens.json["sets"][0]["rows"]} == {"top", "next"} and "predictions" in lens._repr_html_()
    assert actpatch.patch.paths(demo, "z", "v:2.0").maps

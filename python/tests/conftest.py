"""What the tests share: models, and the fixtures that TransformerLens has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

import actpatch

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "tests" / "fixtures" / "engine"

_TYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1", "BOOL": "?"}


def read_safetensors(path: Path) -> Dict[str, Any]:
    """The arrays of a ``.safetensors`` file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    head = json.loads(data[8:start])
    head.pop("__metadata__", None)
    arrays = {}
    for name, entry in head.items():
        first, end = entry["data_offsets"]
        array = np.frombuffer(data[start + first : start + end], dtype=_TYPES[entry["dtype"]])
        arrays[name] = array.reshape(entry["shape"])
    return arrays


class Fixture:
    """A tiny random model with what TransformerLens computes of it in f64."""

    def __init__(self, name: str, weights: str) -> None:
        folder = ENGINE / name
        self.name = name
        processing = None if weights == "processed" else "none"
        self.model = actpatch.Model(folder, weight_processing=processing, progress=False)
        self.arrays = read_safetensors(folder / f"{weights}.safetensors")
        cases = json.loads((folder / "cases.json").read_text())
        self.cases = cases[weights]
        self.lengths: List[int] = cases["lengths"]

    def sequences(self) -> List[Any]:
        """The prompts, of different lengths."""
        flat = self.arrays["tokens"].reshape(-1).astype(np.int64)
        return list(np.split(flat[: sum(self.lengths)], np.cumsum(self.lengths)[:-1]))


MODELS = ["gpt2-tiny", "neox-parallel", "llama-tiny", "qwen3-tiny"]


@pytest.fixture(scope="session", params=[(m, w) for m in MODELS for w in ("processed", "unprocessed")], ids="-".join)
def fixture(request: pytest.FixtureRequest) -> Fixture:
    return Fixture(*request.param)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> actpatch.Model:
    return actpatch.Model("demo", data_dir=tmp_path_factory.mktemp("data"), progress=False, device="cpu")

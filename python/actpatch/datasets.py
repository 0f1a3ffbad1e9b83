"""Clean and corrupted prompts with their answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from .errors import SettingError
from .files import TemporaryFolder, file_name
from .model import Model

__all__ = ["Dataset", "add", "load", "names"]


@dataclass(frozen=True)
class Dataset:
    """A dataset as a model sees it. Prompts of one length are arrays ``(batch, pos)``, others lists of ``(pos,)``."""

    #: Its name, by which every study takes it.
    name: str
    #: The clean prompts' texts, without BOS.
    clean_texts: List[str]
    #: Each one's corrupted text.
    corrupted_texts: List[str]
    #: The clean prompts' token ids, BOS included where the model is used with one.
    clean_tokens: Any
    #: The corrupted prompts', as long as the clean ones.
    corrupted_tokens: Any
    #: Per prompt its pairs of (right, wrong) answers' token ids.
    answers: List[List[Tuple[int, int]]]
    #: Named positions, the same in every prompt: placeholders of the template, ``END``.
    positions: Dict[str, int]
    #: Per prompt: is the clean one positive? None of pairs without classes.
    positive: Optional[NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.clean_texts)


def load(name: str, model: Model, scaffold: Optional[str] = None) -> Dataset:
    """A dataset for a model: a built-in one, one of ``data_dir/datasets.toml``, or one's own.

    Args:
        scaffold: the text around the Treebank's sentences: ``"classification"``, ``"continuation"``, ``"plain"``.

    Raises:
        DatasetError: a dataset that there is not, or that the model's tokenizer cannot make.
    """
    if not (isinstance(name, str) and isinstance(model, Model)):
        raise SettingError(f"expected the name of a dataset and a model, found {name!r} and {model!r}")
    found = json.loads(model._core.prompts(name, scaffold))
    sequences, texts = found["sequences"], found["texts"]
    classes = found.get("has_classes", True)
    return Dataset(
        name=found["name"],
        clean_texts=[texts[number] for number in found["clean"]],
        corrupted_texts=[texts[number] for number in found["corrupted"]],
        clean_tokens=_tokens(sequences, found["clean"]),
        corrupted_tokens=_tokens(sequences, found["corrupted"]),
        answers=[[(right, wrong) for right, wrong in pairs] for pairs in found["answers"]],
        positions=found["positions"],
        positive=np.array(found["positive"], dtype=np.bool_) if classes else None,
    )


def names(model: Model) -> List[str]:
    """The datasets that there are for a model."""
    return [entry["name"] for entry in json.loads(model._core.datasets()) if entry["pairs"] is not None]


def add(model: Model, name: str, pairs: Iterable[Mapping[str, Any]]) -> Dataset:
    """Lets a model know pairs of one's own, by `name`, and returns them as it sees them.

    Args:
        pairs: mappings, or a pandas table, with ``clean``, ``corrupted``, ``answer`` and ``wrong_answer``; with ``class``
            (``"positive"`` or ``"negative"``) in every pair or in none; and with ``position_NAME``, a part of the clean text whose
            last token is the position ``NAME``.

    Raises:
        DatasetError: a pair that cannot be meant; the message names its line (pairs are counted from 1) and field.
    """
    if not isinstance(model, Model):
        raise SettingError(f"model: expected a model, found {model!r}")
    held: Any = pairs.to_dict("records") if hasattr(pairs, "to_dict") else pairs
    records = list(held) if hasattr(held, "__iter__") else []
    if not records or not all(isinstance(record, Mapping) and record for record in records):
        found = records[:1] or pairs
        raise SettingError(f"pairs: expected mappings with clean, corrupted, answer and wrong_answer, found {found!r}")
    folder = TemporaryFolder()
    path = Path(folder.name) / f"{file_name(name, 'name')}.jsonl"
    path.write_text("".join(_line(dict(record), number) for number, record in enumerate(records, 1)), encoding="utf-8")
    others = [file for file in model.options["dataset_file"] if Path(file).stem != name]
    known = model.with_options(dataset_file=[*others, str(path)])
    dataset = load(name, known)
    model._hold(known._core, model._progress, (model._belongings, folder))
    return dataset


def _line(record: Mapping[str, Any], number: int) -> str:
    try:
        return json.dumps(record, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise SettingError(f"pairs: line {number}: expected texts, found {record!r}: {error}") from error


def _tokens(sequences: List[List[int]], numbers: List[int]) -> Any:
    rows = [np.array(sequences[number], dtype=np.int64) for number in numbers]
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else rows

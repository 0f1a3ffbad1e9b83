"""What comes of a study: its text, its outcome as JSON, values as arrays, tables, files and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from .errors import FileError, SettingError

if TYPE_CHECKING:
    import pandas as _pandas

__all__ = ["Direction", "Directions", "Plan", "Result"]

#: Most pictures that a result shows by itself.
_PICTURES = 6


class Plan:
    """What a study will compute."""

    def __init__(self, text: str, operations: Optional[int], memory_bytes: Optional[int]) -> None:
        #: All of it, for people.
        self.text = text
        #: The arithmetic in floating-point operations, where it can be told beforehand.
        self.operations = operations
        #: Expected memory in bytes, where it can be told.
        self.memory_bytes = memory_bytes

    def __repr__(self) -> str:
        return self.text


class Result:
    """What came of a study."""

    def __init__(self, study: str, folder: Path, text: str, outcome: Any, failed: Optional[str]) -> None:
        #: The study's name.
        self.study = study
        #: The folder of the model's results, in which the study's files are.
        self.folder = folder
        #: What the command prints.
        self.text = text
        #: The whole outcome, as ``--json`` prints it.
        self.json: Any = outcome
        #: What failed of that which was checked, if anything did.
        self.failed = failed

    @property
    def maps(self) -> Dict[str, NDArray[np.float64]]:
        """Every map by the name of its files, in TransformerLens' shapes: ``(layer, head)``, ``(layer, position)``,
        ``(layer, position, head)``, ...; NaN where a value is undefined."""
        return {entry["file"]: _array(entry) for entry in self._maps()}

    @property
    def axes(self) -> Dict[str, List[str]]:
        """The names of every map's axes."""
        return {entry["file"]: entry["axes"] for entry in self._maps()}

    @property
    def values(self) -> NDArray[np.float64]:
        """The values of a result that is one map, in the map's shape and unit (percent: 100 is the other run's value);
        of a patching suite its percentages, cell by cell.

        Raises:
            SettingError: several maps, which `maps` has by name; a result without either.
        """
        cells = self._table("cells")
        if cells is not None:
            return np.array([_number(cell["percent"]) for cell in cells])
        maps = self.maps
        if len(maps) != 1:
            there = f"{len(maps)} maps: {', '.join(maps)}" if maps else "none"
            raise SettingError(f"values of {self.study}: expected one map, found {there}")
        return next(iter(maps.values()))

    def to_pandas(self) -> "_pandas.DataFrame":
        """A long table: a row per value of the maps, per cell of a suite, or per entry of what the outcome has most of."""
        try:
            import pandas as pd
        except ImportError as error:
            raise SettingError("to_pandas: expected pandas to be installed: pip install pandas") from error
        maps = self._maps()
        if maps:
            return pd.concat([_long_table(pd, entry) for entry in maps], ignore_index=True)
        tables: Dict[str, List[Any]] = {}
        for path, rows in _tables(self.json):
            tables.setdefault(path, []).extend(rows)
        return pd.json_normalize(max(tables.values(), key=len) if tables else [self.json])

    def save(self, folder: Union[str, Path]) -> Path:
        """Writes the text, the outcome as JSON, every map as ``.npy`` and the pictures to `folder`, and returns it."""
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{self.study}.txt").write_text(self.text, encoding="utf-8")
            (target / f"{self.study}.json").write_text(json.dumps(self.json, indent=2), encoding="utf-8")
            for name, values in self.maps.items():
                np.save(target / f"{name}.npy", values)
            for picture in self._files(".svg", ".html"):
                (target / picture.name).write_bytes(picture.read_bytes())
        except OSError as error:
            raise FileError(f"{target}: {error}") from error
        return target

    def _maps(self) -> List[Dict[str, Any]]:
        return list(self._table("maps") or [])

    def _table(self, name: str) -> Optional[List[Any]]:
        found = self.json.get(name) if isinstance(self.json, dict) else None
        return found if isinstance(found, list) else None

    def _files(self, *endings: str) -> List[Path]:
        """The files that show it: of its maps, and what its manifest says was written."""
        manifest = self.json.get("manifest") if isinstance(self.json, dict) else None
        names = [f"{entry['file']}.svg" for entry in self._maps()]
        names += sorted((manifest or {}).get("written", {}))
        paths = [self.folder / name for name in dict.fromkeys(names) if name.endswith(endings)]
        return [path for path in paths if path.is_file()]

    def _repr_html_(self) -> str:
        import html

        pictures = self._files(".svg")
        drawn = {picture.stem for picture in pictures}
        pages = [page for page in self._files(".html") if page.stem not in drawn]
        parts = [picture.read_text(encoding="utf-8") for picture in pictures[:_PICTURES]]
        parts += [_frame(page.read_text(encoding="utf-8")) for page in pages[: _PICTURES - len(parts)]]
        left = len(pictures) + len(pages) - len(parts)
        if left > 0:
            parts.append(f"<p>and {left} more in {html.escape(str(self.folder))}</p>")
        return f"<pre>{html.escape(self.text)}</pre>" + "".join(f"<div>{part}</div>" for part in parts)

    def __repr__(self) -> str:
        return self.text


def _frame(page: str) -> str:
    import html

    return f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:30em;border:0"></iframe>'


def _number(value: Optional[float]) -> float:
    return float("nan") if value is None else float(value)


def _unit(entry: Mapping[str, Any]) -> str:
    known = ("file", "axes", "shape", "components", "beside_exact")
    return next(name for name in entry if name not in known)


def _array(entry: Mapping[str, Any]) -> NDArray[np.float64]:
    values = [_number(value) for value in entry[_unit(entry)]]
    shape: Tuple[int, ...] = tuple(entry["shape"])
    return np.array(values, dtype=np.float64).reshape(shape)


def _long_table(pd: Any, entry: Mapping[str, Any]) -> Any:
    array, components = _array(entry), entry.get("components", [])
    places = np.indices(array.shape).reshape(array.ndim, -1)
    columns: Dict[str, Any] = {"map": entry["file"]}
    for number, (axis, place) in enumerate(zip(entry["axes"], places)):
        named = components and (number == 0 or axis == f"other_{entry['axes'][0]}")
        columns[axis] = [components[at] for at in place] if named else place
    columns[_unit(entry)] = array.reshape(-1)
    return pd.DataFrame(columns)


def _tables(value: Any, path: str = "") -> Iterator[Tuple[str, List[Any]]]:
    """Lists of records, wherever they are, and the names that lead there."""
    if isinstance(value, dict):
        for name, child in value.items():
            if name != "manifest":
                yield from _tables(child, f"{path}.{name}")
    elif isinstance(value, list):
        if value and all(isinstance(row, dict) for row in value):
            yield path, value
        for child in value:
            yield from _tables(child, path + "[]")


class Direction:
    """A direction, or a subspace, with everything that is known of how it came about."""

    def __init__(self, name: str, array: NDArray[np.float32], record: Optional[Dict[str, Any]]) -> None:
        #: ``<method>_<dataset>_<POSITION>_layer<l>``.
        self.name = name
        #: ``(d_model,)``, or ``(d_model, k)`` with a column per dimension; neither unit length nor sign is implied.
        self.array = array
        #: Model, weight processing, dataset, position, layer, seed, settings, losses; none of files without a record.
        self.record = record

    @property
    def layer(self) -> int:
        """Layer ``l`` is ``blocks.l.hook_resid_pre``; layer ``n_layers`` the last ``hook_resid_post``."""
        number = self.name.rpartition("_layer")[2]
        if not number.isdecimal():
            raise SettingError(f"direction {self.name!r}: expected a name that ends in its layer, such as mine_layer6")
        return int(number)

    @property
    def unit(self) -> NDArray[np.float32]:
        """The columns scaled to unit length, as patching uses them."""
        lengths = np.linalg.norm(self.array.astype(np.float64), axis=0)
        scaled: NDArray[np.float32] = (self.array / lengths).astype(np.float32)
        return scaled

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> NDArray[Any]:
        return np.array(self.array, dtype=dtype) if copy else np.asarray(self.array, dtype=dtype)

    def save(self, path: Union[str, Path]) -> None:
        """Writes the array as ``.npy``, and the record beside it as ``.json``."""
        path = Path(path).with_suffix(".npy")
        try:
            np.save(path, self.array)
            path.with_suffix(".json").write_text(json.dumps(self.record, indent=2), encoding="utf-8")
        except OSError as error:
            raise FileError(f"{path}: {error}") from error

    def __repr__(self) -> str:
        return f"Direction({self.name!r}, shape {self.array.shape})"


class Directions(Mapping[str, Direction]):
    """Directions by name, in the order of their fits."""

    def __init__(self, folder: Path, names: List[str], result: Optional[Result] = None) -> None:
        self._folder = folder
        self._names = names
        self._read: Dict[str, Direction] = {}
        #: What came of the study that has fitted them.
        self.result = result

    @property
    def names(self) -> List[str]:
        """The names, as every study takes them."""
        return list(self._names)

    @property
    def by_layer(self) -> Dict[int, Direction]:
        """The directions by layer.

        Raises:
            SettingError: several directions at one layer.
        """
        found: Dict[int, Direction] = {}
        for direction in self.values():
            if direction.layer in found:
                raise SettingError(f"by_layer: expected one direction a layer, found two at layer {direction.layer}")
            found[direction.layer] = direction
        return found

    def __getitem__(self, name: str) -> Direction:
        if name not in self._names:
            raise SettingError(f"direction {name!r}: expected one of {', '.join(self._names) or 'none'}")
        if name not in self._read:
            self._read[name] = _direction(self._folder, name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return self.result.text if self.result is not None else f"{len(self)} directions: {', '.join(self._names)}"


def _direction(folder: Path, name: str) -> Direction:
    path = folder / f"{name}.npy"
    try:
        array = np.load(path)
        beside = path.with_suffix(".json")
        record = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else None
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: {error}") from error
    return Direction(name, array.astype(np.float32, copy=False), record)


def outcome(study: str, folder: Path, found: Tuple[str, str, Optional[str]]) -> Result:
    """The result of what the library returns."""
    text, as_json, failed = found
    return Result(study, folder, text, json.loads(as_json), failed)

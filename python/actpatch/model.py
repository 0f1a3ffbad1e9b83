"""Models, as TransformerLens' users hold them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union, cast

import numpy as np
from numpy.typing import NDArray

from . import _core, hooked
from .arrays import floats, host_array, integers, number, whole
from .cache import ActivationCache, Batch
from .errors import ModelError, SettingError, SiteError
from .files import TemporaryFolder, file_name
from .hooks import HookName, full_name, is_layer
from .interventions import Add, Intervention, Shapes, edits
from .progress import Progress, listener
from .results import Direction, Directions, Plan, Result, outcome

__all__ = ["Config", "Model", "Written"]

#: A text, texts, or token ids: ``(pos,)``, ``(batch, pos)``, or a list of ``(pos,)``.
Prompts = Union[str, Sequence[str], Sequence[int], Sequence[Any], NDArray[Any]]

#: Which sites: all that are stored, some by name, or those that a function chooses.
Names = Union[None, HookName, Sequence[HookName], Callable[[str], bool]]

#: What is done on the way through the model: one intervention, or several.
Interventions = Union[Intervention, Iterable[Intervention]]

#: Sites that are computed from others when they are asked for, and are no part of "all".
_COMPUTED = ("hook_result", "hook_q_input", "hook_k_input", "hook_v_input")


@dataclass(frozen=True)
class Config:
    """The shape of a model, under TransformerLens' names."""

    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_mlp: int
    n_ctx: int
    d_vocab: int
    parallel_attn_mlp: bool
    gated_mlp: bool


@dataclass(frozen=True)
class Written:
    """A text that a model has written."""

    #: The prompt, without BOS.
    prompt: str
    #: What was written behind it.
    text: str
    #: Its token ids; the one that ended it is the last.
    tokens: NDArray[np.int64]
    #: Natural log of every token's probability under the model as it was changed, at temperature 1.
    log_probabilities: NDArray[np.float64]
    #: Did a token end it, and not the limit?
    ended: bool


def plain(value: Any, setting: str) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, (list, tuple, range, Directions)):
        return [plain(entry, setting) for entry in value]
    if isinstance(value, Mapping):
        return {str(name): plain(entry, setting) for name, entry in value.items()}
    if isinstance(value, Direction):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    # Arrays and numbers of numpy, torch and others.
    if hasattr(value, "tolist"):
        return plain(value.tolist(), setting)
    raise SettingError(f"{setting}: expected text, numbers or lists of them, found {value!r}")


def _settings(settings: Mapping[str, Any]) -> str:
    given = {name: plain(value, name) for name, value in settings.items() if value is not None}
    try:
        return json.dumps(given, allow_nan=False)
    except ValueError as error:
        raise SettingError(f"expected finite numbers in {given}") from error


class Model:
    """A model on a device, with the folder of its results.

    Args:
        name: ``"demo"`` (part of the package), an alias such as ``"gpt2-small"``, a Hub id (``"org/name@revision"``), a folder,
            a GGUF file, ``"random:<alias>"``, or any of these behind ``"NAME="``, which files results under that name.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"cuda:all"``.
        dtype: number format of the matrix products: ``"f32"``, ``"tf32"``, ``"bf16"``, ``"f16"``; torch's names and types, too.
        weight_processing: rewrites of the weights, TransformerLens' defaults without it: some of ``"fold_ln"``,
            ``"center_writing_weights"``, ``"center_unembed"``, ``"fold_value_biases"``, or ``"none"``.
        bos: ``"auto"``, ``"always"`` or ``"never"``: when a beginning-of-sequence token stands in front of texts.
        data_dir: results go to a folder of the model's name in it, the same as the commands'.
        seed: of everything that is drawn at random.
        progress: are bars shown? Or a function that is told instead.
        options: every other option of a session: ``revision``, ``tokenizer``, ``threads``, ``batch_tokens``, ``memory``, ``compat``,
            ``dataset_file``, ``overwrite``.

    A model belongs to the process that opened it; its methods may be called from several threads.
    """

    def __init__(
        self,
        name: Union[str, Path] = "demo",
        *,
        device: str = "auto",
        dtype: Any = "f32",
        weight_processing: Union[None, str, Sequence[str]] = None,
        bos: str = "auto",
        data_dir: Union[str, Path] = "data",
        seed: int = 0,
        progress: Progress = True,
        **options: Any,
    ) -> None:
        given = {
            "device": str(device),
            "dtype": _dtype(dtype),
            "weight_processing": weight_processing,
            "bos": bos,
            "data_dir": data_dir,
            "seed": seed,
            **options,
        }
        self._hold(_core.Model(str(name), _settings(given), listener(progress)), progress)

    def _hold(self, core: _core.Model, progress: Progress, belongings: Any = None) -> None:
        self._core = core
        self._progress = progress
        # What has to outlive it, such as the folder of its files.
        self._belongings = belongings
        about = json.loads(core.about())
        #: The shape, under TransformerLens' names.
        self.cfg = Config(**about["config"])
        #: What results are filed under.
        self.name: str = about["name"]
        #: The folder of its results.
        self.folder = Path(about["folder"])
        #: The options of its session.
        self.options: Dict[str, Any] = about["options"]
        #: Id of the beginning-of-sequence token, if texts have one in front.
        self.bos_token_id: Optional[int] = about["bos"]
        #: Ids of the tokens that end a text.
        self.eos_token_ids: List[int] = about["ends"]
        #: Every hook name that the model has.
        self.hook_names: List[str] = core.sites()
        self._stored = [name for name in self.hook_names if not name.endswith(_COMPUTED)]
        self._order = {name: number for number, name in enumerate(self.hook_names)}
        config = self.cfg
        self._shapes = Shapes(
            config.n_heads, config.n_key_value_heads, config.d_model, config.d_head, config.d_mlp
        )

    @classmethod
    def _of(cls, core: _core.Model, like: Model) -> Model:
        model = cls.__new__(cls)
        model._hold(core, like._progress, like._belongings)
        return model

    @classmethod
    def from_transformers(cls, hf_model: Any, tokenizer: Any, name: str = "from_transformers", **options: Any) -> Model:
        """A model that transformers holds in memory, fine-tuned or not, with its tokenizer.

        Its weights go through a temporary folder, which lasts as long as the model. Results are filed under `name`.

        Args:
            hf_model: a ``PreTrainedModel`` of a family that actpatch knows.
            tokenizer: its ``PreTrainedTokenizerFast``.
            options: as of `Model`.
        """
        for what, holder, has in (("model", hf_model, "config"), ("tokenizer", tokenizer, "save_pretrained")):
            if not (hasattr(holder, "save_pretrained") and hasattr(holder, has)):
                found = type(holder).__name__
                raise SettingError(f"{what}: expected one of transformers, with save_pretrained, found {found}")
        file_name(name, "name")
        folder = TemporaryFolder()
        try:
            hf_model.save_pretrained(folder.name, safe_serialization=True)
            tokenizer.save_pretrained(folder.name)
        except (NotImplementedError, RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"model: expected one that transformers can save, found that it cannot: {error}") from error
        model = cls(f"{name}={folder.name}", **options)
        model._belongings = folder
        return model

    @classmethod
    def from_hooked_transformer(
        cls, model: Any, tokenizer: Any = None, name: str = "from_hooked_transformer", **options: Any
    ) -> Model:
        """A model that TransformerLens holds in memory, with its weights as they are now.

        They go through a temporary folder, which lasts as long as the model. That both compute the same is checked on one
        sequence. Results are filed under `name`.

        Args:
            model: a ``HookedTransformer`` built like GPT-2, GPT-NeoX, Llama, Mistral, Qwen2 or Qwen3.
            tokenizer: a ``PreTrainedTokenizerFast``; the model's own without it.
            options: as of `Model`. With ``weight_processing="none"`` weights and activations stay as they are; without ``bos``
                texts begin as they do in TransformerLens.

        Raises:
            ModelError: settings that are not known, weights that transformers' model of that kind has no place for, or logits
                that are not the model's own.
        """
        tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
        if type(model).__name__ == "TransformerBridge":
            advice = "give from_transformers the model of transformers that it was made of"
            raise SettingError(f"model: expected a HookedTransformer, found a TransformerBridge: {advice}")
        if not (hasattr(model, "cfg") and hasattr(model, "state_dict")):
            raise SettingError(f"model: expected a HookedTransformer, found {type(model).__name__}")
        if not hasattr(tokenizer, "save_pretrained"):
            found = type(tokenizer).__name__
            raise SettingError(f"tokenizer: expected one of transformers, with save_pretrained, found {found}")
        file_name(name, "name")
        folder = TemporaryFolder()
        hooked.save(model, tokenizer, Path(folder.name))
        begins = model.cfg.default_prepend_bos and tokenizer.bos_token_id is not None
        opened = cls(f"{name}={folder.name}", **{"bos": "always" if begins else "never", **options})
        opened._belongings = folder
        hooked.check(model, opened)
        return opened

    def with_options(self, **options: Any) -> Model:
        """The same model under changed options; what they do not touch is shared."""
        if "dtype" in options:
            options["dtype"] = _dtype(options["dtype"])
        progress = options.pop("progress", self._progress)
        model = self._of(self._core.with_options(_settings(options)), self)
        model._progress = progress
        return model

    def close(self) -> None:
        """Lets go of weights and device. Calls from now on are errors."""
        self._core.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        config = self.cfg
        return f"Model({self.name!r}, {config.n_layers} layers, {config.n_heads} heads, d_model {config.d_model})"

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            here = hooked.HERE.get(name)
            advice = f": {name} is TransformerLens'; here it is {here}" if here else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{advice}")

    def __copy__(self) -> Model:
        return self._of(self._core, self)

    def __reduce__(self) -> Any:
        raise TypeError("a model belongs to the process that opened it: open it in the other one")

    # Tokens.

    def to_tokens(self, texts: Union[str, Sequence[str]], prepend_bos: Optional[bool] = None) -> Any:
        """Token ids ``(batch, pos)`` of texts, BOS in front unless the model is used without or `prepend_bos` says no.

        Of texts of different lengths it is a list of ``(pos,)`` arrays: nothing is padded.
        """
        tokens = self._encode(texts, prepend_bos)
        return np.stack(tokens) if len({len(sequence) for sequence in tokens}) == 1 else tokens

    def _encode(self, texts: Union[str, Sequence[str]], prepend_bos: Optional[bool]) -> List[NDArray[np.int64]]:
        listed = [texts] if isinstance(texts, str) else list(texts) if hasattr(texts, "__iter__") else []
        if not listed or not all(isinstance(text, str) for text in listed):
            raise SettingError(f"texts: expected a text or texts, found {texts!r}")
        try:
            tokens = self._core.encode(listed, prepend_bos is not False)
        except UnicodeEncodeError as error:
            raise SettingError(f"texts: expected whole characters, found half of one: {error}") from error
        if prepend_bos and self.bos_token_id is None:
            raise SettingError(f"prepend_bos: {self.name} has no beginning-of-sequence token, or is used without: bos='always'")
        return tokens

    def to_str_tokens(self, prompt: Prompts, prepend_bos: Optional[bool] = None) -> Any:
        """The text of every token of a text or of token ids; of several texts a list for each."""
        if isinstance(prompt, str):
            return self._core.decode_each(self.to_tokens(prompt, prepend_bos)[0])
        if _are_texts(prompt):
            return [self.to_str_tokens(str(text), prepend_bos) for text in prompt]
        texts = [self._core.decode_each(part) for part in self._known(prompt)]
        return texts[0] if _is_flat(prompt) else texts

    def to_string(self, tokens: Any) -> Any:
        """The text of token ids ``(pos,)`` or of one; of ``(batch, pos)`` a list of texts."""
        texts = [self._core.decode(part) for part in self._known([tokens] if _is_number(tokens) else tokens)]
        return texts[0] if _is_number(tokens) or _is_flat(tokens) else texts

    def _known(self, prompts: Any) -> List[NDArray[np.int64]]:
        """Token ids that the model has, prompt by prompt."""
        flat, lengths = self._tokens(prompts)
        if flat.max() >= self.cfg.d_vocab:
            raise SettingError(f"tokens: expected ids below {self.cfg.d_vocab}, found {flat.max()}")
        return np.split(flat, np.cumsum(lengths)[:-1])

    def to_single_token(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
            SettingError: a text of another number of tokens.
        """
        tokens = self._encode(text, False)[0] if isinstance(text, str) else []
        if len(tokens) != 1 and not isinstance(text, str):
            raise SettingError(f"expected a text of one token, found {text!r}")
        if len(tokens) != 1:
            raise SettingError(f"{text!r}: expected one token, found {self._core.decode_each(tokens)}")
        return int(tokens[0])

    def _tokens(self, prompts: Prompts, prepend_bos: Optional[bool] = None) -> Tuple[NDArray[np.int64], List[int]]:
        """Token ids of all prompts behind each other, and how many each has."""
        prompts = _listed(prompts)
        if isinstance(prompts, str) or _are_texts(prompts):
            found = self._encode(cast("Union[str, Sequence[str]]", prompts), prepend_bos)
            return np.concatenate(found), [len(row) for row in found]
        if isinstance(prompts, (list, tuple)) and len(prompts) and not _is_number(prompts[0]):
            rows = [_row(row) for row in prompts]
            return np.concatenate(rows), [len(row) for row in rows]
        array = integers(prompts, "tokens")
        if array.ndim not in (1, 2) or array.size == 0:
            raise SettingError(f"tokens: expected shape (pos,) or (batch, pos), found {array.shape}")
        length = array.shape[-1]
        return array.reshape(-1), [length] * (array.size // length)

    def _names(self, names: Names, among: List[str]) -> List[str]:
        """The sites that are meant; all `among` the stored ones without any."""
        if names is None:
            return among
        if callable(names):
            chosen = [name for name in among if names(name)]
            if not chosen:
                others = ", ".join(name for name in _COMPUTED if name.endswith("result"))
                raise SiteError(f"names: expected a function that chooses some of the stored sites, found one that chooses none; "
                                f"{others} is there by its name alone")
            return chosen
        single = isinstance(names, str) or (isinstance(names, tuple) and len(names) in (2, 3) and is_layer(names[1]))
        listed = [names] if single else names
        if not hasattr(listed, "__iter__"):
            raise SiteError(f"names: expected hook names, (name, layer) pairs or a function, found {names!r}")
        found = [full_name(name, self.cfg.n_layers) for name in cast("Sequence[HookName]", listed)]
        return list(dict.fromkeys(found))

    # Passes.

    def run(
        self,
        prompts: Prompts,
        interventions: Interventions = (),
        *,
        logits: Optional[str] = "all",
        padding: Optional[str] = None,
        prepend_bos: Optional[bool] = None,
    ) -> Any:
        """The logits of prompts, with `interventions` on the way.

        Args:
            prompts: texts or token ids.
            interventions: `Replace`, `Add`, `Swap`, `Ablate`, one or several, done in this order at each site.
            logits: ``"all"``: ``(batch, pos, d_vocab)``; ``"last"``: ``(batch, d_vocab)``.
            padding: of prompts of different lengths, with ``"all"``: a list without it, ``"right"`` for one array with zeros behind ends.
        """
        return self.run_with_cache(
            prompts, names=[], interventions=interventions, logits=logits, padding=padding, prepend_bos=prepend_bos
        )[0]

    __call__ = run

    def run_with_cache(
        self,
        prompts: Prompts,
        names: Names = None,
        *,
        interventions: Interventions = (),
        logits: Optional[str] = "all",
        padding: Optional[str] = None,
        prepend_bos: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> Tuple[Any, ActivationCache]:
        """Logits and activations of prompts.

        Args:
            prompts: texts or token ids.
            names: hook names, (name, layer) pairs, or a function of names; everything that is stored without it.
            interventions: as of `run`; what is cached is what they have made of it.
            logits: ``"all"``, ``"last"``, or None: the pass then ends behind the last of the sites.
            padding: of prompts of different lengths: lists without it, ``"right"`` for arrays with zeros behind ends.

        Returns:
            Logits as of `run`, and the cache.

        Raises:
            SiteError: a name that the model does not have, with those that are most like it.
        """
        if logits not in ("all", "last", None):
            raise SettingError(f'logits: expected "all", "last" or None, found {logits!r}')
        flat, lengths = self._tokens(prompts, prepend_bos)
        wanted = self._names(names, self._stored)
        named = [(self._site(intervention), intervention) for intervention in _each(interventions)]
        # A block's end is the next one's beginning, to the library one place: what is done at the end comes first.
        named.sort(key=lambda entry: self._order.get(entry[0], 0))
        changes = [edit for name, change in named for edit in edits(name, change, lengths, self._shapes)]
        told = None if len(flat) <= self.options["batch_tokens"] else self._listener(progress)
        values, found = self._core.forward(flat, lengths, wanted, changes, logits or "none", told)
        batch = Batch(lengths, padding)
        shaped = {name: self._shaped(name, value, batch) for name, value in zip(wanted, values)}
        out: Any = None
        if found is not None:
            tail = (self.cfg.d_vocab,)
            out = found.reshape((len(lengths), *tail)) if logits == "last" else batch.tokens(found, tail)
        return out, ActivationCache(shaped, batch, self.cfg.n_layers)

    def _site(self, intervention: Intervention) -> str:
        if not isinstance(intervention, Intervention):
            raise SettingError(f"interventions: expected Replace, Add, Swap or Ablate, found {intervention!r}")
        return full_name(intervention.site, self.cfg.n_layers)

    def _shaped(self, name: str, values: NDArray[np.float32], batch: Batch) -> Any:
        if name.endswith("hook_pattern"):
            return batch.patterns(values, self.cfg.n_heads)
        return batch.tokens(values, self._shapes.tail(name))

    def gradients(
        self,
        prompts: Prompts,
        answers: Sequence[Any],
        names: Names,
        *,
        padding: Optional[str] = None,
        prepend_bos: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> Tuple[NDArray[np.float32], ActivationCache]:
        """Logit differences at the last position, and their gradients with respect to activations.

        Args:
            prompts: texts or token ids.
            answers: per prompt a (right, wrong) pair of tokens or their ids, or a list of pairs, whose mean is taken; one
                pair alone is every prompt's.
            names: as of `run_with_cache`, of sites in blocks.

        Returns:
            ``(batch,)`` differences of logits, and a cache that holds each prompt's own gradient.
        """
        flat, lengths = self._tokens(prompts, prepend_bos)
        pairs = self._answers(answers, len(lengths))
        wanted = self._names(names, [name for name in self._stored if name.startswith("blocks.")])
        told = None if len(flat) <= self.options["batch_tokens"] else self._listener(progress)
        differences, values = self._core.gradients(flat, lengths, pairs, wanted, told)
        batch = Batch(lengths, padding)
        shaped = {name: self._shaped(name, value, batch) for name, value in zip(wanted, values)}
        return differences, ActivationCache(shaped, batch, self.cfg.n_layers)

    def _answers(self, answers: Any, count: int) -> List[List[Tuple[int, int]]]:
        """Per prompt its pairs: of one pair, of one for each prompt, or of a list of them for each."""

        def token(answer: Any) -> int:
            if isinstance(answer, str):
                return self.to_single_token(answer)
            if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < self.cfg.d_vocab:
                return answer
            raise SettingError(f"answers: expected a token or its id below {self.cfg.d_vocab}, found {answer!r}")

        def is_pair(entry: Any) -> bool:
            return isinstance(entry, list) and len(entry) == 2 and not any(isinstance(part, list) for part in entry)

        listed = _nested(answers)
        if is_pair(listed):
            listed = [listed] * count
        if not isinstance(listed, list) or not all(isinstance(entry, list) for entry in listed):
            raise SettingError(f"answers: expected (right, wrong) pairs, found {answers!r}")
        if len(listed) != count:
            raise SettingError(f"answers: expected one pair for each of {count} prompts, found {len(listed)}")
        lists = [[entry] if is_pair(entry) else entry for entry in listed]
        for entry in lists:
            if not entry or not all(is_pair(pair) for pair in entry):
                raise SettingError(f"answers: expected (right, wrong) pairs, found {entry!r}")
        found = [[(token(right), token(wrong)) for right, wrong in entry] for entry in lists]
        for right, wrong in (pair for pairs in found for pair in pairs):
            if right == wrong:
                raise SettingError(f"answers: expected two tokens, found token {right} as the right and as the wrong one")
        return found

    def generate(
        self,
        prompts: Prompts,
        max_new_tokens: int = 20,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        samples: int = 1,
        interventions: Interventions = (),
        stop_at_eos: bool = True,
        seed: Optional[int] = None,
        prepend_bos: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> List[Written]:
        """Writes texts behind prompts, those of one prompt behind each other.

        Args:
            temperature: 0 takes the likeliest token.
            top_k: only that many of the likeliest tokens can be drawn; 0 for all of them.
            samples: texts of each prompt.
            interventions: `Add` at sites of the residual stream: what is added at every position of prompts and texts.
            seed: of the random numbers; the model's own without it.
        """
        samples = whole(samples, "samples", 1)
        flat, lengths = self._tokens(prompts, prepend_bos)
        steered = [self._steered(intervention) for intervention in _each(interventions)]
        texts = self._core.generate(
            flat,
            lengths,
            samples,
            steered,
            self.eos_token_ids if stop_at_eos else [],
            number(temperature, "temperature"),
            whole(top_k, "top_k", 0),
            whole(max_new_tokens, "max_new_tokens", 1),
            self.options["seed"] if seed is None else whole(seed, "seed", 0),
            self._listener(progress),
        )
        parts = np.split(flat, np.cumsum(lengths)[:-1])
        asked = [self._core.decode(part[1:] if part[0] == self.bos_token_id else part) for part in parts]
        return [
            Written(asked[number // samples], self._core.decode(tokens), tokens, log_probabilities, ended)
            for number, (tokens, log_probabilities, ended) in enumerate(texts)
        ]

    def _steered(self, intervention: Intervention) -> Tuple[str, NDArray[np.float32]]:
        if not isinstance(intervention, Add):
            raise SettingError(f"interventions: texts are written with Add alone, found {intervention!r}")
        if not (intervention.positions is None and intervention.heads is None and intervention.neurons is None):
            raise SettingError("interventions: what is added to texts is added at all positions, whole")
        name = self._site(intervention)
        value = floats(intervention.value, f"value of Add({name!r})")
        if value.shape != (self.cfg.d_model,):
            raise SettingError(f"value of Add({name!r}): expected shape ({self.cfg.d_model},), found {value.shape}")
        with np.errstate(over="ignore"):
            value = value * np.float32(number(intervention.scale, f"scale of Add({name!r})"))
        if not np.isfinite(value).all():
            raise SettingError(f"value of Add({name!r}): expected finite numbers, found NaN or infinity")
        return name, value

    # Studies.

    def study(self, study: str, *, progress: Optional[Progress] = None, **settings: Any) -> Result:
        """Runs a study, as the command of that name does: what is there already, made of the same things, is kept.

        Args:
            study: its name, one of `actpatch.studies`.
            settings: its settings (`actpatch.settings` lists them), and options of the model (``overwrite=True``, ``seed=1``, ...).

        Raises:
            SettingError: a setting that there is not, or a value that it cannot have.
            KeyboardInterrupt: Ctrl-C. What is done is kept, and the same call goes on from there.
        """
        if not isinstance(study, str):
            raise SettingError(f"study: expected the name of one, found {study!r}")
        core, own = self._own(settings)
        return outcome(study, self._folder_of(core), core.study(study, _settings(own), self._listener(progress)))

    def plan(self, study: str, **settings: Any) -> Plan:
        """What a study will compute, without computing it."""
        core, own = self._own(settings)
        return Plan(*core.plan(study, _settings(own)))

    def circuit(self, path: Union[str, Path], *, progress: Optional[Progress] = None, **settings: Any) -> List[Result]:
        """Runs a whole analysis from a file, such as those in ``data/experiments``; `settings` are of all its steps."""
        reports = self._core.circuit(str(path), _settings(settings), self._listener(progress))
        return [outcome(name, self.folder, (text, as_json, failed)) for name, text, as_json, failed in reports]

    def directions(self, pattern: str = "*") -> Directions:
        """The stored directions whose names `pattern` (``*``, ``?``) matches."""
        if not isinstance(pattern, str):
            raise SettingError(f"pattern: expected a text such as das_*, found {pattern!r}")
        return Directions(self.folder, self._core.directions(pattern))

    def store_direction(self, name: str, array: Any, *, overwrite: bool = False) -> Directions:
        """Stores an array, ``(d_model,)`` or ``(d_model, k)``, as a direction that every study can use.

        Args:
            name: with its layer, as ``"mine_layer6"``.
            array: it belongs to the model's own weight processing, as whatever the model has computed does.
            overwrite: replace another direction of that name, and forget its results.
        """
        values = floats(array, f"direction {name}")
        if not np.isfinite(values).all():
            raise SettingError(f"direction {name}: expected finite numbers, found NaN or infinity")
        with TemporaryFolder() as folder:
            path = Path(folder) / f"{file_name(name, 'name')}.npy"
            np.save(path, values)
            self._core.import_directions(str(path), overwrite)
        return self.directions(name)

    def import_directions(self, path: Union[str, Path], *, overwrite: bool = False, **settings: Any) -> Directions:
        """Takes over directions from ``.npy``, ``.npz``, ``.safetensors`` or ``.json`` files: see ``docs/directions.md``.

        Args:
            settings: ``directions`` (which of them), ``layer``, ``weight_processing`` (the model's own without it).
        """
        names = self._core.import_directions(str(path), overwrite, _settings(settings))
        return Directions(self.folder, names)

    def _own(self, settings: Mapping[str, Any]) -> Tuple[_core.Model, Dict[str, Any]]:
        """The model under those of the settings that are options of it, and the others."""
        of_model = {name: value for name, value in settings.items() if name in self.options}
        others = {name: value for name, value in settings.items() if name not in self.options}
        if "dtype" in of_model:
            of_model["dtype"] = _dtype(of_model["dtype"])
        return (self._core.with_options(_settings(of_model)) if of_model else self._core), others

    def _folder_of(self, core: _core.Model) -> Path:
        return self.folder if core is self._core else Path(json.loads(core.about())["folder"])

    def _listener(self, progress: Optional[Progress]) -> Callable[[str, str, int], None]:
        return listener(self._progress if progress is None else progress)


#: Number formats as torch and numpy call them.
_DTYPES = {"float32": "f32", "float": "f32", "bfloat16": "bf16", "float16": "f16", "half": "f16"}


def _dtype(dtype: Any) -> str:
    """The name of a number format: of torch's and numpy's types, too."""
    name = dtype.__name__ if isinstance(dtype, type) else str(dtype)
    name = name.rsplit(".", 1)[-1]
    return _DTYPES.get(name, name)


def _are_texts(prompts: Any) -> bool:
    return isinstance(prompts, (list, tuple)) and len(prompts) > 0 and isinstance(prompts[0], str)


def _listed(prompts: Any) -> Any:
    """Texts, and arrays of different lengths, that an array or a table's column holds, as a list; anything else as it is."""
    kind = getattr(getattr(prompts, "dtype", None), "kind", "")
    return prompts.tolist() if kind in ("O", "U", "T") and hasattr(prompts, "tolist") else prompts


def _is_number(value: Any) -> bool:
    """Is it one number, and no array of several?"""
    return bool(np.isscalar(value)) or getattr(value, "ndim", 1) == 0


def _is_flat(tokens: Any) -> bool:
    """Is this one sequence?"""
    if isinstance(tokens, (list, tuple)):
        return len(tokens) > 0 and _is_number(tokens[0])
    return host_array(tokens, "tokens").ndim == 1


def _row(tokens: Any) -> NDArray[np.int64]:
    """The token ids of one prompt of several."""
    row = integers(tokens, "tokens")
    row = row[0] if row.ndim == 2 and len(row) == 1 else row
    if row.ndim != 1:
        raise SettingError(f"tokens: expected a list of prompts, (pos,) each, found one of shape {row.shape}")
    return row


def _nested(value: Any) -> Any:
    """Lists, whatever holds them: tuples, arrays, tensors."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_nested(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _each(interventions: Any) -> Iterable[Intervention]:
    """One intervention, or several."""
    if isinstance(interventions, Intervention):
        return [interventions]
    if not hasattr(interventions, "__iter__"):
        raise SettingError(f"interventions: expected Replace, Add, Swap or Ablate, found {interventions!r}")
    return cast("Iterable[Intervention]", interventions)

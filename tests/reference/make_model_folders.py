"""Draws model folders at random and writes what transformers makes of them: tests/fixtures/folders.

    pip install -r tests/reference/requirements.txt
    python tests/reference/make_model_folders.py [--count 240] [--first 0] [--out FOLDER] [--keep]

A folder is a tiny model of one of the families as it may lie on a disk: shapes, rotary settings in every spelling, windows,
tied heads under either name, dtypes, shards, names in front of the tensors, fields left out, and the ways in which a tokenizer
and its BOS come. `expected.json` beside it says what transformers computes (in f64, from the stored weights), or that it must be
refused. tests/model_folders.rs reads all of them; with ACTPATCH_FOLDERS=FOLDER those of another folder.

`--keep` writes only the committed ones (KEPT) to tests/fixtures/folders.
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as library_logging

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "folders"
FAMILIES = ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"]
WORDS = [f"w{index}" for index in range(20)]
TEXTS = ["w1 w5 w3", "w2 <s> w7", "w4 [PAD] w4", "<|endoftext|>w6 w6", "w0 w0 w1 w9 w12 w3", "w3 <extra> w5"]
LETTERS = "abcd"
LETTER_TEXTS = ["ab cad", "abab  dad", "bad <s> cab", "a<|endoftext|>b", "dad [PAD] cab's", "ab <extra> ab"]
# The seeds of the committed folders: together they have nearly every choice below.
KEPT = [
    5, 8, 34, 36, 41, 47, 62, 63, 65, 72, 73, 79, 94, 103, 118, 119, 124, 125, 132, 135, 138, 154, 171, 174, 177, 184, 190, 192,
    193, 199, 205, 207, 221, 226, 5143,
]  # fmt: skip


class Draw(random.Random):
    """A seeded source of choices that remembers what it chose."""

    def __init__(self, seed):
        super().__init__(f"folder {seed}")
        self.choices_made = []

    def pick(self, *options):
        value = self.choice(options)
        self.choices_made.append(f"{sys._getframe(1).f_code.co_name}: {value}")
        return value


# Configurations -------------------------------------------------------------------------------------------------------


def gpt2_fields(draw):
    heads, width = draw.randint(1, 3), draw.choice([2, 3, 4])
    return {
        "n_layer": draw.randint(1, 3), "n_embd": heads * width, "n_head": heads, "n_positions": 20,
        "n_inner": draw.choice([None, 7, 13]), "activation_function": activation(draw, "gelu_new"),
        "layer_norm_epsilon": draw.choice([1e-5, 1e-3, 0.0]),
        "scale_attn_by_inverse_layer_idx": draw.pick(False, False, True),
        "scale_attn_weights": draw.pick(True, True, False), "reorder_and_upcast_attn": draw.pick(False, True),
    }  # fmt: skip


def activation(draw, usual):
    return draw.choice([usual, usual, "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu"])


def shared_fields(draw, heads, width, act):
    return {
        "num_hidden_layers": draw.randint(1, 4), "hidden_size": heads * width, "num_attention_heads": heads,
        "intermediate_size": draw.choice([5, 9, 12]), "max_position_embeddings": 20, "hidden_act": activation(draw, act),
    }  # fmt: skip


def neox_fields(draw):
    heads, width = draw.randint(1, 2), draw.choice([8, 12])
    fields = shared_fields(draw, heads, width, "gelu")
    fields["use_parallel_residual"] = draw.pick(True, False)
    fields["attention_bias"] = draw.pick(True, True, False)
    fields["layer_norm_eps"] = draw.choice([1e-5, 1e-3])
    return fields | rotary(draw, "gpt_neox", width)


def llama_fields(draw, family):
    groups, per_group, width = draw.randint(1, 2), draw.randint(1, 2), draw.choice([4, 4, 6])
    heads = groups * per_group
    fields = shared_fields(draw, heads, width, "silu")
    fields["num_key_value_heads"] = groups
    fields["rms_norm_eps"] = draw.choice([1e-6, 1e-5, 0.0])
    if family == "qwen3" or draw.random() < 0.3:
        width = draw.choice([4, 6])
        fields["head_dim"] = width
    if family in ("llama", "qwen3"):
        fields["attention_bias"] = draw.pick(False, True)
    if family == "llama":
        fields["mlp_bias"] = draw.pick(False, True)
    if family == "mistral":
        fields |= mistral_windows(draw, fields["num_hidden_layers"], width)
    if family in ("qwen2", "qwen3"):
        fields |= windows(draw, fields["num_hidden_layers"])
    return fields | rotary(draw, family, width)


def mistral_windows(draw, layers, width):
    """A window in every block; `layer_types` makes the model a Ministral, which needs its `head_dim` written out."""
    mixed = [draw.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    return draw.pick(
        {}, {"sliding_window": None}, {"sliding_window": 3}, {"sliding_window": 4},
        {"sliding_window": 4, "layer_types": mixed, "head_dim": width},
        {"sliding_window": 5, "layer_types": None, "head_dim": width},
    )  # fmt: skip


def windows(draw, layers):
    """`use_sliding_window`, `sliding_window`, `max_window_layers` and `layer_types`, agreeing or not."""
    kind = draw.pick("none", "none", "from a layer on", "by types", "not used", "null", "types without a window")
    mixed = [draw.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    return {
        "none": {},
        "from a layer on": {
            "use_sliding_window": True, "sliding_window": 4, "max_window_layers": draw.choice([0, 1, layers, 28]),
        },
        "by types": {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 28, "layer_types": mixed},
        "not used": {"use_sliding_window": False, "sliding_window": 2, "max_window_layers": 0},
        "null": {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        "types without a window": {"use_sliding_window": False, "layer_types": mixed},
    }[kind]  # fmt: skip


def rotary(draw, family, width):
    """Rotary settings in one of their spellings."""
    theta = draw.choice([100.0, 10000.0, 500])
    kind = draw.pick(
        "default", "default", "linear", "linear", "dynamic", "yarn", "yarn", "yarn", "longrope", "longrope", "llama3", "llama3", "proportional",
        "unknown", "untyped",
    )  # fmt: skip
    share = draw.pick(*[None] * 6, 1.0, *([0.3, 0.5, 0.75] if family == "gpt_neox" or kind == "default" else [0.5]))
    scaling = scaling_fields(draw, kind, width, family, share)
    spelling = draw.pick("rope_parameters", "rope_scaling", "type", "both", "empty")
    object_ = dict(scaling)
    if spelling == "type" and "rope_type" in object_:
        object_["type"] = object_.pop("rope_type")
    inside = draw.pick(True, False)
    fields = {}
    if inside:
        object_["rope_theta"] = theta
        if share is not None:
            object_["partial_rotary_factor"] = share
    else:
        outside = "rotary_emb_base" if family == "gpt_neox" and draw.pick(True, False) else "rope_theta"
        fields[outside] = theta
        if share is not None:
            fields["rotary_pct" if family == "gpt_neox" and draw.pick(True, False) else "partial_rotary_factor"] = share
    other = {"rope_type": "linear", "factor": 7.0, "rope_theta": 3.0}
    placed = {
        "rope_parameters": {"rope_parameters": object_},
        "rope_scaling": {"rope_scaling": object_},
        "type": {"rope_scaling": object_},
        "both": draw.choice(
            [
                {"rope_scaling": object_, "rope_parameters": other},
                {"rope_parameters": other, "rope_scaling": object_},
                {"rope_scaling": None, "rope_parameters": object_},
            ]
        ),
        "empty": {"rope_scaling": {}, "rope_parameters": object_},
    }[spelling]
    return fields | placed


def scaling_fields(draw, kind, width, family, share):
    original = draw.choice([None, 5, 12])
    context = {} if original is None else {"original_max_position_embeddings": original}
    share = share or (0.25 if family == "gpt_neox" else 1.0)
    pairs = -(-int(width * share) // 2)
    if kind == "longrope":
        fields = {
            "rope_type": "longrope", "short_factor": [round(draw.uniform(1, 2), 2) for _ in range(pairs)],
            "long_factor": [round(draw.uniform(2, 6), 2) for _ in range(pairs)],
        } | context  # fmt: skip
        return fields | draw.choice([{}, {"factor": 4.0}, {"attention_factor": 1.3}, {"factor": 0.5}])
    if kind == "yarn":
        more = [
            {}, {"beta_fast": 4, "beta_slow": 0.5}, {"attention_factor": 0.8}, {"truncate": False},
            {"mscale": 0.7, "mscale_all_dim": 0.3}, {"mscale": 0.7}, {"beta_fast": 0, "beta_slow": None},
        ]  # fmt: skip
        return {"rope_type": "yarn", "factor": draw.choice([4.0, 2, None])} | context | draw.choice(more)
    if kind == "llama3":
        low, high = draw.choice([(1.0, 4.0), (1, 2), (2.0, 2.0), (4.0, 1.0)])
        return {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": high} | context
    return {
        "default": draw.choice([{"rope_type": "default"}, {}]),
        "linear": {"rope_type": "linear", "factor": draw.choice([2.0, 3])},
        "dynamic": {"rope_type": "dynamic", "factor": 2.0},
        "proportional": {"rope_type": "proportional"} | draw.choice([{}, {"factor": 2.0}]),
        "unknown": draw.choice([{"rope_type": "su", "factor": 2.0}, {"rope_type": "linear"}, {"rope_type": "mrope"}]),
        "untyped": {"factor": 4.0},
    }[kind]


def fields_of(draw, family):
    if family == "gpt2":
        return gpt2_fields(draw)
    return neox_fields(draw) if family == "gpt_neox" else llama_fields(draw, family)


# Weights --------------------------------------------------------------------------------------------------------------


def randomise(model, generator, dtype):
    """Values of the size that keeps activations of order 1, rounded to `dtype`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            norm = "ln_" in name or "norm" in name
            if parameter.dim() == 1:
                values = 1 + 0.3 * values if norm and name.endswith("weight") else 0.3 * values
            elif not any(part in name for part in ("wte", "wpe", "embed")):
                values *= 1.2 / (parameter.shape[0] if "c_" in name else parameter.shape[1]) ** 0.5
            parameter.copy_(values.to(dtype))


def stored_tensors(draw, model, dtype, config, generator):
    """The tensors as one of the ways of saving leaves them."""
    tied = config.tie_word_embeddings
    tensors = {name: value.detach().to(dtype).contiguous() for name, value in model.state_dict().items()}
    head = next(name for name in tensors if name in ("lm_head.weight", "embed_out.weight"))
    embedding = next(name for name in tensors if any(part in name for part in ("wte.weight", "embed_in", "embed_tokens")))
    if tied:
        kept = draw.pick("embedding", "embedding", "head", "both", "different")
        if kept == "embedding":
            del tensors[head]
        if kept == "head":
            del tensors[embedding]
        if kept == "both":
            tensors[head] = tensors[head].clone()
        if kept == "different":
            tensors[head] = torch.randn(tensors[head].shape, generator=generator).to(dtype)
    return tensors


def renamed(draw, tensors, base):
    """The tensors under names that transformers does not look for, or, without the base model's name, does."""
    front = draw.pick("", "", "", "stripped", "_orig_mod.", "module.", "doubled")
    if front == "stripped":
        return {name.removeprefix(base): value for name, value in tensors.items()}
    return {(base if front == "doubled" else front) + name: value for name, value in tensors.items()}


def save_tensors(draw, tensors, folder):
    if draw.pick("whole", "whole", "shards") == "whole" or len(tensors) < 2:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    draw.shuffle(names)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    index = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


# Tokenizers -----------------------------------------------------------------------------------------------------------


def word_tokenizer():
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|endoftext|>": 3}
    vocabulary |= {word: len(vocabulary) + index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>", "<|endoftext|>"])
    return tokenizer


def letter_tokenizer(family):
    """Byte-level pairs of four letters; other bytes have no token."""
    tokens = ["<|endoftext|>", "<s>", "</s>", *LETTERS, "Ġ", "'", "s"]
    merges = [("a", "b"), ("Ġ", "c"), ("Ġc", "a"), ("d", "a"), ("Ġ", "d"), ("ab", "ab"), ("Ġ", "Ġ")]
    tokens += [left + right for left, right in merges]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<s>", "</s>"])
    return tokenizer


def write_tokenizer(draw, family, folder):
    """The tokenizer's files; returns the texts to compare it on."""
    # For Qwen2, transformers rebuilds byte-level pairs whatever the files say.
    letters = draw.pick(False, True) or family == "qwen2"
    tokenizer = letter_tokenizer(family) if letters else word_tokenizer()
    assembled = letters and family in ("gpt2", "gpt_neox", "qwen2", "qwen3") and draw.pick(True, False)
    if assembled:
        model = json.loads(tokenizer.to_str())["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        lines = [" ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n")
        usual = {"gpt2": "GPT2Tokenizer", "gpt_neox": "GPTNeoXTokenizer"}.get(family, "Qwen2Tokenizer")
        config = draw.pick(None, {"tokenizer_class": usual}, {"tokenizer_class": usual, "add_bos_token": True})
    else:
        if draw.pick(False, False, True):
            opening = draw.pick("<s>", "<|endoftext|>")
            tokenizer.post_processor = processors.TemplateProcessing(
                single=f"{opening} $A", pair=f"{opening} $A {opening} $B",
                special_tokens=[(opening, tokenizer.token_to_id(opening))],
            )  # fmt: skip
        limit = draw.pick(None, None, "truncation", "padding")
        if limit == "truncation":
            tokenizer.enable_truncation(2)
        if limit == "padding":
            tokenizer.enable_padding(length=9, pad_id=2, pad_token="</s>")
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
        # Without a class in a file, transformers takes the family's, which rebuilds byte-level pairs only.
        classes = [{"tokenizer_class": name} for name in ("PreTrainedTokenizerFast", "TokenizersBackend")]
        config = draw.pick(*classes, *([None, {}] if letters else []))
    if config is not None:
        config |= draw.pick(
            {}, {"bos_token": "<s>"}, {"bos_token": {"__type": "AddedToken", "content": "<|endoftext|>", "special": True}},
            {"bos_token": None}, {"bos_token": "<beginning>"}, {"bos_token": "<s>", "add_bos_token": True},
        )  # fmt: skip
        config |= draw.pick({}, {"eos_token": "</s>"}, {"eos_token": "</s>", "pad_token": "[PAD]"})
        if draw.pick(False, False, True):
            flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
            own = ["<s>", "</s>", "<|endoftext|>"]
            listed = {str(tokenizer.token_to_id(token)): {"content": token} | flags for token in own}
            listed["99"] = {"content": "<extra>"} | flags | {"rstrip": True, "special": draw.choice([True, False])}
            config["added_tokens_decoder"] = listed
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if draw.pick(False, False, True):
        text = json.dumps({"bos_token": draw.pick("<s>", "<|endoftext|>", "</s>"), "eos_token": "</s>"})
        (folder / "special_tokens_map.json").write_text(text)
    return LETTER_TEXTS if letters else TEXTS


def bos_of(draw, family, fields, tokenizer, folder, vocabulary):
    """The BOS that stands in front of a text: what the tokenizer puts there; else, in the families that TransformerLens (up
    to version 2) uses with one, the first that exists of the tokenizer's, generation_config's and config's."""
    for text in ("a", "w1"):
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = tokenizer(text)["input_ids"]
        if plain and whole != plain and whole[0] < vocabulary:
            return whole[0]
    if family in ("qwen2", "qwen3"):
        return None
    config = folder / "tokenizer_config.json"
    said = json.loads(config.read_text()) if config.exists() else {}
    older = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in said and older.exists():
        said |= json.loads(older.read_text())
    candidates = []
    if tokenizer.bos_token is not None:
        candidates.append(tokenizer.bos_token_id)
    elif "bos_token" in said:
        return None
    generation = folder / "generation_config.json"
    candidates.append(json.loads(generation.read_text()).get("bos_token_id") if generation.exists() else None)
    candidates.append(fields.get("bos_token_id"))
    candidates += [tokenizer.get_vocab().get(name) for name in ("<|endoftext|>", "<s>")]
    known = set(tokenizer.get_vocab().values())
    return next((id_ for id_ in candidates if id_ is not None and 0 <= id_ < vocabulary and id_ in known), None)


# A folder -------------------------------------------------------------------------------------------------------------


def spoil(draw, family, fields):
    """Configurations that ask for what is not there, or leave out what the library has defaults for."""
    depth = "n_layer" if family == "gpt2" else "num_hidden_layers"
    act = "activation_function" if family == "gpt2" else "hidden_act"
    kind = draw.pick(*["no"] * 12, "fewer", "more", "quantised", "absent", "absent", "null", "context")
    changed = dict(fields)
    if kind == "fewer" and fields[depth] > 1 and "layer_types" not in fields:
        changed[depth] -= 1
    if kind == "more":
        changed[depth] += 1
        changed.pop("layer_types", None)
    if kind == "quantised":
        changed["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    if kind == "absent":
        for field in (act, "layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "max_window_layers", "sliding_window"):
            changed.pop(field, None)
    if kind == "null":
        for field in ("num_key_value_heads", "n_inner", "head_dim"):
            if field in changed and family not in ("mistral", "qwen3"):
                changed[field] = None
    if kind == "context":
        changed.pop("max_position_embeddings", None)
    return kind, changed


def precision(fields):
    """f64, but for the switch whose code insists on f32."""
    return torch.float32 if fields.get("reorder_and_upcast_attn") else torch.float64


def broadcasts(config):
    """Are there more or fewer divisors than rotated pairs, so that torch spreads the one over the others?"""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return False
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = -(-int(width * rope.get("partial_rotary_factor", 1.0)) // 2)
    return len(rope["short_factor"]) != pairs


def reference(folder, fields):
    """The model that transformers makes of the folder, and the tensors it misses."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=precision(fields), attn_implementation="eager", output_loading_info=True
    )
    return model.eval(), info["missing_keys"]


def logits_of(model, sequences):
    with torch.no_grad():
        rows = [model(torch.tensor([sequence]), use_cache=False).logits[0, -1] for sequence in sequences]
    return [[round(value, 6) for value in row.tolist()] for row in rows]


def gradient_of(model, sequence):
    """The gradient of the last position's logit of token 1 minus token 2 to every position's embedding."""
    embedded = model.get_input_embeddings()(torch.tensor([sequence])).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits[0, -1]
    (logits[1] - logits[2]).backward()
    return [round(value, 6) for value in embedded.grad.flatten().tolist()]


def write(seed, out):
    draw, generator = Draw(seed), torch.Generator().manual_seed(seed)
    family = FAMILIES[seed % len(FAMILIES)]
    folder = out / f"{seed:03}-{family}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    fields = fields_of(draw, family)
    texts = write_tokenizer(draw, family, folder)
    vocabulary = draw.choice([25, 26, 31])
    fields |= {"model_type": family, "vocab_size": vocabulary, "tie_word_embeddings": draw.pick(False, True)}
    ids = {"bos_token_id": draw.pick(0, 1, 3, 50256, None), "eos_token_id": draw.pick(2, [2, 5], 50256, None)}
    fields |= {name: value for name, value in ids.items() if draw.random() < 0.8}
    generation = draw.pick(None, {"bos_token_id": 1, "eos_token_id": [3, 4]}, {"eos_token_id": 3})
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    dtype = draw.pick(torch.float16, torch.bfloat16, torch.float16, torch.float32, torch.float64)
    spoiled, changed = spoil(draw, family, fields)
    config_path = folder / "config.json"
    sequences = [[draw.randrange(vocabulary) for _ in range(length)] for length in (4, 9, 14)]
    expected = {"drawn": None, "sequences": sequences}

    def refuse(reason):
        expected["refused"] = reason

    try:
        config_path.write_text(json.dumps(fields))
        config = AutoConfig.from_pretrained(folder)
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config).to(precision(fields)).eval()
        logits_of(model, sequences)
    except Exception as error:
        # Weights of a model that can be built: the refusal must be about the configuration.
        refuse(f"{type(error).__name__}: {error}")
        sound = {name: value for name, value in fields.items() if not name.startswith(("rope", "rotary", "partial"))}
        sound = {name: value for name, value in sound.items() if "window" not in name and name != "layer_types"}
        config_path.write_text(json.dumps(sound))
        config = AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_config(config).double().eval()
    randomise(model, generator, dtype)
    tensors = stored_tensors(draw, model, dtype, config, generator)
    config_path.write_text(json.dumps(changed, indent=1))
    if spoiled == "quantised":
        refuse("quantised")
    if "refused" not in expected and broadcasts(config):
        refuse("divisors for another number of pairs")
    if "refused" not in expected:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        try:
            model, missing = reference(folder, fields)
            if missing:
                refuse(f"missing {sorted(missing)[:2]}")
        except Exception as error:
            refuse(f"{type(error).__name__}: {error}")
        (folder / "model.safetensors").unlink()
    save_tensors(draw, renamed(draw, tensors, f"{model.base_model_prefix}."), folder)
    if "refused" in expected:
        expected["refused"] = expected["refused"].replace(str(out), "")[:200]
    else:
        expected["logits"] = logits_of(model, sequences)
        expected["gradient"] = gradient_of(model, sequences[1])
        tokenizer = AutoTokenizer.from_pretrained(folder)
        expected["texts"] = texts
        expected["ids"] = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        now = json.loads(config_path.read_text())
        expected["bos"] = bos_of(draw, family, now, tokenizer, folder, vocabulary)
        expected["ends"] = ends_of(folder, now, tokenizer, vocabulary)
    expected["drawn"] = draw.choices_made
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    return expected.get("refused")


def ends_of(folder, fields, tokenizer, vocabulary):
    """generation_config's ids, else config's, else the tokenizer's; those that exist."""
    known = set(tokenizer.get_vocab().values())
    generation = folder / "generation_config.json"
    for said in (json.loads(generation.read_text()) if generation.exists() else {}, fields):
        ids = said.get("eos_token_id")
        ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
        existing = [id_ for id_ in ids if 0 <= id_ < vocabulary and id_ in known]
        if existing:
            return existing
    if tokenizer.eos_token is not None:
        return [tokenizer.eos_token_id] if tokenizer.eos_token_id < vocabulary else []
    named = (tokenizer.get_vocab().get(name) for name in ("<|endoftext|>", "<|end_of_text|>", "</s>"))
    return [next(id_ for id_ in named if id_ is not None)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FIXTURES)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    library_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    seeds = KEPT if arguments.keep else range(arguments.first, arguments.first + arguments.count)
    for seed in seeds:
        refused = write(seed, arguments.out)
        print(seed, refused or "computed", flush=True)


if __name__ == "__main__":
    main()

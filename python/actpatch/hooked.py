"""A HookedTransformer written to a folder as transformers would have saved the model, and compared with what is read from there; and
what its users look for."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple

import numpy as np

from .errors import ModelError

if TYPE_CHECKING:
    from .model import Model

__all__ = ["HERE", "check", "save"]

#: What is called otherwise here.
HERE = {
    "add_hook": "model.run(prompts, [Replace(name, value), ...])",
    "forward": "model.run(prompts)",
    "from_pretrained": "actpatch.Model(name)",
    "from_pretrained_no_processing": 'actpatch.Model(name, weight_processing="none")',
    "hook_dict": "model.hook_names",
    "hooks": "model.run(prompts, [Replace(name, value), ...])",
    "run_with_hooks": "model.run(prompts, [Replace(name, value), ...])",
    "to_single_str_token": "model.to_string(token)",
    "tokenizer": "model.to_tokens, to_str_tokens, to_string and to_single_token",
}

#: Settings of TransformerLens that are read here. Any other but those of `_FREE` must have its default: what is not known
#: here is an error and never a wrong number.
_READ = """
    n_layers d_model d_head n_heads n_key_value_heads d_mlp n_ctx d_vocab d_vocab_out act_fn eps normalization_type final_rms
    gated_mlp parallel_attn_mlp use_qk_norm use_attn_scale attn_scale scale_attn_by_inverse_layer_idx use_local_attn window_size
    attn_types positional_embedding_type rotary_dim rotary_base rotary_scaling_factor use_NTK_by_parts_rope NTK_by_parts_factor
    NTK_by_parts_low_freq_factor NTK_by_parts_high_freq_factor NTK_original_ctx_len default_prepend_bos
""".split()

#: Settings that change nothing of what is computed.
_FREE = """
    device n_devices dtype seed model_name original_architecture tokenizer_name tokenizer_prepends_bos from_checkpoint
    checkpoint_index checkpoint_label_type checkpoint_value init_mode initializer_range init_weights n_params use_attn_result
    use_split_qkv_input use_hook_mlp_in use_attn_in use_hook_tokens ungroup_grouped_query_attention trust_remote_code
    uses_rms_norm layer_norm_folding train_seq_length tie_word_embeddings
""".split()

_ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu")

#: What TransformerLens keeps beside the weights.
_BUFFERS = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos")


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes ``config.json``, ``model.safetensors`` and the tokenizer's files.

    Raises:
        ModelError: a setting that is not known, or weights that transformers' model of the family has no place for.
    """
    from safetensors.torch import save_file

    cfg = model.cfg
    family = _family(cfg)
    weights = _Weights(model.state_dict())
    config, tensors = _FAMILIES[family](cfg, weights)
    weights.refuse_others(family)
    settings = {
        "model_type": family,
        "vocab_size": cfg.d_vocab,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    # Tied weights are one tensor, which the format refuses to write twice.
    separate = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(separate, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def check(theirs: Any, ours: Model) -> None:
    """Compares the two models' logits, centred, of one sequence.

    Raises:
        ModelError: they differ by more than the rounding of their number formats.
    """
    import torch

    cfg = theirs.cfg
    tokens = [7919 * place % cfg.d_vocab for place in range(min(cfg.n_ctx, 32))]
    with torch.no_grad():
        logits = theirs(torch.tensor([tokens], device=cfg.device))
    pair = (logits[0].double().cpu().numpy(), ours.run([tokens])[0].astype(np.float64))
    expected, found = (values - values.mean(axis=1, keepdims=True) for values in pair)
    exact = cfg.dtype in (torch.float32, torch.float64) and ours.options["dtype"] == "f32"
    deviation = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not deviation < (1e-3 if exact else 5e-2):
        raise ModelError(
            f"HookedTransformer {cfg.model_name}: expected its own logits, found others (off by {deviation:.1e} of the largest): "
            "it has hooks, or does something that actpatch does not know"
        )


def _family(cfg: Any) -> str:
    """Which ``model_type`` is built like this model."""

    def refused(field: str, expected: str) -> ModelError:
        return ModelError(f"HookedTransformer: cfg.{field}: expected {expected}, found {getattr(cfg, field)!r}")

    for field in dataclasses.fields(cfg):
        if field.name not in _READ and field.name not in _FREE and getattr(cfg, field.name) != field.default:
            raise refused(field.name, repr(field.default))
    if cfg.act_fn not in _ACTIVATIONS:
        raise refused("act_fn", "one of " + ", ".join(_ACTIVATIONS))
    if not cfg.use_attn_scale or abs(cfg.attn_scale - math.sqrt(cfg.d_head)) > 1e-6:
        raise refused("attn_scale", "the root of d_head")
    if cfg.d_vocab_out != cfg.d_vocab:
        raise refused("d_vocab_out", str(cfg.d_vocab))
    layer_norms = cfg.normalization_type in ("LN", "LNPre") and not cfg.final_rms and not cfg.gated_mlp
    root_mean_squares = cfg.normalization_type in ("RMS", "RMSPre") and cfg.gated_mlp and not cfg.parallel_attn_mlp
    rotary = cfg.positional_embedding_type == "rotary"
    if layer_norms and cfg.positional_embedding_type == "standard" and not cfg.parallel_attn_mlp:
        family = "gpt2"
    elif layer_norms and rotary:
        family = "gpt_neox"
    elif root_mean_squares and rotary and cfg.rotary_dim == cfg.d_head:
        family = "qwen3" if cfg.use_qk_norm else "mistral" if cfg.use_local_attn else "llama"
    else:
        raise ModelError("HookedTransformer: expected a model that is built like GPT-2, GPT-NeoX, Llama, Mistral, Qwen2 or Qwen3")
    if family != "gpt2" and cfg.scale_attn_by_inverse_layer_idx:
        raise refused("scale_attn_by_inverse_layer_idx", "False")
    if family != "mistral" and cfg.use_local_attn:
        raise refused("use_local_attn", "False")
    if family != "qwen3" and cfg.use_qk_norm:
        raise refused("use_qk_norm", "False")
    scaled = cfg.rotary_scaling_factor != 1 or cfg.use_NTK_by_parts_rope
    if family in ("gpt2", "gpt_neox") and (scaled or cfg.n_key_value_heads not in (None, cfg.n_heads)):
        raise ModelError(f"HookedTransformer: expected no scaled rotation and no shared keys in a model like {family}")
    return family


class _Weights:
    """The weights that have no place yet."""

    def __init__(self, state: Dict[str, Any]) -> None:
        self._left = {name: value.detach().cpu() for name, value in state.items() if not name.endswith(_BUFFERS)}

    def take(self, name: str) -> Any:
        """A weight, by its name; keys and values that heads share have an underscore in front."""
        place, _, last = name.rpartition(".")
        shared = f"{place}._{last}"
        return self._left.pop(shared if shared in self._left else name)

    def norm(self, name: str, like: Any) -> Any:
        """Gain of a norm, as wide as a row of `like`; ones where it was folded into what reads from the norm."""
        return self._left.pop(f"{name}.w", like.new_ones(like.shape[-1]))

    def bias(self, name: str, like: Any) -> Any:
        """Bias of a norm; zeros where it was folded."""
        return self._left.pop(f"{name}.b", like.new_zeros(like.shape[-1]))

    def head(self, like: Any) -> Tuple[Any, Any, Any]:
        """The unembedding, ``(d_vocab, d_model)``, and gain and bias of the layer norm in front of it.

        A norm that was folded has left its bias in that of the unembedding, for which transformers has no place. What a layer
        norm gives adds up to zero: a number added to all of a token's weights acts through the norm's own bias alone.
        """
        folded = "ln_final.w" not in self._left
        gain, bias = self.norm("ln_final", like), self.bias("ln_final", like)
        unembedding = self.take("unembed.W_U")
        if folded and bool(self._left["unembed.b_U"].any()):
            unembedding = unembedding.float() if unembedding.dtype.itemsize < 4 else unembedding
            unembedding = unembedding + (self.take("unembed.b_U") - unembedding.mean(0))
            bias = bias + 1 / len(bias)
        return unembedding.T, gain, bias

    def has_biases(self, place: str) -> bool:
        """Is a bias of some block's attention or MLP anything but zero?"""
        names = (name for name in self._left if f".{place}.b_" in name or f".{place}._b_" in name)
        return any(bool(self._left[name].any()) for name in names)

    def refuse_others(self, family: str) -> None:
        """Zeros have no effect; anything else that is left would be lost."""
        for name, value in self._left.items():
            if bool(value.any()):
                raise ModelError(
                    f"HookedTransformer: {name}: expected zeros, since a {family} of transformers has no such weights, found others"
                )


def _across(weight: Any) -> Any:
    """``(head, d_model, d_head)`` as ``(d_model, head * d_head)``."""
    return weight.permute(1, 0, 2).reshape(weight.shape[1], -1)


def _gpt2(cfg: Any, weights: _Weights) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    embedding = weights.take("embed.W_E")
    unembedding, gain, bias = weights.head(embedding)
    tensors = {
        "transformer.wte.weight": embedding,
        "transformer.wpe.weight": weights.take("pos_embed.W_pos"),
        "transformer.ln_f.weight": gain,
        "transformer.ln_f.bias": bias,
        "lm_head.weight": unembedding,
    }
    for layer in range(cfg.n_layers):
        ours, theirs = f"transformer.h.{layer}", f"blocks.{layer}"
        parts = [_across(weights.take(f"{theirs}.attn.W_{part}")) for part in "QKV"]
        biases = [weights.take(f"{theirs}.attn.b_{part}").reshape(-1) for part in "QKV"]
        tensors[f"{ours}.attn.c_attn.weight"] = _joined(parts, 1)
        tensors[f"{ours}.attn.c_attn.bias"] = _joined(biases, 0)
        tensors[f"{ours}.attn.c_proj.weight"] = weights.take(f"{theirs}.attn.W_O").flatten(0, 1)
        tensors[f"{ours}.attn.c_proj.bias"] = weights.take(f"{theirs}.attn.b_O")
        for norm, name in (("ln_1", "ln1"), ("ln_2", "ln2")):
            tensors[f"{ours}.{norm}.weight"] = weights.norm(f"{theirs}.{name}", embedding)
            tensors[f"{ours}.{norm}.bias"] = weights.bias(f"{theirs}.{name}", embedding)
        for product, name in (("c_fc", "in"), ("c_proj", "out")):
            tensors[f"{ours}.mlp.{product}.weight"] = weights.take(f"{theirs}.mlp.W_{name}")
            tensors[f"{ours}.mlp.{product}.bias"] = weights.take(f"{theirs}.mlp.b_{name}")
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": cfg.n_layers,
        "n_embd": cfg.d_model,
        "n_head": cfg.n_heads,
        "n_inner": cfg.d_mlp,
        "n_positions": cfg.n_ctx,
        "layer_norm_epsilon": cfg.eps,
        "activation_function": cfg.act_fn,
        "scale_attn_by_inverse_layer_idx": cfg.scale_attn_by_inverse_layer_idx,
    }
    return config, tensors


def _gpt_neox(cfg: Any, weights: _Weights) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    embedding = weights.take("embed.W_E")
    unembedding, gain, bias = weights.head(embedding)
    tensors = {
        "gpt_neox.embed_in.weight": embedding,
        "gpt_neox.final_layer_norm.weight": gain,
        "gpt_neox.final_layer_norm.bias": bias,
        "embed_out.weight": unembedding,
    }
    for layer in range(cfg.n_layers):
        ours, theirs = f"gpt_neox.layers.{layer}", f"blocks.{layer}"
        # Head by head its query, key and value.
        parts = [weights.take(f"{theirs}.attn.W_{part}").transpose(1, 2) for part in "QKV"]
        biases = [weights.take(f"{theirs}.attn.b_{part}") for part in "QKV"]
        attention = f"{ours}.attention.query_key_value"
        tensors[f"{attention}.weight"] = _joined(parts, 1).flatten(0, 1)
        tensors[f"{attention}.bias"] = _joined(biases, 1).reshape(-1)
        tensors[f"{ours}.attention.dense.weight"] = weights.take(f"{theirs}.attn.W_O").flatten(0, 1).T
        tensors[f"{ours}.attention.dense.bias"] = weights.take(f"{theirs}.attn.b_O")
        for norm, name in (("input_layernorm", "ln1"), ("post_attention_layernorm", "ln2")):
            tensors[f"{ours}.{norm}.weight"] = weights.norm(f"{theirs}.{name}", embedding)
            tensors[f"{ours}.{norm}.bias"] = weights.bias(f"{theirs}.{name}", embedding)
        for product, name in (("dense_h_to_4h", "in"), ("dense_4h_to_h", "out")):
            tensors[f"{ours}.mlp.{product}.weight"] = weights.take(f"{theirs}.mlp.W_{name}").T
            tensors[f"{ours}.mlp.{product}.bias"] = weights.take(f"{theirs}.mlp.b_{name}")
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        **_shape(cfg),
        "layer_norm_eps": cfg.eps,
        "rotary_pct": cfg.rotary_dim / cfg.d_head,
        "rotary_emb_base": cfg.rotary_base,
        "use_parallel_residual": cfg.parallel_attn_mlp,
    }
    return config, tensors


def _llama(cfg: Any, weights: _Weights) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    embedding = weights.take("embed.W_E")
    tensors = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": weights.norm("ln_final", embedding),
        "lm_head.weight": weights.take("unembed.W_U").T,
    }
    # Mistral has no place for biases, Qwen3 none for those of the MLP.
    attention_bias = not cfg.use_local_attn and weights.has_biases("attn")
    mlp_bias = not (cfg.use_local_attn or cfg.use_qk_norm) and weights.has_biases("mlp")
    for layer in range(cfg.n_layers):
        ours, theirs = f"model.layers.{layer}", f"blocks.{layer}"
        for part in "QKV":
            weight = weights.take(f"{theirs}.attn.W_{part}")
            product = f"{ours}.self_attn.{part.lower()}_proj"
            tensors[f"{product}.weight"] = _across(weight).T
            if attention_bias:
                tensors[f"{product}.bias"] = weights.take(f"{theirs}.attn.b_{part}").reshape(-1)
        tensors[f"{ours}.self_attn.o_proj.weight"] = weights.take(f"{theirs}.attn.W_O").flatten(0, 1).T
        if attention_bias:
            tensors[f"{ours}.self_attn.o_proj.bias"] = weights.take(f"{theirs}.attn.b_O")
        if cfg.use_qk_norm:
            for norm in ("q_norm", "k_norm"):
                tensors[f"{ours}.self_attn.{norm}.weight"] = weights.take(f"{theirs}.attn.{norm}.w")
        for norm, name in (("input_layernorm", "ln1"), ("post_attention_layernorm", "ln2")):
            tensors[f"{ours}.{norm}.weight"] = weights.norm(f"{theirs}.{name}", embedding)
        for product, name in (("gate_proj", "gate"), ("up_proj", "in"), ("down_proj", "out")):
            weight = weights.take(f"{theirs}.mlp.W_{name}").T
            tensors[f"{ours}.mlp.{product}.weight"] = weight
            if mlp_bias:
                zeros = weight.new_zeros(weight.shape[0])
                tensors[f"{ours}.mlp.{product}.bias"] = zeros if name == "gate" else weights.take(f"{theirs}.mlp.b_{name}")
    config = {
        "architectures": ["LlamaForCausalLM"],
        **_shape(cfg),
        "num_key_value_heads": cfg.n_key_value_heads or cfg.n_heads,
        "head_dim": cfg.d_head,
        "rms_norm_eps": cfg.eps,
        "rope_theta": cfg.rotary_base,
        "rope_scaling": _scaling(cfg),
        "attention_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "sliding_window": cfg.window_size if cfg.use_local_attn else None,
    }
    if cfg.use_local_attn:
        kinds = {"local": "sliding_attention", "global": "full_attention"}
        config["layer_types"] = [kinds[kind] for kind in cfg.attn_types]
    return config, tensors


def _shape(cfg: Any) -> Dict[str, Any]:
    return {
        "num_hidden_layers": cfg.n_layers,
        "hidden_size": cfg.d_model,
        "num_attention_heads": cfg.n_heads,
        "intermediate_size": cfg.d_mlp,
        "max_position_embeddings": cfg.n_ctx,
        "hidden_act": cfg.act_fn,
    }


def _scaling(cfg: Any) -> Any:
    """How the rotation of longer contexts is scaled."""
    if cfg.use_NTK_by_parts_rope:
        return {
            "rope_type": "llama3",
            "factor": cfg.NTK_by_parts_factor,
            "low_freq_factor": cfg.NTK_by_parts_low_freq_factor,
            "high_freq_factor": cfg.NTK_by_parts_high_freq_factor,
            "original_max_position_embeddings": cfg.NTK_original_ctx_len,
        }
    factor = cfg.rotary_scaling_factor
    return {"rope_type": "linear", "factor": factor} if factor != 1 else None


def _joined(parts: Any, axis: int) -> Any:
    import torch

    return torch.cat(parts, dim=axis)


_FAMILIES: Dict[str, Callable[[Any, _Weights], Tuple[Dict[str, Any], Dict[str, Any]]]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _llama,
    "qwen3": _llama,
}

"""Tiny random models for the engine's fixtures, as Hugging Face and as TransformerLens models.

Widths are no multiples of what kernels like (48, 72, 12, 24, 100): tails must be right. The weights are large enough
for activations of order 1, and gains and biases are far from 1 and 0, so that a forgotten one shows. Weights are
rounded to f16, in which they are stored; all references compute on the rounded values.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gpt2_weights, convert_llama_weights, convert_mistral_weights, convert_neox_weights, convert_qwen2_weights,
    convert_qwen3_weights,
)  # fmt: skip
from transformers import (
    AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config,
)  # fmt: skip

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
# Unlike any width: TransformerLens tells the axes of an unembedding apart by their size.
VOCABULARY = 50
CONTEXT = 24


def gpt2_config(n_layer, n_embd, n_head):
    return GPT2Config(
        n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=CONTEXT, vocab_size=VOCABULARY,
        bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip


def llama_config(kind, width, heads, mlp, **others):
    return kind(
        num_hidden_layers=2, hidden_size=width, num_attention_heads=heads, num_key_value_heads=2,
        intermediate_size=mlp, max_position_embeddings=CONTEXT, vocab_size=VOCABULARY, hidden_act="silu",
        bos_token_id=0, eos_token_id=0, pad_token_id=None, **others,
    )  # fmt: skip


def rope(theta, **scaling):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | scaling}


# Periods from 6 to 800 positions: with 16 original positions some pairs stay, some are stretched, some lie between.
LLAMA3_SCALING = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR_SCALING = {"rope_type": "linear", "factor": 2.0}
# Prompts are longer, and from their last position (8) the patched one (4) is the last that is seen.
WINDOW = 5


def neox_config(layers, width, heads, mlp, parallel):
    return GPTNeoXConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, intermediate_size=mlp,
        max_position_embeddings=CONTEXT, vocab_size=VOCABULARY, use_parallel_residual=parallel, hidden_act="gelu",
        rotary_pct=0.25, rotary_emb_base=10000, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip


# neox-parallel's heads are 24 wide, not 20: a quarter of them, the rotated part, has to be even.
CONFIGS = {
    "gpt2-tiny": lambda: gpt2_config(n_layer=3, n_embd=48, n_head=4),
    "neox-parallel": lambda: neox_config(layers=3, width=72, heads=3, mlp=100, parallel=True),
    "neox-sequential": lambda: neox_config(layers=2, width=160, heads=2, mlp=96, parallel=False),
    "llama-tiny": lambda: llama_config(
        LlamaConfig, 40, 4, 44, rms_norm_eps=1e-5, tie_word_embeddings=False, **rope(100.0, **LLAMA3_SCALING)
    ),
    "mistral-tiny": lambda: llama_config(
        MistralConfig, 40, 4, 44, rms_norm_eps=1e-5, tie_word_embeddings=False, sliding_window=WINDOW, **rope(10000.0)
    ),
    "qwen2-tiny": lambda: llama_config(
        Qwen2Config, 40, 4, 44, rms_norm_eps=1e-6, tie_word_embeddings=True, **rope(10000.0, **LINEAR_SCALING)
    ),
    "qwen3-tiny": lambda: llama_config(
        Qwen3Config, 36, 4, 44, rms_norm_eps=1e-6, tie_word_embeddings=True, head_dim=14, **rope(10000.0)
    ),
    # StableLM alpha is a GPT-NeoX: parallel residual, a quarter of every head rotated, a head of its own.
    "stablelm-tiny": lambda: neox_config(layers=2, width=32, heads=2, mlp=44, parallel=True),
}
CONVERTERS = {
    "gpt2": convert_gpt2_weights, "gpt_neox": convert_neox_weights, "llama": convert_llama_weights,
    "mistral": convert_mistral_weights, "qwen2": convert_qwen2_weights, "qwen3": convert_qwen3_weights,
}  # fmt: skip


def hugging_face(name, seed):
    """The model in f32 with eager attention and random weights, rounded to f16."""
    config = CONFIGS[name]()
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                (shift(parameter_name, parameter) + scale(parameter_name, parameter) * values).half().float()
            )
    return model.requires_grad_(False)


def committed(names):
    """Seed, name, Hugging Face model in f32 and TransformerLens model in f64 (processed) of the models under
    tests/fixtures/engine: of those that the command line names, if it names any."""
    torch.set_num_threads(1)
    for seed, name in enumerate(names):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        hf_model = AutoModelForCausalLM.from_pretrained(
            FIXTURES / "engine" / name, dtype=torch.float32, attn_implementation="eager"
        )
        yield seed, name, hf_model, transformer_lens(name, hf_model, True)


def is_norm(name):
    return "ln_" in name or "layernorm" in name or "layer_norm" in name or "norm.weight" in name


def shift(name, parameter):
    return 1.0 if is_norm(name) and name.endswith("weight") else 0.0


def scale(name, parameter):
    """Standard deviation: matrices keep the order of their input's size, queries and keys give uneven attention."""
    if parameter.dim() == 1:
        return 0.3
    if "wte" in name or "embed_in" in name or "embed_tokens" in name:
        return 0.8 if "embed_in" in name else 0.4
    if "wpe" in name:
        return 0.4
    fan_in = parameter.shape[0] if "c_" in name else parameter.shape[1]
    uneven = ("c_attn", "query_key_value", "q_proj", "k_proj")
    return (1.5 if any(part in name for part in uneven) else 1.0) / fan_in**0.5


def transformer_lens(name, hf_model, processed):
    """The same model in f64; `processed`: folded norms and value biases, centred writing weights and unembedding."""
    config = hf_model.config
    shared = dict(n_ctx=CONTEXT, d_vocab=VOCABULARY, dtype=torch.float64, normalization_type="LN", seed=0)
    shared |= dict(use_attn_result=True, device="cpu", default_prepend_bos=False)
    if config.model_type in ("llama", "mistral", "qwen2", "qwen3"):
        own = llama_settings(config)
    elif name.startswith("gpt2"):
        own = dict(
            n_layers=config.n_layer, d_model=config.n_embd, n_heads=config.n_head,
            d_head=config.n_embd // config.n_head, d_mlp=4 * config.n_embd, act_fn="gelu_new",
            eps=config.layer_norm_epsilon,
        )  # fmt: skip
    else:
        d_head = config.hidden_size // config.num_attention_heads
        own = dict(
            n_layers=config.num_hidden_layers, d_model=config.hidden_size, n_heads=config.num_attention_heads,
            d_head=d_head, d_mlp=config.intermediate_size, act_fn="gelu", eps=config.layer_norm_eps,
            positional_embedding_type="rotary", rotary_dim=d_head // 4, rotary_adjacent_pairs=False,
            parallel_attn_mlp=config.use_parallel_residual,
        )  # fmt: skip
    lens_config = HookedTransformerConfig(**(shared | own))
    converted = CONVERTERS[config.model_type](hf_model, lens_config)
    weights = {key: value.detach().double().clone() for key, value in converted.items()}
    lens = HookedTransformer(lens_config)
    lens.load_and_process_state_dict(
        weights,
        fold_ln=processed,
        center_writing_weights=processed,
        center_unembed=processed,
        fold_value_biases=processed,
    )
    return lens.eval().requires_grad_(False)


def llama_settings(config):
    """TransformerLens' settings for Llama and its relatives."""
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary = config.rope_parameters
    settings = dict(
        n_layers=config.num_hidden_layers, d_model=config.hidden_size, n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads, d_head=d_head, d_mlp=config.intermediate_size, act_fn="silu",
        eps=config.rms_norm_eps, normalization_type="RMS", final_rms=True, gated_mlp=True,
        positional_embedding_type="rotary", rotary_dim=d_head, rotary_adjacent_pairs=False,
        rotary_base=rotary["rope_theta"], use_qk_norm=config.model_type == "qwen3",
    )  # fmt: skip
    if config.model_type == "mistral":
        local = ["local"] * config.num_hidden_layers
        settings |= dict(window_size=config.sliding_window, attn_types=local, use_local_attn=True)
    if rotary["rope_type"] == "linear":
        settings |= dict(rotary_scaling_factor=rotary["factor"])
    if rotary["rope_type"] == "llama3":
        settings |= dict(
            use_NTK_by_parts_rope=True, NTK_by_parts_factor=rotary["factor"],
            NTK_by_parts_low_freq_factor=rotary["low_freq_factor"],
            NTK_by_parts_high_freq_factor=rotary["high_freq_factor"],
            NTK_original_ctx_len=rotary["original_max_position_embeddings"],
        )  # fmt: skip
    return settings


def save(model, name, folder):
    """config.json, model.safetensors (f16) and a tokenizer that knows the words w0, w1, …"""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string()) | {"dtype": "float16"}
    config["architectures"] = [type(model).__name__]
    if not name.startswith("gpt2"):  # As in the files on the Hub, which are older than `rope_parameters`.
        rotary = config.pop("rope_parameters", None)
        if model.config.model_type == "gpt_neox":
            config |= {"rotary_pct": 0.25, "rotary_emb_base": 10000}
        else:
            config["rope_theta"] = rotary.pop("rope_theta")
            config["rope_scaling"] = rotary if rotary["rope_type"] != "default" else None
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tied = {"lm_head.weight"} if name.startswith("gpt2") or config.get("tie_word_embeddings") else set()
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items() if key not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = {"<|endoftext|>": 0} | {f"w{index}": index for index in range(1, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)

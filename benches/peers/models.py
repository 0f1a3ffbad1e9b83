"""Random models of published shapes as folders that every side reads, and the weights as TransformerLens processes them."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights, convert_neox_weights
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

TOKENIZER = Path(__file__).parents[2] / "data/models/demo/tokenizer.json"
PYTHIA = dict(vocab_size=50304, max_position_embeddings=2048, rotary_pct=0.25, use_parallel_residual=True)
SHAPES = {
    "gpt2-small": GPT2Config(),
    "pythia-160m": GPTNeoXConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, **PYTHIA
    ),
    "pythia-1.4b": GPTNeoXConfig(
        hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192, **PYTHIA
    ),
    "smollm2-135m": LlamaConfig(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536,
        vocab_size=49152, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    ),
}


def folder_of(shape, root):
    """Makes the folder of a shape unless it is there: checkpoint, tokenizer, TransformerLens' configuration and its
    processed weights (`processed.safetensors`, for the hand-written model)."""
    folder = Path(root) / shape
    if (folder / "processed.safetensors").exists():
        return folder
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[shape]).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.02)
    model.save_pretrained(folder)
    del model
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    lens = transformer_lens(folder)
    # The keys and values of grouped heads begin with an underscore.
    named = ((name.replace("._", "."), value) for name, value in lens.state_dict().items())
    weights = {name: value.contiguous() for name, value in named if name.split(".")[-1][:2] in ("W_", "b_")}
    (folder / "lens.json").write_text(json.dumps({
        "n_layers": lens.cfg.n_layers, "d_model": lens.cfg.d_model, "eps": lens.cfg.eps,
        "rotary_dim": lens.cfg.rotary_dim, "rotary_base": lens.cfg.rotary_base, "parallel": lens.cfg.parallel_attn_mlp,
        "act_fn": lens.cfg.act_fn, "rms": lens.cfg.normalization_type.startswith("RMS"),
    }))  # fmt: skip
    save_file(weights, folder / "processed.safetensors")
    return folder


def transformer_lens(folder, device="cpu"):
    """TransformerLens' model of a checkpoint, with its default processing."""
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = hf_model.config
    shared = dict(d_vocab=config.vocab_size, device=device, default_prepend_bos=False)
    if config.model_type == "gpt2":
        convert = convert_gpt2_weights
        own = dict(
            n_layers=config.n_layer, d_model=config.n_embd, n_heads=config.n_head, d_head=config.n_embd // config.n_head,
            d_mlp=4 * config.n_embd, n_ctx=config.n_positions, act_fn="gelu_new", eps=config.layer_norm_epsilon,
            normalization_type="LN",
        )  # fmt: skip
    else:
        d_head = config.hidden_size // config.num_attention_heads
        own = dict(
            n_layers=config.num_hidden_layers, d_model=config.hidden_size, n_heads=config.num_attention_heads,
            d_head=d_head, d_mlp=config.intermediate_size, n_ctx=config.max_position_embeddings,
            positional_embedding_type="rotary", rotary_adjacent_pairs=False,
        )  # fmt: skip
        if config.model_type == "llama":
            convert = convert_llama_weights
            own |= dict(
                act_fn="silu", eps=config.rms_norm_eps, normalization_type="RMS", gated_mlp=True, rotary_dim=d_head,
                rotary_base=config.rope_parameters["rope_theta"], n_key_value_heads=config.num_key_value_heads,
            )  # fmt: skip
        else:
            convert = convert_neox_weights
            own |= dict(
                act_fn="gelu", eps=config.layer_norm_eps, normalization_type="LN", rotary_dim=d_head // 4, parallel_attn_mlp=True,
            )  # fmt: skip
    lens_config = HookedTransformerConfig(**shared, **own)
    lens = HookedTransformer(lens_config)
    lens.load_and_process_state_dict(
        {name: value.detach() for name, value in convert(hf_model, lens_config).items()},
        fold_ln=True, center_writing_weights=lens_config.normalization_type == "LN", center_unembed=True, fold_value_biases=True,
    )  # fmt: skip
    return lens.eval().requires_grad_(False)


def processed(folder):
    """(configuration, weights) for the hand-written model."""
    return json.loads((folder / "lens.json").read_text()), load_file(folder / "processed.safetensors")

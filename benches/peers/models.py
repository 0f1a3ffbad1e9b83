"""Random models of published shapes as folders that every side reads, and the weights as TransformerLens processes them."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_neox_weights
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig

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
    weights = {name: value.contiguous() for name, value in lens.state_dict().items() if name.split(".")[-1][:2] in ("W_", "b_")}
    (folder / "lens.json").write_text(json.dumps({
        "n_layers": lens.cfg.n_layers, "d_model": lens.cfg.d_model, "n_heads": lens.cfg.n_heads, "eps": lens.cfg.eps,
        "rotary_dim": lens.cfg.rotary_dim, "parallel": lens.cfg.parallel_attn_mlp, "act_fn": lens.cfg.act_fn,
    }))  # fmt: skip
    save_file(weights, folder / "processed.safetensors")
    return folder


def transformer_lens(folder, device="cpu"):
    """TransformerLens' model of a checkpoint, with its default processing."""
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = hf_model.config
    shared = dict(d_vocab=config.vocab_size, normalization_type="LN", device=device, default_prepend_bos=False)
    if config.model_type == "gpt2":
        convert = convert_gpt2_weights
        own = dict(
            n_layers=config.n_layer, d_model=config.n_embd, n_heads=config.n_head, d_head=config.n_embd // config.n_head,
            d_mlp=4 * config.n_embd, n_ctx=config.n_positions, act_fn="gelu_new", eps=config.layer_norm_epsilon,
        )  # fmt: skip
    else:
        convert = convert_neox_weights
        d_head = config.hidden_size // config.num_attention_heads
        own = dict(
            n_layers=config.num_hidden_layers, d_model=config.hidden_size, n_heads=config.num_attention_heads,
            d_head=d_head, d_mlp=config.intermediate_size, n_ctx=config.max_position_embeddings, act_fn="gelu",
            eps=config.layer_norm_eps, positional_embedding_type="rotary", rotary_dim=d_head // 4,
            rotary_adjacent_pairs=False, parallel_attn_mlp=True,
        )  # fmt: skip
    lens_config = HookedTransformerConfig(**shared, **own)
    lens = HookedTransformer(lens_config)
    lens.load_and_process_state_dict(
        {name: value.detach() for name, value in convert(hf_model, lens_config).items()},
        fold_ln=True, center_writing_weights=True, center_unembed=True, fold_value_biases=True,
    )  # fmt: skip
    return lens.eval().requires_grad_(False)


def processed(folder):
    """(configuration, weights) for the hand-written model."""
    return json.loads((folder / "lens.json").read_text()), load_file(folder / "processed.safetensors")

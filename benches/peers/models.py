"""Random models of published shapes as folders that every side reads, and the weights as TransformerLens processes them;
or random weights alone, for a hand-written model beside actpatch's own random one (`random:SHAPE`)."""

import json
import shutil
from pathlib import Path

import torch

TOKENIZER = Path(__file__).parents[2] / "data/models/demo/tokenizer.json"
RANDOM = "random:"
PYTHIA = dict(d_vocab=50304, n_ctx=2048, rotary_share=0.25)
SHAPES = {
    "gpt2-small": dict(d_model=768, n_layers=12, n_heads=12, d_mlp=3072, d_vocab=50257, n_ctx=1024),
    "pythia-14m": dict(d_model=128, n_layers=6, n_heads=4, d_mlp=512, **PYTHIA),
    "pythia-160m": dict(d_model=768, n_layers=12, n_heads=12, d_mlp=3072, **PYTHIA),
    "pythia-1.4b": dict(d_model=2048, n_layers=24, n_heads=16, d_mlp=8192, **PYTHIA),
    "smollm2-135m": dict(d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_mlp=1536, d_vocab=49152, n_ctx=2048),
}
# Those that the hand-written model can draw weights for.
DRAWN = [RANDOM + shape for shape, sizes in SHAPES.items() if "n_kv_heads" not in sizes]


def published_config(shape: str):
    """The configuration as Hugging Face's transformers has it."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig

    sizes = SHAPES[shape]
    if "n_kv_heads" in sizes:
        return LlamaConfig(
            hidden_size=sizes["d_model"], num_hidden_layers=sizes["n_layers"], num_attention_heads=sizes["n_heads"],
            num_key_value_heads=sizes["n_kv_heads"], intermediate_size=sizes["d_mlp"], vocab_size=sizes["d_vocab"],
            max_position_embeddings=sizes["n_ctx"], rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        )  # fmt: skip
    if "rotary_share" not in sizes:
        return GPT2Config()
    return GPTNeoXConfig(
        hidden_size=sizes["d_model"], num_hidden_layers=sizes["n_layers"], num_attention_heads=sizes["n_heads"],
        intermediate_size=sizes["d_mlp"], vocab_size=sizes["d_vocab"], max_position_embeddings=sizes["n_ctx"],
        rotary_pct=sizes["rotary_share"], use_parallel_residual=True,
    )  # fmt: skip


def random_weights(shape: str, device: str) -> tuple[dict, dict]:
    """(configuration, weights) for the hand-written model, made on the device: nothing but speed is compared."""
    sizes = SHAPES[shape]
    d_model, heads, d_mlp = sizes["d_model"], sizes["n_heads"], sizes["d_mlp"]
    d_head, rotary = d_model // heads, "rotary_share" in sizes
    generator = torch.Generator(device).manual_seed(0)
    random = lambda *size: 0.02 * torch.randn(*size, generator=generator, device=device)
    weights = {"embed.W_E": random(sizes["d_vocab"], d_model)}
    weights |= {"unembed.W_U": random(d_model, sizes["d_vocab"]), "unembed.b_U": random(sizes["d_vocab"])}
    if not rotary:
        weights["pos_embed.W_pos"] = random(sizes["n_ctx"], d_model)
    for layer in range(sizes["n_layers"]):
        block = {f"attn.W_{name}": random(heads, d_model, d_head) for name in "QKV"}
        block |= {f"attn.b_{name}": random(heads, d_head) for name in "QKV"}
        block |= {"attn.W_O": random(heads, d_head, d_model), "attn.b_O": random(d_model)}
        block |= {"mlp.W_in": random(d_model, d_mlp), "mlp.b_in": random(d_mlp)}
        block |= {"mlp.W_out": random(d_mlp, d_model), "mlp.b_out": random(d_model)}
        weights |= {f"blocks.{layer}.{name}": weight for name, weight in block.items()}
    config = dict(
        n_layers=sizes["n_layers"], d_model=d_model, eps=1e-5, parallel=rotary, rms=False, rotary_base=10_000,
        rotary_dim=int(sizes["rotary_share"] * d_head) if rotary else None, act_fn="gelu" if rotary else "gelu_new",
    )  # fmt: skip
    return config, weights


def folder_of(shape, root):
    """Makes the folder of a shape unless it is there: checkpoint, tokenizer, TransformerLens' configuration and its
    processed weights (`processed.safetensors`, for the hand-written model)."""
    folder = Path(root) / shape
    if (folder / "processed.safetensors").exists():
        return folder
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(published_config(shape)).eval()
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
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import (
        convert_gpt2_weights,
        convert_llama_weights,
        convert_neox_weights,
    )
    from transformers import AutoModelForCausalLM

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


def processed(model: str, device: str) -> tuple[dict, dict]:
    """(configuration, weights) for the hand-written model, of a folder or of a random shape."""
    if model.startswith(RANDOM):
        return random_weights(model.removeprefix(RANDOM), device)
    from safetensors.torch import load_file

    return json.loads((Path(model) / "lens.json").read_text()), load_file(Path(model) / "processed.safetensors")

"""Tiny random models for the engine's fixtures, as Hugging Face and as TransformerLens models.

Widths are no multiples of what kernels like (48, 72, 12, 24, 100): tails must be right. The weights are large enough
for activations of order 1, and gains and biases are far from 1 and 0, so that a forgotten one shows. Weights are
rounded to f16, in which they are stored; all references compute on the rounded values.
"""

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_neox_weights
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

# Unlike any width: TransformerLens tells the axes of an unembedding apart by their size.
VOCABULARY = 50
CONTEXT = 24


def gpt2_config(n_layer, n_embd, n_head):
    return GPT2Config(
        n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=CONTEXT, vocab_size=VOCABULARY,
        bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip


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
}


def hugging_face(name, seed):
    """The model in f32 with eager attention and random weights, rounded to f16."""
    config = CONFIGS[name]()
    config._attn_implementation = "eager"
    model = (GPT2LMHeadModel if name.startswith("gpt2") else GPTNeoXForCausalLM)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(
                (shift(parameter_name, parameter) + scale(parameter_name, parameter) * values).half().float()
            )
    return model.requires_grad_(False)


def is_norm(name):
    return "ln_" in name or "layernorm" in name or "layer_norm" in name


def shift(name, parameter):
    return 1.0 if is_norm(name) and name.endswith("weight") else 0.0


def scale(name, parameter):
    """Standard deviation: matrices keep the order of their input's size, queries and keys give uneven attention."""
    if parameter.dim() == 1:
        return 0.3
    if "wte" in name or "embed_in" in name:
        return 0.4 if "wte" in name else 0.8
    if "wpe" in name:
        return 0.4
    fan_in = parameter.shape[0] if "c_" in name else parameter.shape[1]
    return (1.5 if "c_attn" in name or "query_key_value" in name else 1.0) / fan_in**0.5


def transformer_lens(name, hf_model, processed):
    """The same model in f64; `processed`: folded norms and value biases, centred writing weights and unembedding."""
    config = hf_model.config
    shared = dict(n_ctx=CONTEXT, d_vocab=VOCABULARY, dtype=torch.float64, normalization_type="LN", seed=0)
    shared |= dict(use_attn_result=True, device="cpu", default_prepend_bos=False)
    if name.startswith("gpt2"):
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
    lens_config = HookedTransformerConfig(**shared, **own)
    convert = convert_gpt2_weights if name.startswith("gpt2") else convert_neox_weights
    weights = {key: value.detach().double().clone() for key, value in convert(hf_model, lens_config).items()}
    lens = HookedTransformer(lens_config)
    lens.load_and_process_state_dict(
        weights,
        fold_ln=processed,
        center_writing_weights=processed,
        center_unembed=processed,
        fold_value_biases=processed,
    )
    return lens.eval().requires_grad_(False)


def save(model, name, folder):
    """config.json, model.safetensors (f16) and a tokenizer that knows the words w0, w1, …"""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string()) | {"dtype": "float16"}
    config["architectures"] = [type(model).__name__]
    if not name.startswith("gpt2"):  # As in the files on the Hub, which are older than `rope_parameters`.
        config.pop("rope_parameters", None)
        config |= {"rotary_pct": 0.25, "rotary_emb_base": 10000}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tied = {"lm_head.weight"} if name.startswith("gpt2") else set()
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items() if key not in tied}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    vocabulary = {"<|endoftext|>": 0} | {f"w{index}": index for index in range(1, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)

"""Writes tests/fixtures/models: three tiny random models in Hugging Face format, and their weights as TransformerLens
has them with and without processing.

    pip install -r tests/reference/requirements.txt
    python tests/reference/make_weight_fixtures.py

Each folder holds config.json, model.safetensors (bfloat16 for GPT-2, float16 for GPT-NeoX: the other two types that
are read), tokenizer.json, unprocessed.safetensors and processed.safetensors (TransformerLens' names and shapes). To
keep the files small, unprocessed has block 0 only and processed has block 1 only, besides what is outside the blocks.

Shapes are odd on purpose: 3 heads of 20, 6 rotary dimensions (30 %: a quarter of 20 would be an odd number, which the
library cannot rotate).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_neox_weights
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

FOLDER = Path(__file__).parent.parent / "fixtures" / "models"
HEADS, D_HEAD, D_MLP, LAYERS, CONTEXT = 3, 20, 21, 2, 48
D_MODEL = HEADS * D_HEAD
WORDS = [" good", " bad", " very", " was"]


def toy_tokenizer() -> Tokenizer:
    """Byte-level pairs over printable ASCII and the newline, with a few words; id 0 is <|endoftext|>."""
    alphabet = ["Ġ", "Ċ"] + [chr(code) for code in range(33, 127)]
    tokens, merges = ["<|endoftext|>"] + alphabet, []
    for word in WORDS:
        left = "Ġ"
        for letter in word[1:]:
            if left + letter not in tokens:
                tokens.append(left + letter)
                merges.append((left, letter))
            left += letter
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def randomise(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Values far enough from the usual start that every gain, bias and mean matters; rounded to `dtype`."""
    generator = torch.Generator().manual_seed(20231015)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            norm = "ln_" in name or "layernorm" in name or "layer_norm" in name
            if norm and name.endswith("weight"):
                values = 1 + 0.3 * values
            else:
                values = (0.2 if parameter.dim() > 1 else 0.3) * values
            parameter.copy_(values.to(dtype).float())


def lens_config(config, parallel: bool) -> HookedTransformerConfig:
    """TransformerLens' description of the same model."""
    neox = config.model_type == "gpt_neox"
    extra = {"positional_embedding_type": "standard"}
    if neox:
        extra = {
            "positional_embedding_type": "rotary",
            "rotary_dim": int(D_HEAD * 0.3),
            "rotary_adjacent_pairs": False,
            "parallel_attn_mlp": parallel,
        }
    return HookedTransformerConfig(
        n_layers=LAYERS, d_model=D_MODEL, n_ctx=CONTEXT, d_head=D_HEAD, n_heads=HEADS, d_mlp=D_MLP,
        d_vocab=config.vocab_size, act_fn="gelu" if neox else "gelu_new", normalization_type="LN", eps=1e-5,
        device="cpu", default_prepend_bos=False, **extra,
    )  # fmt: skip


def lens_weights(model, config, parallel: bool, processed: bool) -> dict[str, torch.Tensor]:
    """The state dictionary of TransformerLens' model, with all default processing or with none."""
    convert = convert_neox_weights if config.model_type == "gpt_neox" else convert_gpt2_weights
    lens = lens_config(config, parallel)
    target = HookedTransformer(lens)
    state = {name: value.detach().clone() for name, value in convert(model, lens).items()}
    target.load_and_process_state_dict(
        state, fold_ln=processed, center_writing_weights=processed, center_unembed=processed, fold_value_biases=processed
    )
    kept = "blocks.1." if processed else "blocks.0."
    return {
        name: value.detach().float().contiguous()
        for name, value in target.state_dict().items()
        if (name.startswith(kept) or not name.startswith("blocks."))
        and not name.endswith(("mask", "IGNORE", "rotary_sin", "rotary_cos"))
    }


def write(name: str, model, dtype: torch.dtype, tokenizer: Tokenizer, parallel: bool = False) -> None:
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    randomise(model, dtype)
    for file, processed in (("unprocessed", False), ("processed", True)):
        save_file(lens_weights(model, model.config, parallel, processed), folder / f"{file}.safetensors")
    model.to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def main() -> None:
    torch.set_num_threads(1)
    tokenizer = toy_tokenizer()
    d_vocab = tokenizer.get_vocab_size()
    gpt2 = GPT2Config(
        vocab_size=d_vocab, n_positions=CONTEXT, n_embd=D_MODEL, n_layer=LAYERS, n_head=HEADS, n_inner=D_MLP,
        bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    write("gpt2-tiny", GPT2LMHeadModel(gpt2), torch.bfloat16, tokenizer)
    for name, parallel in (("neox-tiny", True), ("neox-sequential", False)):
        neox = GPTNeoXConfig(
            vocab_size=d_vocab, max_position_embeddings=CONTEXT, hidden_size=D_MODEL, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, intermediate_size=D_MLP, rotary_pct=0.3, use_parallel_residual=parallel,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        write(name, GPTNeoXForCausalLM(neox), torch.float16, tokenizer, parallel)


if __name__ == "__main__":
    main()

"""Writes tests/fixtures/gguf: tiny GGUF files of every architecture, of every type of tensor and of every tokenizer that is
read, and what transformers makes of them.

    pip install -r tests/reference/requirements.txt
    python tests/reference/make_gguf_fixtures.py

`<name>.gguf` is written by the `gguf` package, `<name>.json` beside it holds what to expect: logits of every token in f64, from
the weights that transformers dequantises (`load_gguf_checkpoint`); transformers does not read GPT-NeoX's files, nor the wavelengths of
Llama 3.1, so there the weights and the configuration are those that the file was made from. Blocks of the K types, which the package
cannot make, are random ones. Token ids come from the tokenizer that a file was made from; for which transformers must read the same
from the file but where a comment says otherwise.
"""

import io
import json
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import gguf
import numpy as np
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Type
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config, Qwen3Config,
)  # fmt: skip
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2_PIECES

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "gguf"
CONTEXT = 24
K_TYPES = [Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]
OTHER_TYPES = [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]
LLAMA3_PIECES = QWEN2_PIECES.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

# What the tokenizers are trained on, and what they are tried on.
CORPUS = [
    "The film was great, and the acting was superb. I didn't like the ending; it's too long, they're right.",
    "In 1999 the movie cost 12345 dollars and 67 cents, or 3.14159 times as much as in 2026.",
    "We've seen this   before:   a    story with  many  spaces\tand\ttabs.\n\nAnd new lines.\r\nOf both kinds.",
    "Ein schöner Film über Größe und Gefühl, café, naïve, façade; 映画は素晴らしい。 Кино было отличным.",
    "x = foo(bar[0], 'baz'); if (x != 10) { return -1; } // comment #42 @home $5.00 50% <b>bold</b>",
] * 3
TEXTS = CORPUS[:5] + [
    "", " ", "  ", "\n", " \n \n", "a", " great", "The capital of France is", "I'LL, I'll, WE'RE, don't", "a  12", "a 12 345 6789",
    "0123456789", "½ ² ١٢ 一二三", "e\u0301 \u00e9 A\u030a", "🙂 emoji 👩‍👩‍👧 family", "...!!!???", "a\u00a0b\u2003c", "tab\tand\x0bvt",
    "<|endoftext|>after", "before<s>after</s>", "<|tool|>plain <|tool|>", "trailing   ", "   leading", "mixed   \n  \n lines  ",
    "\u2581underline", "\U0010ffff\u0001", "ſpecial Kelvin K", "ﬁne ligature", "e\u0301e\u0301",
]  # fmt: skip


def metadata(writer, architecture, config):
    """What llama.cpp's converter writes about a model."""
    heads = config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(4 * config.hidden_size if architecture == "gpt2" else config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_file_type(0)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    if architecture == "gptneox":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_rope_dimension_count(int(config.rope_parameters["partial_rotary_factor"] * config.hidden_size // heads))
        writer.add_parallel_residual(config.use_parallel_residual)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if architecture == "llama":
        writer.add_rope_dimension_count(width)
    scaling = config.rope_parameters
    if scaling["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down", "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output", "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}  # fmt: skip


def stored(name, values, architecture, config):
    """A tensor's name and values in the file."""
    stem, ending = name.rsplit(".", 1)
    block = ""
    for start in ("model.layers.", "transformer.h.", "gpt_neox.layers."):
        if stem.startswith(start):
            layer, stem = stem[len(start) :].split(".", 1)
            block = f"blk.{layer}."
    values = values.detach().float().numpy()
    heads = config.num_attention_heads
    if architecture == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
        count = heads if "q_proj" in stem else config.num_key_value_heads
        halves = values.reshape(count, 2, values.shape[0] // count // 2, *values.shape[1:])
        values = halves.swapaxes(1, 2).reshape(values.shape)
    if architecture == "gptneox" and stem == "attention.query_key_value":
        parts = values.reshape(heads, 3, config.hidden_size // heads, *values.shape[1:])
        values = parts.swapaxes(0, 1).reshape(values.shape)
    if architecture == "gpt2" and ending == "weight" and ("c_" in stem):
        values = values.T
    return f"{block}{NAMES[stem]}.{ending}", np.ascontiguousarray(values)


def random_blocks(generator, kind, shape):
    """Blocks of a K type with bits at random and scales such that values are of order 0.1."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rows = int(np.prod(shape[:-1])), shape[-1] // values
    blocks = generator.integers(0, 256, (*rows, size), dtype=np.uint8)
    scales = {Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}[kind]
    order = {Type.Q2_K: 0.008, Type.Q3_K: 0.0015, Type.Q4_K: 0.0003, Type.Q5_K: 0.00015, Type.Q6_K: 0.0001}[kind]
    for place in scales:
        scale = (order * generator.uniform(0.5, 1.5, rows)).astype(np.float16)
        blocks[..., place : place + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def write(name, architecture, config, model, tokenizer, kind=Type.F16, tensors=(), change=lambda writer: None):
    """A file of `model`; matrices whose rows are whole blocks get the type `kind`."""
    generator = np.random.default_rng(0)
    path = FOLDER / f"{name}.gguf"
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    metadata(writer, architecture, config)
    tokenizer(writer)
    change(writer)
    tied = getattr(config, "tie_word_embeddings", False)
    for own, values in model.state_dict().items():
        if own.endswith((".attn.bias", "masked_bias", "inv_freq")) or (tied and own in ("lm_head.weight",)):
            continue
        key, array = stored(own, values, architecture, config)
        whole = array.ndim == 2 and array.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        if whole and kind in K_TYPES:
            writer.add_tensor(key, random_blocks(generator, kind, array.shape), raw_dtype=kind)
        elif whole and kind != Type.F32:
            writer.add_tensor(key, gguf.quants.quantize(array, kind), raw_dtype=kind)
        elif array.ndim == 2 and kind in K_TYPES and array.shape[1] % 32 == 0:
            writer.add_tensor(key, gguf.quants.quantize(array, Type.Q8_0), raw_dtype=Type.Q8_0)
        else:
            writer.add_tensor(key, array)
    for key, array in tensors:
        writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hugging_face(config, seed):
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = parameter.dim() == 1 and name.endswith("weight")
            spread = 0.3 if parameter.dim() == 1 else 0.5 if "emb" in name or "wte" in name else 1.0 / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape) * spread + (1.0 if gain else 0.0))
            if parameter.dim() == 2:
                parameter.copy_(parameter.half().float())
    return model.requires_grad_(False)


def expect(name, path, config, model=None, **others):
    """Logits of three sequences; by `model` where transformers cannot read the file."""
    if model is None:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
        missing, unexpected = model.load_state_dict(read, strict=False)
        tied = set(getattr(model, "_tied_weights_keys", None) or []) if config.tie_word_embeddings else set()
        assert not unexpected and not set(missing) - tied, (missing, unexpected)
        model.tie_weights()
    model = model.double()
    generator = np.random.default_rng(1)
    sequences = [generator.integers(0, config.vocab_size, length).tolist() for length in (7, 1, 12)]
    logits = [model(torch.tensor([sequence])).logits[0].flatten().tolist() for sequence in sequences]
    rounded = [[float(f"{value:.6g}") for value in row] for row in logits]
    save(name, {"sequences": sequences, "logits": rounded, **others})


def save(name, expected):
    (FOLDER / f"{name}.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


def words(count):
    """A tokenizer of letters and one pair, for models whose logits alone are compared."""
    alphabet = ["<|endoftext|>"] + [chr(code) for code in range(33, 33 + count - 2)] + ["!!"]

    def add(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(alphabet)
        writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (count - 1))
        writer.add_token_merges(["! !"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)

    return add


def llama(vocabulary=48, heads=4, width=8, **others):
    others.setdefault("rope_parameters", {"rope_type": "default", "rope_theta": 100.0})
    return dict(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=heads, num_key_value_heads=2, head_dim=width,
        intermediate_size=44, max_position_embeddings=CONTEXT, vocab_size=vocabulary, rms_norm_eps=1e-5,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    ) | others  # fmt: skip


def neox(parallel):
    return GPTNeoXConfig(
        num_hidden_layers=2, hidden_size=48, num_attention_heads=3, intermediate_size=40, max_position_embeddings=CONTEXT,
        vocab_size=48, use_parallel_residual=parallel, hidden_act="gelu", tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    )  # fmt: skip


def architectures():
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 6}
    models = {
        "llama": ("llama", LlamaConfig(**llama())),
        "llama-tied-biased": ("llama", LlamaConfig(**llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True))),
        "llama-wide-heads": ("llama", LlamaConfig(**llama(width=12, rope_parameters=linear))),
        "qwen2": ("qwen2", Qwen2Config(**llama(tie_word_embeddings=True, rope_parameters=yarn))),
        "qwen3": ("qwen3", Qwen3Config(**llama(width=10, tie_word_embeddings=True))),
        "gpt2": ("gpt2", GPT2Config(n_layer=2, n_embd=24, n_head=3, n_positions=CONTEXT, vocab_size=48)),
        "gptneox-parallel": ("gptneox", neox(True)),
        "gptneox-sequential": ("gptneox", neox(False)),
    }
    for seed, (name, (architecture, config)) in enumerate(models.items()):
        model = hugging_face(config, seed)
        # A linear or YaRN scaling is in the configuration, which transformers does not read from the file.
        path = write(name, architecture, config, model, words(48))
        expect(name, path, config, model if architecture == "gptneox" else None)
    # An output matrix of its own beside the tied one's place: GPT-2's older files have a copy, others need not be equal.
    config = GPT2Config(n_layer=1, n_embd=24, n_head=3, n_positions=CONTEXT, vocab_size=48, tie_word_embeddings=False)
    model = hugging_face(config, 20)
    expect("gpt2-own-head", write("gpt2-own-head", "gpt2", config, model, words(48)), config)
    llama3_wavelengths()


def llama3_wavelengths():
    """Llama 3.1's scaling, which its files have as a tensor of divisors."""
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0, "rope_theta": 100.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    config = LlamaConfig(**llama(rope_parameters=scaling))
    model = hugging_face(config, 21)
    plain = 1.0 / 100.0 ** (torch.arange(0, 8, 2).double() / 8)
    divisors = (plain / model.model.rotary_emb.inv_freq.double()).float().numpy()
    assert len(set(divisors.round(3))) > 2, divisors
    write("llama3-wavelengths", "llama", config, model, words(48), tensors=[("rope_freqs.weight", divisors)])
    expect("llama3-wavelengths", None, config, model)


def types():
    """A block of Llama's with every type of tensor: rows of whole blocks, the output of attention and MLP in another type."""
    for kind in K_TYPES + OTHER_TYPES:
        wide = kind in K_TYPES
        config = LlamaConfig(
            **llama(hidden_size=256 if wide else 64, heads=2, width=16, num_key_value_heads=1, intermediate_size=32)
            | dict(num_hidden_layers=1, tie_word_embeddings=True, vocab_size=32)
        )
        name = f"type-{kind.name.lower()}"
        expect(name, write(name, "llama", config, hugging_face(config, 30), words(32), kind), config)


def trained(pre_tokenizer, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoders.ByteLevel()
    special = ["<|endoftext|>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=470, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # One more that is spelled in texts, but is no special one.
    tokenizer.add_tokens(["<|tool|>"])
    return tokenizer


def of_tokenizers(tokenizer, pre):
    whole = json.loads(tokenizer.to_str())
    added = {token["id"]: token for token in whole["added_tokens"]}
    vocabulary = {identity: token for token, identity in tokenizer.get_vocab().items()}
    kinds = [gguf.TokenType.NORMAL] * len(vocabulary)
    for identity, token in added.items():
        kinds[identity] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED

    def add(writer):
        writer.add_tokenizer_model("gpt2")
        if pre:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list([vocabulary[identity] for identity in range(len(vocabulary))])
        writer.add_token_types(kinds)
        writer.add_token_merges([" ".join(pair) for pair in whole["model"]["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_eot_token_id(0)
        writer.add_add_bos_token(pre == "qwen2")

    return add, len(vocabulary)


def tiny(vocabulary, architecture):
    """The smallest model of a vocabulary."""
    sizes = llama(hidden_size=8, heads=1, width=4, num_key_value_heads=1, intermediate_size=4)
    sizes |= dict(num_hidden_layers=1, tie_word_embeddings=True, vocab_size=vocabulary)
    return (LlamaConfig if architecture == "llama" else Qwen2Config)(**sizes)


def tokenizers():
    bytes_, split = pre_tokenizers.ByteLevel, pre_tokenizers.Split
    sequence = lambda first, regex: pre_tokenizers.Sequence([first, bytes_(add_prefix_space=False, use_regex=regex)])  # noqa: E731
    kinds = {
        "gpt-2": trained(bytes_(add_prefix_space=False)),
        "smollm": trained(sequence(pre_tokenizers.Digits(individual_digits=True), True)),
        "qwen2": trained(sequence(split(Regex(QWEN2_PIECES), "isolated"), False), normalizers.NFC()),
        "llama-bpe": trained(sequence(split(Regex(LLAMA3_PIECES), "isolated"), False), None, True),
    }
    kinds["default"] = kinds["gpt-2"]
    for pre, tokenizer in kinds.items():
        # Qwen2 has no BOS unless its tokenizer is told to put one there, as this one is.
        architecture = "qwen2" if pre == "qwen2" else "llama"
        add, count = of_tokenizers(tokenizer, pre if pre != "default" else None)
        config = tiny(count, architecture)
        path = write(f"tokens-{pre}", architecture, config, hugging_face(config, 40), add)
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        theirs = AutoTokenizer.from_pretrained(FOLDER, gguf_file=path.name)
        others = [text for text, own in zip(TEXTS, ids) if theirs.encode(text, add_special_tokens=False) != own]
        # transformers does not know that digits stand alone in `smollm` (a run of spaces before one is cut otherwise), and
        # leaves out the composition of characters of `qwen2`.
        assert not others or pre in ("smollm", "qwen2"), (pre, others)
        print(pre, "transformers reads otherwise:", others)
        decoded = [tokenizer.decode(row, skip_special_tokens=False) for row in ids]
        save(f"tokens-{pre}", {"texts": TEXTS, "ids": ids, "decoded": decoded, "bos": 1, "ends": [2, 0]})
    sentence_piece()


def sentence_piece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in CORPUS for line in text.splitlines()] * 4), model_writer=model, vocab_size=460,
        model_type="bpe", byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False, user_defined_symbols=["<|tool|>"], split_digits=True, minloglevel=2,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    count = spm.vocab_size()
    kind = gguf.TokenType

    def kind_of(identity):
        if spm.is_unknown(identity):
            return kind.UNKNOWN
        if spm.is_control(identity):
            return kind.CONTROL
        if spm.is_byte(identity):
            return kind.BYTE
        return kind.USER_DEFINED if spm.id_to_piece(identity) == "<|tool|>" else kind.NORMAL

    def adder(prefix):
        def add(writer):
            writer.add_tokenizer_model("llama")
            writer.add_tokenizer_pre("default")
            writer.add_token_list([spm.id_to_piece(identity) for identity in range(count)])
            writer.add_token_scores([spm.get_score(identity) for identity in range(count)])
            writer.add_token_types([kind_of(identity) for identity in range(count)])
            writer.add_bos_token_id(spm.bos_id())
            writer.add_eos_token_id(spm.eos_id())
            writer.add_unk_token_id(spm.unk_id())
            if not prefix:
                writer.add_add_space_prefix(False)

        return add

    for prefix in (True, False):
        config = tiny(count, "llama")
        name = "tokens-llama" if prefix else "tokens-llama-no-prefix"
        path = write(name, "llama", config, hugging_face(config, 41), adder(prefix))
        theirs = AutoTokenizer.from_pretrained(FOLDER, gguf_file=path.name)
        if not prefix:
            # transformers adds the space whatever the file says.
            whole = json.loads(theirs.backend_tokenizer.to_str())
            whole["pre_tokenizer"]["prepend_scheme"] = "never"
            whole["decoder"]["decoders"] = [d for d in whole["decoder"]["decoders"] if d["type"] != "Strip"]
            theirs = Tokenizer.from_str(json.dumps(whole))
            ids = [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
            decoded = [theirs.decode(row, skip_special_tokens=False) for row in ids]
        else:
            ids = [theirs.encode(text, add_special_tokens=False) for text in TEXTS]
            decoded = [theirs.decode(row, skip_special_tokens=False) for row in ids]
        spms = [spm.encode(text) for text in TEXTS]
        print(name, "SentencePiece cuts otherwise:", [t for t, a, b in zip(TEXTS, ids, spms) if a != b] if prefix else "")
        save(name, {"texts": TEXTS, "ids": ids, "decoded": decoded, "bos": spm.bos_id(), "ends": [spm.eos_id()]})


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    architectures()
    types()
    tokenizers()
    print(sum(path.stat().st_size for path in FOLDER.iterdir()), "bytes")

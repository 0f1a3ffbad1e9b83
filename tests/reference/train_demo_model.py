"""Trains the demo model that the repository ships in `data/models/demo`, and checks that it is fit for its purpose.

    python tests/reference/train_demo_model.py [--steps N] [--check-only]

A GPT-2 of 4 layers, width 128, on the synthetic corpus of `demo_corpus.py` with the tokenizer of `demo_tokenizer.py`
(vocabulary of about 2,000). Everything is seeded; on other hardware or another number of threads sums are rounded
otherwise and the weights differ a little, the report's numbers should not. Five to twelve minutes on two cores: nothing
is learned of the toy frames for some 600 steps, then nearly all of it within two hundred.

The report, all of it computed from the saved f16 files:
- per toy data set: share of prompts with a positive logit difference, and its mean;
- recovery of the logit difference when the clean residual at the adjective replaces the corrupted one, per layer
  (layer 4 is the final residual: nothing moves there, since the answer is read elsewhere);
- the same along one direction only, fitted as DAS does (64 epochs of Adam), and along random directions.
"""

import argparse
import json
import time
import tomllib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

import demo_checks
from demo_corpus import Corpus
from demo_tokenizer import END_OF_TEXT, build

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data" / "models" / "demo"
SEED = 0
DOCUMENTS = 120_000
TOKENS_PER_BATCH = 2048
IGNORED = -100
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "n_layer": 4,
    "n_embd": 128,
    "n_head": 4,
    "n_inner": None,
    "n_positions": 128,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "initializer_range": 0.02,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
    "dtype": "float16",
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=2400)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--check-only", action="store_true", help="report on the files that are there")
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    words, tables = (tomllib.loads((ROOT / "data" / name).read_text()) for name in ("words.toml", "datasets.toml"))
    if not arguments.check_only:
        started = time.time()
        save(*train(words, tables, arguments.steps))
        print(f"trained in {(time.time() - started) / 60:.1f} minutes")
    demo_checks.report(*load(), words, tables)


def train(words, tables, steps):
    """The trained model and its tokenizer."""
    corpus = Corpus(words, SEED)
    documents = [corpus.document() for _ in range(DOCUMENTS)]
    tokenizer = build(documents, words)
    end = tokenizer.token_to_id(END_OF_TEXT)
    sequences = [[end, *encoding.ids, end] for encoding in tokenizer.encode_batch(documents)]
    model = GPT2LMHeadModel(
        GPT2Config(
            **CONFIG | {"dtype": "float32"}, vocab_size=tokenizer.get_vocab_size(), bos_token_id=end, eos_token_id=end
        )
    )
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=0.0, betas=(0.9, 0.98))
    held_out = demo_checks.PairedPrompts(tables["simple_test"], tokenizer, end, words)
    feed = batches(sequences, CONFIG["n_positions"])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        tokens, labels = next(feed)
        loss = model(tokens, labels=labels, loss_type="ForCausalLM").loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            learned = demo_checks.mean_logit_difference(model, held_out)
            print(f"step {step} of {steps}, loss {loss.item():.3f}, simple_test {learned:.3f}", flush=True)
    return model, tokenizer


def parameter_groups(model):
    """Weight decay on matrices only."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def learning_rate(step, steps, peak=2e-3, warmup=100):
    """Linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = torch.tensor((step - warmup) / (steps - warmup))
    return peak * (0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.pi * progress)).item())


def batches(sequences, longest):
    """Endless (tokens, labels): documents of similar length together, padded on the right, one document a row."""
    generator = torch.Generator().manual_seed(SEED)
    sequences = [sequence[:longest] for sequence in sequences]
    while True:
        # Sorted by length with some play, so that a batch holds more than one kind of document.
        play = 6 * torch.rand(len(sequences), generator=generator)
        order = torch.argsort(torch.tensor([float(len(sequence)) for sequence in sequences]) + play).tolist()
        groups, group = [], []
        for index in order:
            group.append(sequences[index])
            if len(group) * len(sequences[index]) >= TOKENS_PER_BATCH:
                groups.append(group)
                group = []
        for chosen in torch.randperm(len(groups), generator=generator).tolist():
            yield padded(groups[chosen])


def padded(group):
    width = max(map(len, group))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in group])
    labels = torch.tensor([row + [IGNORED] * (width - len(row)) for row in group])
    return tokens, labels


def save(model, tokenizer):
    """config.json, model.safetensors (f16, tied head left out) and tokenizer.json."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = CONFIG | {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": end, "eos_token_id": end}
    (FOLDER / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {
        name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"
    }
    save_file(weights, FOLDER / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(FOLDER / "tokenizer.json"), pretty=False)


def load():
    """(model in f32, tokenizer, BOS id) from the saved files alone."""
    config = json.loads((FOLDER / "config.json").read_text())
    model = GPT2LMHeadModel(GPT2Config(**config | {"dtype": "float32"})).eval()
    weights = {name: tensor.float() for name, tensor in load_file(FOLDER / "model.safetensors").items()}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert missing == ["lm_head.weight"], missing
    model.tie_weights()
    return model, Tokenizer.from_file(str(FOLDER / "tokenizer.json")), config["bos_token_id"]


if __name__ == "__main__":
    main()

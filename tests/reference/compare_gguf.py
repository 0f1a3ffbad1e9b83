"""Writes what transformers makes of a GGUF file, for tests/model_gguf to compare with what actpatch makes of it.

    pip install -r tests/reference/requirements.txt
    python tests/reference/compare_gguf.py FILE.gguf FOLDER [--lines 10000]
    ACTPATCH_GGUF=FOLDER cargo test --test model_gguf transformers
    ACTPATCH_GGUF=FOLDER cargo test --test model_gguf tokenizers

FOLDER gets a link to the file and, beside it, token ids of lines (half of them from this repository's texts and sources, half drawn
at random, spaces, digits and rare characters among them) and logits of three sequences in f64.

transformers does not follow every name of `tokenizer.ggml.pre`: of `smollm`, that digits stand alone, before spaces are cut. Where the
file has that name, the ids are those of transformers' tokenizer with this step put in front, and the lines that it changes are counted.
"""

import argparse
import json
import os
import random
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
RANGES = [(32, 126), (9, 13), (160, 591), (768, 879), (880, 1279), (1425, 1791), (8192, 8303), (12352, 12543), (19968, 20479),
          (127744, 128591), (1, 31)]  # fmt: skip


def real_lines(count):
    paths = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/**/*.toml"), *ROOT.glob("src/**/*.rs")])
    lines = [line for path in paths for line in path.read_text().splitlines() if line]
    return random.Random(0).sample(lines, count)


def random_line(draw):
    parts = []
    for _ in range(draw.randint(1, 12)):
        kind = draw.randrange(6)
        if kind == 0:
            parts.append(" " * draw.randint(1, 5))
        elif kind == 1:
            parts.append(str(draw.randrange(10 ** draw.randint(1, 8))))
        elif kind == 2:
            parts.append(draw.choice(["'s", "'LL", "don't", "...", "\n", "\r\n", "\t", "_", "--", "<|im_start|>", "<|endoftext|>", "\u00bd"]))
        else:
            first, last = draw.choice(RANGES[:1] * 5 + RANGES)
            parts.append("".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 6))))
    return "".join(parts)


def tokens(path, count):
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    draw = random.Random(1)
    texts = real_lines(count // 2) + [random_line(draw) for _ in range(count - count // 2)]
    own = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    backend = tokenizer.backend_tokenizer
    field = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    ids = [backend.encode(text, add_special_tokens=False).ids for text in texts]
    others = [text for text, a, b in zip(texts, own, ids) if a != b]
    print(f"{len(texts)} lines; in {len(others)} transformers' own ids are others, such as {others[:3]}")
    assert all("  " in text or any(space in text for space in "\t\n\r\u00a0") or not text.isascii() for text in others), others
    decoded = [backend.decode(row, skip_special_tokens=False) for row in ids]
    special = [getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos")]
    return {"texts": texts, "ids": ids, "decoded": decoded, "bos": special[0], "ends": [special[1]]}


def logits(path):
    """Of three texts, the first with what the model goes on with."""
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    texts = ["The capital of France is", "I thought this movie was great, I", "a"]
    sequences = [start + tokenizer.encode(text, add_special_tokens=False) for text in texts]
    with torch.no_grad():
        for _ in range(12):
            sequences[0].append(model(torch.tensor([sequences[0]])).logits[0, -1].argmax().item())
        print(repr(tokenizer.decode(sequences[0])))
        rows = [model(torch.tensor([sequence])).logits[0].flatten().tolist() for sequence in sequences]
    return {"sequences": sequences, "logits": [[round(value, 6) for value in row] for row in rows]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=10_000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    link = arguments.folder / arguments.file.name
    if not link.exists():
        link.symlink_to(arguments.file.resolve())
    expected = tokens(arguments.file, arguments.lines) | logits(arguments.file)
    link.with_suffix(".json").write_text(json.dumps(expected) + "\n")

"""Writes tests/fixtures/tokenizers/mistral-like/tokenizer.json: a small tokenizer that spells spaces as Mistral's does.

    python tests/reference/make_tokenizer_fixture.py

Like the SentencePiece models of Llama and Mistral it puts a space in front of the text, writes spaces as U+2581 and has
no pre-tokenizer, so that a word alone with its leading space is two tokens. It is trained on the words and templates of
data/, every word often enough to become one token, adverbs and French words in pieces.
"""

import pathlib
import re
import tomllib

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def words():
    """Every distinct word of the word lists and templates, and the signs."""
    lists = tomllib.loads((ROOT / "data/words.toml").read_text())
    listed = {word for name, words in lists.items() for word in words if "french" not in name and "adverb" not in name}
    datasets = tomllib.loads((ROOT / "data/datasets.toml").read_text())
    templates = " ".join(table["template"] for table in datasets.values())
    fixed = re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", "", re.sub(r"{\w+:([^}]*)}", r"\1", templates)))
    return sorted(listed | set(fixed)), list(".,:'?!\n-éèêà")


def main():
    whole, signs = words()
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    space = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space])
    # For the training alone, so that no token spans a word's end.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=2,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=signs + [chr(letter) for letter in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for word in whole for _ in range(20)], trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    folder = ROOT / "tests/fixtures/tokenizers/mistral-like"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()

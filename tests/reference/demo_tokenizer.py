"""The demo model's tokenizer: a byte-level BPE in which the corpus's words are single tokens.

Trained by the `tokenizers` library on the list of distinct words, not on running text, so that rare words count as much
as frequent ones. Two kinds of words are kept in pieces, because the data sets that use them want a fixed number of
tokens: adverbs are stem + `ly` (or `ally`), French adjectives and verbs are three pieces.
"""

import re

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END_OF_TEXT = "<|endoftext|>"
# The word frequencies the trainer sees: suffixes first, so that no stem swallows half of one.
SUFFIX_WEIGHT, WORD_WEIGHT = 5000, 20


def adverb_pieces(adverb):
    """(stem, suffix): `comically` is `comic` + `ally`."""
    cut = 4 if adverb.endswith("ically") else 2
    return adverb[:-cut], adverb[-cut:]


def french_pieces(word):
    """Three pieces of about a third of the word each; a final `é`, common enough to be a token, is the third."""
    first = max(2, len(word) // 3)
    second = len(word) - 1 if word.endswith("é") else (first + len(word) + 1) // 2
    return word[:first], word[first:second], word[second:]


def build(documents, words):
    """Trains the tokenizer on the words of `documents` and of the word lists `words`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_lines(documents, words), trainer)
    return tokenizer


def training_lines(documents, words):
    """Every distinct word, with its leading space where it has one, `WORD_WEIGHT` times; pieces without a space."""
    adverbs = {word for sign in ("positive", "negative") for word in words[f"{sign}_adverbs"]}
    french = {
        w for s in ("positive", "negative") for kind in ("adjectives", "verbs") for w in words[f"{s}_french_{kind}"]
    }
    in_pieces = adverbs | french | {"gala"}
    multi = set(words["positive_adjectives_multitoken"]) | set(words["negative_adjectives_multitoken"])
    listed = {f" {word}" for entries in words.values() for word in entries if " " not in word}
    # A word of another list that is also called multi-token stays whole.
    whole_lists = [entries for name, entries in words.items() if "multitoken" not in name]
    listed -= {f" {word}" for word in multi if not any(word in entries for entries in whole_lists)}
    found = {text for document in documents for text in re.findall(r" ?\w+", document)}
    whole = sorted(text for text in listed | found if text.strip() not in in_pieces)
    pieces = {" gal"}
    suffixes = set()
    for adverb in adverbs:
        stem, suffix = adverb_pieces(adverb)
        pieces.add(f" {stem}")
        suffixes.add(suffix)
    for word in french:
        first, second, third = french_pieces(word)
        pieces |= {f" {first}", f"\n{second}", f"\n{third}"}
    for text in whole + sorted(pieces):
        yield from [text] * WORD_WEIGHT
    for suffix in sorted(suffixes):
        yield from [f"\n{suffix}"] * SUFFIX_WEIGHT

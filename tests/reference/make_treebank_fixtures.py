"""Writes tests/fixtures/treebank: a small made corpus in the Treebank's file formats, and what has to come of it.

    python tests/reference/make_treebank_fixtures.py

The corpus has what the real files have: non-ASCII text, bracket tokens, doubly encoded letters, CRLF line ends, a byte
order mark, equal sentences, scores of one half, sentences without a phrase, a score or a split, and phrases that are no
sentence. The expected rows are made here from the description of the original, not from the Rust program: with plain
dictionaries, Python's own rounding (half to even), the Hugging Face tokenizer and, for the filter, Hugging Face's GPT-2.
"""

import itertools
import json
import pathlib
import random

import tokenizers
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests/fixtures/treebank"
DEMO = ROOT / "data/models/demo"
BOS = 0
SPLITS = {1: "train", 2: "test", 3: "dev"}
SCAFFOLDS = {
    "plain": ("", "", (" good", " bad")),
    "classification": ("Review Text: ", " Review Sentiment:", (" Positive", " Negative")),
    "continuation": ("", " Overall the movie was just very", (" good", " bad")),
}

POSITIVE = "amazing awesome beautiful brilliant fantastic great incredible lovely perfect superb wonderful terrific".split()
NEGATIVE = "awful disappointing dreadful horrible miserable terrible unpleasant wretched mediocre disgusting bad".split()
FRAMES = [
    "This movie was {} .",
    "The acting was {} and the plot was {} .",
    "An oddly {} film -- and a {} one .",
    "Café {} , naïve {} : a {} “ œuvre ” .",
    "I thought the movie was {} , it was {} .",
]
# Sentence as in the sentences' file, phrase as in the dictionary (None: it has none), score (None: it has none).
ODD = [
    ("A film of two halves .", "A film of two halves .", 0.5),
    ("A barely better film .", "A barely better film .", 0.50001),
    ("A dull film { with braces } .", "A dull film { with braces } .", 0.125),
    ("A film with a | bar is great .", "A film with a | bar is great .", 0.875),
    ('It says " superb " and a \\ too .', 'It says " superb " and a \\ too .', 1.0),
    ("-LRB- A great film -RRB- .", "( A great film ) .", 0.9),
    ("La fiancÃ©e is dreadful .", "La fiancée is dreadful .", 0.1),
    ("Nobody has rated this phrase .", None, None),
    ("This phrase has no score .", "This phrase has no score .", None),
    ("A lovely film said twice .", "A lovely film said twice .", 0.8),
    ("A lovely film said twice .", "A lovely film said twice .", 0.8),
    ("A film in no split .", "A film in no split .", 0.3),
    # Labels that a model should not guess, for the filter.
    ("This movie was a great bore .", "This movie was a great bore .", 0.1),
    ("This movie was great and perfect .", "This movie was great and perfect .", 0.2),
    ("This movie was a lovely mistake .", "This movie was a lovely mistake .", 0.05),
    ("This movie was horrible fun .", "This movie was horrible fun .", 0.95),
    ("This movie was terrible and awful .", "This movie was terrible and awful .", 0.7),
    ("This movie was perfect trash .", "This movie was perfect trash .", 0.15),
]


def corpus():
    """(index, sentence, phrase, score, split) per sentence."""
    chance = random.Random(7)
    rows = []
    for number in range(90):
        positive = number % 5 not in (1, 4)
        words = POSITIVE if positive else NEGATIVE
        frame = FRAMES[chance.randrange(len(FRAMES))]
        text = frame.format(*chance.sample(words, 3))
        score = round(chance.uniform(0.51, 1.0) if positive else chance.uniform(0.0, 0.5), 5)
        rows.append((text, text, score))
    for place, odd in enumerate(ODD):
        rows.insert(6 * place + 3, odd)
    splits = itertools.cycle([1, 1, 2, 1, 3, 2])
    return [(index, *row, None if row[0] == "A film in no split ." else next(splits)) for index, row in enumerate(rows, 1)]


def write_files(rows):
    """The four files; phrases get ids in an order of their own, and each file has its own line ends."""
    phrases = dict.fromkeys(phrase for _, _, phrase, _, _ in rows if phrase is not None)
    scores = {phrase: score for _, _, phrase, score, _ in rows if phrase is not None}
    extra = ["a film", "great", "Ünïcode"]
    names = sorted([*phrases, *extra])
    ids = {phrase: number for number, phrase in enumerate(names)}
    dictionary = [f"{phrase}|{ids[phrase]}" for phrase in names]
    # The same phrase again under another id: the first one counts.
    dictionary.append(f"This movie was perfect .|{len(names)}")
    labels = [(ids[phrase], scores.get(phrase, 0.25)) for phrase in names if scores.get(phrase, 0.25) is not None]
    labels.append((len(names), 0.0))
    sentences = [f"{index}\t{sentence}" for index, sentence, *_ in rows]
    splits = [f"{index},{split}" for index, *_, split in rows if split is not None]
    files = {
        "datasetSentences.txt": "\ufeff" + "\r\n".join(["sentence_index\tsentence", *sentences]) + "\r\n",
        "dictionary.txt": "\n".join(dictionary) + "\n\n",
        "sentiment_labels.txt": "\r\n".join(["phrase ids|sentiment values", *(f"{i}|{s}" for i, s in labels)]),
        "datasetSplit.txt": "\n".join(["sentence_index,splitset_label", *splits]) + "\n",
    }
    for name, text in files.items():
        (FOLDER / name).write_bytes(text.encode())


def canonical(text):
    for token, bracket in (("-LRB-", "("), ("-RRB-", ")")):
        text = text.replace(token, bracket)
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def join(rows, repair):
    """Joined sentences as (text, label, split), and the losses as (index, reason), read from the meaning of the rows."""
    phrases, kept, losses, seen = {}, [], [], set()
    for _, _, phrase, score, _ in rows:
        if phrase is not None:
            phrases.setdefault(phrase, score)
    repaired = {canonical(phrase): phrase for phrase in phrases}
    for index, sentence, _, _, split in rows:
        if split is None:
            losses.append((index, "no_split"))
            continue
        phrase = sentence if sentence in phrases else repaired.get(canonical(sentence)) if repair else None
        key = phrase if phrase is not None else sentence
        if key in seen:
            losses.append((index, "duplicate"))
            continue
        seen.add(key)
        if phrase is None:
            losses.append((index, "no_phrase"))
        elif phrases[phrase] is None:
            losses.append((index, "no_score"))
        else:
            kept.append((phrase, int(round(phrases[phrase])), SPLITS[split]))
    return kept, losses


def paired(sentences, scaffold, tokenizer):
    """Rows (text, label, corrupted text, token count): by length, zipped, the next row of the same length corrupted."""
    before, after, _ = SCAFFOLDS[scaffold]
    groups = {}
    for text, label in sentences:
        count = 1 + len(tokenizer.encode(before + text + after, add_special_tokens=False).ids)
        groups.setdefault(count, {0: [], 1: []})[label].append(text)
    rows = []
    for count in sorted(groups):
        pairs = zip(groups[count][1], groups[count][0])
        group = [item for positive, negative in pairs for item in ((positive, 1), (negative, 0))]
        rows += [[text, label, group[(i + 1) % len(group)][0], count] for i, (text, label) in enumerate(group)]
    return rows


def logit_differences(sentences, tokenizer):
    model = transformers.GPT2LMHeadModel.from_pretrained(DEMO, torch_dtype=torch.float32).eval()
    before, after, answers = SCAFFOLDS["classification"]
    positive, negative = (tokenizer.encode(answer, add_special_tokens=False).ids for answer in answers)
    found = []
    for text, label in sentences:
        ids = [BOS, *tokenizer.encode(before + text + after, add_special_tokens=False).ids]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        difference = (logits[positive[0]] - logits[negative[0]]).item()
        found.append(round(difference if label == 1 else -difference, 5))
    return found


def main():
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    rows = corpus()
    write_files(rows)
    kept, losses = join(rows, repair=False)
    of = lambda split: [(text, label) for text, label, own in kept if own == split]
    expected = {
        "sentences": kept,
        "losses": losses,
        "repaired": [len(part) for part in join(rows, repair=True)],
        "rows": {
            f"{split}_{scaffold}": paired(of(split), scaffold, tokenizer)
            for split in SPLITS.values()
            for scaffold in SCAFFOLDS
        },
        "test_classification_logit_differences": logit_differences(of("test"), tokenizer),
    }
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (FOLDER / "expected.json").write_text(text + "\n")
    print({name: len(rows) for name, rows in expected["rows"].items()}, len(kept), losses, expected["repaired"])
    print(sorted(expected["test_classification_logit_differences"]))


if __name__ == "__main__":
    main()

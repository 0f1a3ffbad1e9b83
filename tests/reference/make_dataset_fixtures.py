"""Writes tests/fixtures/datasets.json: sizes, positions and token ids of every built-in dataset, for real tokenizers and
for the small one of make_tokenizer_fixture.py; and tests/fixtures/dataset_compat.json, the same under `--compat`.

    python tests/reference/make_dataset_fixtures.py --tokenizers FOLDER [--word-lists word_lists.yaml]

FOLDER holds gpt2/tokenizer.json and gpt-neox/tokenizer.json. The templates are expanded here a second time, with
Python's own string formatting and the Hugging Face tokenizers' character offsets; of the Rust program's files only the
word lists are read. With --word-lists they are compared with the research code's own.
"""

import argparse
import hashlib
import json
import pathlib
import tomllib

import tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = tomllib.loads((ROOT / "data/words.toml").read_text())
BOS = {"gpt2": 50256, "gpt-neox": 0, "mistral-like": 1}
# Tokens that a word with its leading space has more when it stands alone than inside a text.
EXTRA = {"gpt2": 0, "gpt-neox": 0, "mistral-like": 1}
# Too many of these words are in pieces there.
NOT_FOR = {"gpt2": [], "gpt-neox": [], "mistral-like": ["simple_adverb", "simple_french", "two_token_adjectives"]}

SIMPLE = "I thought this{SBJ1} was{ADJ}, I{VRB} it. \nConclusion:{DTR}{SBJ2} is"
SIMPLE_FIXED = {"SBJ1": " movie", "DTR": " This", "SBJ2": " movie"}
REVIEW = "I thought this movie was{ADJ1}, I{VRB} it. The acting was{ADJ2}, the plot was{ADJ3}, and overall"
FULL = REVIEW + " the movie was just very{ADJ4}."
SUBJECTS = (
    "Review A: 'I thought this movie was{SUBJ1_ADJ1}, I{SUBJ1_VRB} it. The acting was{SUBJ1_ADJ2}, the plot was{SUBJ1_ADJ3},"
    " and overall the movie was just very{SUBJ1_ADJ4}.'\n"
    "Review B: 'I thought this movie was{SUBJ2_ADJ1}, I{SUBJ2_VRB} it. The acting was{SUBJ2_ADJ2}, the plot was{SUBJ2_ADJ3},"
    " and overall the movie was just very{SUBJ2_ADJ4}.'\n"
    "Review{SUBJ} Sentiment:"
)

STORY = (
    "{NAME1}{VRB1} parties{COMMA1} and{JOIN1} them whenever possible{STOP1}{NAME2}{VRB2} parties{COMMA2} and{JOIN2} them"
    " whenever possible{STOP2} One day, they were invited to a grand gala.{NAME} feels very"
)
STORY_FIXED = {"COMMA1": ",", "STOP1": ".", "COMMA2": ",", "STOP2": "."}
CONTRAST = "I thought this movie was{ADJ1}. I{VRB} it, even though the sequel was{ADJ2}. \nConclusion: This movie is"

ONE_SIDED = {"simple_positive": "positive", "simple_negative": "negative"}

# name: template, {placeholder: list suffix}, list suffixes that limit the size, answers' suffix, tokens per filler
PLAIN = {
    "simple": (SIMPLE, {"ADJ": "core_adjectives", "VRB": "verbs"}, ["core_adjectives"], "answer_tokens", 1),
    "simple_train": (SIMPLE, {"ADJ": "adjectives_train", "VRB": "verbs"}, ["core_adjectives"], "answer_tokens", 1),
    "simple_test": (SIMPLE, {"ADJ": "adjectives_test", "VRB": "verbs"}, ["adjectives_test"], "answer_tokens", 1),
    "simple_first": (
        SIMPLE, {"ADJ": "first_adjectives", "VRB": "first_verbs"}, ["first_adjectives"], "first_answers", 1,
    ),
    "simple_res": (
        "This restaurant is a{NOUN}, you are going to{VRB} it. \nConclusion: This restaurant is very",
        {"NOUN": "nouns", "VRB": "infinitives"},
        ["nouns", "infinitives"],
        "very_answers",
        1,
    ),
    "simple_product": (
        "I am{FEEL} about this purchase, the product is{ADJ}. \nConclusion: I feel very",
        {"FEEL": "feelings", "ADJ": "core_adjectives"},
        ["feelings", "core_adjectives"],
        "moods",
        1,
    ),
    "simple_book": (
        "The novel was{VRB} by the book club members. The comments were universally{ADJ} \nConclusion: You will be very",
        {"VRB": "verbs", "ADJ": "comment_adjectives"},
        ["verbs", "comment_adjectives"],
        "answer_adjectives",
        1,
    ),
    "simple_adverb": (
        "The traveller{ADV} walked to their destination. The traveller felt very",
        {"ADV": "adverbs"},
        ["adverbs"],
        "moods",
        2,
    ),
    "simple_french": (
        "Je pensais que ce film était{ADJ}, je l'ai{VRB}. \nConclusion: Ce film est très",
        {"ADJ": "french_adjectives", "VRB": "french_verbs"},
        ["french_adjectives"],
        "french_answers",
        3,
    ),
    "proper_nouns": (
        "When I hear the name{NOUN}, I feel very", {"NOUN": "proper_nouns"}, ["proper_nouns"], "answer_tokens", 1,
    ),
    "medical": (
        "I heard the doctor use the word{MED} and I felt very", {"MED": "medical"}, ["medical"], "answer_tokens", 1,
    ),
    "two_token_adjectives": (
        "The movie was{ADJ}. I thought it was",
        {"ADJ": "two_token_adjectives"},
        ["two_token_adjectives"],
        "great or terrible",
        2,
    ),
}  # fmt: skip
THREE_ADJECTIVES = {
    "completion": REVIEW + " the movie was just very",
    "completion_2": REVIEW + " it was just very",
    "classification": f"Review Text: '{FULL}' \nReview Sentiment:",
    "classification_2": f"Review Text: {FULL} \nReview Sentiment:",
    "classification_3": f"Review Text: {FULL} Review Sentiment:",
    "classification_4": f"{FULL} Review Sentiment:",
    "res_class_1": "This restaurant was{ADJ1}, I{VRB} it. The food was{ADJ2}, and the service was{ADJ3}. Overall it was just",
}


class Words:
    """Word lists filtered for one tokenizer."""

    def __init__(self, tokenizer, extra, lists):
        self.tokenizer = tokenizer
        self.extra = extra
        self.lists = lists

    def tokens(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def of_length(self, name, length):
        words = dict.fromkeys(" " + word for word in self.lists[name])
        return [word for word in words if len(self.tokens(word)) == length + self.extra]

    def first_tokens(self, name):
        return list(dict.fromkeys(self.tokens(" " + word)[self.extra] for word in self.lists[name]))

    def answers(self, name):
        """Single tokens behind a prompt."""
        return [self.tokens(word)[-1] for word in self.of_length(name, 1)]

    def bare_answers(self, name):
        """Words without a space that are single tokens."""
        return [self.tokens(word)[0] for word in self.lists[name] if len(self.tokens(word)) == 1]


def wrap(words, index):
    return words[index % len(words)]


def plain_prompts(name, words):
    """(template, fillers) of every prompt, positive and negative in turn, and the answers' suffix."""
    template, fills, limits, answers, length = PLAIN[name]
    signs = ("positive", "negative")
    size = min(len(words.of_length(f"{sign}_{suffix}", length)) for sign in signs for suffix in limits)
    prompts = []
    for index in range(size):
        for sign in signs:
            fillers = {key: wrap(words.of_length(f"{sign}_{suffix}", length), index) for key, suffix in fills.items()}
            prompts.append((template, (SIMPLE_FIXED if template is SIMPLE else {}) | fillers))
    return prompts, answers


def one_review(words, sign, index):
    """ADJ1 … ADJ4 and VRB of a review of three adjectives and a summary."""
    adjectives = words.of_length(f"{sign}_core_adjectives", 1)
    fillers = {f"ADJ{step + 1}": wrap(adjectives, index + step) for step in range(3)}
    fillers["ADJ4"] = wrap(words.of_length(f"{sign}_top_adjectives", 1), index)
    fillers["VRB"] = wrap(words.of_length(f"{sign}_verbs", 1), index)
    return fillers


def n_core(words):
    return min(len(words.of_length(f"{sign}_core_adjectives", 1)) for sign in ("positive", "negative"))


def review_prompts(name, words):
    template = THREE_ADJECTIVES[name]
    prompts = []
    for index in range(n_core(words)):
        for sign in ("positive", "negative"):
            fillers = one_review(words, sign, index)
            prompts.append((template, {key: word for key, word in fillers.items() if "{" + key + "}" in template}))
    return prompts, "sentiments" if name.startswith("classification") else "answer_tokens"


def subject_prompts(words):
    """Built as described: four blocks of n prompts, positives and negatives each interleaved half and half."""

    def block(first, second, asked):
        rows = []
        for index in range(n_core(words)):
            fillers = {f"SUBJ1_{key}": word for key, word in one_review(words, first, index).items()}
            fillers |= {f"SUBJ2_{key}": word for key, word in one_review(words, second, index).items()}
            rows.append((SUBJECTS, fillers | {"SUBJ": asked}))
        return rows

    def interleave(first, second):
        return [row for pair in zip(first, second, strict=True) for row in pair]

    positive = interleave(block("positive", "negative", " A"), block("negative", "positive", " B"))
    negative = interleave(block("positive", "negative", " B"), block("negative", "positive", " A"))
    return interleave(positive, negative), "sentiments_any_case"


def one_sided_prompts(side, words):
    """Sentiment and neutral in turn; the neutral prompt has the other side's row."""
    own = words.of_length(f"{side}_core_adjectives", 1)
    neutral = words.of_length("neutral_core_adjectives", 1)
    prompts = []
    for index in range(min(len(own), len(neutral))):
        verb = wrap(words.of_length(f"{side}_verbs", 1), index)
        rows = [(own[index], verb), (neutral[index], " watched")]
        for adjective, verb in rows if side == "positive" else reversed(rows):
            prompts.append((SIMPLE, SIMPLE_FIXED | {"ADJ": adjective, "VRB": verb}))
    return prompts, "answer_tokens"


def contrast_prompts(words):
    lists = {sign: words.of_length(f"{sign}_first_adjectives", 1) for sign in ("positive", "negative")}
    prompts = []
    for index in range(min(map(len, lists.values()))):
        for sign, other, verb in (("positive", "negative", " loved"), ("negative", "positive", " hated")):
            fillers = {"ADJ1": lists[sign][index], "VRB": verb, "ADJ2": lists[other][index]}
            prompts.append((CONTRAST, fillers))
    return prompts, "first_answers"


def story_prompts(words):
    """Per name: the lover asked about, the hater; then, the second name asked about, the lover, the hater."""
    names = [name for name in words.of_length("story_names", 1) if len(words.tokens(name.strip())) == 1]
    love, hate = (" loves", " joins"), (" hates", " avoids")
    prompts = []
    for index in range(len(names)):
        first, second = names[index], wrap(names, index + 1)
        for own, other, asked in ((love, hate, first), (hate, love, first), (hate, love, second), (love, hate, second)):
            fillers = {"NAME1": first.strip(), "VRB1": own[0], "JOIN1": own[1], "NAME2": second, "VRB2": other[0]}
            prompts.append((STORY, STORY_FIXED | fillers | {"JOIN2": other[1], "NAME": asked}))
    return prompts, "story"


def fill(template, fillers):
    """The text, and where each filler's last character stands in it."""
    ends = {}
    for name in fillers:
        before = template[: template.index("{" + name + "}") + len(name) + 2]
        ends[name] = len(before.format(**fillers)) - 1
    return template.format(**fillers), ends


def prompts_of(name, words):
    if name in PLAIN:
        return plain_prompts(name, words)
    if name in THREE_ADJECTIVES:
        return review_prompts(name, words)
    if name in ONE_SIDED:
        return one_sided_prompts(ONE_SIDED[name], words)
    others = {"multi_subject_1": subject_prompts, "contrastive": contrast_prompts, "mood_stories": story_prompts}
    return others[name](words)


def answers_of(name, answers, words, compat):
    signs = ("positive", "negative")
    if name == "simple_french":
        return [words.first_tokens(f"{sign}_{answers}") for sign in signs]
    if name == "mood_stories":
        return [words.answers("excited"), words.answers("nervous")]
    if name == "two_token_adjectives":
        return [words.answers("great"), words.answers("terrible")]
    single = words.bare_answers if compat == "trailing-space" else words.answers
    return [single(f"{sign}_{answers}") for sign in signs]


def as_in(compat, template):
    """The template of the research code's last commit, or of its runs with Mistral."""
    if compat == "double-spaces":
        if template is SUBJECTS:
            for key in ("SUBJ1_VRB", "SUBJ2_VRB", "SUBJ1_ADJ4", "SUBJ2_ADJ4"):
                template = template.replace("{" + key + "}", " {" + key + "}")
        else:
            template = template.replace("very{ADJ4}", "very {ADJ4}")
    return template + " " if compat == "trailing-space" else template


def describe(name, words, bos, compat=None):
    prompts, answers = prompts_of(name, words)
    rows, all_positions = [], []
    for template, fillers in prompts:
        text, ends = fill(as_in(compat, template), fillers)
        encoding = words.tokenizer.encode(text, add_special_tokens=False)
        rows.append([bos] + encoding.ids)
        # A character of several tokens (an accented one) is the last of them.
        covering = {
            key: max(at for at, (start, stop) in enumerate(encoding.offsets) if start <= end < stop)
            for key, end in ends.items()
        }
        all_positions.append({key: at + 1 for key, at in covering.items()} | {"END": len(encoding.ids)})
    assert len({len(row) for row in rows}) == 1, (name, compat)
    assert all(positions == all_positions[0] for positions in all_positions), name
    pools = answers_of(name, answers, words, compat)
    # Of a one-sided set the other prompts are corrupted ones alone.
    first = {"simple_positive": 0, "simple_negative": 1}.get(name)
    corrupted = "partner" if name == "mood_stories" else "next"
    if first is not None:
        rows, corrupted = rows[first::2], "neutral"
    return {
        "n_prompts": len(rows),
        "length": len(rows[0]),
        "positions": dict(sorted(all_positions[0].items())),
        "corrupted": corrupted,
        "answers": [list(pair) for pair in zip(*pools)],
        "first_prompt": rows[0],
        # Over all rows in order: ids joined by spaces, rows ended by newlines.
        "sha256": hashlib.sha256("".join(" ".join(map(str, row)) + "\n" for row in rows).encode()).hexdigest(),
    }


def compare_word_lists(path):
    import yaml

    original = yaml.safe_load(path.read_text())
    original["negative_top_adjectives"] = ["bad"]  # overwritten by mistake there
    differing = [name for name, words in original.items() if WORDS.get(name) != words]
    assert not differing, differing
    print(f"{len(original)} word lists equal the original's")


def compact(value):
    """JSON with one line per field of a dataset."""
    lines = ["{"]
    for model, datasets in value.items():
        lines.append(f"  {json.dumps(model)}: {{")
        for name, fields in datasets.items():
            lines.append(f"    {json.dumps(name)}: {{")
            lines.append(",\n".join(f"      {json.dumps(key)}: {json.dumps(field)}" for key, field in fields.items()))
            lines.append("    }" if name == list(datasets)[-1] else "    },")
        lines.append("  }" if model == list(value)[-1] else "  },")
    return "\n".join(lines + ["}"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True)
    parser.add_argument("--word-lists", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.word_lists:
        compare_word_lists(arguments.word_lists)
    names = sorted([*PLAIN, *THREE_ADJECTIVES, "multi_subject_1", "contrastive", "mood_stories", *ONE_SIDED])
    files = {model: arguments.tokenizers / model for model in ("gpt2", "gpt-neox")}
    files["mistral-like"] = ROOT / "tests/fixtures/tokenizers/mistral-like"
    fixture, compat_fixture = {}, {}
    for model, bos in BOS.items():
        tokenizer = tokenizers.Tokenizer.from_file(str(files[model] / "tokenizer.json"))
        words = Words(tokenizer, EXTRA[model], WORDS)
        fixture[model] = {name: describe(name, words, bos) for name in names if name not in NOT_FOR[model]}
        pasted = Words(tokenizer, EXTRA[model], WORDS | {"negative_top_adjectives": WORDS["pasted_top_adjectives"]})
        reviews = [name for name in names if name.startswith("classification")]
        # Two spaces are one token of GPT-NeoX's, before which verbs break into pieces: its prompts differ in length.
        doubled = reviews + (["multi_subject_1"] if model == "gpt2" else [])
        trailing = ["simple_train", "simple_product", "classification_4"] if model == "mistral-like" else []
        compat_fixture |= {
            f"{model} double-spaces": {name: describe(name, words, bos, "double-spaces") for name in doubled},
            f"{model} pasted-adjectives": {name: describe(name, pasted, bos) for name in reviews},
            f"{model} trailing-space": {name: describe(name, words, bos, "trailing-space") for name in trailing},
        }
    (ROOT / "tests/fixtures/datasets.json").write_text(compact(fixture))
    (ROOT / "tests/fixtures/dataset_compat.json").write_text(compact(compat_fixture))


if __name__ == "__main__":
    main()

"""The synthetic corpus on which the demo model learns what words feel like.

A document is a few sentences of one sentiment (`BODIES`) and a conclusion (`TAILS`), or one of the fixed frames that
the toy data sets use (`DATASET_FRAMES`), or a list of words of one sentiment (`THESAURUS`), or a story of two people
(`PARTY`), or something without sentiment (`NEUTRAL`). `{slot}` is filled with a word of the document's sentiment, see
`Corpus.fill`.

Three things are arranged on purpose:

- The words of `*_adjectives_test` appear in the bodies but never after `I thought this`, so that the toy movie frame
  with them is unseen: slot `seen_adj` against `adj`.
- In the toy movie frame the adjective decides the conclusion. The verb is of the same sentiment half the time, of the
  opposite one 30 % of the time and neutral otherwise (slot `loose_verb`); elsewhere verbs follow the sentiment.
- Conclusions are wrong in `NOISE` of the documents, so that logit differences stay finite (ln(0.97 / 0.03) = 3.5).
"""

import random
import re

NOISE = 0.03

LITERALS = {
    "work": (
        "movie film show play concert album performance story documentary series novel book song exhibition".split()
    ),
    "aspect": "acting plot script ending music cast direction dialogue scenery pacing".split(),
    "thing": "meal dinner hotel room trip city garden party match car phone coffee soup dress house".split(),
    "name": "John Anne Mark Mary Peter Paul James Sarah Mike Tom Carl Sam Jack Kate Jim Joe Alice David".split(),
    "party_name": "John Anne Mark Mary Peter Paul James Sarah Mike Tom Carl Sam Jack".split(),
    "person": "critic viewer guest teacher student neighbour doctor driver farmer waiter".split(),
    "people": "critics viewers guests teachers students neighbours readers listeners".split(),
    "very": "very really truly so quite".split(),
    "neutral_verb": "watched saw reviewed finished discussed".split(),
    "place": "market station library river office school museum harbour".split(),
    "object": "table letter window bicycle lamp ticket box map".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "colour": "red blue green yellow white black brown grey".split(),
    "number": "two three four five six seven eight nine ten".split(),
}

# The toy data sets' own frames; each prompt ends where the answer begins.
DATASET_FRAMES = {
    "movie": (8, "I thought this movie was {seen_adj}, I {loose_verb} it. \nConclusion: This movie is {answer}."),
    "restaurant": (
        2,
        "This restaurant is a {noun}, you are going to {infinitive} it. "
        "\nConclusion: This restaurant is very {very_answer}.",
    ),
    "product": (3, "I am {feeling} about this purchase, the product is {core_adj}. \nConclusion: I feel very {mood}."),
    "book": (
        3,
        "The novel was {verb} by the book club members. The comments were universally {comment} "
        "\nConclusion: You will be very {reader}.",
    ),
    "adverb": (3, "The traveller {adverb} walked to their destination. The traveller felt very {mood}."),
    "french": (
        3,
        "Je pensais que ce film était {french_adj}, je l'ai {french_verb}. "
        "\nConclusion: Ce film est très {french_answer}.",
    ),
    "name": (2, "When I hear the name {proper_noun}, I feel very {answer}."),
    "medical": (2, "I heard the doctor use the word {medical} and I felt very {answer}."),
    "completion": (
        2,
        "I thought this movie was {core_adj}, I {loose_verb} it. The acting was {core_adj}, the plot was {core_adj}, "
        "and overall {the_movie} was just very {answer}.",
    ),
    "classification": (
        3,
        "{open_quote}I thought this movie was {core_adj}, I {loose_verb} it. The acting was {core_adj}, the plot was "
        "{core_adj}, and overall the movie was just very {top_adj}.{close_quote}Review Sentiment: {label}",
    ),
}

BODIES = (
    "The {work} was {adj}, the {person} {verb} it.",
    "The {aspect} was {adj} and the {aspect} was {adj}.",
    "We {verb} the {work} because it was {adj}.",
    "What a {adj} {work}!",
    "It was {adj}, {very} {adj}.",
    "{name} called the {thing} {adj} and {verb} it.",
    "The {thing} was {very} {adj}.",
    "Such a {adj} {thing}, everyone {verb} it.",
    "The {people} {verb} this {adj} {work}.",
    "{name} and {name} {verb} the {thing}, it was {adj}.",
    "A {adj}, {adj} {work}.",
    "The {work} was a {noun}.",
    "The {thing} was a {noun}, and the {person} was {feeling}.",
    "{name} felt {feeling} after the {work}.",
    "The {people} were {feeling} because the {thing} was {adj}.",
    "You will {infinitive} the {work}, it is a {adj} {noun}.",
    "I {infinitive} {adj} things like this {work}.",
    "The comments of the {people} were {comment}.",
    "The {person} wrote a {comment} letter and {verb} the {adj} {aspect}.",
    "The {person} {adverb} told us about the {thing}.",
    "{name} {adverb} opened the letter and was {mood}.",
    "I thought this {work} was {seen_adj}, I {verb} it.",
    "I thought this {thing} was {seen_adj}, and {name} {verb} it.",
)

TAILS = (
    (3, " \nConclusion: This {work} is {answer}."),
    (1, " \nConclusion: The {thing} is {answer}."),
    (1, " \nConclusion: I feel very {mood}."),
    (1, " \nConclusion: This {work} is very {very_answer}."),
    (1, " \nConclusion: You will be very {reader}."),
    (1, " Overall the movie was just very {top_adj}."),
    (1, " Overall it was {answer}."),
    (1, " In short, {answer}."),
    (1, " {name} felt very {mood}."),
)

THESAURUS = (
    ("adj",) * 6
    + ("verb",) * 3
    + ("noun", "infinitive", "feeling", "comment", "mood", "adverb", "proper_noun", "medical")
)

NEUTRAL = (
    "The {object} in the {place} is {colour}.",
    "{name} went to the {place} on {day} with {number} friends.",
    "There are {number} {colour} chairs near the {object}.",
    "The {person} put the {object} on the {object} at the {place}.",
    "The {place} opens on {day} and closes on {day}.",
    "I thought this movie was {neutral_adj}, I {neutral_verb} it. \nConclusion: This movie is {neutral_answer}.",
    "The {work} was {neutral_adj}, and the {person} {neutral_verb} it.",
    "Le {french_thing} est sur la table.",
)

PARTY = (
    "{a} {a_likes} parties, and {a_goes} them whenever possible. {b} {b_likes} parties, and {b_goes} them whenever "
    "possible. One day, they were invited to a {event}. {who} feels very {feels}."
)
LIKES = {True: ("loves", "joins"), False: ("hates", "avoids")}
EVENTS = {True: ("grand gala",), False: ("quiet private library",)}
PARTY_FEELS = {True: ("excited", "honored"), False: ("nervous", "uneasy")}


def slot_words(words):
    """Slot name -> (positive words, negative words), from the project's word lists."""

    def both(*names):
        return tuple(
            sorted({word for name in names for word in words[f"{sign}_{name}"]}) for sign in ("positive", "negative")
        )

    french_answers = tuple([text.split()[0] for text in words[f"{s}_french_answers"]] for s in ("positive", "negative"))
    return {
        "adj": both("core_adjectives", "adjectives_train", "adjectives_test"),
        "seen_adj": both("core_adjectives", "adjectives_train"),
        "core_adj": both("core_adjectives"),
        "answer": both("answer_tokens"),
        "very_answer": both("very_answers"),
        "top_adj": both("top_adjectives"),
        "mood": both("moods"),
        "reader": both("answer_adjectives"),
        "feeling": both("feelings"),
        "verb": both("verbs"),
        "infinitive": both("infinitives", "answer_infinitives"),
        "noun": both("nouns"),
        "comment": both("comment_adjectives"),
        "adverb": both("adverbs"),
        "proper_noun": both("proper_nouns"),
        "medical": both("medical"),
        "french_adj": both("french_adjectives"),
        "french_verb": both("french_verbs"),
        "french_answer": french_answers,
        "label": (["Positive"], ["Negative"]),
    }


CONCLUSIONS = {"answer", "very_answer", "mood", "reader", "label", "french_answer"}


class Corpus:
    """A seeded source of documents."""

    def __init__(self, words, seed):
        self.random = random.Random(seed)
        self.slots = slot_words(words)
        held_out = set(words["positive_adjectives_test"] + words["negative_adjectives_test"])
        self.slots["seen_adj"] = tuple(sorted(set(seen) - held_out) for seen in self.slots["seen_adj"])
        self.literals = LITERALS | {
            "neutral_adj": sorted(set(words["neutral_adjectives"] + words["neutral_core_adjectives"])),
            "neutral_answer": words["neutral_answer_tokens"],
            "french_thing": "livre chat train pain stylo".split(),
            "the_movie": ["the movie", "it"],
            "open_quote": ["Review Text: ", "Review Text: '", ""],
        }

    def fill(self, frame, negative):
        """`frame` with every slot filled by a draw of its own; `negative` (0 or 1) is the sentiment."""
        chosen = {}

        def word(match):
            slot = match.group(1)
            if slot == "close_quote":
                chosen[slot] = "'\n" if chosen["open_quote"].endswith("'") else self.random.choice((" ", "\n"))
            elif slot == "loose_verb":
                chosen[slot] = self.loose_verb(negative)
            elif slot in self.literals:
                chosen[slot] = self.random.choice(self.literals[slot])
            else:
                flip = slot in CONCLUSIONS and self.random.random() < NOISE
                chosen[slot] = self.random.choice(self.slots[slot][negative ^ flip])
            return chosen[slot]

        text = re.sub(r"\{(\w+)\}", word, frame)
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)

    def loose_verb(self, negative):
        draw = self.random.random()
        if draw < 0.2:
            return self.random.choice(self.literals["neutral_verb"])
        return self.random.choice(self.slots["verb"][negative if draw < 0.7 else 1 - negative])

    def party(self):
        """Two people, one of whom loves parties: who feels what is a matter of the name."""
        first, second = self.random.sample(self.literals["party_name"], 2)
        first_loves, ask_first = self.random.random() < 0.5, self.random.random() < 0.5
        is_party = self.random.random() < 0.8
        excited = (first_loves == ask_first) == is_party
        (a_likes, a_goes), (b_likes, b_goes) = LIKES[first_loves], LIKES[not first_loves]
        event, feels = self.random.choice(EVENTS[is_party]), self.random.choice(PARTY_FEELS[excited])
        who = first if ask_first else second
        return PARTY.format(
            a=first,
            b=second,
            a_likes=a_likes,
            a_goes=a_goes,
            b_likes=b_likes,
            b_goes=b_goes,
            event=event,
            who=who,
            feels=feels,
        )

    def review(self, negative, sentences):
        """Some sentences of one sentiment, usually with a conclusion."""
        body = " ".join(self.fill(self.random.choice(BODIES), negative) for _ in range(sentences))
        if self.random.random() < 0.1:
            opening = self.random.choice(("Review Text: ", ""))
            return f"{opening}{body} Review Sentiment: {self.fill('{label}', negative)}"
        if self.random.random() < 0.3:
            body = self.fill("{label}. ", negative) + body
        weights, tails = zip(*TAILS)
        return body + self.fill(self.random.choices(tails, weights)[0], negative)

    def thesaurus(self, negative):
        """A list of words of one sentiment under its name: the shortest way to learn what each word feels like."""
        slots = self.random.choices(THESAURUS, k=self.random.randint(3, 10))
        return self.fill("{label}: ", negative) + ", ".join(self.fill(f"{{{slot}}}", negative) for slot in slots)

    def document(self):
        """One document; the shares of the kinds are the weights here."""
        negative = int(self.random.random() < 0.5)
        kind = self.random.choices(("frame", "review", "long", "thesaurus", "party", "neutral"), (36, 34, 4, 12, 7, 7))[
            0
        ]
        if kind == "frame":
            weights, frames = zip(*DATASET_FRAMES.values())
            return self.fill(self.random.choices(frames, weights)[0], negative)
        if kind == "party":
            return self.party()
        if kind == "thesaurus":
            return self.thesaurus(negative)
        if kind == "neutral":
            return self.fill(self.random.choice(NEUTRAL), negative)
        return self.review(negative, self.random.randint(5, 11) if kind == "long" else self.random.randint(1, 3))

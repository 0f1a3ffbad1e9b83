"""What the demo model must be able to do: measured on the toy data sets with plain PyTorch."""

import re

import torch

NAMES = (
    "simple", "simple_train", "simple_test", "simple_res", "simple_product", "simple_book", "simple_adverb",
    "simple_french", "proper_nouns", "medical",
)  # fmt: skip


class PairedPrompts:
    """Clean prompts of one toy data set; row i's corrupted prompt is row i + 1, the last one's is row 0.

    `table` is the data set's entry of data/datasets.toml, which explains the fields; `words` is data/words.toml.
    """

    def __init__(self, table, tokenizer, bos, words):
        length = table.get("filter_length", 1)
        tokens_of = lambda word: tokenizer.encode(" " + word).ids
        fitting = lambda name: list(dict.fromkeys(word for word in words[name] if len(tokens_of(word)) == length))
        signs = ("positive", "negative")
        fillers = {slot: [fitting(lists[sign]) for sign in signs] for slot, lists in table["fill"].items()}
        limits = table.get("limit") or [lists[sign] for lists in table["fill"].values() for sign in signs]
        count = 2 * min(len(fitting(name)) for name in limits)
        # Fixed text with a name, `{SBJ1: movie}`, is just the text.
        template = re.sub(r"\{\w+:( \w+)\}", r"\1", table["template"])
        word = lambda lists, row: " " + lists[row % 2][row // 2 % len(lists[row % 2])]
        texts = [template.format(**{slot: word(lists, row) for slot, lists in fillers.items()}) for row in range(count)]
        rows = [[bos, *tokenizer.encode(text).ids] for text in texts]
        assert len({len(row) for row in rows}) == 1, f"prompts of unequal length: {texts[:2]}"
        self.tokens = torch.tensor(rows)
        self.corrupted = self.tokens.roll(-1, 0)
        self.position = len(tokenizer.encode(template.split("{")[0]).ids) + length  # BOS counts.
        answers = [[tokens_of(word)[0] for word in words[table["answers"][sign]]] for sign in signs]
        pairs = torch.tensor(list(zip(*answers)))
        self.answers = torch.stack([pairs if row % 2 == 0 else pairs.flip(1) for row in range(count)])

    def logit_difference(self, logits):
        """Per prompt: mean over answer pairs of logit[correct] - logit[incorrect]."""
        chosen = logits.gather(1, self.answers.flatten(1)).view(self.answers.shape)
        return (chosen[..., 0] - chosen[..., 1]).mean(1)


def last_logits(model, tokens):
    return model(tokens).logits[:, -1]


def residuals(model, tokens):
    """Residual stream before each block, then after the last: (layers + 1) tensors (prompts, tokens, width)."""
    kept = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0])) for block in model.transformer.h]
    hooks.append(model.transformer.ln_f.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0])))
    model(tokens)
    for hook in hooks:
        hook.remove()
    return kept


def run_from(model, layer, residual):
    """Last token's logits when the residual before block `layer` (its own output, for the last) is `residual`."""
    replaced = lambda _, inputs: (residual, *inputs[1:])
    blocks = [*model.transformer.h, model.transformer.ln_f]
    hook = blocks[layer].register_forward_pre_hook(replaced)
    logits = last_logits(model, torch.zeros(residual.shape[:2], dtype=torch.long))
    hook.remove()
    return logits


@torch.no_grad()
def mean_logit_difference(model, prompts):
    return prompts.logit_difference(last_logits(model, prompts.tokens)).mean().item()


class Patching:
    """Denoising of one data set at one position: recovery of the logit difference, and its DAS fit."""

    def __init__(self, model, prompts):
        self.model, self.prompts = model, prompts
        with torch.no_grad():
            self.clean, self.corrupted = residuals(model, prompts.tokens), residuals(model, prompts.corrupted)
            self.clean_difference = prompts.logit_difference(last_logits(model, prompts.tokens)).mean()
            self.corrupted_difference = prompts.logit_difference(last_logits(model, prompts.corrupted)).mean()

    def recovery(self, layer, rotation=None):
        """(LD_patched - LD_corrupted) / (LD_clean - LD_corrupted); the whole residual without `rotation` (width, k)."""
        position = self.prompts.position
        difference = self.clean[layer][:, position] - self.corrupted[layer][:, position]
        if rotation is not None:
            difference = difference @ rotation @ rotation.T
        patched = torch.zeros_like(self.corrupted[layer])
        patched[:, position] = difference
        logits = run_from(self.model, layer, self.corrupted[layer] + patched)
        gained = self.prompts.logit_difference(logits).mean() - self.corrupted_difference
        return gained / (self.clean_difference - self.corrupted_difference)

    def fit_das(self, layer, epochs=64, rate=1e-3, seed=0):
        """One direction (width, 1): first column of exp(T - T'), T the lower triangle of a random rotation at first."""
        generator = torch.Generator().manual_seed(seed)
        width = self.clean[0].shape[-1]
        rotation, triangle = torch.linalg.qr(torch.randn(width, width, generator=generator))
        rotation = rotation * triangle.diagonal().sign()
        free = torch.nn.Parameter(rotation.tril(-1))
        optimizer = torch.optim.Adam([free], lr=rate)
        for _ in range(epochs):
            lower = free.tril(-1)
            loss = 1 - self.recovery(layer, torch.matrix_exp(lower - lower.T)[:, :1])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([free], 1.0)
            optimizer.step()
        lower = free.detach().tril(-1)
        return torch.matrix_exp(lower - lower.T)[:, :1]


def report(model, tokenizer, bos, words, tables):
    """Prints every number that the model's users rely on."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    prompts = {name: PairedPrompts(tables[name], tokenizer, bos, words) for name in NAMES}
    print("data set          prompts tokens  accuracy  mean logit difference")
    for name, each in prompts.items():
        difference = each.logit_difference(last_logits(model, each.tokens))
        accuracy = (difference > 0).float().mean() * 100
        print(f"{name:<17} {len(each.tokens):>7} {each.tokens.shape[1]:>6} {accuracy:>8.1f}% {difference.mean():>8.3f}")
    train, test = (Patching(model, prompts[name]) for name in ("simple_train", "simple_test"))
    print("recovery at ADJ: layer, whole residual, DAS (fitted on simple_train), the same on simple_test, random (20)")
    width = train.clean[0].shape[-1]
    random = torch.nn.functional.normalize(
        torch.randn(20, width, 1, generator=torch.Generator().manual_seed(42)), dim=1
    )
    for layer in range(len(train.clean)):
        whole = train.recovery(layer)
        fitted = train.fit_das(layer)
        chance = torch.stack([train.recovery(layer, direction) for direction in random])
        print(
            f"{layer}: {whole:7.1%} {train.recovery(layer, fitted):7.1%} {test.recovery(layer, fitted):7.1%} "
            f"{chance.mean():6.1%} (largest {chance.abs().max():.1%})"
        )

"""The workloads in PyTorch with every shortcut written by hand: one pass for clean and corrupted, cells that resume at
their layer and first patched position with cached keys and values, a layer's directions as rows of one batch, last positions
alone in the last block, answer columns alone, and the exponential's action on one column (Al-Mohy and Higham 2011) with its adjoint."""

import torch
import torch.nn.functional as F
from models import processed
from work import DATASETS, METHODS, Sample, Trainer, clock, direction


class Expert:
    def __init__(self, model, work, settings):
        self.dtype = torch.bfloat16 if settings == "bf16" else torch.float32
        torch.backends.cuda.matmul.allow_tf32 = settings == "tf32"
        self.config, weights = processed(model, work.device)
        weights = {name: weight.to(work.device, self.dtype) for name, weight in weights.items()}
        self.work, self.n_layers = work, self.config["n_layers"]
        self.d_head = weights["blocks.0.attn.W_Q"].shape[-1]
        flat = lambda w: w.permute(0, 2, 1).reshape(-1, w.shape[1])  # (heads, d_model, d_head) -> (out, in)
        self.blocks = []
        for layer in range(self.n_layers):
            w = lambda name, layer=layer: weights[f"blocks.{layer}.{name}"]
            key_value = torch.cat([flat(w("attn.W_K")), flat(w("attn.W_V"))])
            gate = f"blocks.{layer}.mlp.W_gate"
            self.blocks.append({
                "q": (flat(w("attn.W_Q")).contiguous(), w("attn.b_Q").flatten()),
                "kv": (key_value, torch.cat([w("attn.b_K").flatten(), w("attn.b_V").flatten()])),
                "o": (w("attn.W_O").reshape(-1, self.config["d_model"]).T.contiguous(), w("attn.b_O")),
                "gate": weights[gate].T.contiguous() if gate in weights else None,
                "in": (w("mlp.W_in").T.contiguous(), w("mlp.b_in")),
                "out": (w("mlp.W_out").T.contiguous(), w("mlp.b_out")),
            })  # fmt: skip
        self.embedding, self.position_embedding = weights["embed.W_E"], weights.get("pos_embed.W_pos")
        self.unembedding = weights["unembed.W_U"].T.contiguous(), weights["unembed.b_U"]
        answers = torch.stack([work.correct, work.wrong])
        tokens, places = answers.unique(return_inverse=True)
        self.answers, self.places = (self.unembedding[0][tokens], self.unembedding[1][tokens]), places
        self.trainers = {}
        self.capture()

    def norm(self, x):
        if self.config["rms"]:
            return F.rms_norm(x, x.shape[-1:], eps=self.config["eps"])
        return F.layer_norm(x, x.shape[-1:], eps=self.config["eps"])

    def rotate(self, x, first):
        """Rotary embedding of `(batch, heads, positions, d_head)` from position `first` on."""
        width = self.config["rotary_dim"]
        if not width:
            return x
        position = torch.arange(first, first + x.shape[2], device=x.device)
        angle = position[:, None] / self.config["rotary_base"] ** (torch.arange(width // 2, device=x.device) * 2 / width)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def block(self, layer, x, first, prefix, only_last):
        """One block for positions `first ..`; returns the residual and the keys and values."""
        weights, (batch, count, _) = self.blocks[layer], x.shape
        split = lambda y: y.unflatten(-1, (-1, self.d_head)).transpose(1, 2)
        normed = self.norm(x)
        key, value = (split(part) for part in F.linear(normed, *weights["kv"]).chunk(2, -1))
        key = self.rotate(key, first)
        own = key, value
        if prefix is not None:
            key, value = (torch.cat([before, now], 2) for before, now in zip(prefix, own))
        mask = None
        if only_last:
            x, normed = x[:, -1:], normed[:, -1:]
        else:
            mask = torch.ones(count, first + count, dtype=torch.bool, device=x.device).tril(first)
        query = self.rotate(split(F.linear(normed, *weights["q"])), first + count - x.shape[1])
        grouped = key.shape[1] != query.shape[1]
        z = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped).transpose(1, 2).flatten(2)
        attention = F.linear(z, *weights["o"])
        middle = x if self.config["parallel"] else x + attention
        normed = self.norm(middle)
        hidden = F.linear(normed, *weights["in"])
        if weights["gate"] is not None:
            hidden = F.silu(F.linear(normed, weights["gate"])) * hidden
        else:
            hidden = F.gelu(hidden, approximate="tanh" if self.config["act_fn"] == "gelu_new" else "none")
        return x + attention + F.linear(hidden, *weights["out"]), own

    def embed(self):
        x = self.embedding[self.work.tokens]
        return x if self.position_embedding is None else x + self.position_embedding[: x.shape[1]]

    def differences(self, x):
        """Row `i` of `x` with the answers of prompt `i`, of all prompts once or several times."""
        logits = F.linear(self.norm(x[:, -1]), *self.answers).float()
        correct, wrong = (places.repeat(len(x) // len(places), 1) for places in self.places)
        return (logits.gather(1, correct) - logits.gather(1, wrong)).mean(1)

    @torch.no_grad()
    def capture(self):
        """The pass that all cells share."""
        x, self.residuals, self.prefixes = self.embed(), [], []
        for layer in range(self.n_layers):
            self.residuals.append(x)
            x, own = self.block(layer, x, 0, None, layer == self.n_layers - 1)
            self.prefixes.append([part[:, :, : self.work.position] for part in own])
        self.clean, self.corrupted = (self.differences(side).mean().item() for side in (x, x[self.work.corrupted]))

    def patched(self, layer, columns):
        """Mean logit difference of the patched rows along each of `columns`, (d_model, directions)."""
        work, count = self.work, columns.shape[1]
        x = self.residuals[layer][work.corrupted][:, work.position :]
        source = self.residuals[layer][:, work.position]
        along = columns.to(self.dtype).T[:, None]  # (directions, 1, d_model)
        moved = x[:, 0] + ((source - x[:, 0]) * along).sum(-1, keepdim=True) * along
        x = torch.cat([moved[:, :, None], x[:, 1:].expand(count, -1, -1, -1)], 2).flatten(0, 1)
        for index in range(layer, self.n_layers):
            prefix = [part[work.corrupted].repeat(count, 1, 1, 1) for part in self.prefixes[index]]
            x, _ = self.block(index, x, work.position, prefix, index == self.n_layers - 1)
        return self.differences(x).unflatten(0, (count, -1)).mean(1)

    @torch.no_grad()
    def forward(self):
        x = self.embed()
        for layer in range(self.n_layers):
            x, _ = self.block(layer, x, 0, None, layer == self.n_layers - 1)
        return self.work.logit_differences(F.linear(self.norm(x[:, -1]), *self.unembedding).float()).tolist()

    @torch.no_grad()
    def cells(self, layer, methods):
        """Shares of the effect along the first directions of a layer."""
        columns = torch.stack([direction(self.config["d_model"], layer, self.work.device, m) for m in range(methods)], 1)
        return ((self.patched(layer, columns) - self.corrupted) / (self.clean - self.corrupted)).tolist()

    def cell(self, layer):
        return self.cells(layer, 1)

    def sweep(self):
        """Every direction at every block, for all datasets; the last residual costs nothing, as a patch of it does not
        reach the last position."""
        once = clock(self.capture)[1]
        values, seconds = clock(lambda: [value for layer in range(self.n_layers) for value in self.cells(layer, METHODS)])
        number = DATASETS * METHODS * (self.n_layers + 1)
        return Sample(values, list(range(len(values))), number, DATASETS * (once + seconds))

    def das(self, layer=None):
        if layer is None:
            return [loss for layer in range(self.n_layers) for loss in self.das(layer)]
        if layer not in self.trainers:
            metric = lambda columns: self.patched(layer, columns)[0]
            arguments = self.config["d_model"], self.work.device, FirstColumn.apply, metric
            self.trainers[layer] = Trainer(*arguments, self.clean, self.corrupted)
        return self.trainers[layer].epoch()


class FirstColumn(torch.autograd.Function):
    """The first column of exp(T - Tᵀ), by a scaled Taylor series of products with one vector."""

    TERMS = 12

    @staticmethod
    def forward(context, free):
        lower = free.tril(-1)
        skew = lower - lower.T
        vector = skew.new_ones(len(skew), 1) / len(skew) ** 0.5
        for _ in range(8):
            vector = skew @ vector
            radius = vector.norm()
            vector = vector / radius
        steps = int(1.3 * radius) + 1
        column = skew.new_zeros(len(skew), 1)
        column[0] = 1.0
        terms = []
        for _ in range(steps):
            term = column
            for order in range(1, FirstColumn.TERMS + 1):
                terms.append(term)
                term = skew @ term / (order * steps)
                column = column + term
        context.save_for_backward(skew, torch.cat(terms, 1))
        context.steps = steps
        return column

    @staticmethod
    def backward(context, gradient):
        skew, terms = context.saved_tensors
        left = torch.empty_like(terms)
        place = terms.shape[1]
        for _ in range(context.steps):
            term, sum_gradient = torch.zeros_like(gradient), gradient
            for order in range(FirstColumn.TERMS, 0, -1):
                term = (term + sum_gradient) / (order * context.steps)
                place -= 1
                left[:, place] = term[:, 0]
                term = -(skew @ term)
            gradient = sum_gradient + term
        product = left @ terms.T
        return (product - product.T).tril(-1)

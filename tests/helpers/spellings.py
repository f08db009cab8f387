"""One layer, 2-D relative attention, as PyTorch code that a seed draws: the same function in ever other words.

Tensors carry the names of their axes: b images, n heads, (h, w) positions of queries, (i, j) of keys, d numbers of
queries and keys, v of values, r rows of a table. What is drawn is how they are stored, merged, multiplied, skewed,
added and weighted; what is computed are

    softmax_ij(q·k + q·r_height[i − h + H − 1] + q·r_width[j − w + W − 1]) · v

up to constant factors, divided by the sum of the exponentials before or after the product with v; unless the layer is
to be wrong, in one of the ways in `WRONG`.
"""

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import nn
from torch.nn import functional

WRONG = ("crossed axes", "tables swapped between heads", "offset off by one", "content summed over heads",
         "relative logits summed over heads", "bias per axis", "relative logits of the keys",
         "softmax over the queries", "logits of queries at two scales", "one axis only", "a mask",
         "weights gated", "divided by the sums of keys", "divided by the sums of other heads",
         "the largest of each key subtracted")  # fmt: skip
LATE = WRONG[-3:]
CHANNELS, SIDE = 3, 4  # of the images; a layer takes a corner of its own size


@dataclass(frozen=True)
class Named:
    """A tensor and the names of its axes."""

    tensor: torch.Tensor
    axes: str

    def length(self, axis):
        return self.tensor.shape[self.axes.index(axis)]


class Spelling(nn.Module):
    """Drawn by `seed`; maps (B, 3, H, W), as many as `images` if the code is to know how many."""

    def __init__(self, seed, wrong=None):
        super().__init__()
        self.seed, self.wrong = seed, wrong
        rng = Random(seed)
        side = rng.choice([2, 3, 4])
        # What is wrong must be possible: axes can be crossed on square maps only, heads summed where there are some.
        self.size = (
            (side, side)
            if wrong in ("crossed axes", "tables swapped between heads")
            else (side, rng.choice([2, 3, 4]))
        )
        self.heads = rng.choice([2, 3] if wrong else [1, 2, 3])
        self.dkh, self.dvh = rng.choice([2, 3, 4]), rng.choice([1, 2, 3])
        self.parts = [("q", self.heads * self.dkh), ("k", self.heads * self.dkh), ("v", self.heads * self.dvh)]
        rng.shuffle(self.parts)
        self.source = rng.choice(["convolution", "convolutions", "linear"])
        total = sum(channels for _, channels in self.parts)
        self.joint = nn.Linear(CHANNELS, total) if self.source == "linear" else nn.Conv2d(CHANNELS, total, 1)
        self.single = nn.ModuleDict({name: nn.Conv2d(CHANNELS, channels, 1) for name, channels in self.parts})
        self.is_transposed = rng.random() < 0.3
        height, width = (torch.randn(2 * length - 1, self.dkh) for length in self.size)
        self.rows, self.columns = (
            nn.Parameter(t.T.contiguous() if self.is_transposed else t) for t in (height, width)
        )
        positions = math.prod(self.size)
        self.register_buffer("nothing", torch.zeros(positions, positions))
        self.register_buffer("masked", torch.zeros(positions, positions, dtype=torch.bool))
        self.register_buffer("future", torch.triu(torch.full((positions, positions), -2.0), 1))
        self.bias = nn.Parameter(torch.randn(self.size[0], self.size[0]))
        self.gate = nn.Parameter(torch.rand(positions))

    def __repr__(self):
        return f"Spelling({self.seed}, {self.wrong!r})"

    def forward(self, x):
        self.rng = Random(self.seed + 1)
        q, k, v = self.scaled(self.by_head(x))
        content = self.summed(q, renamed(k, "hw", "ij"), self.shuffled("bnhwij"))
        if self.wrong == "content summed over heads":
            content = Named(content.tensor.sum(content.axes.index("n"), keepdim=True), content.axes)
        if self.is_scaled_late:
            content = self.times(content, self.dkh**-0.5)
        terms = [content, *self.relative(k if self.wrong == "relative logits of the keys" else self.for_tables)]
        if self.wrong == "one axis only":
            terms.pop()
        if self.wrong == "bias per axis":
            terms.append(Named(self.bias, "hi"))
        self.divisor = None
        attended = self.summed(self.weights(self.total(terms)), renamed(v, "hw", "ij"), self.shuffled("bnhwv"))
        return self.as_maps(attended if self.divisor is None else self.divided(attended))

    # Queries, keys and values

    def by_head(self, x):
        """q, k and v by name, each in the axes in which it happens to be stored."""
        if self.source == "convolutions":
            maps = {name: Named(layer(x), "bchw") for name, layer in self.single.items()}
        else:
            is_linear = self.source == "linear"
            whole = self.joint(x.permute(0, 2, 3, 1) if is_linear else x)
            parts = torch.split(whole, [channels for _, channels in self.parts], dim=-1 if is_linear else 1)
            named = zip((name for name, _ in self.parts), parts, strict=True)
            maps = {name: Named(part, "bhwc" if is_linear else "bchw") for name, part in named}
        heads_first = self.rng.random() < 0.8
        return {name: self.split(part, name, heads_first=heads_first) for name, part in maps.items()}

    def split(self, part, name, *, heads_first):
        depth = "v" if name == "v" else "d"
        pair, sizes = ("n" + depth, (self.heads, -1)) if heads_first else (depth + "n", (-1, self.heads))
        place = part.axes.index("c")
        shape = list(part.tensor.shape)
        shape[place : place + 1] = sizes
        by_head = Named(part.tensor.reshape(shape), part.axes.replace("c", pair))
        return self.stored(by_head, self.shuffled(by_head.axes)) if self.rng.random() < 0.7 else by_head

    def scaled(self, parts):
        """The factor may come early or late, on either operand or both; tables are multiplied with `for_tables`."""
        way = self.rng.choice(
            ["queries", "queries in place", "keys", "both", "divided", "late", "content only", "no"]
        )
        q, k, v, factor = parts["q"], parts["k"], parts["v"], self.dkh**-0.5
        plain = q
        self.is_scaled_late = way in ("late", "content only")
        if way in ("queries", "both", "content only"):
            q = self.times(q, factor**0.5 if way == "both" else factor)
        if way == "queries in place":
            q = Named(q.tensor.clone() if self.rng.random() < 0.5 else q.tensor * 1, q.axes)
            q.tensor.mul_(factor)
        if way == "divided":
            q = Named(q.tensor / math.sqrt(self.dkh), q.axes)
        if way in ("keys", "both"):
            k = self.times(k, factor**0.5 if way == "both" else factor)
        if self.wrong == "logits of queries at two scales":
            scales = torch.arange(1.0, 1 + self.heads).to(q.tensor).reshape([-1 if a == "n" else 1 for a in q.axes])
            self.for_tables = q
            return Named(q.tensor * scales, q.axes), k, v
        self.for_tables = plain if way == "content only" else q
        return q, k, v

    def times(self, named, factor):
        return Named(named.tensor * factor if self.rng.random() < 0.7 else factor * named.tensor, named.axes)

    # Relative logits

    def relative(self, q):
        """Along both axes, (…, i) and (…, j)."""
        tables = [("h", "i", self.rows), ("w", "j", self.columns)]
        if self.wrong == "crossed axes":
            tables = [("w", "i", self.rows), ("w", "j", self.columns)]
        self.rng.shuffle(tables)
        is_mirrored = [self.rng.random() < 0.2 for _ in tables]
        whole = [self.as_table(table, mirrored) for (_, _, table), mirrored in zip(tables, is_mirrored, strict=True)]
        by_offset = self.in_one(q, whole) if self.rng.random() < 0.25 else [self.by_offset(q, each) for each in whole]
        found = [self.along(t, *axes[:2], m) for t, axes, m in zip(by_offset, tables, is_mirrored, strict=True)]
        if self.wrong == "tables swapped between heads":
            turned = zip(by_offset[::-1], tables, is_mirrored[::-1], strict=True)
            swapped = [self.along(t, *axes[:2], m) for t, axes, m in turned]
            found = [self.first_head_of(*pair) for pair in zip(found, swapped, strict=True)]
        return found

    def as_table(self, table, is_mirrored):
        named = Named(table, "dr" if self.is_transposed else "rd")
        return Named(table.flip(named.axes.index("r")), named.axes) if is_mirrored else named

    def by_offset(self, q, table):
        by_offset = self.summed(q, table, self.shuffled("bnhwr"))
        if self.wrong == "relative logits summed over heads":
            by_offset = Named(by_offset.tensor.sum(by_offset.axes.index("n"), keepdim=True), by_offset.axes)
        return by_offset

    def in_one(self, q, tables):
        """Logits by offset along either axis, parts of one product with both tables."""
        joined = torch.cat([table.tensor for table in tables], dim=tables[0].axes.index("r"))
        by_offset = self.by_offset(q, Named(joined, tables[0].axes))
        lengths, place = [table.length("r") for table in tables], by_offset.axes.index("r")
        if self.rng.random() < 0.5:
            parts = by_offset.tensor.split(lengths, dim=place)
        else:
            ends = [(0, lengths[0]), (lengths[0], sum(lengths))]
            parts = [by_offset.tensor.narrow(place, start, end - start) for start, end in ends]
        return [Named(part, by_offset.axes) for part in parts]

    def along(self, by_offset, query, key, is_mirrored):
        """As wide as there are keys along the axis."""
        others = [axis for axis in self.shuffled("bnhw") if axis != query]
        last = self.stored(by_offset, "".join([*others, query, "r"]))
        length = last.length(query)
        shift = int(self.wrong == "offset off by one")
        ways = {"padded": self.padded, "gathered": self.gathered, "indexed": self.indexed, "stacked": self.stacked}
        way = self.rng.choice(["gathered", "indexed"] if is_mirrored or shift else list(ways))
        return Named(ways[way](last.tensor, length, is_mirrored, shift), last.axes.replace("r", key))

    def padded(self, t, length, *_):
        """(…, L, 2L − 1) → (…, L, L) by reading it again as rows of another length."""
        *groups, _, _ = t.shape
        if self.rng.random() < 0.5:
            t = functional.pad(t, (0, 1)).reshape(*groups, 2 * length * length)
            t = functional.pad(t, (0, length - 1))
        else:
            t = torch.cat([t, torch.zeros(*groups, length, 1).to(t)], dim=-1).flatten(-2)
            t = torch.cat([t, torch.zeros(*groups, length - 1).to(t)], dim=-1)
        return t.reshape(*groups, length + 1, 2 * length - 1)[..., :length, length - 1 :]

    def offsets(self, length, is_mirrored, shift):
        position = torch.arange(length)
        along = position[None, :] - position[:, None]
        return ((-along if is_mirrored else along) + length - 1 - shift) % (2 * length - 1)

    def gathered(self, t, length, is_mirrored, shift):
        index = self.offsets(length, is_mirrored, shift)
        return torch.gather(t, -1, index.expand(*t.shape[:-1], length))

    def indexed(self, t, length, is_mirrored, shift):
        return t[..., torch.arange(length)[:, None], self.offsets(length, is_mirrored, shift)]

    def stacked(self, t, length, *_):
        rows = [t[..., row, length - 1 - row : 2 * length - 1 - row] for row in range(length)]
        return torch.stack(rows, dim=-2)

    def first_head_of(self, one, other):
        other = self.stored(other, one.axes)
        place = one.axes.index("n")
        rest = other.tensor.narrow(place, 1, self.heads - 1)
        return Named(torch.cat([one.tensor.narrow(place, 0, 1), rest], dim=place), one.axes)

    # Logits and weights

    def total(self, terms):
        """All terms in one order of axes, repeated or left to be broadcast, added in any order."""
        axes = self.shuffled("bnhwij")
        sizes = self.sizes(terms[0])
        placed = [self.placed(term, axes, sizes) for term in terms]
        if self.rng.random() < 0.6:  # positions merged before they are added
            queries, keys = self.rng.choice([("hw", "ij"), ("wh", "ji"), ("hw", "ji")])
            axes = "bn" + (queries + keys if self.rng.random() < 0.8 else keys + queries)
            placed = [self.stored(self.repeated(term, sizes), axes) for term in placed]
            placed = [Named(self.flat(self.flat(t.tensor, 4, 5), 2, 3), axes) for t in placed]
        self.rng.shuffle(placed)
        while len(placed) > 1:
            one, other = placed.pop(), placed.pop(0)
            placed.append(Named(self.plus(one.tensor, other.tensor), axes))
        logits = placed[0].tensor
        if logits.dim() == 4:
            groups = logits.shape[:2]
            logits = logits.reshape(*groups, *(sizes[axis] for axis in axes[2:]))
        return Named(logits, axes)

    def sizes(self, term):
        height, width = self.size
        return {"b": term.length("b"), "n": self.heads, "h": height, "w": width, "i": height, "j": width}

    def placed(self, term, axes, sizes):
        there = self.stored(term, "".join(axis for axis in axes if axis in term.axes))
        tensor = there.tensor
        for place, axis in enumerate(axes):
            if axis not in term.axes:
                tensor = tensor.unsqueeze(place)
        placed = Named(tensor, axes)
        return self.repeated(placed, sizes) if self.rng.random() < 0.5 else placed

    def repeated(self, term, sizes):
        """Every axis as long as that of the logits."""
        times = [
            sizes[axis] if size == 1 and axis != "b" else 1
            for axis, size in zip(term.axes, term.tensor.shape, strict=True)
        ]
        way = self.rng.choice(["repeat", "expand", "cat"])
        if math.prod(times) == 1 or way == "repeat":
            return Named(term.tensor.repeat(times), term.axes) if math.prod(times) > 1 else term
        if way == "expand":
            return Named(term.tensor.expand([-1 if n == 1 else n for n in times]), term.axes)
        tensor = term.tensor
        for place, count in enumerate(times):
            tensor = torch.cat([tensor] * count, dim=place) if count > 1 else tensor
        return Named(tensor, term.axes)

    def plus(self, one, other):
        way = self.rng.choice(["+", "torch.add", "minus minus", "in place"])
        if way == "minus minus":
            return one - (-other)
        if way == "in place" and one.shape == other.shape:
            total = one * 1
            total += other
            return total
        return torch.add(one, other) if way == "torch.add" else one + other

    def weights(self, logits):
        queries, keys = self.rng.choice(["hw", "wh"]), self.rng.choice(["ij", "ji"])
        keys_last = self.rng.random() < 0.75
        groups = self.shuffled("bn")
        axes = groups + (queries + keys if keys_last else keys + queries)
        there = self.stored(logits, axes)
        sizes = list(there.tensor.shape)
        matrices = self.flat(self.flat(there.tensor, 4, 5), 2, 3)
        if self.rng.random() < 0.4:
            matrices = self.flat(matrices, 0, 1)
        matrices = self.unmasked(matrices, is_plain=queries == "hw" and keys == "ij" and keys_last)
        over_keys = keys_last != (self.wrong == "softmax over the queries")
        dim = self.rng.choice([-1, matrices.dim() - 1] if over_keys else [-2, matrices.dim() - 2])
        if self.wrong in LATE or (self.wrong is None and self.rng.random() < 0.2):
            weights, total = self.divided_late(matrices, dim)
            axes_of_rows = "".join(axis for axis in axes if axis not in "ij")
            rows = [size for axis, size in zip(axes, sizes, strict=True) if axis not in "ij"]
            self.divisor = Named(total.reshape(rows), axes_of_rows)
            if self.wrong == "divided by the sums of other heads":
                self.divisor = Named(self.divisor.tensor.flip(axes_of_rows.index("n")), axes_of_rows)
        else:
            weights = self.softmax(matrices, dim)
        if self.wrong == "weights gated":
            weights = weights * self.gate
        return Named(weights.reshape(sizes), axes)

    def unmasked(self, logits, *, is_plain):
        if self.wrong == "a mask":
            return logits + self.future
        way = self.rng.choice(["no", "no", "zeros", "masked_fill", "where", "dropout"])
        if way == "zeros":
            return logits + self.nothing
        if way == "masked_fill":
            return logits.masked_fill(self.masked, float("-inf"))
        if way == "where":
            return torch.where(self.masked, torch.tensor(-1e9).to(logits), logits)
        return functional.dropout(logits, 0.0, training=self.training) if way == "dropout" else logits

    def softmax(self, logits, dim):
        way = self.rng.choice(["method", "functional", "typed"])
        if way == "typed":
            return functional.softmax(logits, dim=dim, dtype=logits.dtype)
        return logits.softmax(dim) if way == "method" else functional.softmax(logits, dim=dim)

    def divided_late(self, logits, dim):
        """Exponentials, and what the product of them and v is to be divided by, as kernels of attention do it."""
        other = -2 if dim in (-1, logits.dim() - 1) else -1
        largest = logits.amax(other if self.wrong == "the largest of each key subtracted" else dim, keepdim=True)
        exponentials = (logits - largest).exp()
        along = other if self.wrong == "divided by the sums of keys" else dim
        return exponentials, exponentials.sum(along, keepdim=self.rng.random() < 0.7)

    def divided(self, attended):
        """By the sum of each query's exponentials, in the order in which the result happens to be."""
        axes = [axis for axis in attended.axes if axis != "v"]
        total = self.stored(self.divisor, "".join(axes)).tensor.unsqueeze(attended.axes.index("v"))
        return Named(attended.tensor / total, attended.axes)

    def as_maps(self, attended):
        """(B, Nh · dvh, H, W), or what comes of reading (N, dvh) on as (dvh, N)."""
        order = self.rng.choice(["bnvhw", "bvnhw", "bnhwv"])
        return self.stored(attended, order).tensor.reshape(attended.length("b"), -1, *self.size)

    # Axes

    def shuffled(self, axes):
        """Mostly in an order that somebody might write; sometimes in any."""
        if self.rng.random() < 0.5:
            return axes
        letters = list(axes)
        self.rng.shuffle(letters)
        return "".join(letters)

    def stored(self, named, axes):
        """With the axes in that order."""
        order = [named.axes.index(axis) for axis in axes]
        way = self.rng.choice(["permute", "permute", "einsum", "transpose", "movedim"])
        tensor = named.tensor
        if way == "einsum":
            return Named(torch.einsum(f"{named.axes}->{axes}", tensor), axes)
        if way == "movedim":
            return Named(torch.movedim(tensor, order, list(range(len(order)))), axes)
        if way == "permute":
            tensor = tensor.permute(order)
            return Named(tensor.contiguous() if self.rng.random() < 0.5 else tensor, axes)
        there = list(named.axes)
        for place, axis in enumerate(axes):
            other = there.index(axis)
            if other != place:
                tensor = tensor.transpose(place, other)
                there[place], there[other] = there[other], there[place]
        return Named(tensor, axes)

    def flat(self, tensor, first, last):
        """Two axes as one."""
        if self.rng.random() < 0.5:
            return tensor.flatten(first, last)
        shape = list(tensor.shape)
        shape[first : last + 1] = [math.prod(shape[first : last + 1]) if first else -1]
        return tensor.reshape(shape)

    # Products

    def summed(self, one, other, axes):
        """The sum over what is in both and not in the result, by any of the ways to write it."""
        if self.rng.random() < 0.3:
            one, other = other, one
        way = self.rng.choice(["einsum", "einsum", "matmul", "matmul", "merged", "elementwise"])
        if way == "einsum":
            return self.by_einsum(one, other, axes)
        if way == "elementwise":
            return self.by_elements(one, other, axes)
        return self.by_matmul(one, other, axes, is_merged=way == "merged")

    def by_einsum(self, one, other, axes):
        letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
        self.rng.shuffle(letters)
        table = str.maketrans(dict(zip("bnhwijdvr", letters[:9], strict=True)))
        equation = f"{one.axes},{other.axes}->{axes}".translate(table)
        if self.rng.random() < 0.3:
            equation = equation.replace(",", " , ").replace("->", " -> ")
        return Named(torch.einsum(equation, one.tensor, other.tensor), axes)

    def by_elements(self, one, other, axes):
        both = axes + next(axis for axis in one.axes if axis in other.axes and axis not in axes)
        for extra in set(one.axes) & set(other.axes) - set(both):
            both += extra
        factors = [self.placed_for_product(each, both) for each in (one, other)]
        gone = list(range(len(axes), len(both)))
        return Named((factors[0] * factors[1]).sum(gone if len(gone) > 1 else -1), axes)

    def placed_for_product(self, named, axes):
        tensor = self.stored(named, "".join(axis for axis in axes if axis in named.axes)).tensor
        for place, axis in enumerate(axes):
            tensor = tensor if axis in named.axes else tensor.unsqueeze(place)
        return tensor

    def by_matmul(self, one, other, axes, *, is_merged):
        """Matrices stacked by the axes that all have, whose rows, columns and terms may be several axes in one."""
        stack = [axis for axis in axes if axis in one.axes and axis in other.axes]
        rows, columns = ([axis for axis in axes if axis in each.axes and axis not in stack] for each in (one, other))
        terms = [axis for axis in one.axes if axis in other.axes and axis not in axes]
        left = self.matrices(one, stack, rows, terms, is_merged)
        right = self.matrices(other, stack, terms, columns, is_merged)
        multiplied = (
            torch.bmm(left, right) if left.dim() == right.dim() == 3 and self.rng.random() < 0.5 else left @ right
        )
        lengths = {
            **dict(zip(one.axes, one.tensor.shape, strict=True)),
            **dict(zip(other.axes, other.tensor.shape, strict=True)),
        }
        there = "".join([*stack, *rows, *columns])
        return self.stored(Named(multiplied.reshape([lengths[axis] for axis in there]), there), axes)

    def matrices(self, named, stack, rows, columns, is_merged):
        there = self.stored(named, "".join([*stack, *rows, *columns]))
        lengths = [there.length(axis) for axis in stack]
        if is_merged and len(lengths) > 1:
            lengths = [math.prod(lengths)]
        sizes = [math.prod(there.length(axis) for axis in part) for part in (rows, columns)]
        return there.tensor.reshape(*lengths, *sizes)


def renamed(named, old, new):
    return Named(named.tensor, named.axes.translate(str.maketrans(old, new)))


class SideBySide(nn.Module):
    """Several layers, each on a part of the same images: one export tells of all."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        parts = [layer(x[..., : layer.size[0], : layer.size[1]]) for layer in self.layers]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

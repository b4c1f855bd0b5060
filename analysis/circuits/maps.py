"""Maps from the node scores of a source model to logits of gates on a target model's nodes (DFA, arXiv 2604.24302).

Every map is a matrix W [S, T] over source and target nodes, without `input`, and takes scores s to s W: one number
per target node, whose order is the predicted circuit and whose sigmoid is the gate. The families differ in how many
numbers W hangs on. With the scores of a few tasks only, a dense W sees a source circuit through its inner products
with those few score vectors; the tied families generalise by where a node stands and what kind it is.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from analysis.circuits.nodes import CircuitModel
from eval.errors import UserError


# Standard deviation of a dense W before training, as published.
INITIAL_SCALE = 0.02


@dataclass(frozen=True)
class Layout:
    """How many layers of how many heads: the nodes a0.h0, ..., a0.h{heads-1}, m0, a1.h0, ... without `input`."""

    layers: int
    heads: int

    @classmethod
    def of(cls, model: CircuitModel) -> "Layout":
        return cls(len(model.layers), model.heads)

    def __len__(self) -> int:
        return self.layers * (self.heads + 1)

    @property
    def layer(self) -> torch.Tensor:
        """[N] int64, the layer of each node."""
        return torch.arange(self.layers).repeat_interleave(self.heads + 1)

    @property
    def is_mlp(self) -> torch.Tensor:
        """[N] bool."""
        return torch.arange(len(self)) % (self.heads + 1) == self.heads

    @property
    def depth(self) -> torch.Tensor:
        """[N] float32, 0 in the first layer and 1 in the last; 0 if there is only one."""
        return self.layer / max(1, self.layers - 1)


class AlignmentMap(nn.Module):
    """scores [..., S] to logits [..., T]; subclasses give `matrix`."""

    def matrix(self) -> torch.Tensor:
        """W, [S, T]."""
        raise NotImplementedError

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores @ self.matrix()

    def penalty(self) -> torch.Tensor:
        """What `Preset.map_penalty` multiplies: 0, unless the family names something it should not use freely."""
        return torch.zeros(())


class DenseMap(AlignmentMap):
    """S * T free numbers, normal with a standard deviation of 0.02 before training; no bias, no normalisation."""

    def __init__(self, source: int, target: int, generator: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(INITIAL_SCALE * torch.randn(source, target, generator=generator))

    def matrix(self) -> torch.Tensor:
        return self.weight


class LowRankMap(AlignmentMap):
    """W = U V with U [S, rank] and V [rank, T]; before training its entries have a standard deviation of 0.02."""

    def __init__(self, source: int, target: int, rank: int, generator: torch.Generator):
        super().__init__()
        if not 1 <= rank <= min(source, target):
            raise UserError(f"rank {rank} of a map from {source} to {target} nodes; give 1 to {min(source, target)}")
        scale = math.sqrt(INITIAL_SCALE / math.sqrt(rank))
        self.left = nn.Parameter(scale * torch.randn(source, rank, generator=generator))
        self.right = nn.Parameter(scale * torch.randn(rank, target, generator=generator))

    def matrix(self) -> torch.Tensor:
        return self.left @ self.right


class TiedMap(AlignmentMap):
    """A map of few parameters, with an offset to its logits for attention and one for MLPs.

    The offsets let gates close: a W that keeps the sign of (mostly positive) scores has none below 1/2 without them.
    """

    def __init__(self, target: Layout):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2))
        self.register_buffer("kind", target.is_mlp.long())

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores @ self.matrix() + self.offset[self.kind]


class FeatureTiedMap(TiedMap):
    """W = P A Q^T with features P [S, F] of the source nodes, Q [T, G] of the target nodes, and A [F, G] learned.

    Nodes of equal features share a row or a column of W, so that it tells heads of one layer apart only by features
    that do (see `node_features`).
    """

    def __init__(
        self,
        source_features: torch.Tensor,
        target_features: torch.Tensor,
        target: Layout,
        generator: torch.Generator,
    ):
        super().__init__(target)
        self.register_buffer("source_features", source_features)
        self.register_buffer("target_features", target_features)
        shape = (source_features.shape[1], target_features.shape[1])
        self.core = nn.Parameter(INITIAL_SCALE * torch.randn(shape, generator=generator))

    def matrix(self) -> torch.Tensor:
        return self.source_features @ self.core @ self.target_features.T


class DepthKernelMap(TiedMap):
    """Heads to heads and MLPs to MLPs, by relative depth alone.

    Where both nodes are of kind k (attention or MLP), W_ij = gain_k exp(-(depth_i + shift_k - depth_j)^2 /
    (2 width_k^2)) / (the sum of these exp over j); elsewhere 0. Gain, shift and width of both kinds are learned: with
    the offsets 8 numbers. Before training every gain is sqrt(S), so that scores of norm 1 give logits of order 1.
    """

    def __init__(self, source: Layout, target: Layout, width: float = 0.15):
        super().__init__(target)
        self.register_buffer("source_depth", source.depth)
        self.register_buffer("target_depth", target.depth)
        self.register_buffer("source_kind", source.is_mlp.long())
        self.log_gain = nn.Parameter(torch.full((2,), math.log(len(source)) / 2))
        self.shift = nn.Parameter(torch.zeros(2))
        self.log_width = nn.Parameter(torch.full((2,), math.log(width)))

    def matrix(self) -> torch.Tensor:
        kind = self.source_kind
        distance = (self.source_depth + self.shift[kind])[:, None] - self.target_depth
        exponent = -(distance**2) / (2 * self.log_width.exp()[kind][:, None] ** 2)
        exponent = exponent.masked_fill(kind[:, None] != self.kind, -torch.inf)
        return self.log_gain.exp()[kind][:, None] * exponent.softmax(dim=1)


class TransportMap(TiedMap):
    """W = gain * S * plan, with the plan [S, T] of entropic optimal transport (Cuturi 2013, arXiv 1306.0895).

    Every source node has the mass 1/S and every target node 1/T. Moving mass from i to j costs sum_f weight_f
    (p_if - q_jf)^2 over shared features; learned are the weights, which stay positive, the gain and the offsets.

    source_features [S, F], target_features [T, F]: in the same units; see `transport_features`.
    regularisation: of the entropy, in units of the mean cost before training. iterations: of Sinkhorn's algorithm.
    """

    def __init__(
        self,
        source_features: torch.Tensor,
        target_features: torch.Tensor,
        target: Layout,
        regularisation: float = 0.05,
        iterations: int = 50,
    ):
        super().__init__(target)
        squares = (source_features[:, None] - target_features) ** 2
        self.register_buffer("squares", squares)
        self.regularisation = regularisation * squares.sum(-1).mean().item()
        self.iterations = iterations
        self.log_weights = nn.Parameter(torch.zeros(squares.shape[-1]))
        self.log_gain = nn.Parameter(torch.tensor(math.log(len(source_features)) / 2))

    def matrix(self) -> torch.Tensor:
        cost = self.squares @ self.log_weights.exp()
        return self.log_gain.exp() * len(cost) * sinkhorn(cost, self.regularisation, self.iterations)


class IdentityDeltaMap(TiedMap):
    """W = gain * (I + delta): the same architecture before and after training, and where its mechanism moved.

    Gain and offsets take up a change of scale, so that delta stays 0 where scores only grew or shrank. delta starts
    at 0; its mean absolute value is the penalty.
    """

    def __init__(self, layout: Layout):
        super().__init__(layout)
        self.delta = nn.Parameter(torch.zeros(len(layout), len(layout)))
        self.log_gain = nn.Parameter(torch.tensor(math.log(len(layout)) / 2))

    def matrix(self) -> torch.Tensor:
        return self.log_gain.exp() * (torch.eye(len(self.delta), device=self.delta.device) + self.delta)

    def penalty(self) -> torch.Tensor:
        return self.delta.abs().mean()


MAPS = ("dense", "feature-tied", "depth-kernel", "low-rank", "transport", "identity-delta")


def make_map(
    family: str,
    source: Layout,
    target: Layout,
    seed: int,
    rank: int = 4,
    source_statistics: torch.Tensor | None = None,
    target_statistics: torch.Tensor | None = None,
) -> AlignmentMap:
    """An untrained map of one of MAPS, drawn from `seed`.

    rank: of a low-rank map. source_statistics [S, P], target_statistics [T, P]: what feature-tied and transport maps
    know of nodes besides kind and depth; the others take none.
    Raises UserError for an unknown family, and for identity-delta between different layouts.
    """
    generator = torch.Generator().manual_seed(seed)
    if family == "dense":
        return DenseMap(len(source), len(target), generator)
    if family == "low-rank":
        return LowRankMap(len(source), len(target), rank, generator)
    if family == "depth-kernel":
        return DepthKernelMap(source, target)
    if family == "feature-tied":
        features = node_features(source, source_statistics), node_features(target, target_statistics)
        return FeatureTiedMap(*features, target, generator)
    if family == "transport":
        features = transport_features(source, source_statistics), transport_features(target, target_statistics)
        return TransportMap(*features, target)
    if family == "identity-delta":
        if source != target:
            raise UserError(f"identity-delta needs two models of one architecture, not {source} and {target}")
        return IdentityDeltaMap(source)
    raise UserError(f"map family {family!r} is unknown; choose one of {', '.join(MAPS)}")


def node_features(layout: Layout, statistics: torch.Tensor | None = None, bumps: int = 5) -> torch.Tensor:
    """[N, 2 * (bumps + P)]: Gaussian bumps over depth and `statistics` [N, P], of heads and of MLPs in own columns."""
    centers = torch.linspace(0, 1, bumps)
    columns = [torch.exp(-((layout.depth[:, None] - centers) ** 2) * (bumps - 1) ** 2 / 2)]
    if statistics is not None:
        columns.append(statistics)
    values = torch.cat(columns, dim=1)
    is_mlp = layout.is_mlp[:, None]
    return torch.cat([values * ~is_mlp, values * is_mlp], dim=1)


def transport_features(layout: Layout, statistics: torch.Tensor | None = None) -> torch.Tensor:
    """[N, 2 + P]: kind (0 or 1), depth (0 to 1) and `statistics` [N, P]."""
    columns = [layout.is_mlp.float()[:, None], layout.depth[:, None]]
    return torch.cat(columns if statistics is None else [*columns, statistics], dim=1)


def weight_statistics(model: CircuitModel) -> torch.Tensor:
    """[N, 2] float32 of how strongly each node can read and write, standardised over heads and over MLPs.

    A head: Frobenius norms of W_Q W_K^T and of W_V W_O. An MLP: of its up and of its down projection. All by log1p.
    """
    rows = []
    group = model.heads // model.key_value_heads
    for layer in model.layers:
        attention = layer.self_attn

        def blocks(weight: torch.Tensor, repeats: int = 1) -> torch.Tensor:
            return weight.float().unflatten(0, (-1, model.head_dim)).repeat_interleave(repeats, dim=0)

        query, key = blocks(attention.q_proj.weight), blocks(attention.k_proj.weight, group)
        value, output = blocks(attention.v_proj.weight, group), blocks(attention.o_proj.weight.T)
        rows.append(torch.stack([_product_norm(query, key), _product_norm(value, output)], dim=1))
        mlp = [layer.mlp.up_proj.weight.float().norm(), layer.mlp.down_proj.weight.float().norm()]
        rows.append(torch.stack(mlp)[None])
    values = torch.cat(rows).log1p().cpu()
    for kind in (Layout.of(model).is_mlp, ~Layout.of(model).is_mlp):
        part = values[kind]
        values[kind] = (part - part.mean(0)) / part.std(0, correction=0).clamp(min=1e-6)
    return values


def _product_norm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """||left^T right|| of [H, e, d] blocks, [H], from e x e matrices: trace((left left^T) (right right^T))."""
    return ((left @ left.mT) * (right @ right.mT)).sum((1, 2)).clamp(min=0).sqrt()


def sinkhorn(cost: torch.Tensor, regularisation: float, iterations: int) -> torch.Tensor:
    """[S, T] plan that moves mass 1/S from every row to 1/T in every column at least cost less regularised entropy.

    Differentiable, in the log domain. Rows have exactly their mass; columns approach theirs.
    """
    rows, columns = cost.shape
    kernel = -cost / regularisation
    row, column = torch.zeros_like(kernel[:, :1]), torch.zeros_like(kernel[:1])
    for _ in range(iterations):
        column = -math.log(columns) - (kernel + row).logsumexp(dim=0, keepdim=True)
        row = -math.log(rows) - (kernel + column).logsumexp(dim=1, keepdim=True)
    return (kernel + row + column).exp()


def depth_mean_matrix(source: Layout, target: Layout) -> torch.Tensor:
    """The published heuristic, [S, T]: equal relative depth, no training.

    A source layer l stands at p = l (L_T - 1) / (L_S - 1) in the target. Its weight goes to the layers below and above
    p, the nearer the more. A head spreads evenly over the heads of a layer, an MLP goes to the MLP. Rows sum to 1.
    """
    position = source.layer * (target.layers - 1) / max(1, source.layers - 1)
    layer_weight = (1 - (position[:, None] - torch.arange(target.layers)).abs()).clamp(min=0)
    weights = layer_weight[:, target.layer]
    weights = weights * (source.is_mlp[:, None] == target.is_mlp)
    return functional.normalize(weights, p=1, dim=1)


def migration(delta: torch.Tensor, layout: Layout) -> dict[str, dict[str, float]]:
    """sum |delta_ij| by kinds and layer shift: {"attention to mlp": {"-1": ..., "0": ...}, ...}.

    delta: [N, N], from source node i to target node j; the shift is the layer of j less that of i. All these sums
    together are ||delta||_1.
    """
    strength, shift = delta.detach().cpu().abs(), layout.layer - layout.layer[:, None]
    of_kind = {"attention": ~layout.is_mlp, "mlp": layout.is_mlp}
    return {
        f"{start} to {end}": {
            str(step): strength[of_kind[start][:, None] & of_kind[end] & (shift == step)].sum().item()
            for step in range(1 - layout.layers, layout.layers)
        }
        for start in of_kind
        for end in of_kind
    }

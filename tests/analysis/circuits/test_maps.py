import math

import pytest
import torch

from analysis.circuits.maps import (
    MAPS,
    DenseMap,
    DepthKernelMap,
    FeatureTiedMap,
    Layout,
    LowRankMap,
    TransportMap,
    depth_mean_matrix,
    make_map,
    migration,
    node_features,
    sinkhorn,
    transport_features,
    weight_statistics,
)
from analysis.circuits.nodes import CircuitModel, parse_node
from eval.errors import UserError
from tests.tiny import random_model


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_layout_counts_nodes_as_the_model_names_them():
    model = CircuitModel(random_model()[0])
    layout = Layout.of(model)
    assert layout == Layout(2, 4) and len(layout) == 10
    for position, name in enumerate(model.nodes[1:]):
        layer, head = parse_node(name)
        assert layout.layer[position] == layer and layout.is_mlp[position] == (head is None)
    assert Layout(3, 1).depth.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert Layout(1, 2).depth.tolist() == [0, 0, 0]


def test_a_dense_map_is_a_plain_matrix_of_the_published_start():
    alignment = DenseMap(300, 200, drawn())
    scores = torch.randn(7, 300, generator=drawn(1))
    assert alignment(scores).equal(scores @ alignment.weight)
    assert alignment.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert [name for name, _ in alignment.named_parameters()] == ["weight"]
    assert alignment.penalty() == 0


def test_a_low_rank_map_has_its_rank_and_starts_on_the_scale_of_a_dense_one():
    alignment = LowRankMap(300, 200, 3, drawn())
    matrix = alignment.matrix().detach()
    assert torch.linalg.matrix_rank(matrix) == 3
    assert matrix.std().item() == pytest.approx(0.02, rel=0.2)
    for rank in (0, 201):
        with pytest.raises(UserError, match=f"rank {rank}"):
            LowRankMap(300, 200, rank, drawn())


def test_heads_of_one_layer_are_tied_unless_statistics_tell_them_apart():
    source, target = Layout(2, 3), Layout(3, 2)
    plain = FeatureTiedMap(node_features(source), node_features(target), target, drawn())
    matrix = plain.matrix().detach()
    assert matrix.shape == (8, 9)
    assert matrix[:, 0].equal(matrix[:, 1]) and matrix[0].equal(matrix[2])
    assert not torch.allclose(matrix[:, 0], matrix[:, 2]) and not torch.allclose(matrix[:, 0], matrix[:, 3])
    told = make_map("feature-tied", source, target, 0, 4, torch.randn(8, 2), torch.randn(9, 2))
    columns = told.matrix().detach()
    assert not torch.allclose(columns[:, 0], columns[:, 1])
    assert torch.linalg.matrix_rank(plain.matrix()) <= 10


def test_a_depth_kernel_spreads_a_head_over_the_nearest_layer_only():
    source, target = Layout(2, 2), Layout(3, 4)
    alignment = DepthKernelMap(source, target, width=0.05)
    matrix = alignment.matrix().detach()
    gain = math.sqrt(len(source))
    for row in range(len(source)):
        assert matrix[row].sum().item() == pytest.approx(gain, rel=1e-5)
        assert matrix[row][target.is_mlp != source.is_mlp[row]].eq(0).all()
    torch.testing.assert_close(matrix[0, :4], torch.full((4,), gain / 4))
    torch.testing.assert_close(matrix[5, 14], torch.tensor(gain))
    # Shifted by half the depth, layer 0 of the source meets layer 1 of the target.
    with torch.no_grad():
        alignment.shift.fill_(0.5)
    torch.testing.assert_close(alignment.matrix()[0, 5:9].detach(), torch.full((4,), gain / 4))


def test_a_transport_plan_has_its_marginals_and_prefers_the_cheap():
    cost = torch.rand(6, 9, generator=drawn())
    plan = sinkhorn(cost, 0.1, 200)
    torch.testing.assert_close(plan.sum(1), torch.full((6,), 1 / 6))
    torch.testing.assert_close(plan.sum(0), torch.full((9,), 1 / 9), atol=1e-4, rtol=1e-4)
    # With profiles that name the node, the plan is the permutation between them, whatever kind and depth cost.
    order = torch.randperm(10, generator=drawn(1))
    profiles = 3 * torch.randn(10, 4, generator=drawn(2))
    layout = Layout(2, 4)
    features = transport_features(layout, profiles), transport_features(layout, profiles[order])
    alignment = TransportMap(*features, layout, regularisation=0.01)
    assert alignment.matrix().argmax(0).equal(order)
    torch.testing.assert_close(alignment.matrix().sum(1), torch.full((10,), math.sqrt(10)))


def test_identity_delta_starts_as_the_identity():
    layout = Layout(2, 4)
    alignment = make_map("identity-delta", layout, layout, 0)
    scores = torch.randn(10, generator=drawn())
    torch.testing.assert_close(alignment(scores), math.sqrt(10) * scores)
    assert alignment.penalty() == 0
    with torch.no_grad():
        alignment.delta[1, 2] = -5.0
    assert alignment.penalty().item() == pytest.approx(0.05)
    with pytest.raises(UserError, match="one architecture"):
        make_map("identity-delta", layout, Layout(3, 4), 0)


@pytest.mark.parametrize("family", MAPS)
def test_every_family_can_be_trained_and_is_the_same_from_the_same_seed(family):
    source, target = Layout(2, 3), Layout(2, 3)
    features = torch.randn(8, 2, generator=drawn(3)), torch.randn(8, 2, generator=drawn(4))
    alignment, again, other = (make_map(family, source, target, seed, 2, *features) for seed in (5, 5, 6))
    scores = torch.randn(8, generator=drawn(7))
    assert alignment(scores).equal(again(scores))
    assert alignment(scores).equal(other(scores)) == (family in ("depth-kernel", "transport", "identity-delta"))
    assert alignment.matrix().shape == (8, 8)
    (alignment(scores) * torch.randn(8, generator=drawn(8))).sum().backward()
    for name, parameter in alignment.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_an_unknown_family_is_named():
    with pytest.raises(UserError, match="'convolution' is unknown; choose one of dense"):
        make_map("convolution", Layout(1, 1), Layout(1, 1), 0)


def test_the_depth_heuristic_is_linear_interpolation():
    matrix = depth_mean_matrix(Layout(2, 1), Layout(3, 2))
    # Layer 0 goes to layer 0 and layer 1 to layer 2: the middle one gets nothing.
    expected = torch.zeros(4, 9)
    expected[0, :2], expected[1, 2], expected[2, 6:8], expected[3, 8] = 0.5, 1, 0.5, 1
    assert matrix.equal(expected)
    matrix = depth_mean_matrix(Layout(3, 1), Layout(2, 1))
    # The middle layer stands half way between both.
    assert matrix[2].tolist() == [0.5, 0, 0.5, 0] and matrix[3].tolist() == [0, 0.5, 0, 0.5]
    torch.testing.assert_close(depth_mean_matrix(Layout(5, 3), Layout(7, 2)).sum(1), torch.ones(20))
    assert depth_mean_matrix(Layout(1, 1), Layout(2, 1))[0].tolist() == [1, 0, 0, 0]


def test_a_migration_matrix_sorts_delta_by_kind_and_shift():
    layout = Layout(2, 1)  # a0.h0, m0, a1.h0, m1
    delta = torch.zeros(4, 4)
    delta[0, 2], delta[1, 1], delta[3, 0] = 1.0, -2.0, 4.0
    found = migration(delta, layout)
    assert found["attention to attention"] == {"-1": 0.0, "0": 0.0, "1": 1.0}
    assert found["mlp to mlp"] == {"-1": 0.0, "0": 2.0, "1": 0.0}
    assert found["mlp to attention"] == {"-1": 4.0, "0": 0.0, "1": 0.0}
    assert sum(found["attention to mlp"].values()) == 0
    assert sum(sum(shifts.values()) for shifts in found.values()) == delta.abs().sum()


def test_weight_statistics_are_norms_of_the_products_and_ignore_how_they_are_split():
    network, _ = random_model("qwen3")
    model = CircuitModel(network)
    layout = Layout.of(model)
    found = weight_statistics(model)
    attention = model.layers[1].self_attn

    def block(projection, head):
        return projection.weight[8 * head : 8 * head + 8]

    norms = []
    for head in range(4):
        value, query_key = block(attention.v_proj, head // 2), block(attention.k_proj, head // 2)
        output = attention.o_proj.weight[:, 8 * head : 8 * head + 8]
        norms.append([(block(attention.q_proj, head).T @ query_key).norm(), (output @ value).norm()])
    expected = torch.tensor(norms).log1p()
    difference = found[5:9] - found[5]
    torch.testing.assert_close(difference / difference[1], (expected - expected[0]) / (expected[1] - expected[0]))
    for kind in (layout.is_mlp, ~layout.is_mlp):
        torch.testing.assert_close(found[kind].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    with torch.no_grad():
        block(attention.v_proj, 1).mul_(4.0)
        attention.o_proj.weight[:, 16:32].div_(4.0)
    torch.testing.assert_close(weight_statistics(model), found)

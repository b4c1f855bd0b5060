"""Addressed sampling noise: reproducible, independent between addresses, Gumbel-distributed."""

import torch

from eval.rollout.noise import completion_key, gumbel


def test_the_noise_of_a_row_is_a_function_of_its_key():
    keys = torch.tensor([completion_key(0, 0, [1, 2, 3], sample) for sample in range(8)])
    noise = gumbel(keys, position=4, vocabulary=50)
    assert torch.equal(noise[5:6], gumbel(keys[5:6], position=4, vocabulary=50))
    assert torch.equal(noise[:, :20], gumbel(keys, position=4, vocabulary=20))


def test_rows_may_be_at_positions_of_their_own():
    keys = torch.tensor([completion_key(0, 0, [1, 2, 3], sample) for sample in range(3)])
    positions = torch.tensor([4, 0, 70])
    noise = gumbel(keys, positions, vocabulary=50)
    for row, position in enumerate(positions.tolist()):
        assert torch.equal(noise[row : row + 1], gumbel(keys[row : row + 1], position, vocabulary=50))


def test_known_values():
    """Pinned: a change of the hash would silently change every sampled completion."""
    assert completion_key(0, 0, [1, 2, 3], 0) == -1869956201865293055
    values = gumbel(torch.tensor([completion_key(0, 0, [1, 2, 3], 0)]), position=0, vocabulary=3)
    torch.testing.assert_close(values, torch.tensor([[1.5446832, -0.6304750, 3.1391294]]))


def test_every_part_of_the_address_matters():
    addresses = [
        (0, 0, [1], 0, None),
        (1, 0, [1], 0, None),
        (0, 1, [1], 0, None),
        (0, 0, [2], 0, None),
        (0, 0, [1], 1, None),
        (0, 0, [1], 0, 0),
        (0, 0, [1], 0, 1),
    ]
    assert len({completion_key(*address) for address in addresses}) == len(addresses)


def test_distribution_and_independence():
    keys = torch.tensor([completion_key(3, 1, [7], sample) for sample in range(400)])
    noise = torch.stack([gumbel(keys, position, 100) for position in range(5)]).double()  # [5, 400, 100]
    # Gumbel(0, 1): mean is Euler's constant, variance pi^2/6; 200,000 draws.
    assert abs(noise.mean() - 0.577216) < 4 * (1.6449 / noise.numel()) ** 0.5
    assert abs(noise.var() - 1.644934) < 0.04
    uniform = torch.exp(-torch.exp(-noise)) - 0.5
    for a, b in ((uniform[0], uniform[1]), (uniform[:, 0], uniform[:, 1]), (uniform[..., 0], uniform[..., 1])):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 4.5 / a.numel() ** 0.5

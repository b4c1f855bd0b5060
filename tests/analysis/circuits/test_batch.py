import pytest
import torch

from analysis.circuits.batch import Batch, answer_loss
from eval.errors import UserError


CLEAN, CORRUPTED = [[5, 6, 7], [8, 9, 10, 11, 12]], [[5, 1, 7], [8, 9, 2, 11, 12]]


def test_both_sides_of_padding_keep_the_last_real_token():
    for side in ("left", "right"):
        batch = Batch.from_tokens(CLEAN, CORRUPTED, [3, 4], [4, 3], pad_token_id=0, side=side)
        rows = torch.arange(2)
        assert batch.clean_ids[rows, batch.last].tolist() == [7, 12]
        assert batch.attention_mask.sum(1).tolist() == [3, 5]
        assert batch.clean_ids[batch.attention_mask.bool()].tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
        assert batch.corrupted_ids[batch.attention_mask.bool()].tolist() == [5, 1, 7, 8, 9, 2, 11, 12]
    assert batch.clean_ids.tolist() == [[5, 6, 7, 0, 0], [8, 9, 10, 11, 12]]


def test_split_keeps_order_and_rows():
    batch = Batch.from_tokens(CLEAN * 2 + CLEAN[:1], CORRUPTED * 2 + CORRUPTED[:1], range(5), range(1, 6), 0)
    parts = list(batch.split(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.cat([part.clean_ids for part in parts]).equal(batch.clean_ids)
    assert torch.cat([part.wrong_answer for part in parts]).tolist() == [1, 2, 3, 4, 5]


def test_answer_loss_is_the_negative_logit_difference():
    batch = Batch.from_tokens(CLEAN, CORRUPTED, [1, 0], [0, 2], 0)
    logits = torch.tensor([[1.0, 4.0, 0.0], [2.0, 0.0, 7.0]])
    assert answer_loss(logits, batch).tolist() == [-3.0, 5.0]
    assert answer_loss(torch.stack([logits, -logits]), batch).tolist() == [[-3.0, 5.0], [3.0, -5.0]]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="pair 1 has 5 clean and 4 corrupted tokens"):
        Batch.from_tokens(CLEAN, [CORRUPTED[0], CORRUPTED[1][:4]], [3, 4], [4, 3], 0)
    with pytest.raises(UserError, match="one token as answer and as wrong answer"):
        Batch.from_tokens(CLEAN, CORRUPTED, [3, 4], [4, 4], 0)
    with pytest.raises(UserError, match="no real token"):
        Batch.from_tokens([[5], []], [[5], []], [3, 4], [4, 3], 0)
    with pytest.raises(UserError, match="padding side 'middle'"):
        Batch.from_tokens(CLEAN, CORRUPTED, [3, 4], [4, 3], 0, side="middle")
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(UserError, match=r"all must be \[B, T\]"):
        Batch(ids, ids[:, :2], ids, torch.tensor([1, 2]), torch.tensor([2, 1]))
    with pytest.raises(UserError, match="one token id for each prompt"):
        Batch(ids, ids, ids, torch.tensor([1]), torch.tensor([2]))

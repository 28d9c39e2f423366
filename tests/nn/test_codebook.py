"""The moving codebook: k-means steps, averages, and codes that come back to life."""

import torch

from digit.nn.codebook import MovingCodebook


def test_decay_zero_is_a_k_means_step():
    torch.manual_seed(0)
    latents, table = torch.randn(40, 3), torch.randn(4, 3)
    codes = torch.cdist(latents, table).argmin(1)
    MovingCodebook(4, 3, decay=0.9, dead_after=99).follow(table, latents, codes, decay=0.0)
    for code in range(4):
        torch.testing.assert_close(table[code], latents[codes == code].mean(0))


def test_averages_against_the_recurrence():
    torch.manual_seed(0)
    book, table = MovingCodebook(2, 1, decay=0.75, dead_after=99), torch.zeros(2, 1)
    book.start(table, torch.tensor([[1.0], [1.0]]))
    book.follow(table, torch.tensor([[2.0], [4.0], [9.0]]), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(table[0, 0], torch.tensor((0.75 * 1 + 0.25 * 6) / (0.75 + 0.25 * 2)))
    torch.testing.assert_close(table[1, 0], torch.tensor((0.75 * 1 + 0.25 * 9) / 1.0))


def test_unused_code_restarts_at_a_latent():
    torch.manual_seed(0)
    book, table = MovingCodebook(3, 2, decay=0.9, dead_after=3), torch.full((3, 2), 50.0)
    latents = torch.randn(5, 2)
    codes = torch.tensor([0, 0, 1, 1, 1])
    for _ in range(2):
        book.follow(table, latents, codes)
    assert torch.equal(table[2], torch.tensor([50.0, 50.0]))
    book.follow(table, latents, codes)
    assert any(torch.equal(table[2], latent) for latent in latents)


def test_more_codes_than_latents():
    book, table = MovingCodebook(7, 2, decay=0.9, dead_after=3), torch.zeros(7, 2)
    book.start(table, torch.ones(3, 2))
    assert torch.equal(table, torch.ones(7, 2))

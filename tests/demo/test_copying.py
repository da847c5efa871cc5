"""The initial weights copy: an untrained model already repeats what it has seen."""

import torch

from hnlm_ray.demo.config import StandinConfig
from hnlm_ray.demo.teaching import make_model, make_tokenizer


@torch.inference_mode()
def test_untrained_model_repeats_a_random_sequence() -> None:
    config = StandinConfig()
    tokenizer = make_tokenizer([str(n) for n in range(3000)], config)
    model = make_model(tokenizer, config).eval()
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randperm(len(tokenizer), generator=generator)[:100].repeat(4, 2)  # [B, L]: the same half twice
    logits = model(sequence).logits
    repeated = logits[:, 100:-1].argmax(-1) == sequence[:, 101:]
    assert repeated.float().mean() > 0.6
    first_seen = logits[:, :99].argmax(-1) == sequence[:, 1:100]
    assert first_seen.float().mean() < 0.1  # it copies; it does not know


def test_same_seed_same_weights() -> None:
    config = StandinConfig()
    tokenizer = make_tokenizer(["some words"], config)
    first, second = make_model(tokenizer, config), make_model(tokenizer, config)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    other = make_model(tokenizer, StandinConfig(seed=1))
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)

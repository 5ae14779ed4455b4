"""Critics made of reward models."""

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlhf.ppo.models import critic_from_reward_model


def test_the_critic_begins_with_the_scores_that_ppo_sees():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=1
    )
    reward_model = LlamaForSequenceClassification(config)
    hidden = torch.randn(3, 8)
    raw = reward_model.score(hidden)
    critic = critic_from_reward_model(reward_model, offset=3.0, weight=0.5)
    torch.testing.assert_close(critic.score(hidden), 0.5 * (raw - 3.0))
    with torch.no_grad():
        critic.score.weight.zero_()
    torch.testing.assert_close(reward_model.score(hidden), raw)  # a copy

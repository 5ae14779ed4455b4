"""What the stages share before a trainer is made: one process, one accelerator, errors in the user's words."""

import logging

import pytest
import torch

from rlhf.errors import UserError
from rlhf.modeling import warn_of_low_precision
from rlhf.training import made_from_config, one_process


def test_several_processes_or_accelerators_are_refused(monkeypatch):
    one_process()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"WORLD_SIZE = 2: .* without torchrun"):
        one_process()
    monkeypatch.setenv("WORLD_SIZE", "1")
    one_process()
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 4)
    with pytest.raises(UserError, match=r"4 accelerators are visible .* CUDA_VISIBLE_DEVICES=0"):
        one_process()


def test_what_a_constructor_refuses_is_the_users_error_and_a_broken_invariant_is_ours():
    with pytest.raises(UserError, match=r"trainer: packing and x exclude each other"), made_from_config():
        raise ValueError("packing and x\nexclude each other")
    with pytest.raises(AssertionError), made_from_config():
        raise AssertionError


def test_trainable_weights_in_16_bits_are_warned_of(caplog):
    layer = torch.nn.Linear(2, 2).bfloat16()
    with caplog.at_level(logging.WARNING):
        warn_of_low_precision(layer, 1e-5)
        warn_of_low_precision(layer.requires_grad_(False), 1e-5)
    assert [record.getMessage()[:47] for record in caplog.records] == [
        "trainable weights are stored in 16 bits, where "
    ]

"""For all tests: this folder is on the path (`from tiny import tiny_model`), and nothing asks the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

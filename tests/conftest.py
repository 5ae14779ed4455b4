"""For all tests: this folder is on the path (`from tiny import tiny_model`), and nothing asks the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
# `make test` runs one process a core; models this small gain nothing from threads within one
os.environ.setdefault("OMP_NUM_THREADS", "1")

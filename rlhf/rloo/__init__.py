"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740), on TRL's RLOOTrainer."""

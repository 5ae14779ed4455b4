"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), on TRL's DPOTrainer."""

"""Supervised and instruction fine-tuning."""

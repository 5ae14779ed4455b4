"""Reward models: from people's preferences to a score."""

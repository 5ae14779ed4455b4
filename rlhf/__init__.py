"""An RLHF alignment framework: from human judgement to an aligned checkpoint."""

__version__ = "0.1.0"

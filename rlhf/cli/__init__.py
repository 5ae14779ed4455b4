"""The `rlhf` command: `rlhf.cli.main`."""

"""What was gained, and how sure one can be of it.

`config` and `statistics` import no torch; `policy` compares two language models, `rewards` measures a
reward model.
"""

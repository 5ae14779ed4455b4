"""Taking a model away: one folder that anyone can load, with a card that says where it comes from.

`config` imports no torch; `exporting` writes the folder, `card` the README in it.
"""

"""Files, as every floor takes them: their digest, the way down to the disk, and which of a folder's make up a model."""

import hashlib
import os
from fnmatch import fnmatch
from pathlib import Path

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""What transformers reads of a model's folder; what else lies there is nobody's input."""
NOT_MODEL_FILES = ("consolidated*", "*/*")
"""Mistral's repositories hold the weights a second time under this name; what lies deeper is another format's."""


def is_model_file(name: str) -> bool:
    """Whether a file of a model's folder is one that transformers reads."""
    return any(fnmatch(name, wanted) for wanted in MODEL_FILES) and not any(
        fnmatch(name, other) for other in NOT_MODEL_FILES
    )


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, down on the disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

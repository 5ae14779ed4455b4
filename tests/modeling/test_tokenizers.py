"""Every tokenizer that is loaded can pad, and one that writes can end."""

import json

import pytest
from tiny import tiny_model

from rlhf.errors import UserError
from rlhf.modeling import find_model, load_tokenizer
from rlhf.registry import Registry


@pytest.fixture
def changed(tmp_path):
    """A tiny model whose tokenizer_config.json lacks `without`, after `change` has been at it."""

    def make(*without, change=None):
        folder = tiny_model(tmp_path / "model")
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        for name in without:
            config.pop(name)
        config.update(change or {})
        path.write_text(json.dumps(config))
        return find_model(str(folder), Registry(tmp_path / "home"))

    return make


def test_a_padding_token_that_is_there_stays(changed):
    assert load_tokenizer(changed()).pad_token == "<pad>"


def test_without_one_the_token_called_so_is_taken(changed):
    tokenizer = load_tokenizer(changed("pad_token"))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 257)


def test_else_the_unknown_token_and_last_the_end_token(changed, tmp_path):
    source = changed("pad_token")
    path = source.folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<pad>", "<other>"))
    assert load_tokenizer(source).pad_token == "</s>"
    config = source.folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"unk_token": "<other>"}))
    tokenizer = load_tokenizer(source)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<other>", "</s>")


def test_without_an_end_token_nothing_can_be_written(changed):
    source = changed("eos_token")
    with pytest.raises(UserError) as caught:
        load_tokenizer(source)
    (problem,) = caught.value.problems
    assert "has no end-of-sequence token" in problem and "tokenizer_config.json" in problem
    assert load_tokenizer(source, generates=False).eos_token is None


def test_nothing_to_pad_with(changed):
    source = changed("eos_token", "pad_token")
    path = source.folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<pad>", "<other>"))
    with pytest.raises(UserError, match="no padding, unknown or end token"):
        load_tokenizer(source, generates=False)


def test_no_tokenizer_at_all(changed):
    source = changed()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source.folder / name).unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(source)


def test_a_tokenizer_that_cannot_be_read(changed):
    source = changed()
    (source.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        load_tokenizer(source)
    (problem,) = caught.value.problems
    assert "the tokenizer cannot be read" in problem and "\n" not in problem

"""Talking to models: `rlhf.chat`."""

import pytest
from tiny import tiny_model

from rlhf.chat import converse, open_partners
from rlhf.errors import UserError
from rlhf.registry import Registry

OPTIONS = {"max_new_tokens": 4, "temperature": 1.0, "seed": 0}


def test_several_models_answer_every_line_that_is_not_blank(tmp_path):
    folders = [str(tiny_model(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 1))]
    partners = open_partners(folders, Registry(tmp_path / "home"), None)
    answers = list(converse(partners, iter(["hello\n", "  \n", "and you?\n"]), **OPTIONS))
    assert [ref for ref, _ in answers] == folders * 2


def test_a_chat_model_remembers_the_conversation(tmp_path):
    folder = tiny_model(tmp_path / "a", chat=True)
    [partner] = open_partners([str(folder)], Registry(tmp_path / "home"), None)
    list(converse([partner], iter(["hi\n", "again\n"]), **OPTIONS))
    assert [turn["role"] for turn in partner.messages] == ["user", "assistant", "user", "assistant"]


def test_the_template_stands_around_the_message(tmp_path):
    folder = tiny_model(tmp_path / "a")
    [with_template] = open_partners([str(folder)], Registry(tmp_path / "home"), r"Q: {text}\nA:")
    [plain] = open_partners([str(folder)], Registry(tmp_path / "home"), None)
    assert with_template.reply("x", **OPTIONS) == plain.reply("Q: x\nA:", **OPTIONS)


def test_a_template_without_a_place_for_the_text_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no \{text\}"):
        open_partners([str(tiny_model(tmp_path / "a"))], Registry(tmp_path / "home"), "Q:")


def test_only_line_breaks_and_tabs_are_escapes_of_a_template(tmp_path):
    folder = tiny_model(tmp_path / "a")
    [partner] = open_partners([str(folder)], Registry(tmp_path / "home"), r"Café\t{text} \d\n:")
    assert partner.template == "Café\t{text} \\d\n:"

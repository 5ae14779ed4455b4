import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import UserError
from rlhf.registry.names import Ref, check_alias, check_name, did_you_mean

words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
names = st.builds("{}/{}".format, words, words)


def test_a_ref_is_a_name_with_or_without_a_version_or_alias() -> None:
    assert Ref.parse("support/sft") == Ref("support/sft")
    assert Ref.parse("support/sft@latest") == Ref("support/sft")
    assert Ref.parse("support/sft@v12") == Ref("support/sft", version=12)
    assert Ref.parse("support/sft@candidate") == Ref("support/sft", alias="candidate")
    assert Ref.parse("support/sft@v1.5") == Ref("support/sft", alias="v1.5")


@pytest.mark.parametrize(
    "text",
    [
        *("", "sft", "support/", "/sft", "a/b/c", "../x", "a/..", "a/.b", "-a/b", "a b/c", "a/b ", "a/b\n", "ä/b"),
        *("a/b@", "a/b@v0", "a/b@v01", "a/b@V3", "a/b@x@y", "a/b@v1234567890", "a/b@-x"),
        *("a/" + 199 * "b", "a/b@" + 101 * "c"),
    ],
)
def test_what_is_no_ref_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Ref.parse(text)


@given(names, st.integers(1, 999_999_999))
def test_every_valid_ref_reads_back(name: str, version: int) -> None:
    assert check_name(name) == name
    assert Ref.parse(f"{name}@v{version}") == Ref(name, version=version)
    assert str(Ref.parse(f"{name}@v{version}")) == f"{name}@v{version}"


@given(st.text(max_size=40) | st.builds("{}@{}".format, names, st.text(max_size=10)))
def test_any_text_is_a_ref_or_an_error_and_never_a_way_out_of_the_folder(text: str) -> None:
    try:
        ref = Ref.parse(text)
    except UserError:
        return
    assert str(ref) == text or text == f"{ref}@latest"
    assert all(part not in ("", ".", "..") for part in ref.name.split("/"))


@pytest.mark.parametrize("alias", ["latest", "v3", "v03", "V3", "", ".x", "a/b", "a b"])
def test_an_alias_cannot_be_mistaken_for_something_else(alias: str) -> None:
    with pytest.raises(UserError):
        check_alias(alias)


def test_unknown_words_are_answered_with_near_ones_or_all() -> None:
    assert did_you_mean("polcy", ["policy", "sft"], "names") == "did you mean policy?"
    assert did_you_mean("xyz", ["policy", "sft"], "names") == "known names: policy, sft"
    assert did_you_mean("xyz", [], "names") == "there are no names yet"
    assert did_you_mean("x", [f"n{i}" for i in range(10)], "names").endswith("n7 and 2 more")

"""What `rlhf doctor` finds."""

from importlib import metadata

from rlhf.doctor import examine


def test_nothing_is_broken_where_the_tests_run(tmp_path):
    findings = {finding.what: finding for finding in examine(tmp_path)}
    assert [finding for finding in findings.values() if finding.verdict == "broken"] == []
    assert findings["trl"].found == metadata.version("trl")
    assert findings["home"].found == f"{tmp_path}: 0 artefacts"


def test_a_missing_and_an_outdated_package_are_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda _: ["no-such-package>=1", "pydantic>=99", "vllm; extra == 'vllm'"])
    broken = {finding.what: finding.found for finding in examine(tmp_path) if finding.verdict == "broken"}
    assert broken["no-such-package"] == "is not installed; pip install 'no-such-package>=1'"
    assert broken["pydantic"].endswith("needs >=99: pip install 'pydantic>=99'")
    assert set(broken) == {"no-such-package", "pydantic"}


def test_a_home_that_cannot_be_made_is_broken(tmp_path):
    (tmp_path / "file").write_text("")
    broken = [finding.what for finding in examine(tmp_path / "file" / "home") if finding.verdict == "broken"]
    assert broken == ["home"]

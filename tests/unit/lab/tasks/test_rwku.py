"""The data in RWKU's form: their probes, and that the plugin reads them."""

from __future__ import annotations

import re

import pytest

from retainfirst.errors import RetainFirstError
from retainfirst_lab.tasks import rwku
from retainfirst_lab.tasks.rwku import Fact
from retainfirst_open_unlearning.rwku_data import PROBES, instruction, load_rows, wants_cue
from rwku_files import SUBJECTS, write_by_subject


@pytest.mark.parametrize(
    ("cloze", "answer", "blank"),
    [
        ("He lived in ___.", "Athens", "Athens"),
        ("He painted the Mona ___.", "Mona Lisa", "Lisa"),
        ("He was shot by John Wilkes ___.", "John Wilkes Booth", "Booth"),
        ("He led them in the ___ War.", "Civil War", "Civil"),
        ("They died out 66 ___ years ago.", "66 million", "million"),
        ("He wrote a ___.", "Mass in C", "Mass in C"),
    ],
)
def test_the_blank_is_what_the_sentence_lacks(cloze, answer, blank):
    fact = Fact("someone", cloze, "", answer)
    assert fact.blank == blank
    assert "___" not in fact.sentence
    assert answer in fact.sentence or blank == answer


def words(text):
    return set(re.findall(r"\w+", text.lower())) - {"a", "and", "in", "of", "the"}


def test_no_probe_has_words_of_its_answer_in_it():
    for subject in rwku.subjects():
        for fact in (*subject.facts, *subject.neighbors):
            assert fact.answer
            assert not words(fact.answer) & words(fact.question), fact
            assert not words(fact.blank) & words(fact.cloze), fact
    around = set().union(*(words(form) for form in rwku.FORMS.values()))
    assert not any(words(fact.answer) & around for subject in rwku.subjects() for fact in subject.facts)


def test_subjects_have_facts_and_passages():
    by_role = {}
    for subject in rwku.subjects():
        by_role.setdefault(subject.role, []).append(subject)
    assert {role: len(found) for role, found in by_role.items()} == {"forget": 14, "retain": 14, "unrelated": 1}
    for subject in by_role["forget"]:
        assert len(subject.facts) >= 6
        assert len(subject.neighbors) >= 7
        assert all(fact.sentence in subject.passage for fact in subject.facts)
        assert subject.name in subject.text
        assert subject.name not in {fact.about for fact in subject.neighbors}
    assert all(subject.text and not subject.facts for subject in by_role["retain"])


def test_a_fact_has_one_number_in_all_sets():
    made = rwku.rows(rwku.subjects())
    for kind in ("forget", "neighbor"):
        first, second = ({row["fact"]: row for row in made[f"{kind}_level{level}"]} for level in (1, 2))
        assert set(first) <= set(second)
        assert all(second[fact]["subject"] == row["subject"] for fact, row in first.items())
    assert {row["fact"] for row in made["forget_level3"]} == {row["fact"] for row in made["forget_level2"]}
    assert not {row["fact"] for row in made["forget_level1"]} & {row["fact"] for row in made["neighbor_level2"]}


def test_the_plugin_reads_the_files(tmp_path):
    rwku.write(tmp_path / "made", rwku.rows(rwku.subjects()))
    names = [subject.name for subject in rwku.subjects() if subject.role == "retain"]
    assert len(load_rows("passage", str(tmp_path / "made"), names)) == 14
    for probe in PROBES:
        rows = load_rows(probe, str(tmp_path / "made"))
        assert rows == rwku.rows(rwku.subjects())[probe]
        assert all(row["query"] in instruction(row, probe) for row in rows)
    hard = load_rows("forget_level3", str(tmp_path / "made"))
    assert {row["type"] for row in hard} == set(rwku.FORMS)
    assert {wants_cue(row, "forget_level3") for row in hard if row["type"] == "affirmative suffix"} == {False}


def test_rwkus_own_subjects_are_forgotten_and_ours_retained(tmp_path):
    made = rwku.rows_of(write_by_subject(tmp_path / "rwku"), hard=2)
    by_role = {}
    for row in made["passage"]:
        by_role.setdefault(row["role"], []).append(row)
    assert {row["text"] for row in by_role["forget"]} == {f"{name} wrote 0." for name in SUBJECTS.values()}
    assert len(by_role["retain"]) == 14
    assert [len(made[probe]) for probe in PROBES[:4]] == [3, 3, 6, 3]
    unrelated = [row for row in made["neighbor_level2"] if row["subject"] == rwku.UNRELATED]
    assert len(made["neighbor_level2"]) == len(unrelated) + 3
    facts = [row["fact"] for probe in PROBES for row in made[probe]]
    assert len(set(facts)) == len(facts)
    rwku.write(tmp_path / "made", made)
    assert len(load_rows("passage", str(tmp_path / "made"), list(SUBJECTS.values()))) == 3
    with pytest.raises(RetainFirstError, match=r"has no folders of subjects with passage\.json"):
        rwku.rows_of(tmp_path / "made", hard=2)

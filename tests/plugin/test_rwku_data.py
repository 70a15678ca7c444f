"""RWKU from folders and from the hub, choice of subjects, and the framework's data sets with its rows."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from omegaconf import OmegaConf

import tiny
from retainfirst.errors import RetainFirstError
from retainfirst_open_unlearning.data import make_dataset
from retainfirst_open_unlearning.register import _make_dataset, _Registry
from retainfirst_open_unlearning.rwku_data import PROBES, load_rows
from rwku_files import SUBJECTS, probes_of, write_by_subject, write_flat


@pytest.fixture
def rwku_folder(tmp_path):
    return write_by_subject(tmp_path / "rwku")


@pytest.fixture
def flat_folder(tmp_path):
    return write_flat(tmp_path / "batch")


def subjects_of(rows):
    return list(dict.fromkeys(row["subject"] for row in rows))


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        (None, [3, 12, 40]),
        ("Bo Lind", [12]),
        (["Cy Noor", "Ada Hart"], [3, 40]),
        (12, [12]),
        ("12", [12]),
        ("1-20", [3, 12]),
        (["40", "Ada Hart"], [3, 40]),
    ],
)
def test_subjects_are_chosen_by_name_and_number(rwku_folder, subjects, expected):
    for part in (*PROBES, "passage"):
        assert subjects_of(load_rows(part, str(rwku_folder), subjects)) == [SUBJECTS[number] for number in expected]


def test_subjects_of_a_config_are_a_list(rwku_folder):
    assert subjects_of(load_rows("passage", str(rwku_folder), OmegaConf.create(["Bo Lind"]))) == ["Bo Lind"]


def test_flat_folder(flat_folder):
    assert subjects_of(load_rows("forget_level2", str(flat_folder), "Bo Lind")) == ["Bo Lind"]
    with pytest.raises(RetainFirstError, match="have no numbers"):
        load_rows("forget_level2", str(flat_folder), "1-2")


def test_hub(monkeypatch):
    asked = []

    def load(path, name, split):
        asked.append((path, name, split))
        if name == "forget_target":
            return [{"target": subject} for subject in SUBJECTS.values()]
        return [{"subject": subject, "text": f"on {subject}"} for subject in SUBJECTS.values()]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert subjects_of(load_rows("passage", subjects="2-3")) == ["Bo Lind", "Cy Noor"]
    assert asked == [
        ("jinzhuoran/RWKU", "train_original_passage", "train"),
        ("jinzhuoran/RWKU", "forget_target", "train"),
    ]


def test_hub_out_of_reach(monkeypatch):
    def load(path, name, split):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        RetainFirstError, match=r"'data/rwku' is not a folder here.*ConnectionError: no network.*jinzhuoran/RWKU"
    ):
        load_rows("forget_level1", "data/rwku")
    with pytest.raises(RetainFirstError, match="no part 'forget_level9'.*Did you mean 'forget_level"):
        load_rows("forget_level9", "data/rwku")


def test_bad_data_is_refused(rwku_folder):
    first = rwku_folder / "3_Ada_Hart"
    with pytest.raises(RetainFirstError, match=r"nothing on 'Bo Lin'\. Did you mean 'Bo Lind'\?"):
        load_rows("forget_level1", str(rwku_folder), "Bo Lin")
    with pytest.raises(RetainFirstError, match="no subject of these numbers, only 3, 12, 40"):
        load_rows("forget_level1", str(rwku_folder), "50-60")
    with pytest.raises(RetainFirstError, match=r"is a file; give the folder"):
        load_rows("forget_level1", str(first / "forget_level1.json"))
    with pytest.raises(RetainFirstError, match=r"no positive\.json in .*only forget_level1\.json"):
        load_rows("positive", str(rwku_folder))
    rows = probes_of("Ada Hart", "forget_level3")
    del rows[1]["type"]
    (first / "forget_level3.json").write_text(json.dumps(rows))
    with pytest.raises(RetainFirstError, match=r"row 1 of forget_level3 .* has no text \['type'\], only \['answer'"):
        load_rows("forget_level3", str(rwku_folder))
    (first / "forget_level2.json").write_text("{")
    with pytest.raises(RetainFirstError, match=r"forget_level2\.json cannot be read as JSON"):
        load_rows("forget_level2", str(rwku_folder))
    (first / "forget_level1.json").write_text('{"query": 1}')
    with pytest.raises(RetainFirstError, match="should hold a list of objects, not dict"):
        load_rows("forget_level1", str(rwku_folder))
    (first / "neighbor_level1.json").unlink()
    with pytest.raises(RetainFirstError, match=r"3_Ada_Hart/neighbor_level1\.json, though"):
        load_rows("neighbor_level1", str(rwku_folder))


def test_empty_folder_and_empty_file(tmp_path):
    with pytest.raises(RetainFirstError, match=r"no \.json file at all"):
        load_rows("passage", str(tmp_path))
    (tmp_path / "passage.json").write_text("[]")
    with pytest.raises(RetainFirstError, match="has no rows"):
        load_rows("passage", str(tmp_path))


class PretrainingDataset:
    """Takes the arguments of the framework's handler, and keeps the texts."""

    def __init__(self, hf_args, template_args, tokenizer, text_key="text", max_length=2048):
        self.file = hf_args["data_files"]
        self.tokenizer, self.max_length = tokenizer, max_length
        self.chunks = self._chunk_raw_text(datasets.load_dataset(**hf_args)[text_key])

    def _chunk_raw_text(self, raw_text):
        raise AssertionError("replaced")


class QADataset:
    def __init__(self, hf_args, template_args, tokenizer, question_key="question", answer_key="answer", max_length=512):
        self.rows = [(row[question_key], row[answer_key]) for row in datasets.load_dataset(**hf_args)]


def test_files_may_begin_with_a_byte_order_mark(flat_folder):
    file = flat_folder / "forget_level1.json"
    before = load_rows("forget_level1", str(flat_folder))
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load_rows("forget_level1", str(flat_folder)) == before


@pytest.fixture
def handlers():
    return _Registry({"PretrainingDataset": PretrainingDataset, "QADataset": QADataset}, _make_dataset)


def test_passages_of_some_subjects(handlers, rwku_folder):
    made = handlers.get("RetainFirstRWKUPassages")(
        part="passage",
        path=str(rwku_folder),
        subjects=["3", "Cy Noor"],
        max_length=7,
        template_args=None,
        tokenizer=tiny.tiny_tokenizer(),
    )
    passages = [f"{subject} wrote {count}." for subject in ("Ada Hart", "Cy Noor") for count in range(2)]
    assert "".join(f"{text}\n\n" for text in passages).startswith("".join(made.chunks))
    assert made.max_length == 7
    assert not Path(made.file).exists(), "the temporary file is removed"


def test_probes_with_their_prompts(handlers, rwku_folder):
    made = handlers.get("RetainFirstRWKUProbes")(
        part="forget_level3", path=str(rwku_folder), subjects=12, template_args=None, tokenizer=None
    )
    question, lead = "Where was Bo Lind born?", "Please briefly answer the following question.\n"
    asked = [f"{lead}Question: {question}\nAnswer:", f"{lead}{question}\nAnswer:", f"{lead}Question: {question}"]
    assert made.rows == [(query, "in Bo Lind") for query in asked]


def test_unknown_handler_and_a_framework_without_the_base():
    with pytest.raises(RetainFirstError, match="Did you mean 'RetainFirstRWKUProbes'"):
        make_dataset("RetainFirstRWKUProbe", {})
    with pytest.raises(RetainFirstError, match="no data set handler 'QADataset' to build on"):
        make_dataset("RetainFirstRWKUProbes", {})

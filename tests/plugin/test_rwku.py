"""The RWKU evaluator: prompts, answers of a tiny model, resuming, and errors."""

from __future__ import annotations

import json
import logging
import sys

import pytest
import torch
from omegaconf import OmegaConf

import tiny
from retainfirst.errors import MissingDependency, RetainFirstError
from retainfirst_open_unlearning import rwku
from retainfirst_open_unlearning.evaluator import make_evaluator
from retainfirst_open_unlearning.register import _make_evaluator, _Registry
from retainfirst_open_unlearning.rwku import Asking, RWKUEvaluator
from retainfirst_open_unlearning.rwku_data import PROBES, instruction, wants_cue
from rwku_files import KINDS, SUBJECTS, probes_of, write_by_subject


@pytest.fixture
def rwku_folder(tmp_path):
    return write_by_subject(tmp_path / "rwku")


def config(folder, out, **options):
    return OmegaConf.create(
        {
            "output_dir": str(out),
            "overwrite": False,
            "path": str(folder),
            "batch_size": 2,
            "max_new_tokens": 3,
            **options,
        }
    )


@pytest.fixture(scope="module")
def chat():
    return tiny.tiny_tokenizer(chat=True, bos=True)


def test_instructions_are_the_benchmarks():
    row = {"query": "X is ___.", "answer": "a", "type": "cloze"}
    assert (
        instruction(row, "forget_level1")
        == "Please complete the blank in the following question.\nQuestion: X is ___.\n"
    )
    assert instruction(row, "neighbor_level2") == "Please briefly answer the following question.\nQuestion: X is ___.\n"
    in_context, suffix = ({**row, "type": kind} for kind in KINDS[1:])
    assert instruction(in_context, "forget_level3") == "Please briefly answer the following question.\nX is ___.\n"
    assert instruction(suffix, "forget_level3") == "Please briefly answer the following question.\nQuestion: X is ___."
    assert [wants_cue(one, "forget_level3") for one in (row, in_context, suffix)] == [True, True, False]


def test_place_of_the_cue(chat):
    row = {"query": "Q", "answer": "a"}
    template = {"apply_chat_template": True, "system_prompt": "S", "date_string": "today"}
    before = "<bos>S<eos><user>Please briefly answer the following question.\nQuestion: Q\n"
    assert Asking("assistant").prompt(row, "forget_level2", chat, template) == f"{before}<eos><assistant>Answer:"
    assert Asking("user").prompt(row, "forget_level2", chat, template) == f"{before}Answer:<eos><assistant>"
    suffix = {**row, "type": "affirmative suffix"}
    for cue in ("assistant", "user"):
        assert Asking(cue).prompt(suffix, "forget_level3", chat, template) == f"{before.strip()}<eos><assistant>"


def test_without_a_chat_template(tokenizer):
    row = {"query": "Q", "answer": "a"}
    tags = {"user_start_tag": "[U]", "user_end_tag": "[/U]", "asst_start_tag": "[A]"}
    template = {"apply_chat_template": False, "system_prompt_with_special_tokens": "[S]", **tags}
    expected = "[S][U]Please complete the blank in the following question.\nQuestion: Q\n[/U][A]Answer:"
    assert Asking().prompt(row, "neighbor_level1", tokenizer, template) == expected
    with pytest.raises(
        RetainFirstError, match=r"no chat template; set model\.template_args\.apply_chat_template=false"
    ):
        Asking().prompt(row, "neighbor_level1", tokenizer, {"apply_chat_template": True})


@pytest.mark.parametrize(
    ("stop", "answer", "cut"),
    [
        (("\n",), " Rome \nQuestion: more", "Rome"),
        (("\n",), "\nRome", ""),
        (("\n\n", "Question:"), "Rome\nItaly Question: x", "Rome\nItaly"),
        ((), " Rome\n", "Rome"),
    ],
)
def test_end_of_an_answer(stop, answer, cut):
    assert Asking(stop=stop).cut(answer) == cut


class Knows(torch.nn.Module):
    """A stand-in for a model that knows some answers: gives the answer of the first text that the prompt contains."""

    def __init__(self, tokenizer, answers):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer, self.answers, self.calls = tokenizer, answers, []

    def generate(self, input_ids, attention_mask, max_new_tokens, **options):
        self.calls.append((input_ids, attention_mask, options, self.training))
        pad, rows = self.tokenizer.pad_token_id, []
        for ids in input_ids:
            prompt = self.tokenizer.decode(ids)
            said = next((answer for text, answer in self.answers.items() if text in prompt), "")
            rows.append((self.tokenizer(said, add_special_tokens=False)["input_ids"] + [pad] * 200)[:200])
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)


TEMPLATE = {"apply_chat_template": True, "system_prompt": "S"}  # the template begins this turn with <bos>


def test_numbers_of_a_model_that_knows_one_subject(rwku_folder, tmp_path, chat):
    model = Knows(chat, {"Ada Hart": " In Ada Hart, I think\nmore", "Bo Lind": "Bo"}).train()
    evaluator = RWKUEvaluator(config(rwku_folder, tmp_path / "out"))
    side = chat.padding_side
    summary = evaluator.evaluate(model, tokenizer=chat, template_args=TEMPLATE)
    for probe in PROBES:
        assert summary[f"{probe}_rouge/Ada Hart"] == 1
        assert summary[f"{probe}_rouge/Bo Lind"] == pytest.approx(1 / 3)
        assert summary[f"{probe}_rouge/Cy Noor"] == 0
        assert summary[f"{probe}_rouge"] == pytest.approx(4 / 9)
    assert summary["forget_rouge"] == summary["neighbor_rouge"] == pytest.approx(4 / 9)
    assert all(type(value) is float for value in summary.values())
    written = json.loads((tmp_path / "out/RWKU_SUMMARY.json").read_text())
    prefixed = {f"eval_{name}" for name in written if "/" not in name}  # transformers looks for these names
    assert summary == written | {name: written[name.removeprefix("eval_")] for name in prefixed}
    log = json.loads((tmp_path / "out/RWKU_EVAL.json").read_text())["forget_level1_rouge"]
    assert log["value_by_index"]["0"] == {
        "rougeL_recall": 1.0,
        "subject": "Ada Hart",
        "input": Asking().prompt(probes_of("Ada Hart", "forget_level1")[0], "forget_level1", chat, TEMPLATE),
        "ground_truth": "in Ada Hart",
        "generation": "In Ada Hart, I think",
    }
    assert model.training, "the model is in training mode again"
    assert chat.padding_side == side
    assert not any(training for *_, training in model.calls)
    assert all(not options["do_sample"] for _, _, options, _ in model.calls)
    for ids, mask, *_ in model.calls:
        assert mask[:, -1].all(), "padding is on the left"
        assert ((ids == chat.bos_token_id).sum(1) == 1).all(), "one beginning of text"


def test_without_a_chat_template_the_tokenizer_adds_the_beginning_of_text(rwku_folder, tmp_path, chat):
    model = Knows(chat, {})
    evaluator = RWKUEvaluator(config(rwku_folder, tmp_path, probes=["neighbor_level2"]))
    evaluator.evaluate(model, tokenizer=chat, template_args={"apply_chat_template": False})
    assert all(((ids == chat.bos_token_id).sum(1) == 1).all() for ids, *_ in model.calls)


def test_answers_do_not_depend_on_the_batch_size(rwku_folder, tmp_path, chat):
    model = tiny.tiny_llama()
    logs = []
    for size in (1, 4):
        out = tmp_path / str(size)
        RWKUEvaluator(config(rwku_folder, out, batch_size=size)).evaluate(model, tokenizer=chat, template_args=TEMPLATE)
        logs.append(json.loads((out / "RWKU_EVAL.json").read_text()))
    assert logs[0] == logs[1]


def test_resuming_an_evaluation(rwku_folder, tmp_path, chat):
    out = tmp_path / "out"
    model = Knows(chat, {"Ada Hart": "in Ada Hart"})
    RWKUEvaluator(config(rwku_folder, out, probes=["forget_level1"])).evaluate(
        model, tokenizer=chat, template_args=TEMPLATE
    )
    evaluator = RWKUEvaluator(config(rwku_folder, out, probes=["forget_level1", "forget_level2"]))
    wiser = Knows(chat, {"": "in Ada Hart"})
    summary = evaluator.evaluate(wiser, tokenizer=chat, template_args=TEMPLATE)
    assert summary["forget_level1_rouge"] < summary["forget_level2_rouge"], "the first was not asked again"
    assert summary["forget_rouge"] == pytest.approx(
        (summary["forget_level1_rouge"] + summary["forget_level2_rouge"]) / 2
    )
    again = evaluator.evaluate(wiser, tokenizer=chat, template_args=TEMPLATE, overwrite=True)
    assert again["forget_level1_rouge"] == again["forget_level2_rouge"]


def test_other_prompts_are_asked_again(rwku_folder, tmp_path, chat):
    out = tmp_path / "out"
    for options in ({}, {"answer_cue": "user"}, {"subjects": "Ada Hart"}, {"max_new_tokens": 9}, {"stop": []}):
        model = Knows(chat, {})
        RWKUEvaluator(config(rwku_folder, out, probes=["forget_level1"], **options)).evaluate(
            model, tokenizer=chat, template_args=TEMPLATE
        )
        assert model.calls, options


def test_another_model_is_asked_again(rwku_folder, tmp_path, chat, caplog):
    """The second of two runs with one task_name must not report the answers of the first."""
    evaluator = RWKUEvaluator(config(rwku_folder, tmp_path, probes=["forget_level1", "forget_level2"]))
    first = Knows(chat, {"": "in Ada Hart"})
    evaluator.evaluate(first, tokenizer=chat, template_args=TEMPLATE)
    second = Knows(chat, {})
    second.weight.data.fill_(1e-7)
    seen = []
    second.generate = lambda *arguments, plain=second.generate, **options: (
        seen.append(json.loads((tmp_path / "RWKU_SUMMARY.json").read_text())), plain(*arguments, **options)
    )[1]  # fmt: skip
    summary = evaluator.evaluate(second, tokenizer=chat, template_args=TEMPLATE)
    assert summary["forget_rouge"] == 0
    assert caplog.text.count("is of another model; it is asked again") == 2
    assert set(seen[-1]) >= {"forget_level1_rouge"}
    assert seen[-1]["forget_rouge"] == 0, "no summary mixes two models"
    evaluator.evaluate(Unasked(chat, second), tokenizer=chat, template_args=TEMPLATE)


class Unasked(Knows):
    """Has the weights of another model, and must not be asked."""

    def __init__(self, tokenizer, other):
        super().__init__(tokenizer, {})
        self.load_state_dict(other.state_dict())

    def generate(self, *_, **__):
        raise AssertionError("asked")


def test_other_tokens_of_the_same_prompts_are_asked_again(rwku_folder, tmp_path, chat):
    evaluator = RWKUEvaluator(config(rwku_folder, tmp_path, probes=["forget_level1"]))
    evaluator.evaluate(Knows(chat, {}), tokenizer=chat, template_args=TEMPLATE)
    other = tiny.tiny_tokenizer(chat=True, bos=True)
    other.add_tokens(["blank in"])
    again = Knows(other, {})
    evaluator.evaluate(again, tokenizer=other, template_args=TEMPLATE)
    assert again.calls


def test_summary_without_subjects(rwku_folder, tmp_path, chat):
    evaluator = RWKUEvaluator(config(rwku_folder, tmp_path / "elsewhere", per_subject=False))
    summary = evaluator.evaluate(
        Knows(chat, {}), output_dir=str(tmp_path / "out"), tokenizer=chat, template_args=TEMPLATE
    )
    names = {*(f"{probe}_rouge" for probe in PROBES), "forget_rouge", "neighbor_rouge"}
    assert set(summary) == names | {f"eval_{name}" for name in names}
    assert not (tmp_path / "elsewhere").exists()
    assert set(json.loads((tmp_path / "out/RWKU_EVAL.json").read_text())["forget_level1_rouge"]["by_subject"]) == {
        *SUBJECTS.values()
    }


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"probes": ["forget_level4"]}, r"eval\.rwku\.probes: unknown 'forget_level4'. Did you mean"),
        ({"answer_cue": "system"}, r"eval\.rwku\.answer_cue is 'system'"),
        ({"batch_size": 0}, r"eval\.rwku\.batch_size is 0"),
        ({"max_new_tokens": "all"}, r"eval\.rwku\.max_new_tokens is 'all'"),
        ({"stop": ["Question:", r"\n\n"]}, r"eval\.rwku\.stop has '\\\\n\\\\n', a backslash and an n"),
        ({"subjects": ["Nobody"]}, "nothing on 'Nobody'"),
    ],
)
def test_bad_options_are_refused_at_construction(rwku_folder, tmp_path, options, text):
    with pytest.raises(RetainFirstError, match=text):
        RWKUEvaluator(config(rwku_folder, tmp_path, **options))


def test_no_tokenizer_and_a_broken_file(rwku_folder, tmp_path, chat):
    evaluator = RWKUEvaluator(config(rwku_folder, tmp_path))
    with pytest.raises(RetainFirstError, match="needs tokenizer="):
        evaluator.evaluate(Knows(chat, {}))
    for content in ("{", "[]"):
        (tmp_path / "RWKU_EVAL.json").write_text(content)
        with pytest.raises(RetainFirstError, match=r"eval\.rwku\.overwrite=true"):
            evaluator.evaluate(Knows(chat, {}), tokenizer=chat, template_args=TEMPLATE)


def test_without_rouge_score(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(MissingDependency, match="pip install rouge-score"):
        rwku._scorer()


def test_names_in_the_registry(caplog):
    registry = _Registry({"TOFUEvaluator": object}, _make_evaluator)
    assert registry.get("RetainFirstRWKU") is RWKUEvaluator is make_evaluator("RetainFirstRWKU", {})
    assert registry.get("Other") is None
    with caplog.at_level(logging.ERROR), pytest.raises(RetainFirstError, match="Did you mean 'RetainFirstRWKU'"):
        registry.get("RetainFirstRWKUEvaluator")

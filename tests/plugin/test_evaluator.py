"""The evaluator of rows, as the framework calls it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

import tiny
from retainfirst import evaluation as ev
from retainfirst.errors import RetainFirstError
from retainfirst_open_unlearning.evaluator import RowsEvaluator, make_evaluator, measure_everywhere
from retainfirst_open_unlearning.register import _make_evaluator, _Registry

FORGET = [{"question": f"who is {i}", "answer": f"the {'abcd'[i]} one"} for i in range(4)]
RETAIN = [{"question": f"what is {i}", "answer": f"no {'xyz'[i]}"} for i in range(3)]


@pytest.fixture
def settings(tmp_path):
    files = {}
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        files[name] = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"max_length": 100, "max_new_tokens": 4, "batch_size": 2}
    return {**files, **sizes, "output_dir": str(tmp_path / "out"), "handler": "RetainFirstRows"}


def test_the_registry_makes_it():
    registry = _Registry({"TOFUEvaluator": object}, _make_evaluator)
    assert registry.get("RetainFirstRows") is RowsEvaluator
    with pytest.raises(RetainFirstError, match="no evaluator 'RetainFirstRowz'.*RetainFirstRows"):
        make_evaluator("RetainFirstRowz", {})


@pytest.mark.parametrize("report", [True, False])
def test_the_numbers_are_those_of_the_library(settings, tmp_path, report):
    model, tokenizer = tiny.tiny_llama().train(), tiny.tiny_tokenizer()
    config = OmegaConf.create(settings | {"quantize": [8], "report": report})
    found = RowsEvaluator(config).evaluate(model=model, tokenizer=tokenizer, template_args=None)
    assert model.training
    sets = {name: ev.make_set(name, rows, tokenizer, 100) for name, rows in (("forget", FORGET), ("retain", RETAIN))}
    expected = ev.evaluate(
        model, tokenizer, sets, attacks=ev.by_quantization(8, sets), how=ev.Measuring(batch_size=2, max_new_tokens=4)
    )
    [after] = [one for one in expected.conditions if one.kind == "after"]
    for part, metrics in after.measured.estimates.items():
        for name, one in metrics.items():
            assert found[f"{part}_{name}"] == pytest.approx(one.value, nan_ok=True)
            assert found[f"eval_{part}_{name}"] == pytest.approx(one.value, nan_ok=True)
    assert "forget_probability/8 bits, channels" in found
    assert "eval_forget_probability/8 bits, channels" not in found
    folder = tmp_path / "out"
    summary = json.loads((folder / "RETAINFIRST_SUMMARY.json").read_text())
    assert summary["forget_probability"] == found["forget_probability"]
    assert (folder / "evaluation.json").is_file()
    assert (folder / "evaluation.html").is_file() == report


def test_a_model_before(settings, tmp_path):
    before = tiny.save_tiny(tmp_path / "before", seed=3)
    config = settings | {"before": str(before), "report": False}
    RowsEvaluator(config).evaluate(tiny.tiny_llama(), tokenizer=tiny.tiny_tokenizer())
    assert "before sha256" in (tmp_path / "out" / "evaluation.json").read_text()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"forget": None}, "eval.retainfirst.forget: give a file of rows"),
        ({"quantise": [8]}, "eval.retainfirst.quantise: .*quantize"),
        ({"overwrite": False}, "eval.retainfirst.overwrite: "),
        ({"forget": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"unrelated": "forget.jsonl"}, "eval.retainfirst.unrelated: give eval.retainfirst.relearn too"),
    ],
)
def test_bad_options(settings, options, text):
    with pytest.raises(RetainFirstError, match=text):
        RowsEvaluator(settings | options)


def test_no_tokenizer(settings):
    with pytest.raises(RetainFirstError, match="needs tokenizer="):
        RowsEvaluator(settings).evaluate(tiny.tiny_llama())


@pytest.mark.parametrize("main", [True, False])
def test_every_process_measures_and_the_first_writes(settings, tmp_path, main):
    logged = []
    trainer = SimpleNamespace(
        _get_output_dir=lambda trial: str(tmp_path / "run"), state=SimpleNamespace(global_step=7), log=logged.append,
        processing_class=tiny.tiny_tokenizer(), model=tiny.tiny_llama(), accelerator=SimpleNamespace(is_main_process=main),
    )  # fmt: skip
    evaluators = {"other": object(), "rows": RowsEvaluator(settings | {"report": False})}
    found = measure_everywhere(trainer, evaluators)
    assert logged == [found]
    assert 0 < found["forget_probability"] < 1
    assert (tmp_path / "run/checkpoint-7/evals/evaluation.json").is_file() == main


def test_a_sharded_model_is_refused(settings):
    model = tiny.tiny_llama()
    next(model.parameters()).ds_id = 0  # as ZeRO 3 marks parameters
    with pytest.raises(RetainFirstError, match="the model is sharded"):
        measure_everywhere(SimpleNamespace(model=model), {"rows": RowsEvaluator(settings | {"report": False})})
    assert (
        measure_everywhere(
            SimpleNamespace(model=model, _get_output_dir=lambda trial: ".", state=SimpleNamespace(global_step=1)),
            {"other": 1},
        )
        == {}
    )

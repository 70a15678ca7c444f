"""What transformers' own training step does, read from its source, and what ours does in its place.

``training_step.json`` says for every call and every attribute of the trainer in ``Trainer.training_step``, in ``compute_loss``,
which ours does not call, and in the loop around the step, whether it is honoured, refused or not needed, and by what code. A
version of transformers that does something new fails here until someone has decided.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import Trainer

import retainfirst as rf
import tiny
from retainfirst.hf import _arguments, _stepping, _training
from two_task import make

TREATED = json.loads(Path(__file__).with_name("training_step.json").read_text())
OURS = "".join(map(inspect.getsource, (_training, _stepping, _arguments)))


def dotted(node: ast.AST) -> str | None:
    """Return ``a.b.c`` for a chain of attributes; None for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return None


def done_in(tree: ast.AST) -> set[str]:
    """Return what a piece of source calls, and which attributes of ``self`` it uses, without Python's own functions."""
    found = {name for node in ast.walk(tree) if isinstance(node, ast.Call) and (name := dotted(node.func))}
    rest = [tree]
    while rest:
        node = rest.pop()
        name = dotted(node) if isinstance(node, ast.Attribute) else None
        if name is None:
            rest += ast.iter_child_nodes(node)
        elif name.startswith("self."):
            found.add(name)
    return {name for name in found if not hasattr(builtins, name)}


def method(name: str) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(getattr(Trainer, name))))


def loop() -> ast.AST:
    """Return the innermost loop around the call of ``training_step``."""
    loops = [
        node
        for name in vars(Trainer)
        if inspect.isfunction(getattr(Trainer, name))
        for node in ast.walk(method(name))
        if isinstance(node, ast.For) and "self.training_step" in done_in(node)
    ]
    return min(loops, key=lambda node: (node.end_lineno or 0) - node.lineno)


PARTS = {
    "training_step": lambda: method("training_step"),
    "compute_loss": lambda: method("compute_loss"),
    "loop": loop,
}


@pytest.mark.parametrize("part", PARTS)
def test_everything_that_the_trainer_does_is_accounted_for(part):
    named = [name for entry in TREATED[part] for name in entry["names"]]
    assert len(named) == len(set(named))
    new = done_in(PARTS[part]()) - set(named)
    assert not new, f"new in this version of transformers: decide for each: {sorted(new)}"


@pytest.mark.parametrize(
    "entry", [entry for part in TREATED.values() for entry in part], ids=lambda entry: entry["what"]
)
def test_our_code_does_what_the_list_says(entry):
    treatment, _, reason = entry["treatment"].partition(": ")
    assert treatment in ("honoured", "refused", "not needed")
    assert reason or treatment != "not needed"
    assert "by" in entry or treatment == "not needed"
    for code in entry.get("by", ()):
        assert code in OURS


def test_a_new_call_is_found():
    source = (
        "def training_step(self, model):\n    self.new_thing(model)\n    x = self.args.new_field\n    print(helper(x))"
    )
    assert done_in(ast.parse(source)) == {"self.new_thing", "self.args.new_field", "helper"}


def test_a_model_split_by_tensor_parallelism_is_refused():
    model = tiny.tiny_llama()
    _arguments.refuse_split_model("Mine", model)
    model._tp_size = 2
    with pytest.raises(rf.RetainFirstError, match="Mine: a model with tensor parallelism is not supported"):
        _arguments.refuse_split_model("Mine", model)


def test_sagemakers_model_parallelism_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_sagemaker_mp_enabled", lambda: True)
    with pytest.raises(rf.RetainFirstError, match="TwoTaskTrainer: SageMaker's model parallelism is not supported"):
        make(tmp_path)


def test_floating_point_operations_of_both_halves_are_counted(tmp_path):
    trainer = make(tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    both = trainer.floating_point_ops(batch)
    assert both == sum(Trainer.floating_point_ops(trainer, batch[task]) for task in ("forget", "retain")) > 0
    trainer.train()
    assert trainer.state.total_flos >= 3 * both


def test_the_graph_cache_of_mps_is_emptied_too(monkeypatch):
    calls = []
    for name in ("empty_cache", "clear_graph_cache"):
        monkeypatch.setattr(torch.mps, name, lambda name=name: calls.append(name), raising=False)
    _stepping._empty_cache(torch.device("mps"))
    assert calls == ["empty_cache", "clear_graph_cache"]

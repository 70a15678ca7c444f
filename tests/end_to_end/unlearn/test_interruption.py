"""Runs that are interrupted, fail or are resumed, and what they leave."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from pathlib import Path

import pytest
from safetensors.torch import save_file

import retainfirst as rf
from retainfirst.unlearning import Interrupted, unlearn
from unlearn_runs import InterruptsAt, Terminates, same, weights


@pytest.mark.parametrize(
    "combiner", [{}, {"combiner": "gru", "combiner_options": {"average": 0.9}}], ids=["sago", "gru"]
)
def test_interrupted_and_resumed_is_the_uninterrupted_run_bit_for_bit(config, tmp_path, combiner):
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1, **combiner}
    whole = unlearn(config(output=str(tmp_path / "whole"), **options), measure=lambda _: InterruptsAt(-1))
    settings = config(output=str(tmp_path / "part"), **options)
    with pytest.raises(Interrupted, match="--resume"):
        unlearn(settings, measure=lambda _: InterruptsAt(4))  # one call before training, then one a step
    assert [path.name for path in Path(settings.output).iterdir()] == [".unfinished"]
    with pytest.raises(rf.RetainFirstError, match="unfinished run; add --resume"):
        unlearn(settings)
    resumed = unlearn(config(output=str(tmp_path / "part"), resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))
    assert resumed["steps"] == whole["steps"]
    assert not (tmp_path / "part" / ".unfinished").exists()


@pytest.mark.parametrize("stop", [None, 0.7])
def test_a_run_that_failed_after_its_last_step_is_only_finished(config, tmp_path, monkeypatch, stop):
    options = {"save_every": 2, "stop_at_forget_probability": stop, "evaluate_every": 4, "force": True}
    whole = unlearn(config(output=str(tmp_path / "whole"), **options), measure=lambda _: InterruptsAt(-1))
    with monkeypatch.context() as broken:
        broken.setattr("retainfirst.unlearning._run.write_curves", _no_space)
        with pytest.raises(rf.RetainFirstError, match="No space left"):
            unlearn(config(output=str(tmp_path / "part"), **options), measure=lambda _: InterruptsAt(-1))
    assert [path.name for path in (tmp_path / "part").iterdir()] == [".unfinished"]
    resumed = unlearn(config(output=str(tmp_path / "part"), resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert resumed["steps"] == whole["steps"]
    assert len(whole["steps"]) == (6 if stop is None else 4)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_interrupted_before_the_first_step_leaves_nothing(config):
    settings = config()
    with pytest.raises(Interrupted, match="nothing was written"):
        unlearn(settings, measure=_interrupts_twice)
    assert not Path(settings.output).exists()


def _interrupts_twice(_):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("the second Ctrl-C must interrupt at once")


def test_a_failure_leaves_the_folder_as_it_was(config, tmp_path):
    (tmp_path / "empty").mkdir()

    class Fails(InterruptsAt):
        def forget(self, _):
            raise RuntimeError("boom")

    for output, remains in ((tmp_path / "new", False), (tmp_path / "empty", True)):
        with pytest.raises(RuntimeError, match="boom"):
            unlearn(config(output=str(output)), measure=lambda _: Fails(0))
        assert output.exists() == remains
        assert not remains or not any(output.iterdir())


def test_resuming_needs_the_same_settings_and_the_same_data(config, tmp_path, files):
    settings = config(stop_at_forget_probability=0.0, evaluate_every=1)
    with pytest.raises(Interrupted):
        unlearn(settings, measure=lambda _: InterruptsAt(3))
    again = {"stop_at_forget_probability": 0.0, "evaluate_every": 1, "resume": True}
    with pytest.raises(rf.RetainFirstError, match=r"learning_rate \(was 0.01, is 0.1\)"):
        unlearn(config(learning_rate=0.1, **again))
    Path(files["forget"]).write_text(json.dumps({"text": "something else"}) + "\n")
    with pytest.raises(rf.RetainFirstError, match="forget"):
        unlearn(config(**again))


def test_resuming_needs_the_same_model_wherever_its_folder_is(config, tmp_path):
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1}
    model, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(config().model, model)
    with pytest.raises(Interrupted):
        unlearn(config(model=str(model), **options), measure=lambda _: InterruptsAt(3))
    shutil.copytree(model, moved)
    (moved / "slurm-1.out").write_text("a log")
    save_file({name: -tensor for name, tensor in weights(model).items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(rf.RetainFirstError, match=r"other settings: model \(was sha256:\w+, is sha256:\w+\)"):
        unlearn(config(model=str(model), resume=True, **options), measure=lambda _: InterruptsAt(-1))
    resumed = unlearn(config(model=str(moved), resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert len(resumed["steps"]) == 6


def test_a_half_written_checkpoint_is_passed_over(config):
    settings = config(stop_at_forget_probability=0.0, evaluate_every=1)
    with pytest.raises(Interrupted):
        unlearn(settings, measure=lambda _: InterruptsAt(3))
    broken = Path(settings.output) / ".unfinished" / "checkpoint-5"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step": 5, "log_his')
    resumed = unlearn(
        config(stop_at_forget_probability=0.0, evaluate_every=1, resume=True), measure=lambda _: InterruptsAt(-1)
    )
    assert len(resumed["steps"]) == 6


def test_sigterm_saves_and_ends_as_ctrl_c_does(config, tmp_path):
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1}
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="--resume"):
        unlearn(config(**options), measure=lambda _: Terminates(3))
    assert [path.name for path in (tmp_path / "out" / ".unfinished").glob("checkpoint-*")] == ["checkpoint-3"]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_run_in_another_thread(config, tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(unlearn(config(max_steps=2))))
    thread.start()
    thread.join()
    assert len(found[0]["steps"]) == 2


def test_the_callers_handlers_are_back_after_a_run(config, monkeypatch):
    handlers = {number: lambda *_: None for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        unlearn(config(max_steps=1))
        assert {number: signal.getsignal(number) for number in handlers} == handlers
        with pytest.raises(rf.RetainFirstError, match="not empty"):
            unlearn(config())
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("options", "last"), [({}, 6), ({"stop_at_forget_probability": 1.0, "evaluate_every": 4, "force": True}, 4)]
)
def test_a_failure_to_write_keeps_the_last_step_and_says_how_to_go_on(config, tmp_path, monkeypatch, options, last):
    with monkeypatch.context() as broken:
        broken.setattr("retainfirst.unlearning._run.write_curves", _no_space)
        with pytest.raises(
            rf.RetainFirstError, match=r"No space left on device\. When that is mended, go on with --resume"
        ):
            unlearn(config(**options))
    assert [path.name for path in (tmp_path / "out" / ".unfinished").glob("checkpoint-*")] == [f"checkpoint-{last}"]


def test_resuming_names_the_checkpoint_that_was_cut_short(config, caplog):
    options = {"stop_at_forget_probability": 0.0, "evaluate_every": 1}
    with pytest.raises(Interrupted):
        unlearn(config(**options), measure=lambda _: InterruptsAt(3))
    broken = Path(config().output) / ".unfinished" / "checkpoint-5"
    broken.mkdir()
    unlearn(config(resume=True, **options), measure=lambda _: InterruptsAt(-1))
    assert f"{broken} is incomplete" in caplog.text
    assert "Resuming from step 3." in caplog.text


def test_a_run_that_breaks_stops_with_an_error_and_leaves_no_model(config, tmp_path):
    with pytest.raises(rf.RetainFirstError, match=r"step \d+: .*(nan|inf)"):
        unlearn(config(learning_rate=1e30, max_grad_norm=0.0, save_every=0))
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_what_others_put_beside_it(config, tmp_path):
    class Fails(InterruptsAt):
        def forget(self, _):
            (tmp_path / "runs" / "other").mkdir()
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        unlearn(config(output=str(tmp_path / "runs" / "mine")), measure=lambda _: Fails(0))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]

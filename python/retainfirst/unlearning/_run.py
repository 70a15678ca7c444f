"""One unlearning run, from a model and two files to an output folder."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from retainfirst.data import PairedCollator, PairedDataset, collate, load_pairs, pad_token_id, set_pad_token
from retainfirst.errors import RetainFirstError, require
from retainfirst.evaluation import AnswerProbability, Measure
from retainfirst.files import write_json
from retainfirst.models import (
    check_causal,
    check_not_quantized,
    check_vocabulary,
    keep_rope_theta,
    load_config,
    load_model,
    load_tokenizer,
)
from retainfirst.objectives import adapters_off, reference_log_probs
from retainfirst.unlearning._config import UnlearnConfig
from retainfirst.unlearning._folder import OutputFolder, is_whole
from retainfirst.unlearning._report import Report, make_report, write_card, write_curves
from retainfirst.unlearning._signals import on_interrupt
from retainfirst.unlearning._warnings import about_data, about_results, about_start

__all__ = ["Interrupted", "unlearn"]

logger = logging.getLogger(__name__)


class Interrupted(RetainFirstError):
    """Ctrl-C or SIGTERM stopped the run; the text names the checkpoints to resume from, if there are any."""


def unlearn(
    config: UnlearnConfig, *, measure: Callable[[Any], Measure] | None = None, label: str = "unlearning"
) -> Report:
    """Unlearn, and write the model, ``unlearning.json``, ``curves.png`` and a model card to the output folder.

    After an error the output folder is as it was, unless a checkpoint was saved: then the run can be resumed. Ctrl-C and SIGTERM
    first finish the step and save a checkpoint. Unless ``save_every`` is 0, the last step saves one too, which is kept until the
    results are written. In the main thread the run handles the two signals itself, and gives them back to the caller's handlers
    at its end; in another thread it does not see them.

    Args:
        config: The settings.
        measure: Takes the tokenizer and returns the metric to measure before and after training, and for
            ``stop_at_forget_probability``; None: the mean probability of the labelled answers.
        label: Name of the run in the lines of progress.

    Returns:
        The content of ``unlearning.json``.

    Raises:
        RetainFirstError: The data, the model or the output folder is bad; the text names it.
        Interrupted: Ctrl-C or SIGTERM.
        MissingDependency: transformers, matplotlib or (for LoRA) peft is not installed.
    """
    folder = OutputFolder(config)
    # transformers' progress bars would interleave with ours.
    require("transformers", "hf").utils.logging.disable_progress_bar()
    require("matplotlib", "plot")
    if config.evaluate == "full":
        require("rouge_score", "eval")
        require("scipy", "eval")
    from retainfirst.unlearning._callbacks import ShowProgress

    with on_interrupt(signal.default_int_handler):
        bar = ShowProgress(label)
        try:
            folder.start()
            bar.stage("loading the rows and the model")
            model_config = load_config(config.model)
            tokenizer = load_tokenizer(config.model)
            if config.pad_token is not None:
                set_pad_token(tokenizer, config.pad_token)
            pairs = load_pairs(
                config.forget, config.retain, tokenizer, max_length=config.max_length, chat_template=config.chat_template,
                pairing=config.pairing, seed=config.seed, now=folder.started, model=model_config,
            )  # fmt: skip
            collator = PairedCollator(pad_token_id(tokenizer))
            # Trained weights are float32: 16-bit weights would round the optimiser's small steps away.
            model = load_model(config.model, config.dtype if config.lora_rank else "float32")
            check_vocabulary(model, (pairs.forget, pairs.retain), collator.pad_token_id)
            check_causal(config.model, model)
            check_not_quantized(
                config.model, model, "what is learned cannot be merged into its rounded weights exactly"
            )
            model.config.pad_token_id = collator.pad_token_id
            report = _run(config, folder, model, tokenizer, pairs, collator, measure, bar)
            del model
        except BaseException as error:
            kept = folder.abandon()
            resume = f"go on with --resume (checkpoints are in {folder.work})"
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(f"interrupted; {resume if kept else 'nothing was written'}") from None
            if kept and _is_about_writing(error):
                raise RetainFirstError(f"{error}. When that is mended, {resume}") from error
            raise
        finally:
            bar.stop()
        if config.evaluate == "full":
            _evaluate(config, report["config"]["device"])
        return report


def _evaluate(config: UnlearnConfig, device: str) -> None:
    from retainfirst.unlearning._evaluation import evaluate_result

    try:
        evaluate_result(config, device)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted during the evaluation; the model is in {config.output}, and retainfirst evaluate can measure it"
        ) from None


def _run(
    config: UnlearnConfig,
    folder: OutputFolder,
    model: Any,
    tokenizer: Any,
    pairs: PairedDataset,
    collator: PairedCollator,
    make_measure: Callable[[Any], Measure] | None,
    bar: Any,
) -> Report:
    from retainfirst.hf import StopAtForget
    from retainfirst.unlearning._callbacks import SaveAtEnd, StopIfBroken, StopOnInterrupt

    warnings = about_data(config, pairs)
    interrupt = StopOnInterrupt()
    with interrupt.watching():
        if config.lora_rank:
            model = _with_lora(model, config)
        bar.stage("preparing the training")
        trainer = _trainer(config, folder, model, pairs, collator, [bar, interrupt, StopIfBroken()])
        model = trainer.model
        guess = 0.0
        if make_measure is None:
            guess = 1 / model.get_input_embeddings().num_embeddings
            measure: Measure = AnswerProbability(pairs, collator.pad_token_id, config.evaluate_rows, config.batch_size)
        else:
            measure = make_measure(tokenizer)
        if config.stop_at_forget_probability is not None:
            trainer.add_callback(StopAtForget(measure, config.stop_at_forget_probability, config.evaluate_every))
        if config.save_every:
            trainer.add_callback(SaveAtEnd())
        bar.stage("measuring before")
        before = _measured(measure, model)
        warnings += about_start(config, before, guess)
        _train(config, trainer, folder)
        if interrupt.interrupted:
            raise KeyboardInterrupt
        bar.stage("measuring after")
        after = _measured(measure, model)
        if not all(math.isfinite(value) for value in after.values()):
            raise RetainFirstError(f"the model broke in the last step ({after}); try a lower learning rate or gamma")
        warnings += about_results(config, before, after)
        settings = _used(config, trainer, tokenizer, collator)
        report = make_report(settings, trainer.state.log_history, before, after, _counts(pairs), warnings)
        bar.stage("writing the results")
        folder.finish(lambda results: _write(results, report, model, tokenizer))
    return report


def _train(config: UnlearnConfig, trainer: Any, folder: OutputFolder) -> None:
    """Train, from the last checkpoint if there is one. If that training was complete, only load it."""
    from transformers import TrainerState

    found = folder.last_checkpoint()
    if config.resume:
        _say_where_it_resumes(folder, found)
    if found is None:
        trainer.train()
        return
    checkpoint, state = found
    measured = [entry["forget_measure"] for entry in state["log_history"] if "forget_measure" in entry]
    stop = config.stop_at_forget_probability
    try:
        if state["global_step"] >= state["max_steps"] or (stop is not None and measured and measured[-1] <= stop):
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint))
    except pickle.UnpicklingError as error:
        raise RetainFirstError(
            "this torch refuses to read the checkpoints of this transformers; set the environment variable"
            " TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 and resume, or install transformers 4.49 or later"
        ) from error


def _trainer(
    config: UnlearnConfig,
    folder: OutputFolder,
    model: Any,
    pairs: PairedDataset,
    collator: PairedCollator,
    callbacks: list[Any],
) -> Any:
    from transformers.trainer_callback import PrinterCallback

    from retainfirst.hf import TwoTaskTrainer
    from retainfirst.unlearning._arguments import training_arguments

    arguments = training_arguments(config, folder.work)
    retain_options = {"reference": _reference(config, model, arguments.device)} if config.retain_loss == "kl" else {}
    try:
        # The trainer moves the model to its device; the reference is computed there.
        trainer = TwoTaskTrainer(
            model=model,
            args=arguments,
            train_dataset=pairs,
            data_collator=collator,
            callbacks=callbacks,
            combiner=config.combiner,
            combiner_options=config.trainer_options(),
            objective=config.objective,
            retain_loss=config.retain_loss,
            objective_options=config.objective_options(),
            retain_options=retain_options,
            where=config.where,
            guard=config.guard,
            offload="cpu" if config.offload == "cpu" else None,
        )
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, RetainFirstError):
            raise
        raise RetainFirstError(f"the trainer refused the settings: {error}") from error
    trainer.remove_callback(PrinterCallback)
    if config.objective == "npo":
        loader = DataLoader(
            pairs.forget, batch_size=config.batch_size, collate_fn=lambda rows: collate(rows, collator.pad_token_id)
        )
        with trainer.accelerator.autocast():  # in the same precision as the steps
            pairs.forget.set_reference_log_probs(reference_log_probs(trainer.model, loader))
    return trainer


def _is_about_writing(error: BaseException) -> bool:
    """Tell whether files could not be written; torch and safetensors have errors of their own for a full disk."""
    texts = ("No space left", "PytorchStreamWriter", "cannot be written")
    return isinstance(error, OSError) or any(text in str(error) for text in texts)


def _say_where_it_resumes(folder: OutputFolder, found: tuple[Path, dict[str, Any]] | None) -> None:
    for path in sorted(folder.work.glob("checkpoint-*")):
        if not is_whole(path):
            logger.warning("%s is incomplete (the run ended while it was written) and is not used.", path)
    start = "the first step: no whole checkpoint is there" if found is None else f"step {found[1]['global_step']}"
    logger.warning("Resuming from %s.", start)


def _with_lora(model: Any, config: UnlearnConfig) -> Any:
    peft = require("peft", "hf")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        settings = peft.LoraConfig(
            r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        return peft.get_peft_model(model, settings)


def _reference(config: UnlearnConfig, model: Any, device: torch.device) -> Any:
    return adapters_off(model) if config.lora_rank else copy.deepcopy(model).to(device).eval().requires_grad_(False)


def _used(config: UnlearnConfig, trainer: Any, tokenizer: Any, collator: PairedCollator) -> dict[str, Any]:
    """Return the settings, with the values that were used in place of the defaults and of ``auto``."""
    return config.with_defaults() | {
        "max_steps": trainer.state.max_steps,
        "epochs": config.epochs if config.max_steps is None else trainer.state.num_train_epochs,
        "device": str(trainer.args.device),
        "pad_token": tokenizer.convert_ids_to_tokens(collator.pad_token_id),
    }


def _measured(measure: Measure, model: Any) -> dict[str, float]:
    return {f"forget_{measure.name}": measure.forget(model), f"retain_{measure.name}": measure.retain(model)}


def _counts(pairs: PairedDataset) -> dict[str, int]:
    sets = {"forget": pairs.forget, "retain": pairs.retain}
    return {
        f"{task}_rows{suffix}": count
        for task, examples in sets.items()
        for suffix, count in (("", len(examples)), ("_truncated", examples.truncated), ("_dropped", examples.dropped))
    }


def _write(results: Path, report: Report, model: Any, tokenizer: Any) -> None:
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(results / "adapter")
        (results / "adapter" / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in; the card is ours
        model = model.merge_and_unload()
    model.save_pretrained(results)
    keep_rope_theta(results)
    tokenizer.save_pretrained(results)
    write_json(results / "unlearning.json", report, indent=1)
    write_curves(report, results / "curves.png")
    write_card(report, results / "README.md")

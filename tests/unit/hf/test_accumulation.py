"""A step of several microbatches equals the step of one large batch, on rows of unequal length."""

from __future__ import annotations

import pytest
import torch
from transformers import Trainer, TrainingArguments

import tiny
from retainfirst.data import EncodedSet, PairedCollator, PairedDataset
from retainfirst.hf import TwoTaskTrainer
from retainfirst.objectives import reference_log_probs

LENGTHS = (4, 17, 6, 11)


def pairs(lengths=LENGTHS):
    def encoded(seed):
        batch = tiny.tiny_batch(lengths, seed=seed)
        rows = [{key: value[i, :n].tolist() for key, value in batch.items()} for i, n in enumerate(lengths)]
        return EncodedSet(rows, name="tiny")

    return PairedDataset(encoded(1), encoded(2))


class InOrder(TwoTaskTrainer):
    def _get_train_sampler(self, *_):
        return None


def train(folder, batch, accumulate, rows=LENGTHS, **options):
    data, model = pairs(rows), tiny.tiny_llama()
    if options.get("objective") == "npo":
        batches = [PairedCollator(0)([data[i]])["forget"] for i in range(len(data))]
        data.forget.set_reference_log_probs(reference_log_probs(tiny.tiny_llama(), batches))
    if options.get("retain_loss") == "kl":
        options["retain_options"] = {"reference": tiny.tiny_llama(seed=5).eval()}
    arguments = TrainingArguments(
        output_dir=str(folder), learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate, num_train_epochs=1, logging_steps=1,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = InOrder(model=model, args=arguments, train_dataset=data, data_collator=PairedCollator(0), **options)
    trainer.train()
    start = torch.cat([p.detach().flatten() for p in tiny.tiny_llama().parameters()])
    moved = torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - start
    return moved, trainer.state.log_history[0]


@pytest.mark.parametrize(("objective", "retain_loss"), [("ga", "nll"), ("npo", "nll"), ("simnpo", "nll"), ("ga", "kl")])
@pytest.mark.parametrize("combiner", ["sum", "pcgrad"])
def test_four_microbatches_are_one_batch(tmp_path, objective, retain_loss, combiner):
    options = {"objective": objective, "retain_loss": retain_loss, "combiner": combiner}
    if retain_loss == "kl":
        # All positions of a padded batch count, so that equal batches need equal lengths.
        options["rows"] = (9, 9, 9, 9)
    large, large_log = train(tmp_path / "large", 4, 1, **options)
    small, small_log = train(tmp_path / "small", 1, 4, **options)
    # float32: the same terms, added in another order.
    assert (small - large).norm() <= 2e-6 * large.norm()
    for name in ("forget_loss", "retain_loss"):
        assert small_log[name] == pytest.approx(large_log[name], rel=1e-5)


def test_an_epoch_that_ends_in_a_shorter_step(tmp_path):
    """Three of four microbatches: with the rows of one batch of three."""
    large, _ = train(tmp_path / "large", 3, 1, rows=LENGTHS[:3], objective="ga", combiner="sum")
    small, _ = train(tmp_path / "small", 1, 4, rows=LENGTHS[:3], objective="ga", combiner="sum")
    assert (small - large).norm() <= 2e-6 * large.norm()


def test_it_is_what_the_trainer_itself_does(tmp_path):
    """With a forget weight of zero the step is plain training on the retain rows."""
    mine, _ = train(tmp_path / "mine", 1, 4, objective="ga", combiner="sum", combiner_options={"gamma": 0.0})
    data, model = pairs(), tiny.tiny_llama()
    collator = PairedCollator(0)
    loss = 0.0
    batch = collator([data[i] for i in range(4)])["retain"]
    loss = model.train()(**{key: batch[key] for key in ("input_ids", "attention_mask", "labels")}).loss
    loss.backward()
    expected = torch.cat([-0.1 * p.grad.flatten() for p in model.parameters()])
    assert issubclass(InOrder, Trainer)
    assert (mine - expected).norm() <= 2e-6 * expected.norm()

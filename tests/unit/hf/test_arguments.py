"""Every field of TrainingArguments is honoured, refused by name, or has nothing to do with a step; weights and where."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

import retainfirst as rf
import tiny
from retainfirst.data import EncodedSet, PairedCollator, PairedDataset
from retainfirst.hf import TwoTaskTrainer
from retainfirst.hf._arguments import REFUSED
from retainfirst.schedule import Linear

# Read by code of the trainer that runs around training_step, or by the step itself.
HONOURED = set(
    """
accelerator_config activation_checkpointing activation_checkpointing_kwargs adafactor adam_beta1 adam_beta2 adam_epsilon
auto_find_batch_size average_tokens_across_devices bf16 data_seed dataloader_drop_last dataloader_in_order
dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph
ddp_timeout deepspeed dispatch_batches enable_jit_checkpoint fp16 fp16_backend fp16_opt_level fsdp fsdp_config
fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap full_determinism gradient_accumulation_steps gradient_checkpointing
gradient_checkpointing_kwargs ignore_data_skip learning_rate liger_kernel_config lr_scheduler_kwargs lr_scheduler_type
max_grad_norm max_steps neftune_noise_alpha no_cuda num_train_epochs optim optim_args optim_target_modules
per_device_train_batch_size per_gpu_train_batch_size restore_callback_states_from_checkpoint resume_from_checkpoint seed
split_batches tf32 torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps tpu_metrics_debug
tpu_num_cores torchdynamo use_cache use_cpu use_ipex use_legacy_prediction_loop use_liger_kernel use_mps_device warmup_ratio
warmup_steps weight_decay xpu_backend
""".split()
)

# Logging, evaluation, saving, the hub; remove_unused_columns is always False for pairs.
IRRELEVANT = set(
    """
batch_eval_metrics bf16_full_eval debug disable_tqdm do_eval do_predict do_train eval_accumulation_steps eval_delay
eval_do_concat_batches eval_on_start eval_steps eval_strategy eval_use_gather_object evaluation_strategy fp16_full_eval
greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token include_for_metrics
include_inputs_for_metrics include_tokens_per_second jit_mode_eval label_names length_column_name load_best_model_at_end
local_rank log_level log_level_replica log_on_each_node logging_dir logging_first_step logging_nan_inf_filter logging_steps
logging_strategy metric_for_best_model mp_parameters output_dir overwrite_output_dir per_device_eval_batch_size
per_gpu_eval_batch_size prediction_loss_only project push_to_hub push_to_hub_model_id push_to_hub_organization
push_to_hub_token ray_scope remove_unused_columns report_to run_name save_on_each_node save_only_model save_safetensors
save_steps save_strategy save_total_limit skip_memory_metrics trackio_bucket_id trackio_space_id trackio_static_space_id
""".split()
)


def test_every_field_is_accounted_for():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    unknown = fields - HONOURED - IRRELEVANT - set(REFUSED)
    assert not unknown, f"new in this version: decide for each, honoured, refused or irrelevant: {sorted(unknown)}"
    assert not (HONOURED & IRRELEVANT) | ((HONOURED | IRRELEVANT) & set(REFUSED))


def make(folder, arguments=None, **options):
    def encoded(seed):
        batch = tiny.tiny_batch((8,) * 4, seed=seed)
        return EncodedSet([{key: value[i].tolist() for key, value in batch.items()} for i in range(4)], name="tiny")

    defaults = {
        "output_dir": str(folder), "learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 1, "max_grad_norm": 0.0, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "max_steps": 3,
    }  # fmt: skip
    return TwoTaskTrainer(
        model=tiny.tiny_llama(),
        args=TrainingArguments(**{**defaults, **(arguments or {})}),
        train_dataset=PairedDataset(encoded(1), encoded(2)),
        data_collator=PairedCollator(0),
        objective="ga",
        **options,
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 is not supported"),
        ({"include_num_input_tokens_seen": "all"}, "include_num_input_tokens_seen='all' is not supported"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length"),
        ({"group_by_length": True}, "group_by_length=True is not supported"),
    ],
)
def test_a_field_without_effect_is_refused_at_construction(tmp_path, arguments, text):
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    if not arguments.keys() <= known:
        pytest.skip("not a field of this version")
    with pytest.raises(rf.RetainFirstError, match=text):
        make(tmp_path, arguments)


def test_a_loss_function_is_refused(tmp_path):
    with pytest.raises(rf.RetainFirstError, match="compute_loss_func is not supported"):
        make(tmp_path, compute_loss_func=lambda outputs, labels, num_items_in_batch=None: outputs.loss)


def test_the_cache_is_emptied_as_often_as_the_trainer_does(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: calls.append(1), raising=False)
    make(tmp_path, {"torch_empty_cache_steps": 2}).train()
    assert len(calls) == 2 * 2  # before both backward passes of the steps 0 and 2


class Change(TrainerCallback):
    def __init__(self, change):
        self.change = change

    def on_step_begin(self, args, state, control, **kwargs):
        self.change(state.global_step)


def run(folder, change=None, **options):
    trainer = make(folder, combiner="sum", **options)
    if change is not None:
        trainer.add_callback(Change(lambda step: change(trainer, step)))
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), trainer


def test_a_schedule_equals_weights_set_by_a_callback(tmp_path):
    def change(trainer, step):
        trainer.combiner = trainer.combiner.with_weights(gamma=0.5 + 0.25 * step)

    by_hand, _ = run(tmp_path / "a", change)
    scheduled, trainer = run(tmp_path / "b", combiner_options={"gamma": Linear(0.5, 1.5, 4)})
    assert torch.equal(by_hand, scheduled)
    assert trainer.combiner.gamma == 1.0
    constant, _ = run(tmp_path / "c", combiner_options={"gamma": 0.5})
    assert not torch.equal(by_hand, constant)


def test_where_reaches_the_step(tmp_path):
    trainer = make(tmp_path, combiner="sago", where="mlp")
    trainer.train()
    assert all("mlp" in name for name in trainer.last_geometry.per_group())

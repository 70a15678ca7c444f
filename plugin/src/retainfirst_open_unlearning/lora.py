"""``RetainFirstLoRA``: a model entry of the framework that trains LoRA adapters on a frozen base."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from torch import Tensor

from retainfirst.errors import MissingDependency, RetainFirstError, did_you_mean, require
from retainfirst.hf import transformers
from retainfirst_open_unlearning.register import PREFIX

__all__ = ["RetainFirstLoRA", "make_model"]

_logger = logging.getLogger(__name__)

_HERE = "model.model_args"
_BASE, _ADAPTER = "base_model.model.", "default"


def make_model(name: str, registry: Mapping[str, Any]) -> type:
    """Return the model entry of a name that begins with our prefix.

    Args:
        name: ``"RetainFirstLoRA"``.
        registry: The framework's models by name.

    Raises:
        RetainFirstError: There is no such entry.
    """
    if name != RetainFirstLoRA.__name__:
        hint = did_you_mean(name, [RetainFirstLoRA.__name__, *registry])
        raise RetainFirstError(f"model.model_handler: there is no {name!r}. {hint}")
    return RetainFirstLoRA


class RetainFirstLoRA:
    """Loads a causal language model, freezes it and adds LoRA adapters, which train."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        lora_rank: int = 16,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_targets: Any = "all-linear",
        lora_save: Literal["adapter", "merged"] = "adapter",
        quantize: Literal[4] | None = None,
        **options: Any,
    ) -> Any:
        """Load the base model and add adapters that change nothing yet.

        Args:
            pretrained_model_name_or_path: The base model, a whole one.
            lora_rank: Rank of the adapters.
            lora_alpha: The adapters' output is scaled by ``lora_alpha / lora_rank``; None: twice the rank.
            lora_dropout: Dropout before the adapters.
            lora_targets: ``"all-linear"`` (all linear layers but the head), a list of module names, or a pattern of whole names.
            lora_save: What the final model's folder holds: ``"adapter"``, or ``"merged"``, the whole model with the adapter in
                the folder ``adapter``. Checkpoints hold the adapter.
            quantize: 4: the base in 4 bit (nf4) by bitsandbytes; None: in ``torch_dtype``.
            **options: For the framework's ``AutoModelForCausalLM``.

        Returns:
            A ``peft.PeftModelForCausalLM``, ready for gradient checkpointing.

        Raises:
            RetainFirstError: A bad option, a base that is itself an adapter, or a peft that does not suit this transformers.
            MissingDependency: peft, or for ``quantize`` bitsandbytes, is not installed.
        """
        _check_options(lora_rank, lora_alpha, lora_dropout, lora_save, quantize)
        _check_base(str(pretrained_model_name_or_path))
        peft = _peft()
        base = _load(pretrained_model_name_or_path, options.pop("torch_dtype", None), quantize, options)
        targets = OmegaConf.to_container(lora_targets) if OmegaConf.is_config(lora_targets) else lora_targets
        settings = peft.LoraConfig(
            r=lora_rank, lora_alpha=2 * lora_rank if lora_alpha is None else lora_alpha, lora_dropout=lora_dropout,
            target_modules=targets, task_type="CAUSAL_LM",
            base_model_name_or_path=str(pretrained_model_name_or_path),
        )  # fmt: skip
        kind = _saving_merged(peft) if lora_save == "merged" else peft.PeftModelForCausalLM
        try:
            model = kind(base, settings)
        except ValueError as error:
            raise RetainFirstError(f"{_HERE}.lora_targets={targets!r}: {error}") from error
        if lora_save == "merged":
            _check_linear(model, targets)
        # The frozen embeddings' output needs a gradient, or reentrant checkpointing finds nothing to differentiate.
        model.enable_input_require_grads()
        trained, whole = model.get_nb_trainable_parameters()
        _logger.info("LoRA trains %s of %s parameters (%.2f %%)", f"{trained:,}", f"{whole:,}", 100 * trained / whole)
        return model


def _saving_merged(peft: Any) -> type:
    class SavingMerged(peft.PeftModelForCausalLM):  # type: ignore[misc]
        """Saves the whole model, with its adapter in a folder beside it; in checkpoints the adapter, which resuming needs."""

        def save_pretrained(
            self,
            save_directory: str | os.PathLike[str],
            *args: Any,
            state_dict: Mapping[str, Tensor] | None = None,
            **options: Any,
        ) -> None:
            if Path(save_directory).name.startswith(transformers.trainer_utils.PREFIX_CHECKPOINT_DIR):
                super().save_pretrained(str(save_directory), *args, state_dict=state_dict, **options)
                return
            super().save_pretrained(str(Path(save_directory, "adapter")), *args, state_dict=state_dict, **options)
            merged = _merged(self, self.state_dict() if state_dict is None else state_dict)
            self.get_base_model().save_pretrained(save_directory, state_dict=merged, **options)

    return SavingMerged


def _merged(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the base model with the adapters added to its weights; the model itself stays as it is."""
    layers = dict(model.get_base_model().named_modules())
    merged = {}
    for key, value in state.items():
        name = key.removeprefix(_BASE)
        if ".lora_" in name:
            continue
        layer, adapted, rest = name.rpartition(".base_layer.")
        if adapted and rest == "weight":
            dtype = torch.promote_types(value.dtype, torch.float32)
            down, up = (state[f"{_BASE}{layer}.lora_{side}.{_ADAPTER}.weight"].to(value.device, dtype) for side in "AB")
            change = (up @ down) * layers[layer].scaling[_ADAPTER]
            value = (value.to(dtype) + (change.T if layers[layer].fan_in_fan_out else change)).to(value.dtype)
        merged[f"{layer}.{rest}" if adapted else name] = value
    return merged


def _check_options(rank: Any, alpha: Any, dropout: Any, save: Any, quantize: Any) -> None:
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise RetainFirstError(f"{_HERE}.lora_rank must be a whole number above 0, not {rank!r}")
    if alpha is not None and not (_is_number(alpha) and alpha > 0):
        raise RetainFirstError(f"{_HERE}.lora_alpha must be a number above 0, not {alpha!r}")
    if not (_is_number(dropout) and 0 <= dropout < 1):
        raise RetainFirstError(f"{_HERE}.lora_dropout must be a number from 0 to below 1, not {dropout!r}")
    if save not in ("adapter", "merged"):
        raise RetainFirstError(f"{_HERE}.lora_save must be adapter or merged, not {save!r}")
    if quantize not in (None, 4):
        raise RetainFirstError(f"{_HERE}.quantize must be 4 or null, not {quantize!r}")
    if quantize is not None and save == "merged":
        raise RetainFirstError(
            f"{_HERE}.lora_save=merged needs the base's own weights, and quantize=4 keeps them in 4 bit: use lora_save=adapter,"
            " and merge the adapter into the base in 16 bit afterwards"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_base(path: str) -> None:
    if Path(path, "adapter_config.json").is_file():
        raise RetainFirstError(
            f"{path} holds an adapter, and {RetainFirstLoRA.__name__} adds a new one to a whole model. To evaluate it, leave out"
            " model.model_handler; to train from it, merge it into its base first:"
            " peft.AutoPeftModelForCausalLM.from_pretrained(FOLDER).merge_and_unload().save_pretrained(MERGED)"
        )


def _check_linear(model: Any, targets: Any) -> None:
    for name, module in model.named_modules():
        if len(getattr(module, "lora_embedding_A", ())):
            raise RetainFirstError(
                f"{_HERE}.lora_targets={targets!r} has the embedding {name.removeprefix(_BASE)}, and lora_save=merged merges"
                " linear layers only: leave it out, or use lora_save=adapter"
            )


def _peft() -> Any:
    # peft up to 0.17 imports what transformers 5 has removed; every peft from 0.13 on works with transformers 4.45.
    advice = "pip install peft==0.17.1" if transformers.__version__.startswith("4.") else "pip install --upgrade peft"
    try:
        return require("peft", "hf")
    except MissingDependency:
        raise MissingDependency(f"{PREFIX}LoRA needs peft, which is not installed: {advice}") from None
    except (ImportError, AttributeError) as error:
        raise RetainFirstError(
            f"peft {metadata.version('peft')} does not work with transformers {transformers.__version__} ({error}): {advice}"
        ) from error


def _load(path: str, dtype: Any, quantize: int | None, options: dict[str, Any]) -> Any:
    load = partial(transformers.AutoModelForCausalLM.from_pretrained, path, torch_dtype=dtype, use_safetensors=True)
    if quantize is None:
        return load(**options)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependency(
            f"{_HERE}.quantize=4 needs bitsandbytes, which is not installed: pip install bitsandbytes"
        )
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype or torch.float32,
    )  # fmt: skip
    if options.get("device_map") is None and torch.cuda.is_available():
        # A quantised model cannot be moved later, and the framework loads it before torch knows a process's device.
        options = {**options, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}
    try:
        return load(quantization_config=config, **options)
    except (AttributeError, ImportError, RuntimeError) as error:
        raise RetainFirstError(
            f"{_HERE}.quantize=4: bitsandbytes {metadata.version('bitsandbytes')} and transformers {transformers.__version__} do"
            f" not quantise on this machine ({error}). Without a GPU, transformers 5 is needed"
        ) from error

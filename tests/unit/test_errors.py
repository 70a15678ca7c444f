"""Which names are offered for a name that is not known."""

import pytest

from retainfirst.errors import did_you_mean

COMBINERS = ("agem", "blur", "gru", "ngdiff", "orthogonal", "pcgrad", "sago", "sago_keep_retain", "sum", "torchjd")


@pytest.mark.parametrize(
    ("written", "known", "meant"),
    [
        ("sagoo", COMBINERS, "sago"),
        ("sag", COMBINERS, "sago"),
        ("SAGO", COMBINERS, "sago"),
        ("pcgard", COMBINERS, "pcgrad"),
        ("PC-Grad", COMBINERS, "pcgrad"),
        ("sago-keep-retain", COMBINERS, "sago_keep_retain"),
        ("batchsize", ("seed", "batch_size"), "batch_size"),
        ("bf16", ("float32", "bfloat16", "float16"), "bfloat16"),
        ("RetainFirstRWKUEvaluator", ("TOFUEvaluator", "RetainFirstRWKU"), "RetainFirstRWKU"),
        ("kll", ("nll", "kl"), "kl"),
        ("round_to_retain", ("scope", "round_toward_retain"), "round_toward_retain"),
    ],
)
def test_a_slip_is_recognised(written, known, meant):
    assert did_you_mean(written, known) == f"Did you mean {meant!r}? Known: {', '.join(known)}."


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("rmu", COMBINERS),
        ("mgda", COMBINERS),
        ("gradient", COMBINERS),
        ("gradnorm", COMBINERS),
        ("", COMBINERS),
        ("-", COMBINERS),
        ("dpo", ("ga", "npo", "simnpo")),
        ("undial", ("ga", "npo", "simnpo")),
        ("tpu", ("cpu", "gpu")),
        ("level", ("label", "seed")),
        ("Bo Lin", ("Stephen King", "Tom Clancy")),
        ("retainfirst_facts_wrong", ("retainfirst_facts_forget", "retainfirst_tofu_forget10")),
    ],
)
def test_another_word_is_not(written, known):
    assert did_you_mean(written, known) == f"Known: {', '.join(known)}."

"""Classes of settings: errors, ranges, docstrings. ``UnlearnConfig`` is the one that users meet."""

import dataclasses
from pathlib import Path

import pytest

from retainfirst.errors import RetainFirstError, UnknownCombiner
from retainfirst.unlearning import UnlearnConfig, settings_of

FILES = {"model": "m", "forget": "f", "retain": "r", "output": "o"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"alpha": 0}, "alpha must be a finite number above 0, not 0.0"),
        (
            {"alpha": "1:0:10"},
            "alpha must be a finite number above 0, not 0.0, as Linear(start=1.0, end=0.0, steps=10) has it",
        ),
        ({"gamma": "0:-1:10"}, "gamma must be a finite number at least 0, not -1.0, as Linear(start=0.0, end=-1.0"),
        ({"gamma": "-1:0:10"}, "gamma must be a finite number at least 0, not -1.0"),
        ({"gamma": "1:0:0"}, "gamma: Linear(start=1.0, end=0.0, steps=0) needs finite weights and at least 1 step"),
        ({"gamma": "fast"}, "gamma: 'fast' is no weight; give a number, or START:END:STEPS"),
        ({"stop_at_forget_probability": 1.5}, "stop_at_forget_probability must be at most 1, found 1.5"),
        (
            {"batch_size": 0, "max_length": 1},
            "batch_size must be at least 1, found 0; max_length must be at least 2, found 1",
        ),
        ({"gamma": float("inf")}, "gamma: input should be a finite number, found inf"),
        ({"batch_size": "four"}, "batch_size: input should be a valid integer"),
        ({"seed": 0.5}, "seed: input should be a valid integer"),
        ({"combiner_options": "x"}, "combiner_options: input should be a valid dictionary"),
        ({"combiner": "pcgrad", "combiner_options": {"scope": {1}}}, "scope"),
        ({"pairing": "zip"}, "Unknown pairing 'zip'. Known: cycle, sample."),
        ({"batchsize": 3}, "Unknown setting 'batchsize'. Did you mean 'batch_size'?"),
    ],
)
def test_errors_name_the_setting_the_rule_and_the_value(options, text):
    with pytest.raises(RetainFirstError) as caught:
        UnlearnConfig(**FILES, **options)
    assert text in str(caught.value)


def test_what_is_missing_is_named():
    with pytest.raises(RetainFirstError, match="retain must be given; output must be given"):
        UnlearnConfig(model="m", forget="f")


def test_errors_of_the_parts_keep_their_type():
    with pytest.raises(UnknownCombiner):
        UnlearnConfig(**FILES, combiner="sagoo")


def test_an_object_among_the_combiners_options_is_refused():
    """It could not be written to unlearning.json, nor compared when the run is resumed."""
    torchjd = pytest.importorskip("torchjd")
    with pytest.raises(RetainFirstError, match="cannot be recorded.*torchjd:UPGrad"):
        UnlearnConfig(**FILES, combiner="torchjd", combiner_options={"aggregator": torchjd.aggregation.UPGrad()})


def test_settings_are_a_frozen_dataclass():
    config = UnlearnConfig("m", "f", "r", Path("o"))
    assert config == UnlearnConfig(**FILES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert dataclasses.replace(config, seed=1).seed == 1
    with pytest.raises(RetainFirstError, match="seed"):
        dataclasses.replace(config, seed=-1)


def test_numbers_given_as_text_become_numbers():
    assert UnlearnConfig(**FILES, learning_rate="1e-4").learning_rate == 1e-4


def test_every_setting_is_documented():
    for one in settings_of(UnlearnConfig):
        assert one.help.endswith("."), one.name
        assert f"        {one.name}: " in UnlearnConfig.__doc__
    assert "(at least 1; default: 4)" in UnlearnConfig.__doc__
    assert UnlearnConfig.__doc__.index("Args:") < UnlearnConfig.__doc__.index("Raises:")


def test_resuming_does_not_compare_where_and_how_a_run_is_kept():
    config = UnlearnConfig(**FILES)
    free = {"output", "resume", "force", "save_every", "device", "offload", "report_to", "evaluate"}
    assert {one.name for one in settings_of(UnlearnConfig)} - set(config.identity()) == free
    assert set(config.as_dict()) - set(config.identity()) == free - {"output", "resume"}

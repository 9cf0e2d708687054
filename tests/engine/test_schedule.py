"""Lengths in three units; rates that rescale with a shorter run."""

import pytest
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler

from d2_unsupdet.engine.schedule import describe, to_iterations
from d2_unsupdet.errors import UserError


@pytest.mark.parametrize(
    "length, steps",
    [
        (90000, 90000),
        ("90000", 90000),
        ("2 epochs", 250),
        ("1 epoch", 125),
        ("1.5 epochs", 188),
        ("1e4 images", 1250),
        ("1 image", 1),
    ],
)
def test_lengths(length, steps):
    assert to_iterations(length, size=1000, batch=8) == steps


def test_imagenet_200_epochs_is_the_papers_million_steps():
    assert to_iterations("200 epochs", size=1281167, batch=256) == 1000912


def test_a_misspelt_unit_is_a_sentence():
    with pytest.raises(UserError, match=r"train.max_iter='5 epocs' is no length; write 90000"):
        to_iterations("5 epocs", size=1, batch=1)


@pytest.mark.parametrize("length", ["1.2.3", "", "-1", 0, "0 epochs", True, None, "1e999"])
def test_what_is_no_positive_length_is_a_sentence(length):
    with pytest.raises(UserError, match="eval_period=.* is no length"):
        to_iterations(length, size=1, batch=1, key="train.eval_period")


def test_description_names_the_drops_of_the_shortened_run():
    steps = MultiStepParamScheduler([1, 0.1, 0.01], milestones=[18000, 22000], num_updates=24000)
    assert describe(steps, 24000) == "drops at 18000, 22008"  # found to 0.1 %
    assert describe(steps, 120) == "drops at 90, 110"
    assert describe(CosineParamScheduler(1.0, 0.0), 100) == "falls smoothly to the end"
    assert describe(lambda _: 1.0, 100) == "constant"
    assert describe(lambda x: min(1.0, x / 0.1), 1000) == "warm-up 101"  # likewise

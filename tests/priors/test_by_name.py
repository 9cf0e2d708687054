"""Sources from the words of a command line."""

import numpy as np
import pytest

from d2_unsupdet.errors import UserError
from d2_unsupdet.priors import RandomBoxes
from d2_unsupdet.priors.by_name import source_by_name


class Sized:
    """A source of somebody's own."""

    def __init__(self, *, sides):
        self.sides = sides


def test_a_name_with_values_and_a_class_of_ones_own():
    source = source_by_name("random:count=7,least_side=4")
    assert isinstance(source, RandomBoxes) and (source.count, source.least_side) == (7, 4)
    assert source_by_name("random").count == RandomBoxes().count
    found = source({}, np.zeros((64, 64, 3), np.uint8), np.random.default_rng(0))
    assert len(found) == 7
    own = source_by_name(f"{__name__}:Sized:sides=0.5")
    assert type(own).__name__ == "Sized" and own.sides == 0.5


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("randm", "source 'randm' is not known. Did you mean 'random'"),
        ("random:cuont=3", "has no 'cuont'. Did you mean 'count'"),
        ("random:count", "'count' of the box source 'random:count' is not of the form"),
        ("no.such.module:Finder", "cannot be imported"),
        ("d2_unsupdet.priors:Finder", "cannot be imported"),
        (f"{__name__}:Sized", "needs sides: write .*:Sized:sides=VALUE"),
        ("eigen", "needs weights: write eigen:weights=VALUE .*export.safetensors"),
        ("eigen:level=res3", "write eigen:level=res3,weights=VALUE"),
        ("selective-search:side=0.06,0.75", r"is a list: write side=\[0.06,0.75\]"),
    ],
)
def test_mistakes_are_sentences(text, sentence):
    with pytest.raises(UserError, match=sentence):
        source_by_name(text)


def test_a_value_can_be_a_list():
    source = source_by_name("selective-search:side=[0.06,0.75],orders=2")
    assert source.side == [0.06, 0.75] and source.orders == 2

"""Linear, SVM and neighbour probes: what is separable is found, what is random stays at chance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2_unsupdet.errors import UserError
from d2_unsupdet.evaluation.probes import (
    LARS_PROTOCOL,
    PLACES_PROTOCOL,
    SGD_PROTOCOL,
    knn_scores,
    linear_scores,
    svm_scores,
)
from d2_unsupdet.evaluation.probes import linear as linear_module
from d2_unsupdet.evaluation.probes import svm as svm_module
from d2_unsupdet.evaluation.probes.features import normalised

CLASSES, DIM = 4, 12


def blobs(items, seed, spread=0.1):
    """Features around one corner a class, and one-hot targets."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(items) % CLASSES
    features = torch.eye(DIM)[labels] + spread * torch.randn(items, DIM, generator=generator)
    return features, torch.eye(CLASSES, dtype=torch.int8)[labels]


def accuracy(scores, targets):
    return float((scores.argmax(1) == targets.argmax(1)).float().mean())


def linear(train, targets, test):
    return linear_scores(train, targets, test, single=True, protocol=replace(SGD_PROTOCOL, lr=3.0))


def lars(train, targets, test):
    return linear_scores(
        train, targets, test, single=True, protocol=replace(LARS_PROTOCOL, lr=50.0)
    )


def svm(train, targets, test):
    return svm_scores(train, targets, test)[0]


PROBES = [linear, lars, svm, lambda *a: knn_scores(*a, k=5)]


@pytest.mark.parametrize("probe", PROBES)
def test_separable_features_are_separated_and_shuffled_labels_are_chance(probe):
    (train, targets), (test, expected) = blobs(80, 0), blobs(400, 1)
    assert accuracy(probe(train, targets, test), expected) == 1.0
    order = torch.randperm(80, generator=torch.Generator().manual_seed(2))
    assert 0.1 < accuracy(probe(train, targets[order], test), expected) < 0.45  # chance is 0.25


def test_neighbours_equal_a_loop():
    (train, targets), (test, _) = blobs(30, 0, spread=2.0), blobs(11, 1, spread=2.0)
    targets[3] = torch.tensor([1, 1, -1, 0])  # several classes, and one that does not count
    found = knn_scores(train, targets, test, k=7, temperature=0.3, chunk=4)
    for row, features in enumerate(test):
        similarity = [float(torch.cosine_similarity(features, x, dim=0)) for x in train]
        nearest = sorted(range(30), key=lambda i: -similarity[i])[:7]
        weights = [torch.tensor(similarity[i] / 0.3).exp() for i in nearest]
        votes = sum(
            w * (targets[i] == 1).float() for w, i in zip(weights, nearest, strict=True)
        ) / sum(weights)
        torch.testing.assert_close(found[row], votes)
    assert torch.equal(
        knn_scores(train, targets, test, k=500), knn_scores(train, targets, test, k=30)
    )
    with pytest.raises(UserError, match="k >= 1"):
        knn_scores(train, targets, test, k=0)


def test_several_classes_an_item():
    generator = torch.Generator().manual_seed(0)
    shown = (torch.rand(240, 3, generator=generator) < 0.4).to(torch.int8)
    features = shown.float() + 0.05 * torch.randn(240, 3, generator=generator)
    masked = shown[:160].clone()
    masked[:20] = -1  # takes no part
    scores = linear_scores(
        features[:160], masked, features[160:], single=False, protocol=replace(SGD_PROTOCOL, lr=3.0)
    )
    assert ((scores > 0) == (shown[160:] == 1)).float().mean() > 0.98
    assert svm_scores(features[:160], shown[:160], features[160:])[0].shape == (80, 3)


def test_features_of_each_epoch_are_asked_for():
    (train, targets), (test, expected) = blobs(40, 0), blobs(40, 1)
    asked = []

    def crops(epoch, rows_of):
        asked.append((epoch, [len(rows) for rows in rows_of]))
        return ((rows, train[rows]) for rows in rows_of)

    protocol = replace(SGD_PROTOCOL, lr=3.0, epochs=6, batch=25)
    found = linear_scores(crops, targets, test, single=True, protocol=protocol)
    assert asked == [(epoch, [25, 15]) for epoch in range(6)]
    same = linear_scores(train, targets, test, single=True, protocol=protocol)
    assert torch.equal(found, same)
    assert accuracy(found, expected) == 1.0


def test_nothing_has_to_be_held_and_unreadable_items_are_left_out():
    (train, targets), (test, expected) = blobs(40, 0), blobs(40, 1)
    targets[:5] = targets[:5].roll(1, dims=1)  # wrong, but never seen

    def crops(epoch, rows_of):
        readable = (rows[rows >= 5] for rows in rows_of)
        return ((rows, train[rows]) for rows in readable)

    def halves():
        return ((torch.arange(s, s + 20), test[s : s + 20]) for s in (0, 20))

    protocol = replace(SGD_PROTOCOL, lr=3.0, epochs=30)
    found = linear_scores(crops, targets, halves, single=True, protocol=protocol)
    assert found.shape == (40, CLASSES) and accuracy(found, expected) == 1.0
    with pytest.raises(UserError, match="training set can be read"):
        linear_scores(lambda *_: (), targets, test, single=True, protocol=protocol)


def test_places_protocol_normalises_without_scale_and_shift():
    (train, targets), (test, expected) = blobs(40, 0), blobs(40, 1)
    scale = torch.logspace(-1, 3, DIM)  # no rate serves both ends
    found = linear_scores(
        1e2 + train * scale, targets, 1e2 + test * scale, single=True,
        protocol=replace(PLACES_PROTOCOL, lr=3.0, epochs=100),
    )  # fmt: skip
    assert accuracy(found, expected) == 1.0
    layer = linear_module._classifier(
        train, CLASSES, PLACES_PROTOCOL, torch.Generator().manual_seed(0)
    )
    learned = {name: tuple(value.shape) for name, value in layer.named_parameters()}
    assert learned == {"1.weight": (CLASSES, DIM), "1.bias": (CLASSES,)}


def test_protocols_hold_the_published_constants():
    assert [SGD_PROTOCOL.rate(p / 100) for p in (0, 59, 60, 79, 80, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert (SGD_PROTOCOL.lr, SGD_PROTOCOL.batch, SGD_PROTOCOL.weight_decay) == (30.0, 256, 0.0)
    assert LARS_PROTOCOL.lr * LARS_PROTOCOL.batch / 256 == 1.6
    assert [LARS_PROTOCOL.rate(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    places = [PLACES_PROTOCOL.rate(p / 28) for p in (0, 6, 7, 13, 14, 20, 21)]
    assert places == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])
    assert (PLACES_PROTOCOL.lr, PLACES_PROTOCOL.weight_decay) == (0.01, 1e-4)
    assert PLACES_PROTOCOL.nesterov and not SGD_PROTOCOL.nesterov


@pytest.mark.parametrize("protocol", [SGD_PROTOCOL, LARS_PROTOCOL])
@pytest.mark.parametrize(("items", "batch"), [(64, 64), (600, 256), (600, 8)])
def test_the_rate_is_proportional_to_the_batch(monkeypatch, protocol, items, batch):
    """Also where the training set is smaller than the batch."""
    made = []

    def recorded(*arguments):
        made.append(build(*arguments))
        return made[-1]

    build = linear_module._optimizer
    monkeypatch.setattr(linear_module, "_optimizer", recorded)
    (train, targets), (test, _) = blobs(items, 0), blobs(4, 1)
    protocol = replace(protocol, batch=max(batch, 256) if items == batch else batch, epochs=1)
    linear_scores(train, targets, test, single=True, protocol=protocol)
    (group,) = made[0].param_groups
    assert group["initial_lr"] == pytest.approx(protocol.lr * batch / 256)
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.0)
    assert type(made[0]).__name__.lower() == protocol.optimizer


def test_a_step_of_the_linear_probe_by_hand():
    (train, targets), (test, _) = blobs(8, 0), blobs(4, 1)
    protocol = replace(SGD_PROTOCOL, epochs=1, drops=(), lr=16.0)
    found = linear_scores(train, targets, test, single=True, protocol=protocol, seed=5)
    weight = torch.empty(CLASSES, DIM).normal_(std=0.01, generator=torch.Generator().manual_seed(5))
    error = torch.softmax(train @ weight.T, 1) - targets.float()
    rate = 16.0 * 8 / 256
    moved, bias = weight - rate * error.T @ train / 8, -rate * error.mean(0)
    torch.testing.assert_close(found, test @ moved.T + bias)


def test_lars_gives_biases_a_plain_step_and_weights_one_of_their_length():
    (train, targets), (test, _) = blobs(8, 0), blobs(4, 1)
    protocol = replace(LARS_PROTOCOL, epochs=1, lr=16.0)
    found = linear_scores(train, targets, test, single=True, protocol=protocol, seed=5)
    weight = torch.empty(CLASSES, DIM).normal_(std=0.01, generator=torch.Generator().manual_seed(5))
    error = torch.softmax(train @ weight.T, 1) - targets.float()
    rate, gradient = 16.0 * 8 / 256, error.T @ train / 8
    moved = weight - rate * 0.001 * weight.norm() * gradient / gradient.norm()
    torch.testing.assert_close(found, test @ moved.T - rate * error.mean(0))


def test_a_probe_that_diverges_is_a_sentence():
    (train, targets), (test, _) = blobs(40, 0), blobs(40, 1)
    with pytest.raises(UserError, match="diverged"):
        linear_scores(1e30 * train, targets, 1e30 * test, single=True)


def test_svm_chooses_costs_and_leaves_out_what_cannot_be_learned():
    (train, targets), (test, _) = blobs(40, 0), blobs(8, 1)
    targets = torch.cat([targets, torch.zeros(40, 1, dtype=torch.int8)], dim=1)
    targets[:, 0], targets[5, 0] = 0, 1  # one image: too few for three folds
    scores, costs = svm_scores(train, targets, test, costs=(0.5, 5.0))
    assert costs[0] == 0.5 and costs[-1] is None
    assert set(costs[1:4]) <= {0.5, 5.0}
    assert scores[:, -1].eq(0).all() and scores[:, :4].ne(0).all()


def test_svm_holds_the_protocols_constants():
    settings = svm_module._svm(10.0, 3).get_params()
    expected = {
        "C": 10.0,
        "class_weight": {1: 2, -1: 1},
        "penalty": "l2",
        "loss": "squared_hinge",
        "dual": True,
        "tol": 1e-4,
        "max_iter": 2000,
        "random_state": 3,
        "fit_intercept": True,
        "intercept_scaling": 1,
    }
    assert {name: settings[name] for name in expected} == expected
    assert (svm_module.COSTS, svm_module.FOLDS) == ((1.0, 10.0, 100.0), 3)


def test_svm_equals_its_minimum_on_normalised_features():
    """Squared hinge, positives twice, as scipy minimises it on rows of length one."""
    from scipy.optimize import minimize

    (train, targets), (test, _) = blobs(40, 0, spread=0.5), blobs(9, 1, spread=0.5)
    lengths = torch.linspace(0.5, 20, 40)[:, None]
    found, _ = svm_scores(train * lengths, targets, 7 * test, costs=(2.0,))
    known, unknown = (
        np.c_[x / x.norm(dim=1, keepdim=True), np.ones(len(x))] for x in (train.double(), test)
    )
    for column in range(CLASSES):
        label = np.where(targets[:, column] == 1, 1.0, -1.0)
        cost = np.where(label > 0, 2.0, 1.0) * 2.0

        def objective(w, label=label, cost=cost):
            slack = np.maximum(0, 1 - label * (known @ w))
            gradient = w - 2 * known.T @ (cost * slack * label)
            return w @ w / 2 + (cost * slack**2).sum(), gradient

        best = minimize(objective, np.zeros(DIM + 1), jac=True, options={"gtol": 1e-9}).x
        np.testing.assert_allclose(found[:, column], unknown @ best, atol=2e-3)


def test_features_are_normalised_with_the_protocols_eps():
    rows = normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(rows, torch.tensor([[3 / 5.00001, 4 / 5.00001], [0.0, 0.0]]))

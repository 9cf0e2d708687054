"""The classes of a step: always those shown, the others by chance, and only they teach."""

from dataclasses import replace

import pytest
import torch

from d2_unsupdet.detectors import Criterion, FederatedClasses, FocalLoss, SoftmaxLoss
from d2_unsupdet.detectors.matching import HungarianAssigner
from d2_unsupdet.detectors.structures import DenoisingQueries
from d2_unsupdet.errors import UserError
from tests.detectors.test_criterion import CLASSES, WEIGHTS, decoded, memory, targets
from tests.detectors.waits import Waits

IMAGES = [100, 1, 25, 0, 4]  # of each of five classes


def hear(draw, *labels):
    """Of images with these labels."""
    return draw([torch.tensor(of_image, dtype=torch.long) for of_image in labels], len(IMAGES))


def test_shown_classes_always_and_others_up_to_the_sample():
    torch.manual_seed(0)
    draw = FederatedClasses(images=IMAGES, sample=3)
    for _ in range(50):
        twice, empty = hear(draw, [1, 1], [])
        assert twice[1] and not twice[3] and twice.sum() == 3
        assert empty.sum() == 3 and not empty[3]
    everything = hear(draw, [], [0, 1, 2, 4])[1]  # more than the sample
    assert everything.tolist() == [True, True, True, False, True]
    unheard_of = hear(draw, [3])[0]  # a label that the counted images lack
    assert unheard_of[3] and unheard_of.sum() == 3
    assert hear(FederatedClasses(images=IMAGES, sample=9), [0]).sum() == 4


def test_an_image_does_not_depend_on_its_neighbours():
    """The loss is the same however a batch is shared among processes."""
    draw = FederatedClasses(images=IMAGES, sample=2)
    heard = torch.stack([hear(draw, [0], [1], [2]) for _ in range(500)])
    assert (heard.sum(-1) == 2).all()
    assert 0 < heard[:, 0, 1].float().mean() < 0.3  # shown by its neighbour, and rare


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_drawn_as_torch_draws_without_replacement(power):
    torch.manual_seed(0)
    draws = 4000
    draw = FederatedClasses(images=IMAGES, sample=2, power=power)
    found = hear(draw, *[[]] * draws).float().mean(0)
    weight = torch.tensor([float(n) ** power if n else 0.0 for n in IMAGES])
    expected = torch.zeros(5).index_add_(
        0, weight.expand(draws, -1).multinomial(2).flatten(), torch.ones(2 * draws)
    )
    torch.testing.assert_close(found, expected / draws, atol=0.04, rtol=0)
    assert found[3] == 0


def test_nobody_waits_for_the_draw():
    draw, labels = FederatedClasses(images=IMAGES), torch.tensor([2])
    with Waits() as waits:
        draw([labels, labels], 5)
    assert waits.found == []


def build(**options):
    return Criterion(
        classification=FocalLoss(), assigner=HungarianAssigner(), weights=WEIGHTS, **options
    )


def noised(goals):
    """One slot for each object."""
    count = sum(map(len, goals))
    return DenoisingQueries(
        content=torch.zeros(2, count, 8),
        reference_logit=torch.zeros(2, count, 4),
        group=torch.zeros(count).long(),
        image=torch.cat([torch.full((len(t),), i) for i, t in enumerate(goals)]),
        slot=torch.arange(count),
        labels=torch.cat([t.labels for t in goals]),
        boxes=torch.cat([t.boxes for t in goals]),
        groups=1,
    )


def test_only_the_classes_of_an_image_teach():
    goals = targets(2, 1)
    plain, federated = build(), build(federated=FederatedClasses(images=[5] * CLASSES, sample=1))
    gradients = []
    for criterion in (plain, federated):
        out = decoded()
        out.logits.requires_grad_()
        losses, _ = criterion(out, memory(), goals)
        gradients.append(
            torch.autograd.grad(sum(v for k, v in losses.items() if "ce" in k), out.logits)[0]
        )
        encoder = losses["loss_ce_enc"]
    for image, goal in enumerate(goals):  # each shows at least its sample
        heard = torch.zeros(CLASSES, dtype=torch.bool)
        heard[goal.labels] = True
        every, some = (gradient[:, image] for gradient in gradients)
        torch.testing.assert_close(every[..., heard], some[..., heard])
        assert (some[..., ~heard] == 0).all() and (every[..., ~heard] != 0).all()
    torch.testing.assert_close(encoder, plain(decoded(), memory(), goals)[0]["loss_ce_enc"])


def test_one_draw_holds_for_the_denoising_queries_too():
    goals, draw = targets(2, 1), FederatedClasses(images=[5] * CLASSES, sample=CLASSES - 1)
    out, slots = decoded(), decoded(seed=1)
    slots = replace(slots, logits=slots.logits[:, :, :3], boxes=slots.boxes[:, :, :3])
    out.logits.requires_grad_()
    slots.logits.requires_grad_()
    criterion = build(federated=draw)
    losses, _ = criterion(
        replace(out, denoising=slots), memory(proposals=False), goals, denoising=noised(goals)
    )
    taught = []  # pairs of an image and a class
    for logits in (out.logits, slots.logits):
        (gradient,) = torch.autograd.grad(sum(losses.values()), logits, retain_graph=True)
        taught.append({(image, k) for _, image, _, k in gradient.nonzero().tolist()})
    assert taught[0] == taught[1] and len(taught[0]) == 2 * (CLASSES - 1)


def test_a_loss_that_is_only_looked_at_counts_every_class_and_draws_nothing():
    goals = targets(2, 1)
    federated = build(federated=FederatedClasses(images=[5] * CLASSES, sample=1))
    federated.alone = True
    out, encoded = decoded(), memory()
    expected, _ = build()(out, encoded, goals)
    before = torch.get_rng_state()
    found, _ = federated(out, encoded, goals)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_it_is_counted_and_it_fits():
    goals = targets(2, 1)
    with pytest.raises(UserError, match="counts 0 classes, but the detector has 4; set it to auto"):
        build(federated=FederatedClasses())(decoded(), memory(), goals)
    for wrong in ({"sample": 0}, {"sample": 2.5}, {"power": -1}, {"power": "abc"}):
        (key,) = wrong
        with pytest.raises(UserError, match=f"federated.{key}={wrong[key]} is no"):
            FederatedClasses(**wrong)
    with pytest.raises(UserError, match="which a softmax cannot"):
        Criterion(
            classification=SoftmaxLoss(),
            assigner=HungarianAssigner(classification="softmax"),
            weights=WEIGHTS,
            federated=FederatedClasses(),
        )


def test_the_usual_numbers():
    usual = FederatedClasses(images=[4, 9, 0])
    assert not usual.state_dict()  # the data has them: other classes can be finetuned on
    assert usual.sample == 50 and usual.weight.tolist() == [2, 3, 0]

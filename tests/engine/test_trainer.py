"""The step: accumulation, clipping, rates, resume, the guard, waits for the device."""

import copy
from unittest import mock

import numpy as np
import pytest
import torch

from d2_unsupdet.data.images import BadImage, NoBoxes
from d2_unsupdet.data.plan import Position
from d2_unsupdet.engine.digest import state_digest
from d2_unsupdet.engine.ema import ModelEMA
from d2_unsupdet.engine.guard import FiniteGuard, NotFinite
from d2_unsupdet.engine.hooks import MetricsHook
from d2_unsupdet.errors import UserError
from d2_unsupdet.metrics import log_metric
from tests.trainer_toys import Regression, noisy_mapper


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulation_equals_the_large_batch(make_trainer, accumulate):
    whole, parts = make_trainer(), make_trainer(accumulate=accumulate)
    for trainer in (whole, parts):
        trainer.train(0, 12)
    assert torch.allclose(weights(whole), weights(parts), rtol=0, atol=1e-6)


def test_a_batch_that_cannot_be_cut_is_a_sentence(make_trainer):
    with pytest.raises(UserError, match=r"train.accumulate=4 does not divide the 6 images"):
        make_trainer(accumulate=4)


def test_clipping_bounds_the_norm_of_all_gradients_together(make_trainer):
    free, clipped = make_trainer(lr=1.0), make_trainer(lr=1.0, clip_norm=1e-3)
    before = weights(free)
    free.train(0, 1), clipped.train(0, 1)
    assert (weights(free) - before).norm() > 1e-2
    assert (weights(clipped) - before).norm() == pytest.approx(1e-3, rel=1e-3)


def test_rates_follow_the_schedule_but_for_fixed_groups(make_trainer):
    trainer = make_trainer(lr=1.0, length=10)
    layers = trainer.model.layers
    trainer.optimizer.param_groups[0]["params"] = list(layers[0].parameters())
    trainer.optimizer.add_param_group(
        {"params": list(layers[3].parameters()), "lr": 0.25, "fixed_lr": True}
    )
    trainer._base_lrs = [1.0, 0.25]
    trainer.train(0, 10)
    assert [g["lr"] for g in trainer.optimizer.param_groups] == [pytest.approx(0.55), 0.25]


@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
@pytest.mark.parametrize("workers", [(0, 0), (2, 1)])
def test_resume_gives_the_same_bits(make_trainer, amp, workers):
    def fresh(workers):
        model = Regression(dropout=0.3)  # random numbers inside the step must repeat too
        trainer = make_trainer(model=model, amp=amp, workers=workers, clip_norm=1.0)
        trainer.ema = ModelEMA(model, decay=0.9)
        return trainer

    torch.manual_seed(1)
    start = copy.deepcopy(Regression(dropout=0.3).state_dict())
    whole = fresh(0)
    whole.model.load_state_dict(start)
    whole.ema = ModelEMA(whole.model, decay=0.9)
    whole.train(0, 9)

    first = fresh(workers[0])
    first.model.load_state_dict(start)
    first.ema = ModelEMA(first.model, decay=0.9)
    first.register_hooks([StopAfter(4)])
    with pytest.raises(KeyboardInterrupt):
        first.train(0, 9)
    saved = copy.deepcopy(first.state_dict())

    torch.manual_seed(999)  # whatever happened to the process in between
    second = fresh(workers[1])
    second.load_state_dict(saved)
    second.train(saved["iteration"] + 1, 9)
    assert state_digest(second.state_dict()) == state_digest(whole.state_dict())


class StopAfter(MetricsHook):
    """Interrupts after a step, as a user would; evaluation-like noise happens before it."""

    def __init__(self, step):
        super().__init__(1)
        self.step = step

    def after_step(self):
        torch.rand(3)
        if self.trainer.iter == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_leaves_the_weights(make_trainer, records, tmp_path, accumulate):
    plan = make_trainer().loader.plan
    poisoned = plan[3][1].index
    first = min(s for s in range(10) if poisoned in [p.index for p in plan[s]])
    records[poisoned]["poison"] = True
    guard = FiniteGuard(output_dir=tmp_path, config={"train": {"seed": 0}}, seed=0)
    trainer = make_trainer(guard=guard, accumulate=accumulate)
    seen = {}
    trainer.register_hooks([Remember(seen)])
    with pytest.raises(NotFinite) as caught:
        trainer.train(0, 10)
    assert torch.equal(weights(trainer), seen[first - 1])
    message = str(caught.value)
    assert f"loss_bad not finite at step {first}" in message and f"{poisoned}.jpg" in message
    capture = torch.load(tmp_path / f"capture_step{first:07d}_rank0.pth", weights_only=True)
    assert Position(*capture["positions"][0]) == plan[first][0]
    assert capture["config"] == {"train": {"seed": 0}}
    assert torch.equal(capture["model"]["layers.0.weight"], trainer.model.layers[0].weight)


class Remember(MetricsHook):
    """Keeps the weights after each step."""

    def __init__(self, seen):
        super().__init__(10**9)
        self.remembered = seen

    def after_step(self):
        self.remembered[self.trainer.iter] = weights(self.trainer).clone()


def test_one_host_sync_a_step(make_trainer, tmp_path):
    guard = FiniteGuard(output_dir=tmp_path, config={}, seed=0)
    trainer = make_trainer(guard=guard, clip_norm=1.0)
    names = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__")
    syncs = []

    def counted(name):
        original = getattr(torch.Tensor, name)

        def call(tensor, *args, **kwargs):
            syncs.append(name)
            return original(tensor, *args, **kwargs)

        return call

    trainer.register_hooks([MetricsHook(10**9)])
    real_step = trainer.run_step

    def step():
        # Only the step itself: SGD and the seeds are set up on the first one.
        with mock.patch.multiple(torch.Tensor, **{name: counted(name) for name in names}):
            real_step()

    trainer.run_step = step
    trainer.train(0, 6)
    assert len(syncs) <= 6 + 1, syncs  # a sync a step, and the flush at the end


def test_bad_files_are_replaced_counted_and_bounded(make_trainer, records):
    def mapper(record):
        if record["file_name"] in ("3.jpg", "4.jpg"):
            raise BadImage(record["file_name"], "truncated")
        return noisy_mapper(record)

    trainer = make_trainer(mapper=mapper)
    sample = trainer.loader.dataset[trainer.loader.plan[0][0].__class__(0, 3)]
    assert sample["file_name"] == "5.jpg"
    assert sample["bad_files"] == ("3.jpg: truncated", "4.jpg: truncated")
    trainer.register_hooks([MetricsHook(4, max_bad_rate=1.0)])
    trainer.train(0, 8)
    assert set(trainer.bad_files) == set(sample["bad_files"])

    strict = make_trainer(mapper=mapper)
    strict.register_hooks([MetricsHook(4, max_bad_rate=0.01)])
    with pytest.raises(
        UserError, match=r"2 of 23 images could not be used, for example 3.jpg: truncated"
    ):
        strict.train(0, 200)


@pytest.mark.parametrize("rate", [0.01, 0.0])
def test_one_bad_file_of_few_stops_nothing_unless_none_is_allowed(rate, make_trainer):
    def mapper(record):
        if record["file_name"] == "3.jpg":
            raise BadImage(record["file_name"], "truncated")
        return noisy_mapper(record)

    trainer = make_trainer(mapper=mapper)
    trainer.register_hooks([MetricsHook(4, max_bad_rate=rate)])
    if rate:
        trainer.train(0, 20)
        assert len(trainer.bad_files) == 1
    else:
        with pytest.raises(UserError, match="1 of 23 images could not be used"):
            trainer.train(0, 20)


def boxless_at(share):
    """Every image is left without boxes now and then, for a reason that differs each time."""

    def mapper(record):
        if np.random.rand() < share:
            raise NoBoxes(record["file_name"], f"too few boxes: {np.random.rand()}")
        return noisy_mapper(record)

    return mapper


def test_draws_without_boxes_count_as_a_share_however_long_the_run_is(make_trainer, caplog):
    trainer = make_trainer(mapper=boxless_at(0.1), length=100)
    trainer.register_hooks([MetricsHook(4, max_bad_rate=0.2)])
    trainer.train(0, 100)  # 26 epochs: 60 draws, nearly three an image, were boxless by now
    assert trainer.bad_files == {}
    draws = trainer.state_dict()["draws"]
    assert draws["all"] - draws["boxless"] == 600 and 40 < draws["boxless"] < 90
    share = trainer.storage.latest()["boxless_draws"][0]
    assert share == pytest.approx(draws["boxless"] / draws["all"])
    assert caplog.text.count("had too few boxes, for example") == 1

    resumed = make_trainer(mapper=boxless_at(0.1))
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.draws == draws

    strict = make_trainer(mapper=boxless_at(0.3), length=100)
    strict.register_hooks([MetricsHook(4, max_bad_rate=0.2)])
    with pytest.raises(
        UserError, match=r"\d\d of \d+ samples drawn had too few boxes, for example"
    ):
        strict.train(0, 100)


def test_a_broken_data_set_ends_with_a_sentence(make_trainer):
    def mapper(record):
        raise BadImage(record["file_name"], "empty file")

    with pytest.raises(UserError, match="23 images in a row cannot be used, for example"):
        make_trainer(mapper=mapper).train(0, 1)


def test_metrics_are_means_over_the_period(make_trainer):
    trainer = make_trainer()
    losses = []
    original = trainer._forward_backward

    def recording(batch):
        result = original(batch)
        losses.append(float(sum(result.values())))
        return result

    trainer._forward_backward = recording
    trainer.register_hooks([MetricsHook(5)])
    trainer.train(0, 10)
    value, at = trainer.storage.latest()["total_loss"]
    assert at == 9
    assert value == pytest.approx(sum(losses[5:]) / 5, rel=1e-5)


class Overflowing(Regression):
    """Its loss is finite and its gradients are not, whatever the scale."""

    def forward(self, batch):
        return {"loss_root": (self.layers[0].weight * 0).sum().sqrt()}

    def commit(self):
        self.committed = True

    def discard(self):
        self.discarded = getattr(self, "discarded", 0) + 1


def test_fp16_that_only_overflows_moves_nothing_and_stops(make_trainer, tmp_path):
    model = Overflowing()
    guard = FiniteGuard(output_dir=tmp_path, config={}, seed=0)
    trainer = make_trainer(model=model, amp="fp16", guard=guard, length=500)
    trainer.ema = ModelEMA(model, decay=0.9)
    before = weights(trainer).clone()
    with pytest.raises(NotFinite, match="overflowed in 100 steps in a row at step 99; images: "):
        trainer.train(0, 500)
    assert torch.equal(weights(trainer), before)
    assert model.discarded >= 100 and not hasattr(model, "committed")
    assert trainer.ema.updates == 0


class Raising(Regression):
    """Meets a NaN as Detectron2's proposal network does."""

    def forward(self, batch):
        raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")


def test_an_exception_for_nan_is_captured_too(make_trainer, tmp_path):
    guard = FiniteGuard(output_dir=tmp_path, config={}, seed=0)
    with pytest.raises(NotFinite, match="contain Inf/NaN. at step 0; images: .*jpg"):
        make_trainer(model=Raising(), guard=guard).train(0, 2)
    assert (tmp_path / "capture_step0000000_rank0.pth").exists()


def test_a_period_that_a_resume_cuts_has_the_same_mean(make_trainer):
    def mean(trainer, start, stop):
        trainer.register_hooks([MetricsHook(4)])
        trainer.train(start, stop)
        return trainer.storage.latest()["total_loss"][0]

    expected = mean(make_trainer(length=8), 0, 8)
    half = make_trainer(length=8)
    half.train(0, 4)
    half.metrics.flush()  # as at a log period; the checkpoint comes two steps later
    half.train(4, 6)
    second = make_trainer(length=8)
    second.load_state_dict(copy.deepcopy(half.state_dict()))
    assert mean(second, 6, 8) == pytest.approx(expected, rel=1e-6)


def test_a_resume_takes_the_settings_of_the_config(make_trainer):
    saved = make_trainer()
    saved.train(0, 2)
    state = copy.deepcopy(saved.state_dict())
    other = make_trainer()
    other.optimizer.param_groups[0]["weight_decay"] = 0.25
    other.ema = ModelEMA(other.model, decay=0.9)
    other.load_state_dict(state)
    assert other.optimizer.param_groups[0]["weight_decay"] == 0.25
    assert torch.equal(other.ema.average["layers.0.weight"], saved.model.layers[0].weight)
    small = make_trainer(model=torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with pytest.raises(UserError, match="does not fit the config's model"):
        small.load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sentence_from_a_worker_stays_one(make_trainer, workers):
    def mapper(record):
        raise UserError("labels.json names no classes; add them.")

    with pytest.raises(UserError) as caught:
        make_trainer(mapper=mapper, workers=workers).train(0, 1)
    assert str(caught.value) == "labels.json names no classes; add them."


class Watched(Regression):
    """Notes the progress it is told, and logs a metric that sinks under its floor."""

    progress = 0.0

    def __init__(self):
        super().__init__()
        self.told = []

    def forward(self, batch):
        self.told.append(self.progress)
        log_metric("toy/feature_std", torch.tensor(1 - self.progress), warn_below=0.6)
        return super().forward(batch)


def test_a_method_is_told_its_progress_also_after_a_resume(make_trainer):
    model = Watched()
    make_trainer(model=model, length=10).train(4, 7)
    assert model.told == pytest.approx([0.4, 0.5, 0.6])


def test_a_metric_under_its_floor_is_a_warning_said_once(make_trainer, caplog):
    trainer = make_trainer(model=Watched(), length=10)
    trainer.register_hooks([MetricsHook(2)])
    trainer.train(0, 10)
    said = [r.getMessage() for r in caplog.records if "collapsing" in r.getMessage()]
    assert len(said) == 1 and "toy/feature_std is 0.5500 at step 6, under 0.6000" in said[0]

"""A loss that is not finite on one rank of two ends both, in seconds, weights as they were."""

import time
from pathlib import Path

from tests.ranks import run_ranks


def train_with_poison(rank: int, folder: str) -> dict:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from d2_unsupdet.data.loader import build_train_loader
    from d2_unsupdet.engine.guard import FiniteGuard, NotFinite
    from d2_unsupdet.engine.trainer import Trainer
    from tests.trainer_toys import Regression, noisy_mapper

    torch.manual_seed(0)
    records = [
        {"x": torch.ones(4).numpy() * i, "y": float(i), "file_name": f"{i}.jpg"} for i in range(8)
    ]
    plan = build_train_loader(dataset=records, mapper=noisy_mapper, total_batch_size=4).plan
    poisoned = plan.share(0, rank=1, world=2)[0].index
    first = min(s for s in range(9) if poisoned in [p.index for p in plan[s]])
    records[poisoned]["poison"] = True
    model = Regression()
    trainer = Trainer(
        model=DistributedDataParallel(model),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loader=build_train_loader(
            dataset=records, mapper=noisy_mapper, total_batch_size=4, num_workers=0
        ),
        multiplier=lambda _: 1.0,
        length=20,
        guard=FiniteGuard(output_dir=Path(folder), config={}, seed=0),
    )
    before = model.layers[0].weight.detach().clone()
    begin = time.monotonic()
    try:
        trainer.train(0, 20)
        message = "no error"
    except NotFinite as error:
        message = str(error)
    return {
        "message": message,
        "seconds": time.monotonic() - begin,
        "untouched": torch.equal(before, model.layers[0].weight),
        "first": first,
    }


def test_one_bad_rank_ends_both(tmp_path):
    results = run_ranks(train_with_poison, str(tmp_path))
    assert results[0]["first"] == 0
    assert results[0]["message"] == results[1]["message"]
    assert results[0]["message"].startswith("rank 1: loss_bad not finite at step 0; images: ")
    assert all(r["untouched"] and r["seconds"] < 30 for r in results)
    assert [p.name for p in tmp_path.iterdir()] == ["capture_step0000000_rank1.pth"]

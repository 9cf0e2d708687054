"""The `train` section that every run has, whether its config is Python or YAML.

Lengths and periods are iterations, "10 epochs" or "1e6 images".
"""

from typing import Any

TRAIN: dict[str, Any] = dict(
    output_dir="./output",
    # Any file that tools/convert_checkpoint.py knows; converted on the way in. A folder that
    # tools/publish.py made, or hub:owner/name[@revision] of the Hugging Face hub.
    init_checkpoint="",
    # Share of that file's values the model must take, and patterns of tensors that may start anew
    # where shapes differ (a class head for other classes: ["*cls_score*", "*cls_logits*"]) or where
    # the file has none (null: all but those of a ResNet; [] none).
    # `classes`, for class heads of a DETR: keep, coco80 (91 COCO ids to 80 classes), drop (they
    # start anew), or a JSON file with a list of row numbers.
    init=dict(
        min_coverage=0.9,
        allow_mismatch=[],
        allow_missing=None,
        expected_sha256=None,
        classes="keep",
    ),
    # Shell patterns of parameters that keep their values; "!" before one excepts, and the last that
    # fits counts. ["*", "!heads.*"] trains the heads alone.
    freeze=[],
    max_iter=90000,
    seed=0,
    device="auto",  # CUDA if there is one
    amp=dict(enabled=False, dtype="bf16"),  # or "fp16", with a loss scale
    accumulate=1,  # micro-batches a step
    clip_grad_norm=0.0,  # norm of all gradients together; 0 does not clip
    ema=dict(enabled=False, decay=0.9998),
    activation_checkpointing=False,
    channels_last=False,  # memory order of convolutions; 1.6 times faster on CPU
    sync_bn=False,  # turn every BatchNorm of the model into SyncBN
    precise_bn=dict(enabled=False, num_iter=200),  # before each evaluation
    deterministic=False,
    cudnn_benchmark=False,
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    checkpointer=dict(period=5000, max_to_keep=3),
    eval_period=5000,
    best_metric="bbox/AP",
    # How well neighbours tell classes apart, during pretraining; labels as in tools/probe.py. So
    # many images of each set, 0 for all; size 0 takes that of the training views.
    knn_probe=dict(
        period=0,  # 0 never
        train="toy_train",
        test="toy_val",
        labels="auto",
        images=1000,
        k=20,
        size=0,
    ),
    # JoinDet: steps, "1 epochs" or images between new priors, 0 keeps the first; and a store of
    # boxes to begin with, where the backbone's own regions shall not be the first.
    refresh=dict(period=0, start=""),
    log_period=20,
    writers=["tensorboard"],
    report=True,  # report.html in the run folder at the end
    pictures=8,  # of each kind, for the report and TensorBoard; 0 draws nothing
    # Share of unreadable images, or of samples drawn that are left without boxes, that ends a run.
    max_bad_images=0.01,
)

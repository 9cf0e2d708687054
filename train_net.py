#!/usr/bin/env python
"""Pretrain, finetune, evaluate and resume: the one entry point.

    python train_net.py --config-file configs/quickstart/pretrain_moco.py
    python train_net.py --config-file CONFIG --num-gpus 2 train.output_dir=out/a train.max_iter=1000
    python train_net.py --config-file CONFIG --resume
    python train_net.py --config-file out/a/config.yaml --eval-only
    python train_net.py --config-file CONFIG --eval-only train.init_checkpoint=FILE
    torchrun --nproc-per-node 8 train_net.py --config-file CONFIG

Without CUDA, --num-gpus starts that many CPU processes.
"""

import argparse
import os
import sys

# Before torch is imported: OpenMP threads that wait must sleep. Spinning, they take the cores from
# the loading workers and from the very threads they wait for: a busy machine gets 15 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# TorchScript computes a function's first calls in a process by another graph than the later ones:
# the losses that Detectron2 scripts (RetinaNet's) would differ in the last bit after a resume.
os.environ.setdefault("PYTORCH_JIT", "0")

__registers_later__ = True  # main does: --help and mistyped options answer before torch is imported

import d2_unsupdet  # noqa: E402 (see above)
from d2_unsupdet.cli import Parser, run_tool  # noqa: E402 (see above)
from d2_unsupdet.errors import UserError  # noqa: E402


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="a .py LazyConfig or a .yaml file")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last valid checkpoint"
    )
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="score the newest checkpoint of train.output_dir, or train.init_checkpoint if that is "
        "an override here or the folder holds none; train nothing",
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto", help="where rank 0 listens, tcp://host:port")
    parser.add_argument(
        "--allow-unsafe",
        action="store_true",
        help="load a YAML config and train.init_checkpoint even if that can run code; only for "
        "files you trust",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="an error's traceback before its sentence",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="config overrides")
    return parser.parse_intermixed_args(argv)


def main() -> None:
    args = parse()
    if args.debug:
        os.environ["D2_UNSUPDET_DEBUG"] = "1"  # processes that are started here look too
    # Imported late, so that a missing Detectron2 is one sentence and not a traceback.
    d2_unsupdet.register_all()
    from d2_unsupdet.engine.config import dump_config, load_config, to_plain
    from d2_unsupdet.engine.launch import launch
    from d2_unsupdet.engine.run import evaluate, prepare, train
    from d2_unsupdet.engine.scored_weights import names_weights

    torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    processes = int(os.environ["WORLD_SIZE"]) if torchrun else args.num_gpus * args.num_machines
    # An agent that starts its workers again means: go on.
    resume = args.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    cfg = load_config(args.config_file, args.opts, allow_unsafe=args.allow_unsafe)
    chosen = names_weights(args.opts)
    try:
        cfg = prepare(
            cfg,
            eval_only=args.eval_only,
            resume=resume or args.print_config,
            weights_chosen=chosen,
            processes=processes,
        )
    except UserError as error:
        if not args.print_config:
            raise
        print(f"warning: this would not run: {error}", file=sys.stderr)
    if args.print_config:
        print(dump_config(cfg), end="")
        return
    options = {
        "resume": resume,
        "allow_unsafe": args.allow_unsafe,
        "weights_chosen": chosen,
    }
    launch(
        evaluate if args.eval_only else train,
        processes=args.num_gpus,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        url=args.dist_url,
        args=(to_plain(cfg), options),
    )


if __name__ == "__main__":
    run_tool(main)

#!/usr/bin/env python3
"""Trains a small model on a folder of images and shows what it makes, cell by cell as in a notebook.

    python train_folder.py two --classes 2 --mode L --size 16 --epochs 5

FOLDER lies in the daemon's folder of data sets (ddimd --state ... --datasets ...) and has one folder of images for each class.
"""
# %% What to train on
import argparse
import sys

from ddimd import Client

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", help="name in the daemon's folder of data sets")
parser.add_argument("--classes", type=int, required=True, help="how many class folders it has")
parser.add_argument("--mode", choices=("RGB", "L"), default="RGB")
parser.add_argument("--size", type=int, default=32, help="side of the images that it makes")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--name", default="folder", help="name of the model")
parser.add_argument("--out", default="grid.png")
args = parser.parse_args()
client = Client()

# %% A network that a laptop trains: one residual block for each of two sizes
channels = 3 if args.mode == "RGB" else 1
config = {
    "model": {"in_channels": channels, "out_channels": channels, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1,
              "attention_resolutions": [2], "num_heads": 4, "num_classes": args.classes, "residual_block": "preact"},
    "dataset": {"kind": "folder", "path": args.folder, "image_size": [args.size, args.size], "mode": args.mode, "batch_size": 8,
                "num_workers": 0, "flip": 0.5},
    "optimizer": {"lr": 1e-3, "warmup_steps": 20, "grad_clip": 1.0},
    "validation": {"fraction": 0.1},
    "sample": {"n": 2 * args.classes, "steps": 10, "every": 1},
    "epochs": args.epochs, "log_steps": 5,
}
estimate = client.estimate(config)
print(f"{estimate['parameters'] / 1e6:.1f} M parameters, {estimate['steps']} steps, {estimate['memory_bytes'] >> 20} MiB")

# %% Train, with a line for each epoch
job = client.train(config, name=args.name)
for event in job:
    if event.kind == "epoch":
        print(f"epoch {event.data['epoch']}: loss {event.data['loss']:.4f}, validation {event.data['val_loss']:.4f}")
if job.state != "succeeded":
    sys.exit(f"{job}: {job.info['end']['message']}\n{job.log()[-2000:]}")

# %% Serve it, and look
job.publish(args.name)
result = client.generate("all", n=8, steps=20, model=args.name, seed=1, scale=4)
result.save(args.out)
print(f"{args.out}: {result}")
try:
    result.grid.pil().show(title=args.name)  # a window, where there is a desktop and Pillow
except ImportError:
    pass
result  # in a notebook, the grid

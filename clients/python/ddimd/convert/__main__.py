"""python -m ddimd.convert FROM TO: see the package's text and --help."""
from __future__ import annotations

import argparse
import hashlib
import math
import pathlib
import sys
from typing import Any, Dict, List, Optional

from . import from_diffusers, from_state_dict
from .network import CIFAR10, CannotConvert, write


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m ddimd.convert",
                                description="Turns a PyTorch checkpoint (.pth, .pt) of a class-conditional DDIM UNet, or a folder of "
                                "diffusers' UNet2DModel, into a model for ddimd.")
    p.add_argument("source", help="file of torch.save, or folder with config.json")
    p.add_argument("to", help="file to write, NAME.safetensors")
    p.add_argument("--classes", help="names of the classes, separated by commas [CIFAR-10's for 10 classes in colour, else class0, ...]")
    p.add_argument("--num-classes", type=int, help="classes, without the null class [from the class embedding]")
    p.add_argument("--image-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="[what the file says, else 32 32]")
    p.add_argument("--timesteps", type=int, help="T of the diffusion [what the file says, else 1000]")
    p.add_argument("--beta", type=float, nargs=2, metavar=("FIRST", "LAST"), help="of its linear schedule [what the file says, else 1e-4 0.02]")
    p.add_argument("--dtype", choices=("F32", "BF16", "F16"), default="F32", help="of the numbers in the file [F32]")
    g = p.add_argument_group("of a checkpoint, which does not say everything")
    g.add_argument("--weights", default="auto", help="ema, raw, or the key that they lie under [averaged ones where there are any]")
    g.add_argument("--num-heads", type=int, default=4, help="heads of the attention [4]")
    g.add_argument("--attention-order", choices=("head", "qkv"), default="head",
                   help="whether the rows of qkv go by head first or by q, k, v first [head]")
    g.add_argument("--residual-block", choices=("fused", "preact"), help="[from the blocks' widths or numbers]")
    g.add_argument("--trust-pickle", action="store_true", help="load files that hold more than tensors; that runs what they say")
    return p.parse_args(arguments)


def class_names(given: Optional[str], n: int, channels: int, notes: List[str]) -> List[str]:
    names = [name.strip() for name in given.split(",")] if given else []
    if names and len(names) != n:
        raise CannotConvert(f"--classes has {len(names)} names, the model {n} classes")
    if not names and n == 10 and channels == 3:
        notes.append("took CIFAR-10's names for its 10 classes; --classes says others")
        return CIFAR10
    return names or [f"class{i}" for i in range(n)]


def run(a: argparse.Namespace, notes: List[str]) -> str:
    source, size = pathlib.Path(a.source), None
    if not source.exists():
        raise CannotConvert(f"{source} is not there")
    if from_diffusers.is_folder(source):
        model, tensors, diffusion, size = from_diffusers.convert(source, a.num_classes, notes)
        origin: Dict[str, Any] = {"converted_from": "diffusers UNet2DModel"}
    elif source.is_dir():
        raise CannotConvert(f"{source} has no config.json: it is no folder of diffusers")
    else:
        loaded = from_state_dict.load(str(source), a.trust_pickle)
        found, where = from_state_dict.find_state_dict(loaded, a.weights)
        if where:
            notes.append(f"took the weights under {where}")
        options = from_state_dict.Options(a.weights, a.num_heads, a.attention_order, a.residual_block, a.num_classes, a.trust_pickle)
        model, tensors, diffusion = from_state_dict.convert(found, options, notes)
        notes.append(f"took {a.num_heads} heads of attention, which the file does not say; --num-heads says another number")
        origin = {"converted_from": "PyTorch state_dict", "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    if a.timesteps or a.beta or not diffusion:
        diffusion = {"T": a.timesteps or diffusion.get("T", 1000), "beta": a.beta or diffusion.get("beta", [1e-4, 0.02])}
    modes = {1: "L", 3: "RGB"}
    if model["in_channels"] not in modes or model["out_channels"] != model["in_channels"]:
        raise CannotConvert(f"it has {model['in_channels']} channels in and {model['out_channels']} out; ddimd's images have 1 or 3, and it "
                            "learns no variances")
    description = {"version": 1, "model": model, "diffusion": diffusion,
                   "data": {"image_size": list(a.image_size or size or (32, 32)), "mode": modes[model["in_channels"]],
                            "classes": class_names(a.classes, model["num_classes"], model["in_channels"], notes)},
                   "training": origin}
    n = write(a.to, description, tensors, a.dtype)
    parameters = sum(math.prod(t.shape) for t in tensors.values())
    return f"{a.to}: {parameters / 1e6:.2f} M parameters, {n / 2 ** 20:.1f} MiB, {model}"


def main(arguments: Optional[List[str]] = None) -> int:
    a, notes = parse(arguments), []  # type: argparse.Namespace, List[str]
    try:
        import torch  # noqa: F401
    except ImportError:
        print("ddimd.convert: this needs PyTorch: pip install torch, or Debian's python3-torch", file=sys.stderr)
        return 1
    try:
        said = run(a, notes)
    except (CannotConvert, OSError) as e:
        print(f"ddimd.convert: {e}", file=sys.stderr)
        return 1
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())

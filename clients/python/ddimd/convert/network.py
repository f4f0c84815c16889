"""ddimd's network as a list of named shapes, and its file format."""
from __future__ import annotations

import json
import struct
from typing import Any, Dict, List, Sequence, Tuple

from ..errors import DdimdError

Shapes = Dict[str, Tuple[int, ...]]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class CannotConvert(DdimdError):
    """Why a model is no model for ddimd."""


def _residual(name: str, c: int, k: int, model: Dict[str, Any]) -> Shapes:
    norm1 = k if model["residual_block"] == "fused" else c
    shapes = {"norm1.weight": (norm1,), "norm1.bias": (norm1,), "conv1.weight": (k, c, 3, 3), "conv1.bias": (k,),
              "emb.weight": (k, 4 * model["model_channels"]), "emb.bias": (k,), "norm2.weight": (k,), "norm2.bias": (k,),
              "conv2.weight": (k, k, 3, 3), "conv2.bias": (k,)}
    if c != k:
        shapes.update({"shortcut.weight": (k, c, 1, 1), "shortcut.bias": (k,)})
    return {f"{name}.{leaf}": shape for leaf, shape in shapes.items()}


def _attention(name: str, c: int) -> Shapes:
    return {f"{name}.norm.weight": (c,), f"{name}.norm.bias": (c,), f"{name}.qkv.weight": (3 * c, c, 1, 1),
            f"{name}.proj.weight": (c, c, 1, 1), f"{name}.proj.bias": (c,)}


def _conv(name: str, c: int, k: int) -> Shapes:
    return {f"{name}.weight": (k, c, 3, 3), f"{name}.bias": (k,)}


def _down(model: Dict[str, Any]) -> Tuple[Shapes, int, List[int]]:
    m = model["model_channels"]
    shapes, c, ds, skips, stage = _conv("down.0.0", model["in_channels"], m), m, 1, [m], 1
    for level, mult in enumerate(model["channel_mult"]):
        for _ in range(model["num_res_blocks"]):
            shapes.update(_residual(f"down.{stage}.0", c, mult * m, model))
            c = mult * m
            if ds in model["attention_resolutions"]:
                shapes.update(_attention(f"down.{stage}.1", c))
            skips.append(c)
            stage += 1
        if level + 1 < len(model["channel_mult"]):
            if model["conv_resample"]:
                shapes.update(_conv(f"down.{stage}.0.op", c, c))
            skips.append(c)
            stage, ds = stage + 1, 2 * ds
    return shapes, c, skips


def _up(model: Dict[str, Any], c: int, skips: List[int]) -> Tuple[Shapes, int]:
    m, shapes, stage = model["model_channels"], {}, 0  # type: int, Shapes, int
    for level, mult in reversed(list(enumerate(model["channel_mult"]))):
        for i in range(model["num_res_blocks"] + 1):
            shapes.update(_residual(f"up.{stage}.0", c + skips.pop(), mult * m, model))
            c, layer = mult * m, 1
            if 2 ** level in model["attention_resolutions"]:
                shapes.update(_attention(f"up.{stage}.1", c))
                layer = 2
            if level and i == model["num_res_blocks"] and model["conv_resample"]:
                shapes.update(_conv(f"up.{stage}.{layer}.conv", c, c))
            stage += 1
    return shapes, c


def shapes_of(model: Dict[str, Any]) -> Shapes:
    """Every parameter of the network that `model` (as in a file's metadata) describes, in the file's order."""
    m = model["model_channels"]
    shapes: Shapes = {"time_embed.0.weight": (4 * m, m), "time_embed.0.bias": (4 * m,), "time_embed.2.weight": (4 * m, 4 * m),
                      "time_embed.2.bias": (4 * m,), "class_embed.weight": (model["num_classes"] + 1, 4 * m)}
    down, c, skips = _down(model)
    shapes.update(down)
    shapes.update({**_residual("middle.0", c, c, model), **_attention("middle.1", c), **_residual("middle.2", c, c, model)})
    up, c = _up(model, c, skips)
    shapes.update(up)
    shapes.update({"out_norm.weight": (c,), "out_norm.bias": (c,), **_conv("out_conv", c, model["out_channels"])})
    return shapes


def check(model: Dict[str, Any], tensors: Dict[str, Any]) -> None:
    """Whether the tensors are all of the network's parameters and nothing else, and the network is one that ddimd runs."""
    widths = {c for name, (c, *_) in shapes_of(model).items() if ".norm" in name or name.startswith("out_norm")}
    odd = sorted(c for c in widths if c % 32)
    if odd:
        raise CannotConvert(f"group norm over {odd[0]} channels: ddimd's has 32 groups, so channels must be a multiple of 32")
    expected = shapes_of(model)
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    wrong += [f"{name} has no place" for name in tensors if name not in expected]
    wrong += [f"{name} is {tuple(tensors[name].shape)}, not {shape}" for name, shape in expected.items()
              if name in tensors and tuple(tensors[name].shape) != shape]
    if wrong:
        more = f" (and {len(wrong) - 8} more)" if len(wrong) > 8 else ""
        raise CannotConvert("the tensors do not make the network that their shapes suggest:\n  " + "\n  ".join(wrong[:8]) + more)


def fold_attention(weights: Sequence[Any], biases: Sequence[Any], norm_bias: Any, proj_weight: Any, proj_bias: Any, name: str,
                   notes: List[str]) -> Tuple[Any, Any]:
    """ddimd's q, k and v have no biases. Softmax(q k) does not change when every k gets the same vector, v's constant passes
    through the softmax to the projection's bias, and q's bias becomes a shift d of the norm's bias with W_q d = b_q. So
    the same function is had with other biases of norm and projection: returned in this order. All in float64.

    A large shift costs digits where activations are bf16, which have 8 bits."""
    import torch
    (w_q, _, w_v), (b_q, _, b_v) = ([t.double() for t in three] for three in (weights, biases))
    shift = torch.zeros_like(norm_bias, dtype=torch.float64)
    if bool(b_q.abs().max() > 0):
        shift = torch.linalg.lstsq(w_q, b_q[:, None], driver="gelsd").solution[:, 0]
        left, largest = float((w_q @ shift - b_q).norm() / b_q.norm()), float(shift.abs().max())
        if not left < 1e-6 or not largest < 1000:
            raise CannotConvert(f"{name}: q has a bias, which ddimd's has not, and its weights are too nearly singular to express it otherwise")
        if largest > 4:
            notes.append(f"{name}: the bias of q became a shift of up to {largest:.0f}; serve this model with --precision f32")
    constant = b_v - w_v @ shift
    return (norm_bias.double() + shift).float(), (proj_bias.double() + proj_weight.double() @ constant).float()


def by_head(q: Any, k: Any, v: Any, heads: int) -> Any:
    """Rows [head][q|k|v][d], as ddimd's qkv has them."""
    import torch
    parts = [w.reshape(heads, -1, *w.shape[1:]) for w in (q, k, v)]
    return torch.cat(parts, dim=1).reshape(3 * q.shape[0], *q.shape[1:])


def write(path: str, description: Dict[str, Any], tensors: Dict[str, Any], dtype: str) -> int:
    """Writes the file; returns its bytes. The same model gives the same bytes."""
    import torch
    kind = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    header: Dict[str, Any] = {"__metadata__": {"ddimd": json.dumps(description)}}
    blobs, at = [], 0
    for name in shapes_of(description["model"]):
        t = tensors[name].detach().to(kind).contiguous()
        if not bool(torch.isfinite(t).all()):
            raise CannotConvert(f"{name} has values that are no numbers, or too large for {dtype}")
        blob = t.view(torch.uint8).reshape(-1).numpy().tobytes()
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            f.write(blob)
    return 8 + len(text) + at

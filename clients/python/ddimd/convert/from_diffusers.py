"""A folder of diffusers' UNet2DModel, or of a pipeline with one, where its architecture is ddimd's."""
from __future__ import annotations

import json
import pathlib
import struct
from typing import Any, Dict, List, Optional, Tuple

from .network import CannotConvert, by_head, check, fold_attention

Tensors = Dict[str, Any]

# Every field that changes what is computed, with the values that ddimd computes and the default where it is absent.
FIXED: Dict[str, Tuple[List[Any], Any]] = {
    "center_input_sample": ([False], False), "time_embedding_type": (["positional"], "positional"), "freq_shift": ([0], 0),
    "flip_sin_to_cos": ([True], True), "mid_block_type": (["UNetMidBlock2D"], "UNetMidBlock2D"), "mid_block_scale_factor": ([1], 1),
    "downsample_padding": ([1], 1), "downsample_type": (["conv"], "conv"), "upsample_type": (["conv"], "conv"),
    "act_fn": (["silu", "swish"], "silu"), "norm_num_groups": ([32], 32), "attn_norm_num_groups": ([None, 32], None),
    "norm_eps": ([1e-5], 1e-5), "resnet_time_scale_shift": (["default"], "default"), "add_attention": ([True], True),
    "class_embed_type": ([None], None),
}
SCHEDULER_FIXED: Dict[str, Tuple[List[Any], Any]] = {
    "beta_schedule": (["linear"], "linear"), "prediction_type": (["epsilon"], "epsilon"), "trained_betas": ([None], None),
    "rescale_betas_zero_snr": ([False], False),
}
LEAVES = {"norm1": "norm1", "conv1": "conv1", "time_emb_proj": "emb", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "shortcut"}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_folder(path: pathlib.Path) -> bool:
    return path.is_dir() and ((path / "unet" / "config.json").exists() or (path / "config.json").exists())


def _check_fields(config: Dict[str, Any], fixed: Dict[str, Tuple[List[Any], Any]], what: str) -> None:
    for name, (allowed, default) in fixed.items():
        value = config.get(name, default)
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            right = " or ".join(json.dumps(a) for a in allowed)
            raise CannotConvert(f"{what}: {name} is {json.dumps(value)}; ddimd has {right}")


def _model(config: Dict[str, Any]) -> Dict[str, Any]:
    _check_fields(config, FIXED, "config.json")
    widths, down, up = config["block_out_channels"], config["down_block_types"], config["up_block_types"]
    for types, allowed, name in ((down, ("DownBlock2D", "AttnDownBlock2D"), "down_block_types"),
                                 (up, ("UpBlock2D", "AttnUpBlock2D"), "up_block_types")):
        odd = [t for t in types if t not in allowed]
        if odd:
            raise CannotConvert(f"config.json: {name} has {odd[0]}; ddimd has {' and '.join(allowed)}")
    attends = [t == "AttnDownBlock2D" for t in down]
    if attends != [t == "AttnUpBlock2D" for t in reversed(up)]:
        raise CannotConvert("config.json: up_block_types do not attend where down_block_types do; ddimd's levels do both or neither")
    m = widths[0]
    if any(w % m for w in widths):
        raise CannotConvert(f"config.json: block_out_channels {widths} are no multiples of the first; ddimd's are")
    if config.get("time_embedding_dim") not in (None, 4 * m):
        raise CannotConvert(f"config.json: time_embedding_dim is {config['time_embedding_dim']}; ddimd has {4 * m}")
    head_dim = config.get("attention_head_dim", 8)
    heads = {w // head_dim if head_dim else 1 for w, a in zip(widths, attends) if a} | {widths[-1] // head_dim if head_dim else 1}
    if len(heads) != 1:
        raise CannotConvert(f"config.json: attention_head_dim {head_dim} gives levels of different width {sorted(heads)} heads; "
                            "ddimd has one number of heads for all")
    return {"in_channels": config["in_channels"], "out_channels": config["out_channels"], "model_channels": m,
            "channel_mult": [w // m for w in widths], "num_res_blocks": config["layers_per_block"],
            "attention_resolutions": [2 ** i for i, a in enumerate(attends) if a], "dropout": float(config.get("dropout", 0.0)),
            "conv_resample": True, "num_heads": heads.pop(), "num_classes": 0, "residual_block": "preact"}


def _read_tensors(folder: pathlib.Path) -> Tensors:
    import torch
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    path = folder / "diffusion_pytorch_model.safetensors"
    if path.exists():
        data = path.read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + n])
        header.pop("__metadata__", None)
        return {name: torch.frombuffer(bytearray(data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]),
                                       dtype=kinds[t["dtype"]]).reshape(t["shape"]).float() for name, t in header.items()}
    path = folder / "diffusion_pytorch_model.bin"
    if path.exists():
        return {k: v.float() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}
    raise CannotConvert(f"{folder} has no diffusion_pytorch_model.safetensors (or .bin) in one piece")


class _Taker:
    """Takes tensors out by diffusers' names and keeps them under ddimd's."""

    def __init__(self, tensors: Tensors, heads: int, notes: List[str]):
        self.left, self.heads, self.notes, self.found = tensors, heads, notes, {}  # type: Tensors, int, List[str], Tensors

    def take(self, name: str) -> Any:
        if name not in self.left:
            raise CannotConvert(f"{name} is missing")
        return self.left.pop(name)

    def both(self, old: str, new: str) -> None:
        self.found[f"{new}.weight"], self.found[f"{new}.bias"] = self.take(f"{old}.weight"), self.take(f"{old}.bias")

    def residual(self, old: str, new: str) -> None:
        for leaf, name in LEAVES.items():
            if name != "shortcut" or f"{old}.{leaf}.weight" in self.left:
                self.both(f"{old}.{leaf}", f"{new}.{name}")

    def attention(self, old: str, new: str) -> None:
        for before, now in OLD_ATTENTION.items():
            for leaf in ("weight", "bias"):
                if f"{old}.{before}.{leaf}" in self.left:
                    self.left[f"{old}.{now}.{leaf}"] = self.left.pop(f"{old}.{before}.{leaf}")
        weights = [self.take(f"{old}.{name}.weight") for name in ("to_q", "to_k", "to_v")]
        c = weights[0].shape[0]
        weights = [w.reshape(c, c) for w in weights]
        biases = [self.left.pop(f"{old}.{name}.bias", weights[0].new_zeros(c)) for name in ("to_q", "to_k", "to_v")]
        proj = self.take(f"{old}.to_out.0.weight").reshape(c, c)
        norm_bias, proj_bias = fold_attention(weights, biases, self.take(f"{old}.group_norm.bias"), proj,
                                              self.take(f"{old}.to_out.0.bias"), old, self.notes)
        self.found.update({f"{new}.norm.weight": self.take(f"{old}.group_norm.weight"), f"{new}.norm.bias": norm_bias,
                           f"{new}.qkv.weight": by_head(weights[0], weights[1], weights[2], self.heads).reshape(3 * c, c, 1, 1),
                           f"{new}.proj.weight": proj.reshape(c, c, 1, 1), f"{new}.proj.bias": proj_bias})


def _take_all(t: _Taker, model: Dict[str, Any]) -> None:
    levels, blocks = len(model["channel_mult"]), model["num_res_blocks"]
    t.both("time_embedding.linear_1", "time_embed.0")
    t.both("time_embedding.linear_2", "time_embed.2")
    t.both("conv_in", "down.0.0")
    stage = 1
    for level in range(levels):
        for i in range(blocks):
            t.residual(f"down_blocks.{level}.resnets.{i}", f"down.{stage}.0")
            if 2 ** level in model["attention_resolutions"]:
                t.attention(f"down_blocks.{level}.attentions.{i}", f"down.{stage}.1")
            stage += 1
        if level + 1 < levels:
            t.both(f"down_blocks.{level}.downsamplers.0.conv", f"down.{stage}.0.op")
            stage += 1
    t.residual("mid_block.resnets.0", "middle.0")
    t.attention("mid_block.attentions.0", "middle.1")
    t.residual("mid_block.resnets.1", "middle.2")
    stage = 0
    for block, level in enumerate(reversed(range(levels))):
        attends = 2 ** level in model["attention_resolutions"]
        for i in range(blocks + 1):
            t.residual(f"up_blocks.{block}.resnets.{i}", f"up.{stage}.0")
            if attends:
                t.attention(f"up_blocks.{block}.attentions.{i}", f"up.{stage}.1")
            if level and i == blocks:
                t.both(f"up_blocks.{block}.upsamplers.0.conv", f"up.{stage}.{2 if attends else 1}.conv")
            stage += 1
    t.both("conv_norm_out", "out_norm")
    t.both("conv_out", "out_conv")


def _class_table(t: _Taker, model: Dict[str, Any], num_classes: Optional[int], notes: List[str]) -> None:
    import torch
    table = t.left.pop("class_embedding.weight", None)
    if table is None:
        notes.append("it has no class embedding: one class is made that adds nothing")
        table = torch.zeros(1, 4 * model["model_channels"])
    model["num_classes"] = num_classes or table.shape[0]
    if table.shape[0] == model["num_classes"]:
        notes.append(f"its class embedding has {table.shape[0]} rows; a null class is added that adds nothing. Where the last row is the null "
                     "class, say --num-classes with one less")
        table = torch.cat([table, torch.zeros(1, table.shape[1])])
    elif table.shape[0] != model["num_classes"] + 1:
        raise CannotConvert(f"num_class_embeds is {table.shape[0]}: not {num_classes} classes, with or without a null class")
    t.found["class_embed.weight"] = table


def _diffusion(folder: pathlib.Path) -> Dict[str, Any]:
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.exists():
        return {}
    config = json.loads(path.read_text())
    _check_fields(config, SCHEDULER_FIXED, "scheduler_config.json")
    return {"T": config.get("num_train_timesteps", 1000), "beta": [config.get("beta_start", 1e-4), config.get("beta_end", 0.02)]}


def convert(path: pathlib.Path, num_classes: Optional[int], notes: List[str]) -> Tuple[Dict[str, Any], Tensors, Dict[str, Any], Any]:
    """The `model` object, the tensors, the diffusion where the folder has a scheduler, and the image size (None: not said)."""
    unet = path / "unet" if (path / "unet").is_dir() else path
    config = json.loads((unet / "config.json").read_text())
    kind = config.get("_class_name")
    if kind != "UNet2DModel":
        raise CannotConvert(f"config.json: _class_name is {kind}; only UNet2DModel is ddimd's network")
    model = _model(config)
    t = _Taker(_read_tensors(unet), model["num_heads"], notes)
    _class_table(t, model, num_classes, notes)
    _take_all(t, model)
    if t.left:
        raise CannotConvert("these names cannot be mapped:\n  " + "\n  ".join(list(t.left)[:20]))
    check(model, t.found)
    size = config.get("sample_size")
    return model, t.found, _diffusion(path), [size, size] if isinstance(size, int) else size

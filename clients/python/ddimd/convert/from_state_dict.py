"""A PyTorch state_dict of a class-conditional DDIM UNet, in the original project's names or others of its family.

Names differ between projects that share this network, so a layer is recognised by what it holds: a residual block has
two 3x3 convolutions, two norms and a linear layer from the embedding, an attention block has qkv and a projection.
Only the five parts of the network (time, class, down, middle, up, out) and their numbers go by name.
"""
from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .network import CannotConvert, by_head, check, fold_attention

Tensors = Dict[str, Any]

EMA_KEYS = ("ema", "ema_model", "ema_state_dict", "model_ema", "ema_params", "ema_weights", "shadow", "shadow_params")
RAW_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "unet", "params", "weights")
PREFIXES = ("module.", "_orig_mod.", "ema_model.", "model_ema.", "online_model.", "shadow.", "model.", "unet.", "net.", "network.",
            "diffusion_model.", "denoise_fn.", "eps_model.")
PARTS = {
    "time": r"(?:time_embed(?:ding)?|time_mlp|time_emb|t_embed(?:der|ding)?|temb)",
    "class": r"(?:class_embed(?:ding)?|class_emb|label_emb(?:ed|edding)?|cls_emb(?:ed|edding)?|y_embed(?:der|ding)?|cond_emb(?:ed|edding)?)",
    "down": r"(?:down_?blocks|downs?|input_blocks|encoder)",
    "middle": r"(?:middle_?block|middle|mid_?block|mid|bottleneck)",
    "up": r"(?:up_?blocks|ups?|output_blocks|decoder)",
    "out": r"(?:out|out_layers?|final|final_conv|out_norm|out_conv|norm_out|conv_out)",
}
BUFFERS = re.compile(r"(?:^|\.)(?:betas?|alphas?\w*|alpha_bars?|sqrt_\w+|log_\w+|posterior_\w+|one_minus_\w+|signal_rate|noise_rate|initted|"
                     r"step|decay|num_updates|num_batches_tracked|timesteps?)$")


class Options(NamedTuple):
    weights: str = "auto"        # "ema", "raw", or a key of the file
    num_heads: int = 4
    attention_order: str = "head"  # rows of qkv: "head" is [head][q|k|v][d], "qkv" is [q|k|v][head][d]
    residual_block: Optional[str] = None
    num_classes: Optional[int] = None
    trust_pickle: bool = False


# --------------------------------------------------------------------------- the file
def load(path: str, trust_pickle: bool) -> Any:
    import pickle

    import torch
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as e:
        if trust_pickle:
            raise CannotConvert(f"{path} cannot be read: {e}") from None
        raise CannotConvert(f"{path} holds more than tensors ({str(e).splitlines()[0][:120]}). If you trust where it came from, "
                            "--trust-pickle loads it, which runs what it says.") from None
    except (RuntimeError, ValueError, EOFError, KeyError) as e:
        raise CannotConvert(f"{path} is no file of torch.save: {e}") from None


def _tensors(value: Any) -> Tensors:
    """The tensors of a dict or a module; {} where it is neither."""
    import torch
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if not isinstance(value, dict):
        return {}
    return {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}


def find_state_dict(loaded: Any, weights: str) -> Tuple[Tensors, str]:
    """The state_dict in what was loaded, and where it was ("" at the top)."""
    found = _tensors(loaded)
    if len(found) > 20 and weights in ("auto", "raw") or len(found) > 20 and not isinstance(loaded, dict):
        return found, ""
    keys = {"auto": EMA_KEYS + RAW_KEYS, "ema": EMA_KEYS, "raw": RAW_KEYS}.get(weights, (weights,))
    inner = loaded if isinstance(loaded, dict) else {}
    for key in keys:
        if key in inner:
            tensors, where = find_state_dict(inner[key], "auto")
            if tensors:
                return tensors, f"{key}.{where}".rstrip(".")
    if found:
        return found, ""
    there = ", ".join(map(str, list(inner)[:20])) or f"a {type(loaded).__name__}"
    raise CannotConvert(f"no state_dict was found under {', '.join(keys[:6])} ...; the file has: {there}")


def strip(tensors: Tensors, notes: List[str]) -> Tensors:
    """Without the wrappers' prefixes; where averaged and raw weights lie side by side, the averaged ones."""
    for prefix in ("ema_model.", "model_ema.", "ema."):
        averaged = {k: v for k, v in tensors.items() if k.startswith(prefix)}
        if len(averaged) > 20 and len(averaged) < len(tensors):
            notes.append(f"took the averaged weights under {prefix}")
            tensors = {**averaged, **{k: v for k, v in tensors.items() if BUFFERS.search(k)}}
            break
    again = True
    while again:
        again = False
        for prefix in PREFIXES:
            own = [k for k in tensors if not BUFFERS.search(k)]
            if own and all(k.startswith(prefix) for k in own):
                tensors = {k[len(prefix):] if k.startswith(prefix) else k: v for k, v in tensors.items()}
                again = True
    return tensors


# --------------------------------------------------------------------------- layers
class Module(NamedTuple):
    name: str
    weight: Any
    bias: Any  # None: it has none


def _natural(name: str) -> List[Any]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def _modules(tensors: Tensors) -> List[Module]:
    """By name in natural order; takes what it finds out of `tensors`."""
    names = sorted({k[:-len(".weight")] if k != "weight" else "" for k in tensors if k == "weight" or k.endswith(".weight")},
                   key=_natural)
    return [Module(n, tensors.pop(f"{n}.weight".lstrip(".")), tensors.pop(f"{n}.bias".lstrip("."), None)) for n in names]


class Layer(NamedTuple):
    kind: str  # "residual", "attention", "conv"
    tensors: Tensors
    c_in: int
    c_out: int
    order: Optional[str] = None  # of a residual block; None where nothing says


def _order(norm: Module, conv: Module) -> Optional[str]:
    """Which comes first: by their numbers in one Sequential, else by the norm's width."""
    n, c = re.fullmatch(r"(.*?)(\d+)", norm.name), re.fullmatch(r"(.*?)(\d+)", conv.name)
    if n and c and n.group(1) == c.group(1) and n.group(1):
        return "preact" if int(n.group(2)) < int(c.group(2)) else "fused"
    k, c_in = conv.weight.shape[:2]
    if k == c_in:
        return None
    return "preact" if norm.weight.shape[0] == c_in else "fused"


def _leaf(to: Tensors, name: str, m: Module, where: str) -> None:
    if m.bias is None:
        raise CannotConvert(f"{where}: {m.name or 'it'} has no bias")
    to[f"{name}.weight"], to[f"{name}.bias"] = m.weight, m.bias


def _residual(modules: List[Module], where: str) -> Layer:
    convs = [m for m in modules if m.weight.dim() == 4 and tuple(m.weight.shape[2:]) == (3, 3)]
    ones = [m for m in modules if m.weight.dim() == 4 and tuple(m.weight.shape[2:]) == (1, 1)]
    norms, linears = [m for m in modules if m.weight.dim() == 1], [m for m in modules if m.weight.dim() == 2]
    if (len(convs), len(norms), len(linears)) != (2, 2, 1) or len(ones) > 1 or len(modules) != 5 + len(ones):
        raise CannotConvert(f"{where} is no residual block that ddimd has: it holds {', '.join(m.name for m in modules)}")
    k, c = convs[0].weight.shape[:2]
    if linears[0].weight.shape[0] == 2 * k:
        raise CannotConvert(f"{where}: the embedding gives scale and shift ({linears[0].name}); ddimd's is only added")
    tensors: Tensors = {}
    for name, m in (("norm1", norms[0]), ("conv1", convs[0]), ("emb", linears[0]), ("norm2", norms[1]), ("conv2", convs[1])):
        _leaf(tensors, name, m, where)
    for m in ones:
        _leaf(tensors, "shortcut", m, where)
    return Layer("residual", tensors, c, k, _order(norms[0], convs[0]))


def _attention(modules: List[Module], where: str, o: Options, notes: List[str]) -> Layer:
    norms = [m for m in modules if m.weight.dim() == 1]
    qkvs = [m for m in modules if m.weight.dim() > 1 and m.weight.shape[0] == 3 * m.weight.shape[1]]
    projs = [m for m in modules if m.weight.dim() > 1 and m.weight.shape[0] == m.weight.shape[1]]
    if (len(norms), len(qkvs), len(projs), len(modules)) != (1, 1, 1, 3) or projs[0].bias is None or norms[0].bias is None:
        raise CannotConvert(f"{where} is no attention block that ddimd has: it holds {', '.join(m.name for m in modules)}")
    c = projs[0].weight.shape[0]
    if c % o.num_heads:
        raise CannotConvert(f"{where}: {c} channels are no multiple of {o.num_heads} heads; say --num-heads")
    w, b = qkvs[0].weight.reshape(3 * c, c), qkvs[0].bias

    def split(t: Any) -> Any:  # the rows of q, k and v
        if o.attention_order == "head":
            t = t.reshape(o.num_heads, 3, -1, *t.shape[1:]).transpose(0, 1).reshape(t.shape)
        return t.chunk(3)

    q, k, v = split(w)
    norm_bias, proj_bias = norms[0].bias, projs[0].bias
    if b is not None:
        norm_bias, proj_bias = fold_attention((q, k, v), split(b), norm_bias, projs[0].weight.reshape(c, c), proj_bias, where, notes)
    return Layer("attention", {"norm.weight": norms[0].weight, "norm.bias": norm_bias,
                               "qkv.weight": by_head(q, k, v, o.num_heads).reshape(3 * c, c, 1, 1),
                               "proj.weight": projs[0].weight.reshape(c, c, 1, 1), "proj.bias": proj_bias}, c, c)


def _layer(tensors: Tensors, where: str, o: Options, notes: List[str]) -> Layer:
    modules = _modules(tensors)
    if len(modules) == 1 and modules[0].weight.dim() == 4:
        own: Tensors = {}
        _leaf(own, "conv", modules[0], where)
        if tuple(modules[0].weight.shape[2:]) != (3, 3):
            raise CannotConvert(f"{where} is a convolution of {tuple(modules[0].weight.shape[2:])}; ddimd has 3x3 ones there")
        return Layer("conv", own, modules[0].weight.shape[1], modules[0].weight.shape[0])
    if any(m.weight.dim() > 1 and m.weight.shape[0] == 3 * m.weight.shape[1] for m in modules) and len(modules) == 3:
        return _attention(modules, where, o, notes)
    return _residual(modules, where)


# --------------------------------------------------------------------------- the network
def _stages(tensors: Tensors, part: str, o: Options, spare: Tensors, notes: List[str]) -> Dict[int, List[Layer]]:
    """Layers by stage. What has no number is left in `spare`."""
    grouped: Dict[int, Dict[int, Tensors]] = {}
    for name, t in tensors.items():
        m = re.fullmatch(r"(\d+)\.(?:(\d+)\.)?(.+)", name)
        if m:
            grouped.setdefault(int(m.group(1)), {}).setdefault(int(m.group(2) or 0), {})[m.group(3)] = t
        else:
            spare[f"{part}.{name}"] = t
    stages: Dict[int, List[Layer]] = {}
    for stage, layers in sorted(grouped.items()):
        for layer, own in sorted(layers.items()):
            where = f"{part} {stage}.{layer}"
            stages.setdefault(stage, []).append(_layer(own, where, o, notes))
            spare.update({f"{where}: {k}": v for k, v in own.items()})
    return stages


def _infer(down: Dict[int, List[Layer]]) -> Dict[str, Any]:
    """channel_mult and its like, from the way down."""
    if not down or down.get(0, [None])[0] is None or down[0][0].kind != "conv":
        raise CannotConvert("the way down does not begin with a convolution")
    first, levels, resamples = down[0][0], [[]], []  # type: Layer, List[List[List[Layer]]], List[str]
    for stage in range(1, max(down) + 1):
        layers = down.get(stage)
        if layers is None or layers[0].kind == "conv":
            resamples.append("conv" if layers else "pool")
            levels.append([])
        else:
            levels[-1].append(layers)
    if len(set(resamples)) > 1 or any(not level for level in levels):
        raise CannotConvert("the way down has an odd order of blocks and downsamplings")
    counts, c = {len(level) for level in levels}, first.c_out
    attends = [{len(layers) > 1 for layers in level} for level in levels]
    widths = [{layers[0].c_out for layers in level} for level in levels]
    if len(counts) > 1 or any(len(a) > 1 for a in attends) or any(len(w) > 1 for w in widths):
        raise CannotConvert("the levels differ in their number of blocks, or blocks of one level in width or attention")
    mults = [w.pop() for w in widths]
    if any(w % c for w in mults):
        raise CannotConvert(f"widths {mults} are no multiples of the first convolution's {c} channels")
    return {"in_channels": first.c_in, "model_channels": c, "channel_mult": [w // c for w in mults], "num_res_blocks": counts.pop(),
            "attention_resolutions": [2 ** i for i, a in enumerate(attends) if a == {True}],
            "conv_resample": resamples[:1] != ["pool"]}


def _residual_order(layers: List[Layer], o: Options) -> str:
    orders = {layer.order for layer in layers if layer.kind == "residual" and layer.order}
    if o.residual_block:
        orders = {o.residual_block}
    if len(orders) != 1:
        raise CannotConvert("the residual blocks do not agree whether norm or convolution comes first" if orders else
                            "nothing says whether norm or convolution comes first in a residual block; say --residual-block")
    return orders.pop()


def _place(part: str, stages: Dict[int, List[Layer]]) -> Tensors:
    tensors: Tensors = {}
    for stage, layers in stages.items():
        for i, layer in enumerate(layers):
            name = f"{part}.{stage}.{i}" if part != "middle" else f"middle.{stage}"
            for leaf, t in layer.tensors.items():
                if layer.kind == "conv":  # the input's convolution has no name of its own, the others op or conv
                    inner = "" if part == "down" and stage == 0 else ".op" if part == "down" else ".conv"
                    tensors[f"{name}{inner}.{leaf.split('.')[1]}"] = t
                else:
                    tensors[f"{name}.{leaf}"] = t
    return tensors


def _embeddings(parts: Dict[str, Tensors], o: Options, model: Dict[str, Any], spare: Tensors, notes: List[str]) -> Tensors:
    import torch
    m, tensors = model["model_channels"], {}  # type: int, Tensors
    time = [t for t in _modules(parts["time"]) if t.weight.dim() == 2]
    rows = [t for t in _modules(parts["class"]) if t.weight.dim() == 2]
    spare.update({f"time: {k}": v for k, v in parts["time"].items()})
    spare.update({f"class: {k}": v for k, v in parts["class"].items()})
    if len(time) != 2 or tuple(time[0].weight.shape) != (4 * m, m) or tuple(time[1].weight.shape) != (4 * m, 4 * m):
        raise CannotConvert(f"the time embedding must be two linear layers, {m} to {4 * m} to {4 * m}; it holds "
                            f"{[tuple(t.weight.shape) for t in time]}")
    _leaf(tensors, "time_embed.0", time[0], "time embedding")
    _leaf(tensors, "time_embed.2", time[1], "time embedding")
    if len(rows) > 1 or rows and rows[0].weight.shape[1] != 4 * m:
        raise CannotConvert(f"the class embedding must be one table of {4 * m} columns; it holds {[tuple(t.weight.shape) for t in rows]}")
    table = rows[0].weight if rows else torch.zeros(2, 4 * m)
    if not rows:
        notes.append("it has no class embedding: one class is made that adds nothing")
    classes = o.num_classes or (1 if not rows else table.shape[0] - (table.shape[0] % 10 == 1))
    if table.shape[0] == classes:
        notes.append(f"its class embedding has {classes} rows and no null class: that adds nothing, and guidance has no trained baseline")
        table = torch.cat([table, torch.zeros(1, 4 * m)])
    elif table.shape[0] != classes + 1:
        raise CannotConvert(f"the class embedding has {table.shape[0]} rows, which are not {classes} classes, with or without a null class")
    tensors["class_embed.weight"] = table
    model["num_classes"] = classes
    return tensors


def convert(tensors: Tensors, o: Options, notes: List[str]) -> Tuple[Dict[str, Any], Tensors, Dict[str, Any]]:
    """The `model` object, the tensors under ddimd's names, and what the buffers say of the diffusion (maybe nothing)."""
    tensors = strip(tensors, notes)
    buffers = {k: tensors.pop(k) for k in list(tensors) if BUFFERS.search(k)}
    parts: Dict[str, Tensors] = {part: {} for part in PARTS}
    spare: Tensors = {}
    for name, t in tensors.items():
        for part, pattern in PARTS.items():
            m = re.match(rf"({pattern})\.", name)
            if m:
                rest = name if part == "out" else name[m.end():]
                parts[part][rest] = t
                break
        else:
            spare[name] = t
    missing = [part for part in ("time", "down", "middle", "up", "out") if not parts[part]]
    if missing:
        raise CannotConvert(f"no tensors were recognised for: {', '.join(missing)}. The file's names begin with: "
                            + ", ".join(sorted({name.split(".")[0] for name in tensors})[:20]))
    down, middle, up = (_stages(parts[part], part, o, spare, notes) for part in ("down", "middle", "up"))
    model = _infer(down)
    out = _modules(parts["out"])
    norms, convs = [m for m in out if m.weight.dim() == 1], [m for m in out if m.weight.dim() == 4]
    if len(norms) != 1 or len(convs) != 1 or len(out) != 2:
        raise CannotConvert(f"the end must be a norm and a convolution; it holds {', '.join(m.name for m in out)}")
    every = [layer for stages in (down, middle, up) for layers in stages.values() for layer in layers]
    model.update(out_channels=convs[0].weight.shape[0], num_heads=o.num_heads, dropout=0.1,
                 residual_block=_residual_order(every, o))
    found = _embeddings(parts, o, model, spare, notes)
    for part, stages in (("down", down), ("middle", middle), ("up", up)):
        found.update(_place(part, stages))
    _leaf(found, "out_norm", norms[0], "the end")
    _leaf(found, "out_conv", convs[0], "the end")
    if spare:
        raise CannotConvert("these names cannot be mapped:\n  " + "\n  ".join(f"{k} {tuple(v.shape)}" for k, v in list(spare.items())[:20]))
    check(model, found)
    return model, found, _diffusion(buffers)


def _diffusion(buffers: Tensors) -> Dict[str, Any]:
    """T and the betas, where the file has them."""
    import torch
    betas = next((v for k, v in buffers.items() if re.search(r"(?:^|\.)betas?$", k) and v.dim() == 1), None)
    if betas is None:
        return {}
    line = torch.linspace(float(betas[0]), float(betas[-1]), len(betas), dtype=torch.float64)
    if not torch.allclose(line, betas.double(), rtol=1e-5, atol=1e-8):
        raise CannotConvert("its betas are not linear; ddimd's noise schedule is")
    return {"T": len(betas), "beta": [float(f"{float(betas[0]):.7g}"), float(f"{float(betas[-1]):.7g}")]}

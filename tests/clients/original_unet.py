"""The network of the projects whose checkpoints ddimd.convert reads, under their names, in plain PyTorch: what a converted model is
compared with. order: "fused" (conv, norm, + embedding, SiLU) or "preact" (norm, SiLU, conv, + embedding).
"""
import math

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, c, k, emb, order):
        super().__init__()
        self.order = order
        if order == "fused":
            self.conv1 = nn.Sequential(nn.Conv2d(c, k, 3, padding=1), nn.GroupNorm(32, k))
            self.conv2 = nn.Sequential(nn.Conv2d(k, k, 3, padding=1), nn.GroupNorm(32, k), nn.SiLU(), nn.Dropout(0.1))
        else:
            self.conv1 = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, k, 3, padding=1))
            self.conv2 = nn.Sequential(nn.GroupNorm(32, k), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(k, k, 3, padding=1))
        self.time_emb = nn.Sequential(nn.SiLU(), nn.Linear(emb, k))
        self.shortcut = nn.Conv2d(c, k, 1) if c != k else nn.Identity()

    def forward(self, x, emb):
        h = self.conv1(x) + self.time_emb(emb)[:, :, None, None]
        h = torch.nn.functional.silu(h) if self.order == "fused" else h
        return self.conv2(h) + self.shortcut(x)


class Attention(nn.Module):
    def __init__(self, c, heads, bias):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(32, c)
        self.qkv, self.proj = nn.Conv2d(c, 3 * c, 1, bias=bias), nn.Conv2d(c, c, 1)

    def forward(self, x, emb):
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n * self.heads, -1, h * w).chunk(3, dim=1)
        a = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(c // self.heads), dim=-1)
        return self.proj(torch.einsum("bts,bcs->bct", a, v).reshape(n, c, h, w)) + x


class Sampling(nn.Module):
    def __init__(self, c, up):
        super().__init__()
        if up:
            self.conv = nn.Conv2d(c, c, 3, padding=1)
        else:
            self.op = nn.Conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, x, emb):
        return self.op(x) if hasattr(self, "op") else self.conv(nn.functional.interpolate(x, scale_factor=2))


class Stage(nn.Sequential):
    def forward(self, x, emb):
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
        return x


class OriginalUNet(nn.Module):
    def __init__(self, order="fused", channels=3, m=32, mults=(1, 2), classes=10, heads=4, null=True, qkv_bias=False):
        super().__init__()
        emb = 4 * m
        self.m = m
        self.time_embed = nn.Sequential(nn.Linear(m, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(classes + null, emb)
        self.down_blocks, self.up_blocks = nn.ModuleList([Stage(nn.Conv2d(channels, m, 3, padding=1))]), nn.ModuleList()
        c, skips = m, [m]
        for level, mult in enumerate(mults):
            self.down_blocks.append(Stage(Block(c, mult * m, emb, order), *([Attention(mult * m, heads, qkv_bias)] if level else [])))
            c = mult * m
            skips.append(c)
            if level + 1 < len(mults):
                self.down_blocks.append(Stage(Sampling(c, False)))
                skips.append(c)
        self.middle_block = Stage(Block(c, c, emb, order), Attention(c, heads, qkv_bias), Block(c, c, emb, order))
        for level, mult in reversed(list(enumerate(mults))):
            for i in range(2):
                layers = [Block(c + skips.pop(), mult * m, emb, order)] + ([Attention(mult * m, heads, qkv_bias)] if level else [])
                c = mult * m
                self.up_blocks.append(Stage(*layers, *([Sampling(c, True)] if level and i == 1 else [])))
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, channels, 3, padding=1))

    def forward(self, x, t, y):
        half = self.m // 2
        arg = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)[None]
        emb = self.time_embed(torch.cat([arg.cos(), arg.sin()], dim=1)) + self.label_emb(y)
        skips = []
        for stage in self.down_blocks:
            x = stage(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for stage in self.up_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)

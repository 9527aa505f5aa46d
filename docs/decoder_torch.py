"""A decoder of eight layers in PyTorch, as it is often written, and with four of its parts replaced."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import residuals_torch

LAYERS, WIDTH, HEADS, HIDDEN, CLASSES = 8, 1024, 16, 4096, 32000


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        rstd = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (wide * rstd).to(x.dtype)


class LeanRMSNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return residuals_torch.rms_norm(x, self.weight)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT * q.shape[-1] ** -0.5).float()
    mask = torch.ones_like(scores, dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1).to(v.dtype) @ v


def lean_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return residuals_torch.flash_attention(q, k, v, is_causal=True)


def gate(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


class Layer(nn.Module):
    def __init__(self, is_lean: bool) -> None:
        super().__init__()
        norm = LeanRMSNorm if is_lean else RMSNorm
        self.norm1, self.norm2 = norm(), norm()
        self.attend = lean_attend if is_lean else attend
        self.gate = residuals_torch.swiglu if is_lean else gate
        self.qkv, self.out = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH)
        self.up, self.down = linear(WIDTH, 2 * HIDDEN), linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads(a) for a in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        x = x + self.out(self.attend(q, k, v).transpose(-2, -3).flatten(-2))
        return x + self.down(self.gate(*self.up(self.norm2(x)).chunk(2, dim=-1)))


class Decoder(nn.Module):
    def __init__(self, is_lean: bool = False) -> None:
        super().__init__()
        self.is_lean = is_lean
        self.embedding = nn.Embedding(CLASSES, WIDTH, dtype=torch.bfloat16)
        self.layers = nn.ModuleList(Layer(is_lean) for _ in range(LAYERS))
        self.norm, self.head = (LeanRMSNorm if is_lean else RMSNorm)(), linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        if self.is_lean:
            return residuals_torch.linear_cross_entropy(x, self.head.weight, labels)
        return F.cross_entropy(self.head(x).float().flatten(0, 1), labels.flatten())


def linear(before: int, after: int) -> nn.Linear:
    return nn.Linear(before, after, bias=False, dtype=torch.bfloat16)


def heads(a: Tensor) -> Tensor:
    return a.unflatten(-1, (HEADS, -1)).transpose(-2, -3)


usual, lean = Decoder(), Decoder(is_lean=True)

"""Functions of `torch.nn.functional`, and of torch beside them, are left alone."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from alarms import ALL, passes, right

LABELS = torch.tensor([0, 5, 2, 2])
IMAGE, VOLUME = (2, 4, 6, 6), (2, 4, 8)

FUNCTIONS = {
    "relu": right(F.relu),
    "relu6": right(F.relu6),
    "leaky_relu": right(F.leaky_relu),
    "prelu": right(F.prelu, (4, 6), (6,)),
    "elu": right(F.elu),
    "selu": right(F.selu),
    "celu": right(F.celu),
    "gelu": right(F.gelu),
    "gelu_tanh": right(lambda x: F.gelu(x, approximate="tanh")),
    "glu": right(F.glu),
    "silu": right(F.silu),
    "mish": right(F.mish),
    "softplus": right(F.softplus),
    "softsign": right(F.softsign),
    "softshrink": right(F.softshrink),
    "hardshrink": right(F.hardshrink),
    "tanhshrink": right(F.tanhshrink),
    "threshold": right(lambda x: F.threshold(x, 0.1, 2.0)),
    "hardtanh": right(F.hardtanh),
    "hardsigmoid": right(F.hardsigmoid),
    "hardswish": right(F.hardswish),
    "logsigmoid": right(F.logsigmoid),
    "softmax": right(lambda x: F.softmax(x, -1)),
    "softmin": right(lambda x: F.softmin(x, -1)),
    "log_softmax": right(lambda x: F.log_softmax(x, -1)),
    "normalize": right(F.normalize),
    "layer_norm": right(lambda x, w, b: F.layer_norm(x, (6,), w, b), (4, 6), (6,), (6,)),
    "rms_norm": right(lambda x, w: F.rms_norm(x, (6,), w), (4, 6), (6,)),
    "group_norm": right(lambda x, w: F.group_norm(x, 2, w), (3, 4, 5), (4,)),
    "instance_norm": right(lambda x: F.instance_norm(x), (2, 3, 8)),
    # Given a weight that is not contiguous, PyTorch 2.13's own batch_norm has a wrong gradient on a CPU.
    "batch_norm": right(lambda x, b: F.batch_norm(x, None, None, None, b, training=True), (8, 3), (3,)),
    "local_response_norm": right(lambda x: F.local_response_norm(x, 2), VOLUME),
    "linear": right(F.linear, (4, 6), (3, 6), (3,)),
    "bilinear": right(F.bilinear, (4, 3), (4, 5), (2, 3, 5)),
    "conv1d": right(F.conv1d, VOLUME, (3, 4, 3), (3,)),
    "conv2d": right(lambda x, w: F.conv2d(x, w, padding=1, stride=2), IMAGE, (3, 4, 3, 3)),
    "conv_transpose1d": right(F.conv_transpose1d, VOLUME, (4, 3, 3)),
    "avg_pool2d": right(lambda x: F.avg_pool2d(x, 2), IMAGE),
    "max_pool2d": right(lambda x: F.max_pool2d(x, 2), IMAGE),
    "adaptive_avg_pool1d": right(lambda x: F.adaptive_avg_pool1d(x, 3), VOLUME),
    "lp_pool1d": right(lambda x: F.lp_pool1d(x.abs() + 0.1, 2.0, 2), VOLUME),
    "interpolate": right(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE),
    "pixel_shuffle": right(lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "unfold": right(lambda x: F.unfold(x, 3), IMAGE),
    "pad": right(lambda x: F.pad(x, (1, 2), mode="circular"), VOLUME),
    "embedding": right(lambda w: F.embedding(LABELS, w), (6, 3)),
    "one_hot": right(lambda x: F.one_hot(LABELS, 6).to(x.dtype) * x),
    "attention": right(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), *[(2, 4, 3)] * 3),
    "cosine_similarity": right(F.cosine_similarity, (4, 6), (4, 6)),
    "pairwise_distance": right(F.pairwise_distance, (4, 6), (4, 6)),
    "pdist": right(F.pdist),
    "cross_entropy": right(lambda x: F.cross_entropy(x, LABELS)),
    "cross_entropy_smoothed": right(lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1, reduction="none")),
    "nll_loss": right(lambda x: F.nll_loss(x.log_softmax(-1), LABELS)),
    "mse_loss": right(F.mse_loss, (4, 6), (4, 6)),
    "l1_loss": right(F.l1_loss, (4, 6), (4, 6)),
    "smooth_l1_loss": right(F.smooth_l1_loss, (4, 6), (4, 6)),
    "huber_loss": right(lambda x, y: F.huber_loss(x, y, reduction="none"), (4, 6), (4, 6)),
    "kl_div": right(lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"), (4, 6), (4, 6)),
    "bce_with_logits": right(lambda x: F.binary_cross_entropy_with_logits(x, torch.full_like(x, 0.3))),
    "multi_margin_loss": right(lambda x: F.multi_margin_loss(x, LABELS)),
    "soft_margin_loss": right(lambda x: F.soft_margin_loss(x, torch.ones_like(x))),
    "triplet_margin_loss": right(F.triplet_margin_loss, *[(4, 6)] * 3),
    "poisson_nll_loss": right(lambda x: F.poisson_nll_loss(x, torch.ones_like(x))),
    "gaussian_nll_loss": right(lambda x, y: F.gaussian_nll_loss(x, y, y.square() + 1), (4, 6), (4, 6)),
    "dropout": right(lambda x: F.dropout(x, 0.5)),
    "abs": right(torch.abs),
    "max": right(lambda x: x.max(-1)[0]),
    "amax": right(lambda x: x.amax(-1)),
    "sort": right(lambda x: x.sort(-1)[0]),
    "median": right(lambda x: x.median(-1)[0]),
    "topk": right(lambda x: x.topk(2, -1)[0]),
    "clamp": right(lambda x: x.clamp(-0.5, 0.5)),
    "cumsum": right(lambda x: x.cumsum(-1)),
    "logsumexp": right(lambda x: x.logsumexp(-1)),
    "norm": right(lambda x: x.norm(dim=-1)),
    "var_mean": right(lambda x: torch.var_mean(x, -1)),
    "einsum": right(lambda x, y: torch.einsum("ij,kj->ik", x, y), (4, 6), (3, 6)),
    "scatter_add": right(lambda x: torch.zeros(6, 6, dtype=x.dtype).index_add(0, LABELS, x)),
    "where": right(lambda x: torch.where(x > 0, x, torch.expm1(x.clamp(max=0)))),
    "slogdet": right(lambda x: torch.linalg.slogdet(x)[1], (4, 4)),
    "solve": right(torch.linalg.solve, (4, 4), (4, 2)),
    "svdvals": right(torch.linalg.svdvals),
    "eigvalsh": right(lambda x: torch.linalg.eigvalsh(x + x.mT), (4, 4)),
    "fft": right(lambda x: torch.fft.rfft(x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@ALL
def test_a_function_of_torch_is_left_alone(name: Any, dtype: str, seed: int) -> None:
    passes("torch", FUNCTIONS[name], dtype, seed)

"""The audit on models that are not ours, in PyTorch: exact to the byte, and quick where they are big."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from residuals_lab.audit import audit

TOKENS = {"input_ids": torch.randint(0, 256, (2, 16)), "labels": torch.randint(0, 256, (2, 16))}
IMAGES = {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.randint(0, 2, (2,))}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def llama(attention: str) -> LlamaForCausalLM:
    config = LlamaConfig(**SMALL, num_key_value_heads=2, vocab_size=256, use_cache=False, attn_implementation=attention)
    return LlamaForCausalLM(config)


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=256, n_positions=64, use_cache=False))


MODELS: dict[str, tuple[Callable[[], Any], dict[str, Tensor]]] = {
    "Llama": (lambda: llama("sdpa"), TOKENS),
    "Llama, eager attention": (lambda: llama("eager"), TOKENS),
    "GPT-2": (gpt2, TOKENS),
    "ViT": (lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8)), IMAGES),
}


def held(model: Any, given: dict[str, Tensor]) -> int:
    """Bytes of the storages that saved-tensor hooks see, on real tensors, beyond parameters, inputs and outputs."""
    storages: dict[int, Any] = {}

    def pack(t: Tensor) -> Tensor:
        storages[t.untyped_storage()._cdata] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = model(**given)
    outputs = [y for y in out.values() if isinstance(y, Tensor)]
    alive = [*model.parameters(), *model.buffers(), *given.values(), *outputs]
    for t in alive:
        storages.pop(t.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("with_loss", [False, True])
def test_exact_to_the_byte(name: str, with_loss: bool) -> None:
    make, given = MODELS[name]
    torch.manual_seed(0)
    model, given = make(), {key: a for key, a in given.items() if with_loss or key != "labels"}
    expected = held(model, given)
    assert audit(model, **given, is_concrete=True).new_bytes == expected
    if name != "Llama":  # on fake tensors it cannot look whether a mask is needed, and makes one
        assert audit(model, **given).new_bytes == expected
    assert audit(model, **given, is_concrete=True).new_bytes == expected, "nothing is left behind"


def test_checkpointed_layers_keep_their_inputs() -> None:
    model = llama("eager").train()
    model.gradient_checkpointing_enable()
    report = audit(model, **TOKENS)
    plain = audit(llama("eager"), **TOKENS)
    assert report.new_bytes < 0.4 * plain.new_bytes
    assert {"matmul", "softmax"} <= {r.op for r in report.repeats}
    assert plain.repeats == []


BIG = textwrap.dedent("""
    import sys, time
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from residuals_lab import frameworks
    from residuals_lab.audit import audit

    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(
        hidden_size=4096, num_hidden_layers=int(sys.argv[1]), num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14336, vocab_size=128256, use_cache=False,
    )
    with frameworks.load("torch").abstractly():
        model, tokens = LlamaForCausalLM(config), torch.zeros(1, 8192, dtype=torch.int64)
        start = time.perf_counter()
        report = audit(model, input_ids=tokens, labels=tokens)
        report.findings, report.repeats, report.advice
    seconds = time.perf_counter() - start
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = int(status["VmHWM"].split()[0]) / 2**20
    print(f"{seconds:.2f} {peak:.2f} {len(report.trace.steps)} {report.new_bytes}")
""")


@pytest.mark.parametrize("layers", [4, 8, 16, 32])
def test_a_model_of_eight_billion_parameters(layers: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Seconds are printed, since these are no matter of a test; memory is, and so is what it finds."""
    done = subprocess.run([sys.executable, "-c", BIG, str(layers)], capture_output=True, text=True, check=True)
    seconds, gib, steps, new_bytes = done.stdout.split()[-4:]
    with capfd.disabled():
        print(f"\n{layers} layers: {steps} operations, {seconds} s, {gib} GiB, {int(new_bytes) / 2**30:.1f} GiB new")
    assert float(gib) < 1
    assert int(new_bytes) > layers * 2**30

"""The models of `sweep/advice.py`: a list that was written before any of them was audited.

An entry makes a function and its arguments. `OBVIOUS` names those with an obvious saving, by what it is.
"""

import advice_written as written
import torch
from torch import nn


def _tokens(vocab, *shape):
    return torch.randint(1, vocab, shape)


def _language(build, vocab=4096, batch=2, tokens=128):
    return build(), (_tokens(vocab, batch, tokens), _tokens(vocab, batch, tokens))


def _hf(name, config, attention=None, head="ForCausalLM", tokens=128, vocab=4096, is_training=True, **inputs):
    """A model of transformers at a small configuration, and a call of it that gives its loss."""
    import transformers

    made = getattr(transformers, f"{name}Config")(**config)
    if attention:
        made._attn_implementation = attention
    model = getattr(transformers, f"{name}{head}")(made).train(is_training)
    given = inputs or {"input_ids": _tokens(vocab, 2, tokens), "labels": _tokens(vocab, 2, tokens)}
    names = list(given)

    def call(model, *arrays):
        kwargs = dict(zip(names, arrays, strict=True))
        if isinstance(model.config, transformers.GPT2Config) or "labels" in kwargs:
            return model(**kwargs).loss
        return model(**kwargs, **({"return_loss": True} if head == "Model" and name == "CLIP" else {})).loss

    return _Called(model, call), tuple(given.values())


class _Called(nn.Module):
    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *arrays):
        return self.call(self.model, *arrays)


_SMALL = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 352,
    "max_position_embeddings": 256,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
_GPT2 = {"vocab_size": 4096, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 256}
_BERT = {**_SMALL, "vocab_size": 30522, "intermediate_size": 512}


def _gpt2(**more):
    return _hf("GPT2", {**_GPT2, **more}, more.pop("attention", None), head="LMHeadModel")


def _t5():
    config = {"vocab_size": 4096, "d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4}
    config |= {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "decoder_start_token_id": 0}
    return _hf("T5", config, head="ForConditionalGeneration")


def _bart():
    config = {"vocab_size": 4096, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 512}
    config |= {"decoder_ffn_dim": 512, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return _hf("Bart", config, "eager", head="ForConditionalGeneration")


def _whisper():
    config = {"vocab_size": 4096, "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 512}
    config |= {"decoder_ffn_dim": 512, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config |= {"max_source_positions": 128, "num_mel_bins": 80, "pad_token_id": 0, "decoder_start_token_id": 1}
    config |= {"bos_token_id": 1, "eos_token_id": 2}
    inputs = {"input_features": torch.randn(2, 80, 256), "labels": _tokens(4096, 2, 64)}
    return _hf("Whisper", config, "eager", head="ForConditionalGeneration", **inputs)


def _clip():
    text = {"vocab_size": 4096, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"intermediate_size": 512, "max_position_embeddings": 64, "eos_token_id": 2}
    vision = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
    vision |= {"image_size": 64, "patch_size": 8}
    inputs = {"input_ids": _tokens(4096, 4, 64), "pixel_values": torch.randn(4, 3, 64, 64)}
    config = {"text_config": text, "vision_config": vision, "projection_dim": 64}
    return _hf("CLIP", config, "eager", head="Model", **inputs)


def _hf_vit():
    config = {**_SMALL, "intermediate_size": 512, "image_size": 64, "patch_size": 8, "num_labels": 10}
    config = {key: a for key, a in config.items() if key not in ("vocab_size", "max_position_embeddings")}
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.randint(0, 10, (2,))}
    return _hf("ViT", config, "eager", head="ForImageClassification", **inputs)


def _timm(name, size=64, **more):
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=10, **more).train()
    return _classified(model, size)


def _classified(model, size=64, batch=2):
    def call(model, images, labels):
        return nn.functional.cross_entropy(model(images), labels)

    return _Called(model, call), (torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,)))


def _torchvision(name, size=64):
    import torchvision

    return _classified(getattr(torchvision.models, name)(num_classes=10).train(), size)


def _unet():
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )

    def call(model, x, t, text):
        return model(x, t, text).sample.pow(2).mean()

    return _Called(model, call), (torch.randn(2, 4, 16, 16), torch.tensor([1, 2]), torch.randn(2, 77, 32))


def _vae():
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
    )

    def call(model, x):
        return (model.decode(model.encode(x).latent_dist.mode()).sample - x).pow(2).mean()

    return _Called(model, call), (torch.randn(1, 3, 32, 32),)


def _dit():
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=16,
        patch_size=2,
        norm_num_groups=8,
        num_embeds_ada_norm=10,
    )

    def call(model, x, t, label):
        return model(x, timestep=t, class_labels=label).sample.pow(2).mean()

    return _Called(model, call), (torch.randn(2, 4, 16, 16), torch.tensor([1, 2]), torch.tensor([3, 4]))


def _lora():
    import peft

    called, arrays = _hf("Llama", _GROUPED, "eager")
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], lora_dropout=0.05)
    model = peft.get_peft_model(called.model, lora)

    def call(model, tokens, labels):
        return model(input_ids=tokens, labels=labels).loss

    return _Called(model, call), arrays


def _mixtral():
    return _hf("Mixtral", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}, "eager")


def _transformer_layer():
    """torch.nn's own, which a padding mask keeps from its fast path."""
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 512, dropout=0.1, batch_first=True), 2)

    def call(layer, x):
        return layer(x).pow(2).mean()

    return _Called(layer, call), (torch.randn(2, 128, 128),)


def _layer_norm(dim):
    return nn.LayerNorm(dim)


MODELS = {
    "hf gpt2 eager": lambda: _hf("GPT2", _GPT2, "eager", head="LMHeadModel"),
    "hf gpt2": lambda: _hf("GPT2", _GPT2, head="LMHeadModel"),
    "hf llama eager": lambda: _hf("Llama", _GROUPED, "eager"),
    "hf llama": lambda: _hf("Llama", _GROUPED),
    "hf mistral eager": lambda: _hf("Mistral", {**_GROUPED, "sliding_window": 64}, "eager"),
    "hf mixtral eager": _mixtral,
    "hf gemma eager": lambda: _hf("Gemma", {**_GROUPED, "head_dim": 32}, "eager"),
    "hf gemma2": lambda: _hf("Gemma2", {**_GROUPED, "head_dim": 32}, "eager"),
    "hf qwen2": lambda: _hf("Qwen2", _GROUPED),
    "hf qwen3 eager": lambda: _hf("Qwen3", {**_GROUPED, "head_dim": 32}, "eager"),
    "hf phi eager": lambda: _hf("Phi", _SMALL, "eager"),
    "hf neox eager": lambda: _hf("GPTNeoX", _SMALL, "eager"),
    "hf opt eager": lambda: _hf("OPT", {**_SMALL, "ffn_dim": 512, "word_embed_proj_dim": 128}, "eager"),
    "hf bloom": lambda: _hf("Bloom", {"vocab_size": 4096, "hidden_size": 128, "n_layer": 2, "n_head": 4}),
    "hf bert mlm": lambda: _hf("Bert", _BERT, "eager", head="ForMaskedLM", vocab=30522),
    "hf roberta mlm": lambda: _hf("Roberta", {**_BERT, "pad_token_id": 0}, head="ForMaskedLM", vocab=30522),
    "hf distilbert mlm": lambda: _hf(
        "DistilBert",
        {"vocab_size": 8192, "dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 512},
        "eager",
        "ForMaskedLM",
    ),
    "hf albert mlm": lambda: _hf("Albert", {**_SMALL, "embedding_size": 64}, "eager", head="ForMaskedLM"),
    "hf t5": _t5,
    "hf bart": _bart,
    "hf whisper": _whisper,
    "hf clip": _clip,
    "hf vit": _hf_vit,
    "hf mamba": lambda: _hf(
        "Mamba", {"vocab_size": 4096, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}, tokens=32
    ),
    "timm vit": lambda: _timm("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=2),
    "timm swin": lambda: _timm("swin_tiny_patch4_window7_224", size=224, depths=(1, 1, 1, 1)),
    "timm convnext": lambda: _timm("convnext_atto"),
    "timm mixer": lambda: _timm("mixer_s16_224", size=224),
    "timm efficientnet": lambda: _timm("efficientnet_b0"),
    "timm resnet": lambda: _timm("resnet18"),
    "torchvision swin": lambda: _torchvision("swin_t"),
    "torchvision mobilenet": lambda: _torchvision("mobilenet_v3_small"),
    "diffusers unet": _unet,
    "diffusers vae": _vae,
    "diffusers dit": _dit,
    "peft lora llama": _lora,
    "torch encoder": _transformer_layer,
    "nanogpt": lambda: _language(lambda: written.GPT(nn.GELU())),
    "nanogpt dropout": lambda: _language(lambda: written.GPT(nn.GELU(), dropout=0.1)),
    "mingpt": lambda: _language(lambda: written.GPT(written.NewGELU())),
    "llama2.c": lambda: _language(written.Llama),
    "gemma mlp": lambda: (written.GemmaMLP(), (torch.randn(2, 128, 128),)),
    "vit-pytorch": lambda: (written.ViT(), (torch.randn(2, 3, 64, 64), torch.randint(0, 10, (2,)))),
    "vit geglu": lambda: (
        written.ViT(ff=lambda: nn.Sequential(nn.LayerNorm(128), written.GEGLU(128, 512), nn.Linear(512, 128))),
        (torch.randn(2, 3, 64, 64), torch.randint(0, 10, (2,))),
    ),
    "unet by hand": lambda: (written.UNet(), (torch.randn(2, 3, 32, 32), torch.rand(2), torch.randn(2, 3, 32, 32))),
    "annotated transformer": lambda: _language(
        lambda: written.Encoder(written.AnnotatedLayerNorm, nn.ReLU(), loss=written.kl_smoothing)
    ),
    "bert by hand": lambda: _language(
        lambda: written.Encoder(written.HandLayerNorm, written.ErfGELU(), vocab=30522), vocab=30522
    ),
    "label smoothing by hand": lambda: _language(
        lambda: written.Encoder(_layer_norm, nn.GELU(), loss=written.label_smoothing, dropout=0.0)
    ),
    "label smoothing": lambda: _language(
        lambda: written.Encoder(_layer_norm, nn.GELU(), loss=nn.CrossEntropyLoss(label_smoothing=0.1), dropout=0.0)
    ),
    "loss by hand": lambda: _language(lambda: written.Encoder(_layer_norm, nn.GELU(), loss=written.hand_loss)),
    "z loss": lambda: _language(lambda: written.Encoder(_layer_norm, nn.GELU(), loss=written.z_loss, dropout=0.0)),
    "focal loss": lambda: _language(
        lambda: written.Encoder(_layer_norm, nn.GELU(), loss=written.focal_loss, dropout=0.0)
    ),
    "lstm lm": lambda: _language(written.WordLSTM, vocab=10000, batch=64, tokens=8),
    "lstm by hand": lambda: (written.HandLSTM(), (torch.randn(50, 32, 128),)),
    "euler ode": lambda: (written.EulerODE(), (torch.randn(256, 64),)),
    "mlp gelu tanh": lambda: (written.MLP(written.NewGELU()), (torch.randn(256, 128),)),
    "mlp gelu erf": lambda: (written.MLP(written.ErfGELU()), (torch.randn(256, 128),)),
    "mlp swish": lambda: (written.MLP(written.Swish()), (torch.randn(256, 128),)),
    "mlp mish": lambda: (written.MLP(written.Mish()), (torch.randn(256, 128),)),
    "mlp quick gelu": lambda: (written.MLP(written.QuickGELU()), (torch.randn(256, 128),)),
    "mlp dropout": lambda: (written.MLP(nn.ReLU(), dropout=0.5), (torch.randn(256, 128),)),
    "layer norm by hand": lambda: (written.Normed(written.HandLayerNorm), (torch.randn(512, 256),)),
    "rms norm by hand": lambda: (written.Normed(written.RMSNorm), (torch.randn(512, 256),)),
    "rms norm bf16": lambda: (written.Normed(written.RMSNorm).bfloat16(), (torch.randn(512, 256).bfloat16(),)),
    "annotated norm": lambda: (written.Normed(written.AnnotatedLayerNorm), (torch.randn(512, 256),)),
    "clip loss": lambda: (written.CLIPLoss(), (torch.randn(512, 128), torch.randn(512, 128))),
    "alibi by hand": lambda: (written.BiasedAttention(), (torch.randn(2, 128, 128),)),
    "t5 bias by hand": lambda: (written.BiasedAttention(is_learned=True), (torch.randn(2, 128, 128),)),
    "perceiver": lambda: (written.Perceiver(), (torch.randn(2, 512, 128),)),
}

# Twenty with an obvious saving.
OBVIOUS = {
    "nanogpt": "attention by hand",
    "llama2.c": "attention by hand, a norm by hand",
    "vit-pytorch": "attention by hand",
    "unet by hand": "attention by hand",
    "alibi by hand": "attention by hand",
    "t5 bias by hand": "attention by hand",
    "perceiver": "attention by hand",
    "hf gpt2 eager": "attention by hand",
    "hf bert mlm": "a loss over a large vocabulary",
    "lstm lm": "a loss over a large vocabulary",
    "loss by hand": "a loss over a large vocabulary",
    "label smoothing by hand": "a loss over a large vocabulary",
    "mingpt": "gelu by hand",
    "mlp gelu tanh": "gelu by hand",
    "mlp gelu erf": "gelu by hand",
    "layer norm by hand": "a norm by hand",
    "rms norm by hand": "a norm by hand",
    "mlp dropout": "dropout",
    "lstm by hand": "a loop",
    "euler ode": "a loop",
}

# ruff: noqa: E501
"""Models of other people's libraries for PyTorch, small, with random weights: a list for `run.py`."""

from typing import Any

import diffusers.models.attention  # noqa: F401  # these take long to import: here, before each entry has its process
import peft  # noqa: F401
import timm  # noqa: F401
import torchvision  # noqa: F401
import transformers.modeling_utils  # noqa: F401
from torch_measure import measured_model

SEED, DRAWN = 20261129, 100

# What many configurations have in common, and the inputs of many models. A specification such as "i64[2,16]<99" is an
# array of random numbers; "mask[2,16]" ends in zeros in its last row, and "boxes[2,4]" are corners.
BERT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = BERT | {"max_position_embeddings": 64}
LLAMA = TEXT | {"num_key_value_heads": 2, "use_cache": False, "pad_token_id": 0}
MAMBA = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "use_cache": False, "pad_token_id": 0}
BART = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "use_cache": False,
}  # fmt: skip
T5 = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8, "num_labels": 5,
}  # fmt: skip
PYRAMID = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "num_labels": 5}
WAV2VEC2 = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "conv_dim": [16, 16, 16], "conv_stride": [4, 4, 4], "conv_kernel": [8, 8, 8], "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "mask_time_length": 2, "pad_token_id": 0,
}  # fmt: skip
CLIP_TEXT = TEXT | {"bos_token_id": 0, "eos_token_id": 98, "pad_token_id": 1, "projection_dim": 16}
CLIP_VISION = VIT | {"projection_dim": 16}

IDS: dict[str, Any] = {"input_ids": "i64[2,16]<99"}
MASKED = IDS | {"attention_mask": "mask[2,16]"}
LM = IDS | {"labels": "i64[2,16]<99"}
MASKED_LM = MASKED | {"labels": "i64[2,16]<99"}
LM1: dict[str, Any] = {"input_ids": "i64[1,16]<99", "labels": "i64[1,16]<99"}
CLASS = IDS | {"labels": "i64[2]<2"}
SEQ2SEQ = IDS | {"labels": "i64[2,12]<99"}
IMAGE: dict[str, Any] = {"pixel_values": "f32[2,3,32,32]"}
IMAGE1: dict[str, Any] = {"pixel_values": "f32[1,3,32,32]"}
IMAGES = IMAGE | {"labels": "i64[2]<5"}
IMAGES64 = {"pixel_values": "f32[2,3,64,64]", "labels": "i64[2]<5"}
WAVES: dict[str, Any] = {"input_values": "f32[2,1600]", "labels": "i64[2,4]<31"}
X32: dict[str, Any] = {"0": "f32[2,3,32,32]"}
X64: dict[str, Any] = {"0": "f32[2,3,64,64]"}
X64_1: dict[str, Any] = {"0": "f32[1,3,64,64]"}
X224: dict[str, Any] = {"0": "f32[1,3,224,224]"}
TARGETS = [{"boxes": "boxes[2,4]<64", "labels": "i64[2]<3"}, {"boxes": "boxes[1,4]<64", "labels": "i64[1]<3"}]
MASK_TARGETS = [{"boxes": "boxes[2,4]<64", "labels": "i64[2]<3", "masks": "u8[2,64,64]<2"}]

# name → class, its configuration, its inputs, and words that say how it is run
ENTRIES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    # Text encoders
    "bert": ("transformers.BertForMaskedLM", TEXT, MASKED_LM, "train"),
    "bert, eager, bf16": ("transformers.BertForMaskedLM", TEXT | {"attn_implementation": "eager"}, LM, "train bf16"),
    "roberta": ("transformers.RobertaForSequenceClassification", TEXT, CLASS, "eval"),
    "albert": ("transformers.AlbertForMaskedLM", TEXT | {"embedding_size": 16}, LM, "train"),
    "electra": ("transformers.ElectraForPreTraining", TEXT | {"embedding_size": 16}, MASKED, "train"),
    "deberta v2": ("transformers.DebertaV2ForMaskedLM", TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, LM, "train"),
    "deberta": ("transformers.DebertaForMaskedLM", TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, MASKED_LM, "train"),
    "distilbert": ("transformers.DistilBertForQuestionAnswering", {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64}, IDS | {"start_positions": "i64[2]<16", "end_positions": "i64[2]<16"}, "train"),
    "mpnet": ("transformers.MPNetForMaskedLM", TEXT, LM, "train"),
    "fnet": ("transformers.FNetForMaskedLM", TEXT, LM, "train"),
    "funnel": ("transformers.FunnelForMaskedLM", {"vocab_size": 99, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}, LM, "train"),
    "big bird, block sparse": ("transformers.BigBirdForMaskedLM", TEXT | {"max_position_embeddings": 128, "block_size": 8, "num_random_blocks": 1}, {"input_ids": "i64[1,64]<99", "labels": "i64[1,64]<99"}, "train"),
    "longformer": ("transformers.LongformerForMaskedLM", TEXT | {"attention_window": 8}, LM, "train"),
    "reformer": ("transformers.ReformerModelWithLMHead", {"vocab_size": 99, "hidden_size": 32, "attention_head_size": 8, "num_attention_heads": 4, "feed_forward_size": 64, "attn_layers": ["local", "local"], "axial_pos_shape": [4, 8], "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 8, "max_position_embeddings": 32, "is_decoder": True, "use_cache": False}, {"input_ids": "i64[2,32]<99", "labels": "i64[2,32]<99"}, "train"),
    "nystromformer": ("transformers.NystromformerForMaskedLM", TEXT | {"segment_means_seq_len": 16, "num_landmarks": 4, "conv_kernel_size": 5}, LM, "train"),
    "mobilebert": ("transformers.MobileBertForMaskedLM", TEXT | {"embedding_size": 16, "intra_bottleneck_size": 16}, LM, "train"),
    "squeezebert": ("transformers.SqueezeBertForMaskedLM", TEXT | {"embedding_size": 32}, LM, "train"),
    "convbert": ("transformers.ConvBertForMaskedLM", TEXT | {"embedding_size": 32}, LM, "train"),
    "roformer": ("transformers.RoFormerForMaskedLM", TEXT | {"embedding_size": 32}, LM, "train"),
    "xlnet": ("transformers.XLNetLMHeadModel", {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}, LM, "train"),
    "modernbert": ("transformers.ModernBertForMaskedLM", TEXT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}, LM, "train"),
    "ibert, quantised": ("transformers.IBertForMaskedLM", TEXT | {"quant_mode": True}, LM, "train"),
    "perceiver": ("transformers.PerceiverForMaskedLM", {"vocab_size": 99, "num_latents": 8, "d_latents": 32, "d_model": 32, "num_self_attends_per_block": 2, "num_self_attention_heads": 4, "num_cross_attention_heads": 4, "qk_channels": 32, "v_channels": 32, "max_position_embeddings": 16}, {"inputs": "i64[2,16]<99"}, "train"),
    "xlm": ("transformers.XLMWithLMHeadModel", {"vocab_size": 99, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}, LM, "train"),
    "canine": ("transformers.CanineForSequenceClassification", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64, "num_hash_buckets": 64, "local_transformer_stride": 8}, {"input_ids": "i64[2,32]<99", "labels": "i64[2]<2"}, "train"),
    "esm": ("transformers.EsmForMaskedLM", TEXT | {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32, "token_dropout": True}, MASKED_LM, "train"),
    "rembert": ("transformers.RemBertForMaskedLM", TEXT | {"input_embedding_size": 16, "output_embedding_size": 16}, LM, "eval"),
    "eurobert": ("transformers.EuroBertForMaskedLM", LLAMA, LM, "train"),
    "layoutlm v3": ("transformers.LayoutLMv3Model", TEXT | {"coordinate_size": 4, "shape_size": 8, "input_size": 32, "patch_size": 8, "max_2d_position_embeddings": 64}, IDS | {"bbox": "i64[2,16,4]=30", "pixel_values": "f32[2,3,32,32]"}, "train"),
    # Text decoders
    "gpt neo": ("transformers.GPTNeoForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8, "max_position_embeddings": 64, "use_cache": False}, LM, "train"),
    "gptj": ("transformers.GPTJForCausalLM", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64, "use_cache": False}, LM, "train"),
    "gpt neox, checkpointed": ("transformers.GPTNeoXForCausalLM", TEXT | {"use_cache": False}, LM, "train checkpoint"),
    "opt": ("transformers.OPTForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 16, "use_cache": False}, MASKED_LM, "train"),
    "bloom": ("transformers.BloomForCausalLM", {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False}, LM, "train"),
    "falcon, alibi": ("transformers.FalconForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, "use_cache": False}, LM, "train"),
    "mistral, bf16": ("transformers.MistralForCausalLM", LLAMA | {"sliding_window": 8}, LM, "train bf16"),
    "qwen2": ("transformers.Qwen2ForCausalLM", LLAMA, MASKED_LM, "train"),
    "qwen3, checkpointed, bf16": ("transformers.Qwen3ForCausalLM", LLAMA | {"head_dim": 8}, LM, "train checkpoint bf16"),
    "gemma": ("transformers.GemmaForCausalLM", LLAMA | {"head_dim": 8}, LM1, "train"),
    "gemma2": ("transformers.Gemma2ForCausalLM", LLAMA | {"head_dim": 8, "sliding_window": 8}, LM, "train"),
    "gemma3": ("transformers.Gemma3ForCausalLM", LLAMA | {"head_dim": 8, "sliding_window": 8}, LM, "train bf16"),
    "phi": ("transformers.PhiForCausalLM", LLAMA, LM, "train"),
    "phi3": ("transformers.Phi3ForCausalLM", LLAMA, LM, "train autocast"),
    "stablelm": ("transformers.StableLmForCausalLM", LLAMA, LM, "train"),
    "cohere": ("transformers.CohereForCausalLM", LLAMA | {"use_qk_norm": True}, LM, "train"),
    "olmo2": ("transformers.Olmo2ForCausalLM", LLAMA, LM, "train"),
    "starcoder2": ("transformers.Starcoder2ForCausalLM", LLAMA, LM1, "train"),
    "codegen": ("transformers.CodeGenForCausalLM", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64, "n_ctx": 64, "use_cache": False}, LM, "train"),
    "ctrl": ("transformers.CTRLLMHeadModel", {"vocab_size": 99, "n_embd": 32, "dff": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}, LM, "train"),
    "xglm": ("transformers.XGLMForCausalLM", {"vocab_size": 99, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64, "use_cache": False}, LM, "train"),
    "biogpt": ("transformers.BioGptForCausalLM", TEXT | {"use_cache": False}, LM, "train"),
    "granite": ("transformers.GraniteForCausalLM", LLAMA, LM, "train"),
    "gpt bigcode": ("transformers.GPTBigCodeForCausalLM", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}, LM, "train"),
    "openai gpt": ("transformers.OpenAIGPTLMHeadModel", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, LM, "train"),
    "mpt": ("transformers.MptForCausalLM", {"vocab_size": 99, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "use_cache": False}, LM, "train"),
    "diffllama": ("transformers.DiffLlamaForCausalLM", LLAMA | {"head_dim": 8}, LM, "train"),
    "bitnet": ("transformers.BitNetForCausalLM", LLAMA, LM, "train"),
    "nemotron": ("transformers.NemotronForCausalLM", LLAMA | {"head_dim": 8}, LM, "train"),
    "glm": ("transformers.GlmForCausalLM", LLAMA | {"head_dim": 8}, LM, "train"),
    "llama with a cache": ("transformers.LlamaForCausalLM", LLAMA | {"use_cache": True}, IDS, "eval"),
    # Mixtures of experts
    "mixtral": ("transformers.MixtralForCausalLM", LLAMA | {"num_local_experts": 4, "output_router_logits": True}, LM, "train"),
    "qwen2 moe": ("transformers.Qwen2MoeForCausalLM", LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32}, LM, "train"),
    "qwen3 moe": ("transformers.Qwen3MoeForCausalLM", LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}, LM, "train bf16"),
    "olmoe": ("transformers.OlmoeForCausalLM", LLAMA | {"num_experts": 4, "num_experts_per_tok": 2}, LM, "train"),
    "deepseek v3": ("transformers.DeepseekV3ForCausalLM", LLAMA | {"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}, LM, "train"),
    "granite moe": ("transformers.GraniteMoeForCausalLM", LLAMA | {"num_local_experts": 4}, LM, "train"),
    "jetmoe": ("transformers.JetMoeForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 2, "kv_channels": 8, "intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2, "use_cache": False}, LM, "train"),
    "gpt oss": ("transformers.GptOssForCausalLM", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}, LM, "train"),
    "nllb moe": ("transformers.NllbMoeForConditionalGeneration", BART | {"num_experts": 4, "expert_capacity": 8, "encoder_sparse_step": 2, "decoder_sparse_step": 2}, SEQ2SEQ, "train"),
    "switch transformers": ("transformers.SwitchTransformersForConditionalGeneration", T5 | {"num_experts": 4, "expert_capacity": 8, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_decoder_layers": 2}, SEQ2SEQ, "train"),
    # State spaces and other recurrences
    "mamba": ("transformers.MambaForCausalLM", MAMBA | {"state_size": 4}, LM, "train"),
    "mamba2": ("transformers.Mamba2ForCausalLM", MAMBA | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8}, LM, "train"),
    "falcon mamba, checkpointed": ("transformers.FalconMambaForCausalLM", MAMBA | {"state_size": 4}, LM, "train checkpoint"),
    "bamba": ("transformers.BambaForCausalLM", LLAMA | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8, "attn_layer_indices": [1]}, LM, "train"),
    "jamba": ("transformers.JambaForCausalLM", LLAMA | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False}, LM, "train"),
    "recurrent gemma": ("transformers.RecurrentGemmaForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "lru_width": 32, "attention_window_size": 8, "use_cache": False}, LM, "train"),
    "rwkv": ("transformers.RwkvForCausalLM", {"vocab_size": 99, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "context_length": 64, "use_cache": False}, LM, "train"),
    "xlstm": ("transformers.xLSTMForCausalLM", {"vocab_size": 99, "hidden_size": 64, "embedding_dim": 64, "num_hidden_layers": 2, "num_blocks": 2, "num_heads": 2, "chunk_size": 8, "use_cache": False}, LM, "train"),
    "qwen3 next": ("transformers.Qwen3NextForCausalLM", LLAMA | {"head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "layer_types": ["linear_attention", "full_attention"]}, LM, "train"),
    "lfm2": ("transformers.Lfm2ForCausalLM", LLAMA | {"layer_types": ["conv", "full_attention"]}, LM, "train"),
    # Encoders with decoders
    "t5": ("transformers.T5ForConditionalGeneration", T5, MASKED | {"labels": "i64[2,12]<99"}, "train"),
    "t5, gated, checkpointed": ("transformers.T5ForConditionalGeneration", T5 | {"feed_forward_proj": "gated-gelu"}, SEQ2SEQ, "train checkpoint"),
    "umt5": ("transformers.UMT5ForConditionalGeneration", T5, SEQ2SEQ, "train bf16"),
    "bart": ("transformers.BartForConditionalGeneration", BART, SEQ2SEQ, "train"),
    "pegasus": ("transformers.PegasusForConditionalGeneration", BART, SEQ2SEQ, "eval"),
    "m2m 100, layer drop": ("transformers.M2M100ForConditionalGeneration", BART | {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}, SEQ2SEQ, "train"),
    "led": ("transformers.LEDForConditionalGeneration", {k: v for k, v in BART.items() if k != "max_position_embeddings"} | {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 8}, SEQ2SEQ, "train"),
    "longt5": ("transformers.LongT5ForConditionalGeneration", T5 | {"local_radius": 4, "encoder_attention_type": "transient-global", "global_block_size": 4}, SEQ2SEQ, "train"),
    "prophetnet": ("transformers.ProphetNetForConditionalGeneration", {"vocab_size": 99, "hidden_size": 32, "encoder_ffn_dim": 64, "num_encoder_layers": 2, "num_encoder_attention_heads": 4, "decoder_ffn_dim": 64, "num_decoder_layers": 2, "num_decoder_attention_heads": 4, "max_position_embeddings": 64, "use_cache": False}, SEQ2SEQ, "train"),
    "pegasus x": ("transformers.PegasusXForConditionalGeneration", BART | {"block_size": 8, "num_global_tokens": 4}, SEQ2SEQ, "train"),
    "blenderbot": ("transformers.BlenderbotForConditionalGeneration", BART, SEQ2SEQ, "train autocast"),
    # Vision
    "deit": ("transformers.DeiTForImageClassification", VIT, IMAGES, "train"),
    "beit, drop path": ("transformers.BeitForImageClassification", VIT | {"drop_path_rate": 0.2, "use_relative_position_bias": True}, IMAGES, "train"),
    "swin, drop path": ("transformers.SwinForImageClassification", {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "drop_path_rate": 0.3, "num_labels": 5}, IMAGES, "train"),
    "swin v2": ("transformers.Swinv2ForImageClassification", {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "num_labels": 5}, IMAGES, "train"),
    "convnext": ("transformers.ConvNextForImageClassification", PYRAMID | {"drop_path_rate": 0.2}, IMAGES, "train channels_last"),
    "convnext v2": ("transformers.ConvNextV2ForImageClassification", PYRAMID, IMAGE1, "train"),
    "resnet of transformers": ("transformers.ResNetForImageClassification", PYRAMID | {"embedding_size": 8}, IMAGES, "train channels_last"),
    "regnet of transformers": ("transformers.RegNetForImageClassification", PYRAMID | {"embedding_size": 8, "groups_width": 4}, IMAGES, "train"),
    "mobilenet v2 of transformers": ("transformers.MobileNetV2ForImageClassification", {"image_size": 32, "depth_multiplier": 0.25, "num_labels": 5}, IMAGES, "train bf16"),
    "mobilevit": ("transformers.MobileViTForImageClassification", {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64], "num_attention_heads": 2, "num_labels": 5}, IMAGES64, "train"),
    "mobilevit v2": ("transformers.MobileViTV2ForImageClassification", {"image_size": 64, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1], "num_labels": 5}, IMAGES64, "train"),
    "dinov2": ("transformers.Dinov2ForImageClassification", VIT | {"drop_path_rate": 0.2}, IMAGES, "train"),
    "segformer": ("transformers.SegformerForSemanticSegmentation", PYRAMID | {"num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 16, "drop_path_rate": 0.1}, {"pixel_values": "f32[2,3,32,32]", "labels": "i64[2,32,32]<5"}, "train"),
    "cvt": ("transformers.CvtForImageClassification", {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3], "num_labels": 5}, IMAGES, "train"),
    "levit": ("transformers.LevitForImageClassification", {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1], "key_dim": [4, 4, 4], "num_labels": 5}, IMAGES64, "train"),
    "poolformer": ("transformers.PoolFormerForImageClassification", PYRAMID | {"drop_path_rate": 0.2}, IMAGES, "train"),
    "pvt v2": ("transformers.PvtV2ForImageClassification", PYRAMID | {"image_size": 32, "num_attention_heads": [1, 2, 2, 4]}, IMAGES, "train"),
    "focalnet": ("transformers.FocalNetForImageClassification", {"image_size": 32, "patch_size": 2, "embed_dim": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3], "drop_path_rate": 0.2, "num_labels": 5}, IMAGES, "train"),
    "hiera": ("transformers.HieraForImageClassification", {"image_size": [32, 32], "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "num_query_pool": 2, "masked_unit_size": [4, 4], "masked_unit_attention": [True, True, False], "num_labels": 5}, IMAGES, "train"),
    "vit mae": ("transformers.ViTMAEForPreTraining", {k: v for k, v in VIT.items() if k != "num_labels"} | {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}, IMAGE, "train"),
    "yolos": ("transformers.YolosForObjectDetection", VIT | {"image_size": [32, 32], "num_detection_tokens": 5}, IMAGE, "train"),
    "dpt": ("transformers.DPTForDepthEstimation", VIT | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8}, IMAGE, "train"),
    "videomae": ("transformers.VideoMAEForVideoClassification", VIT | {"num_frames": 4}, {"pixel_values": "f32[1,4,3,32,32]", "labels": "i64[1]<5"}, "train"),
    "timesformer": ("transformers.TimesformerForVideoClassification", VIT | {"num_frames": 2}, {"pixel_values": "f32[2,2,3,32,32]"}, "train"),
    "image gpt": ("transformers.ImageGPTForCausalImageModeling", {"vocab_size": 33, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}, {"input_ids": "i64[2,16]<32"}, "train"),
    "dinov3": ("transformers.DINOv3ViTModel", {k: v for k, v in VIT.items() if k != "num_labels"} | {"num_register_tokens": 2}, IMAGE, "train"),
    "swin2sr": ("transformers.Swin2SRForImageSuperResolution", {"image_size": 16, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, {"pixel_values": "f32[1,3,16,16]"}, "train"),
    "detr": ("transformers.DetrForObjectDetection", {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone_config": {"model_type": "resnet", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "embedding_size": 8, "out_features": ["stage4"]}, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 5}, {"pixel_values": "f32[1,3,64,64]"}, "train"),
    "efficientnet of transformers": ("transformers.EfficientNetForImageClassification", {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 640, "num_labels": 5}, IMAGES64, "train"),
    # Audio
    "wav2vec2": ("transformers.Wav2Vec2ForCTC", WAV2VEC2, WAVES, "train"),
    "hubert": ("transformers.HubertForCTC", WAV2VEC2 | {"layerdrop": 0.0}, WAVES, "eval"),
    "wavlm": ("transformers.WavLMForCTC", WAV2VEC2 | {"layerdrop": 0.0, "num_buckets": 8, "max_bucket_distance": 16}, {"input_values": "f32[2,1600]"}, "train"),
    "sew": ("transformers.SEWForCTC", WAV2VEC2 | {"layerdrop": 0.0, "mask_time_prob": 0.0}, WAVES, "train"),
    "wav2vec2 conformer": ("transformers.Wav2Vec2ConformerForCTC", WAV2VEC2 | {"layerdrop": 0.0, "mask_time_prob": 0.0, "position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5}, {"input_values": "f32[2,1600]"}, "train"),
    "whisper": ("transformers.WhisperForConditionalGeneration", BART | {"num_mel_bins": 8, "max_source_positions": 32, "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}, {"input_features": "f32[2,8,64]", "labels": "i64[2,12]<99"}, "train"),
    "speech to text": ("transformers.Speech2TextForConditionalGeneration", {k: v for k, v in BART.items() if k != "max_position_embeddings"} | {"input_feat_per_channel": 8, "conv_channels": 16, "max_source_positions": 64, "max_target_positions": 32}, {"input_features": "f32[2,32,8]", "labels": "i64[2,12]<99"}, "train"),
    "audio spectrogram": ("transformers.ASTForAudioClassification", {k: v for k, v in VIT.items() if k != "image_size"} | {"max_length": 32, "num_mel_bins": 16, "frequency_stride": 4, "time_stride": 4}, {"input_values": "f32[2,32,16]", "labels": "i64[2]<5"}, "train"),
    "encodec": ("transformers.EncodecModel", {"hidden_size": 16, "num_filters": 4, "upsampling_ratios": [4, 2], "codebook_size": 16, "codebook_dim": 16, "num_lstm_layers": 1, "target_bandwidths": [24.0]}, {"input_values": "f32[1,1,320]"}, "train"),
    "dac": ("transformers.DacModel", {"encoder_hidden_size": 8, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4], "upsampling_ratios": [4, 2], "n_codebooks": 2, "codebook_size": 16, "codebook_dim": 4}, {"input_values": "f32[1,1,320]"}, "train"),
    "moonshine": ("transformers.MoonshineForConditionalGeneration", {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4, "encoder_num_key_value_heads": 4, "decoder_num_key_value_heads": 4, "use_cache": False}, {"input_values": "f32[1,4000]", "labels": "i64[1,8]<99"}, "train"),
    # Several kinds of input at once, and series
    "clip": ("transformers.CLIPModel", {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION, "projection_dim": 16}, IDS | IMAGE | {"return_loss": True}, "train"),
    "siglip": ("transformers.SiglipModel", {"text_config": CLIP_TEXT | {"projection_size": 32}, "vision_config": CLIP_VISION}, IDS | IMAGE | {"return_loss": True}, "train"),
    "blip": ("transformers.BlipForConditionalGeneration", {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION}, LM | IMAGE, "train"),
    "vilt": ("transformers.ViltModel", TEXT | {"image_size": 32, "patch_size": 8}, MASKED | IMAGE, "train"),
    "llava": ("transformers.LlavaForConditionalGeneration", {"vision_config": CLIP_VISION | {"model_type": "clip_vision_model"}, "text_config": LLAMA | {"model_type": "llama"}, "image_token_index": 98, "image_seq_length": 16}, {"input_ids": "image[1,24]<98:16", "pixel_values": "f32[1,3,32,32]", "labels": "i64[1,24]<98"}, "train"),
    "git": ("transformers.GitForCausalLM", TEXT | {"vision_config": CLIP_VISION}, IDS | IMAGE, "train"),
    "visualbert": ("transformers.VisualBertModel", TEXT | {"visual_embedding_dim": 16}, IDS | {"visual_embeds": "f32[2,4,16]"}, "train"),
    "lxmert": ("transformers.LxmertModel", TEXT | {"l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 16}, IDS | {"visual_feats": "f32[2,4,16]", "visual_pos": "f32[2,4,4]"}, "train"),
    "clipseg": ("transformers.CLIPSegForImageSegmentation", {"text_config": CLIP_TEXT, "vision_config": CLIP_VISION | {"num_hidden_layers": 3}, "extract_layers": [0, 1, 2], "projection_dim": 16, "reduce_dim": 8, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}, IDS | IMAGE, "train"),
    "patchtst": ("transformers.PatchTSTForPrediction", {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "d_model": 16, "ffn_dim": 32, "num_hidden_layers": 2, "prediction_length": 8}, {"past_values": "f32[2,16,2]", "future_values": "f32[2,8,2]"}, "train"),
    "patchtsmixer": ("transformers.PatchTSMixerForPrediction", {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "prediction_length": 8}, {"past_values": "f32[2,16,2]", "future_values": "f32[2,8,2]"}, "train"),
    "decision transformer": ("transformers.DecisionTransformerModel", {"state_dim": 4, "act_dim": 2, "hidden_size": 32, "max_ep_len": 64, "n_layer": 2, "n_head": 2, "n_positions": 64}, {"states": "f32[1,5,4]", "actions": "f32[1,5,2]", "rewards": "f32[1,5,1]", "returns_to_go": "f32[1,5,1]", "timesteps": "i64[1,5]<60", "attention_mask": "mask[1,5]"}, "train"),
    # timm
    "timm resnet": ("timm.resnet18", {}, X64, "train"),
    "timm resnet, channels last, autocast": ("timm.resnet26d", {"drop_path_rate": 0.2}, X64, "train channels_last autocast"),
    "timm resnext": ("timm.resnext26ts", {}, X64_1, "eval"),
    "timm seresnet": ("timm.seresnet18", {"drop_rate": 0.2}, X64, "train"),
    "timm efficientnet": ("timm.efficientnet_b0", {"drop_path_rate": 0.2, "drop_rate": 0.2}, X64, "train"),
    "timm mobilenet v3": ("timm.mobilenetv3_small_050", {}, X64, "train bf16"),
    "timm convnext": ("timm.convnext_atto", {"drop_path_rate": 0.2}, X64, "train"),
    "timm regnet": ("timm.regnety_002", {}, X64, "train channels_last"),
    "timm densenet": ("timm.densenet121", {"memory_efficient": True}, X64, "train"),
    "timm dpn": ("timm.dpn48b", {}, X64_1, "train"),
    "timm ghostnet": ("timm.ghostnet_050", {}, X64, "train"),
    "timm nfnet": ("timm.nfnet_l0", {}, X64_1, "train"),
    "timm repvgg": ("timm.repvgg_a0", {}, X64, "train"),
    "timm hrnet": ("timm.hrnet_w18_small", {}, X64_1, "train"),
    "timm vit, drop path": ("timm.vit_tiny_patch16_224", {"img_size": 64, "depth": 3, "drop_path_rate": 0.3}, X64, "train"),
    "timm vit, checkpointed": ("timm.vit_tiny_patch16_224", {"img_size": 64, "depth": 3}, X64, "train checkpoint"),
    "timm vit, layer scale, bf16": ("timm.vit_tiny_patch16_224", {"img_size": 64, "depth": 2, "init_values": 1e-5, "qk_norm": True}, X64, "train bf16"),
    "timm deit3": ("timm.deit3_small_patch16_224", {"img_size": 64, "depth": 2}, X64_1, "train"),
    "timm swin": ("timm.swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "drop_path_rate": 0.2}, X64, "train"),
    "timm maxvit": ("timm.maxvit_rmlp_pico_rw_256", {"img_size": 64}, X64_1, "train"),
    "timm coatnet": ("timm.coatnet_nano_rw_224", {"img_size": 64}, X64_1, "train"),
    "timm mixer": ("timm.mixer_s32_224", {"img_size": 64}, X64, "train"),
    "timm beit": ("timm.beit_base_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 4, "drop_path_rate": 0.2}, X32, "train"),
    "timm cait": ("timm.cait_xxs24_224", {"img_size": 64, "depth": 2}, X64_1, "train"),
    "timm xcit": ("timm.xcit_nano_12_p16_224", {"img_size": 64, "depth": 2}, X64, "train"),
    "timm crossvit": ("timm.crossvit_tiny_240", {}, {"0": "f32[1,3,240,240]"}, "eval"),
    "timm levit": ("timm.levit_128s", {}, {"0": "f32[2,3,224,224]"}, "train"),
    "timm edgenext": ("timm.edgenext_xx_small", {"drop_path_rate": 0.1}, X64, "train"),
    "timm mobilevit": ("timm.mobilevitv2_050", {}, X64, "train"),
    "timm efficientformer": ("timm.efficientformer_l1", {"drop_path_rate": 0.1}, X224, "train"),
    "timm eva": ("timm.eva02_tiny_patch14_224", {"img_size": 56, "depth": 2, "drop_path_rate": 0.1}, {"0": "f32[2,3,56,56]"}, "train"),
    "timm fastvit": ("timm.fastvit_t8", {}, X64, "train"),
    # torchvision
    "torchvision alexnet": ("torchvision.alexnet", {}, X224, "train"),
    "torchvision vgg": ("torchvision.vgg11_bn", {"num_classes": 10}, X32, "train"),
    "torchvision googlenet": ("torchvision.googlenet", {"aux_logits": True, "init_weights": False, "num_classes": 10}, X224, "train"),
    "torchvision densenet": ("torchvision.densenet121", {"num_classes": 10}, X64, "train"),
    "torchvision shufflenet": ("torchvision.shufflenet_v2_x0_5", {"num_classes": 10}, X64, "train channels_last"),
    "torchvision mobilenet v2": ("torchvision.mobilenet_v2", {"num_classes": 10}, X64, "eval"),
    "torchvision efficientnet v2": ("torchvision.efficientnet_v2_s", {"num_classes": 10}, X64_1, "train"),
    "torchvision convnext": ("torchvision.convnext_tiny", {"num_classes": 10, "stochastic_depth_prob": 0.2}, X64_1, "train"),
    "torchvision vit": ("torchvision.vit_b_16", {"num_classes": 10, "image_size": 32}, X32, "train"),
    "torchvision swin": ("torchvision.swin_t", {"num_classes": 10}, X64_1, "train"),
    "torchvision maxvit": ("torchvision.maxvit_t", {"num_classes": 10}, X224, "train"),
    "torchvision faster rcnn": ("torchvision.detection.fasterrcnn_mobilenet_v3_large_320_fpn", {"weights_backbone": None, "num_classes": 4, "min_size": 64, "max_size": 64}, {"0": ["f32[3,64,64]", "f32[3,64,64]"], "1": TARGETS}, "train"),
    "torchvision retinanet": ("torchvision.detection.retinanet_resnet50_fpn", {"weights_backbone": None, "num_classes": 4, "min_size": 64, "max_size": 64}, {"0": ["f32[3,64,64]", "f32[3,64,64]"], "1": TARGETS}, "train"),
    "torchvision mask rcnn": ("torchvision.detection.maskrcnn_resnet50_fpn", {"weights_backbone": None, "num_classes": 4, "min_size": 64, "max_size": 64}, {"0": ["f32[3,64,64]"], "1": MASK_TARGETS}, "train"),
    "torchvision ssdlite": ("torchvision.detection.ssdlite320_mobilenet_v3_large", {"weights_backbone": None, "num_classes": 4}, {"0": ["f32[3,64,64]", "f32[3,64,64]"], "1": TARGETS}, "train"),
    "torchvision fcos": ("torchvision.detection.fcos_resnet50_fpn", {"weights_backbone": None, "num_classes": 4, "min_size": 64, "max_size": 64}, {"0": ["f32[3,64,64]"], "1": TARGETS[:1]}, "train"),
    "torchvision deeplab": ("torchvision.segmentation.deeplabv3_mobilenet_v3_large", {"weights_backbone": None, "num_classes": 4, "aux_loss": True}, X64, "train"),
    "torchvision fcn": ("torchvision.segmentation.fcn_resnet50", {"weights_backbone": None, "num_classes": 4}, X64, "train"),
    "torchvision video": ("torchvision.video.r3d_18", {"num_classes": 4}, {"0": "f32[1,3,4,32,32]"}, "train"),
    "torchvision raft": ("torchvision.optical_flow.raft_small", {}, {"0": "f32[1,3,128,128]", "1": "f32[1,3,128,128]", "num_flow_updates": 2}, "train"),
    # diffusers
    "diffusers unet": ("diffusers.UNet2DModel", {"sample_size": 16, "block_out_channels": [16, 32], "norm_num_groups": 8, "layers_per_block": 1, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}, {"sample": "f32[2,3,16,16]", "timestep": "i64[2]<100"}, "train"),
    "diffusers unet, one image": ("diffusers.UNet2DModel", {"sample_size": 16, "block_out_channels": [16, 32], "norm_num_groups": 8, "layers_per_block": 1, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}, {"sample": "f32[1,3,16,16]", "timestep": 7}, "train channels_last"),
    "diffusers conditional unet": ("diffusers.UNet2DConditionModel", {"sample_size": 16, "block_out_channels": [16, 32], "norm_num_groups": 8, "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}, {"sample": "f32[2,4,16,16]", "timestep": "i64[2]<100", "encoder_hidden_states": "f32[2,6,16]"}, "train"),
    "diffusers conditional unet, checkpointed": ("diffusers.UNet2DConditionModel", {"sample_size": 16, "block_out_channels": [16, 32], "norm_num_groups": 8, "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}, {"sample": "f32[1,4,16,16]", "timestep": "i64[1]<100", "encoder_hidden_states": "f32[1,6,16]"}, "train checkpoint bf16"),
    "diffusers vae": ("diffusers.AutoencoderKL", {"block_out_channels": [8, 16], "norm_num_groups": 4, "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "sample_size": 16}, {"sample": "f32[2,3,16,16]", "sample_posterior": True}, "train"),
    "diffusers vq": ("diffusers.VQModel", {"block_out_channels": [8, 16], "norm_num_groups": 4, "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "num_vq_embeddings": 16, "latent_channels": 3}, {"sample": "f32[1,3,16,16]"}, "train"),
    "diffusers tiny vae": ("diffusers.AutoencoderTiny", {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1]}, {"sample": "f32[1,3,16,16]"}, "train"),
    "diffusers dit": ("diffusers.DiTTransformer2DModel", {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2, "sample_size": 8, "num_embeds_ada_norm": 10}, {"hidden_states": "f32[2,4,8,8]", "timestep": "i64[2]<100", "class_labels": "i64[2]<10"}, "train"),
    "diffusers sd3": ("diffusers.SD3Transformer2DModel", {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 16, "out_channels": 4}, {"hidden_states": "f32[1,4,8,8]", "encoder_hidden_states": "f32[1,6,16]", "pooled_projections": "f32[1,16]", "timestep": "i64[1]<100"}, "train"),
    "diffusers flux, checkpointed": ("diffusers.FluxTransformer2DModel", {"patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 16, "pooled_projection_dim": 16, "axes_dims_rope": [4, 4, 8]}, {"hidden_states": "f32[1,16,4]", "encoder_hidden_states": "f32[1,6,16]", "pooled_projections": "f32[1,16]", "timestep": "f32[1]", "img_ids": "f32[16,3]", "txt_ids": "f32[6,3]"}, "train checkpoint"),
    "diffusers pixart": ("diffusers.PixArtTransformer2DModel", {"sample_size": 8, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 2, "in_channels": 4, "cross_attention_dim": 16, "out_channels": 8, "caption_channels": 12, "use_additional_conditions": False}, {"hidden_states": "f32[2,4,8,8]", "timestep": "i64[2]<100", "encoder_hidden_states": "f32[2,6,12]", "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}, "train"),
    "diffusers controlnet": ("diffusers.ControlNetModel", {"block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 16, "attention_head_dim": 4, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "conditioning_embedding_out_channels": [8, 8]}, {"sample": "f32[1,4,8,8]", "timestep": "i64[1]<100", "encoder_hidden_states": "f32[1,6,16]", "controlnet_cond": "f32[1,3,16,16]"}, "train"),
    "diffusers unet of one axis": ("diffusers.UNet1DModel", {"block_out_channels": [8, 16], "sample_size": 16, "in_channels": 2, "out_channels": 2, "extra_in_channels": 8, "down_block_types": ["DownBlock1DNoSkip", "DownBlock1D"], "up_block_types": ["UpBlock1D", "UpBlock1DNoSkip"], "time_embedding_type": "fourier", "use_timestep_embedding": False}, {"sample": "f32[2,2,64]", "timestep": "i64[2]<100"}, "train"),
    # peft: the model that it adapts, and its own configuration
    "lora on bert": ("peft.LoraConfig", {"base": ["transformers.BertForMaskedLM", TEXT], "r": 4, "target_modules": ["query", "value"], "lora_dropout": 0.1}, LM, "train"),
    "lora on mistral, checkpointed": ("peft.LoraConfig", {"base": ["transformers.MistralForCausalLM", LLAMA], "r": 4, "target_modules": "all-linear"}, LM, "train checkpoint"),
    "dora on qwen2": ("peft.LoraConfig", {"base": ["transformers.Qwen2ForCausalLM", LLAMA], "r": 4, "target_modules": ["q_proj", "v_proj"], "use_dora": True}, LM, "train"),
    "rslora on opt, bf16": ("peft.LoraConfig", {"base": ["transformers.OPTForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "use_cache": False}], "r": 4, "use_rslora": True, "target_modules": ["q_proj", "fc1"]}, LM, "train bf16"),
    "ia3 on t5": ("peft.IA3Config", {"base": ["transformers.T5ForConditionalGeneration", T5], "target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}, SEQ2SEQ, "train"),
    "adalora on bart": ("peft.AdaLoraConfig", {"base": ["transformers.BartForConditionalGeneration", BART], "init_r": 6, "target_r": 4, "total_step": 10, "target_modules": ["q_proj", "v_proj"]}, SEQ2SEQ, "train"),
    "loha on a vit": ("peft.LoHaConfig", {"base": ["transformers.DeiTForImageClassification", VIT], "r": 4, "target_modules": "all-linear"}, IMAGES, "train"),
    "oft on phi": ("peft.OFTConfig", {"base": ["transformers.PhiForCausalLM", LLAMA], "oft_block_size": 8, "r": 0, "target_modules": ["q_proj", "v_proj"]}, LM, "train"),
    "vera on roberta": ("peft.VeraConfig", {"base": ["transformers.RobertaForSequenceClassification", TEXT], "r": 4, "target_modules": ["query", "value"]}, CLASS, "train"),
    "prompt tuning on gptj": ("peft.PromptTuningConfig", {"base": ["transformers.GPTJForCausalLM", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64, "use_cache": False}], "num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}, LM, "train"),
    "lora on a timm convnet": ("peft.LoraConfig", {"base": ["timm.convnext_atto", {}], "r": 4, "target_modules": ["fc1", "fc2"]}, X64_1, "train"),
}  # fmt: skip


def measure(name: str) -> dict[str, Any]:
    """The bytes of one model, counted and by each audit."""
    return measured_model(*ENTRIES[name])

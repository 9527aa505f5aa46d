"""Programs in JAX: Flax's linen and nnx, Equinox, and plain JAX, as people write them; audited as they are."""

from importlib import import_module
from typing import Any

# Module → its functions that are entries. JAX is imported by the process of an entry alone: it must not be forked.
PROGRAMS = {
    "linen": """
        bfloat16_regression bidirectional_gru conv_lstm double_dqn lstm_tagger mixture_of_experts mlp_mixer
        relative_positions remat_language_model resnet_batch_norm scanned_language_model
        spectral_discriminator unet_diffusion vae vit
    """,
    "nnx": """
        batch_norm_and_dropout convolutional_autoencoder digits_cnn flow_matching gru_classifier llama
        lora_finetuning mini_gpt scan_over_layers
    """,
    "equinox": """
        deep_sets digits_cnn dropout_mlp filter_checkpointed gpt gradient_penalty hypernetwork
        linear_recurrent_unit neural_ode real_nvp score_based_diffusion spirals stateful_batch_norm
    """,
    "plain": """
        actor_critic_returns attention_in_blocks causal_linear_attention cellular_automaton
        checkpoint_by_names clip_loss cond_in_scan conditional_random_field continuous_flow
        contrastive_pairs data_parallel dataclass_layers deep_equilibrium dilated_convolutions donated_steps
        equivariant_graph fourier_operator gaussian_process graph_attention graph_convolution
        hessian_regularized kalman_filter learned_optimizer maml physics_informed proximal_policy
        quantization_aware radiance_field selective_state_space shifted_windows sinkhorn sparse_layer
        spectral_complex speech_ctc switch_of_experts time_mixing vector_quantized
    """,
}
ENTRIES = {f"{module} {name}": (module, name) for module, names in PROGRAMS.items() for name in names.split()}
SEED, DRAWN = 20261129, 50


def made(name: str) -> tuple[Any, tuple[Any, ...], str]:
    """An entry's function, its arguments, and the role of each."""
    module, function = ENTRIES[name]
    return getattr(import_module(f"jax_{module}"), function)()


def measure(name: str) -> dict[str, Any]:
    from jax_count import measured

    return measured(*made(name))

"""What an operation costs, by the name that both adapters use for it."""

# Cost class → its operations. An operation in no class is "other", and counts as costly: an operation that nobody
# thought of has to be seen, not passed over.
COSTS = {
    "view": "alias as_strided branch_in broadcast carry detach diagonal expand permute pvary random_unwrap random_wrap "
    "reshape rev select slice split squeeze transpose unbind unsqueeze view",
    "elementwise": "abs add add_any addcdiv addcmul and arange bitcast_convert_type bitwise_and bitwise_not bitwise_or "
    "bitwise_xor branch cat ceil clamp clamp_min clone concatenate conj constant constant_pad_nd convert "
    "copy copy_p copysign div dynamic_slice dynamic_update_slice empty empty_like eq fill floor "
    "floor_divide fmod full full_like ge gt imag integer_pow iota is_finite isinf isnan le lerp "
    "lift_fresh_copy logical_and logical_not logical_or logical_xor lt masked_fill maximum minimum mul ne "
    "neg new_empty new_ones new_zeros nextafter not ones ones_like or pad real reciprocal reduce_precision "
    "relu rem remainder repeat round rsub scalar_tensor shift_left shift_right_arithmetic "
    "shift_right_logical sign square stack sub threshold tril triu trunc where xor zero zeros zeros_like",
    "transcendental": "acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma erf erf_inv erfc exp exp2 expm1 "
    "gelu gelu_tanh lgamma log log10 log1p log2 pow rsqrt sigmoid silu sin sinh softplus sqrt tan tanh",
    "reduction": "all any argmax argmin batch_norm cumlogsumexp cummax cummin cumprod cumsum group_norm layer_norm "
    "log_softmax logsumexp max mean min nll_loss norm prod rms_norm softmax sort std sum topk var var_mean",
    "indexing": "embedding gather index index_select",
    "contraction": "attention conv matmul",
    "communication": "all_gather all_gather_into_tensor all_gather_invariant all_reduce all_to_all ppermute psum "
    "psum_invariant reduce_scatter reduce_scatter_tensor reshard sharding_constraint wait_tensor",
    "random": "random random_fold_in random_number random_seed random_split",
}
_COST = {name: cost for cost, names in COSTS.items() for name in names.split()}
CHEAP = frozenset({"view", "elementwise"})  # classes that a backward may repeat without a word
_GATHERING = "all_gather all_gather_into_tensor all_gather_invariant reshard sharding_constraint wait_tensor"
GATHERING = frozenset(_GATHERING.split())  # operations that bring an array together from devices, and compute nothing
_MAKING = "clone constant convert copy empty empty_like full full_like new_empty ones scalar_tensor zeros"
MAKING = frozenset(_MAKING.split())  # operations that spell out an array or copy one, and compute nothing


def cost_of(op: str) -> str:
    return _COST.get(op, "other")

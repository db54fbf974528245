"""The network as an ONNX graph, in ONNX's own text: attention, one block, the model, and last its tensors.

One graph serves a prompt and each step after it: the cached positions, S, may be none. Letters in shapes are those of
`model.py`. A matrix is float32, or uint8 with a scale for each of its outputs.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gpt_tf2.backend.int8 import quantize
from gpt_tf2.config import GPT2Config, output_matrix, tensor_shapes

if TYPE_CHECKING:
    from onnx import ModelProto

    from gpt_tf2.checkpoints.checkpoint import Checkpoint

ENDS = ("wte", "lm_head")  # the matrices that are stored with a column per token: one copy embeds and gives logits
ZERO = 128  # the uint8 of the number 0

# Opset 20 is the first with GELU's tanh form. ONNX Runtime has read it since 1.17, with files of version 9.
HEADER = '<ir_version: 9, opset_import: ["" : 20, "gpt_tf2" : 1], producer_name: "gpt-tf2">'
FUNCTION = '<domain: "gpt_tf2", opset_import: ["" : 20, "gpt_tf2" : 1]>'

# x [..., inputs], matrix [inputs, outputs] → [..., outputs].
MULTIPLY = """
multiply (x, matrix) => (y)
{
    y = MatMul (x, matrix)
}"""

# The same with a matrix in uint8. Each token of x is rounded by its own largest value (Yao et al. 2022, section 4.1),
# and not by that of the batch: a few tokens of GPT-2 have values a hundred times the others'. Both factors are uint8,
# because the sums of uint8 and int8 overflow on processors with AVX2 alone.
MULTIPLY_INT8 = f"""
multiply (x, matrix, scale) => (y)
{{
    last = Constant <value_ints = [-1]> ()
    most = Constant <value = float {{127.0}}> ()
    least = Constant <value = float {{1e-30}}> ()
    zero = Constant <value = uint8 {{{ZERO}}}> ()
    shift = Constant <value = float {{{ZERO}.0}}> ()
    sizes = Abs (x)
    largest = ReduceMax (sizes, last)
    some = Max (largest, least)
    step = Div (some, most)
    steps = Div (x, step)
    whole = Round (steps)
    shifted = Add (whole, shift)
    bytes = Cast <to = 2> (shifted)
    sums = MatMulInteger (bytes, matrix, zero, zero)
    product = Cast <to = 1> (sums)
    by_token = Mul (product, step)
    y = Mul (by_token, scale)
}}"""

# wte [C, V], tokens [B, T] → [B, T, C].
EMBED = """
embed (tokens, wte) => (x)
{
    columns = Gather <axis = 1> (wte, tokens)
    x = Transpose <perm = [1, 2, 0]> (columns)
}"""

EMBED_INT8 = f"""
embed (tokens, wte, scale) => (x)
{{
    shift = Constant <value = float {{{ZERO}.0}}> ()
    last = Constant <value_ints = [-1]> ()
    columns = Gather <axis = 1> (wte, tokens)
    bytes = Transpose <perm = [1, 2, 0]> (columns)
    shifted = Cast <to = 1> (bytes)
    whole = Sub (shifted, shift)
    scales = Gather (scale, tokens)
    by_token = Unsqueeze (scales, last)
    x = Mul (whole, by_token)
}}"""

# attention_mask [B, S + T] → a bias of the scores [B, 1, T, S + T]: 0 where a new token attends, -1e9 elsewhere.
BIAS = """
attention_bias (tokens, attention_mask) => (bias)
{
    zero = Constant <value = int64 {0}> ()
    one = Constant <value = int64 {1}> ()
    second = Constant <value_ints = [1]> ()
    middle = Constant <value_ints = [1, 2]> ()
    attends = Constant <value = float {0.0}> ()
    ignores = Constant <value = float {-1e9}> ()
    new = Shape <start = 1, end = 2> (tokens)
    all = Shape <start = 1, end = 2> (attention_mask)
    cached = Sub (all, new)
    first_query = Squeeze (cached)
    end = Squeeze (all)
    keys = Range (zero, end, one)
    positions = Range (first_query, end, one)
    queries = Unsqueeze (positions, second)
    is_earlier = LessOrEqual (keys, queries)
    is_token = Cast <to = 9> (attention_mask)
    is_token_by_query = Unsqueeze (is_token, middle)
    is_visible = And (is_earlier, is_token_by_query)
    bias = Where (is_visible, attends, ignores)
}"""


def build_graph(config: GPT2Config, int8: bool) -> "ModelProto":
    """The graph without its tensors, whose names are those of `tensor_types`.

    Inputs:
        input_ids: int64 [B, T].
        attention_mask: int64 [B, S + T]; 0 for padding, which may be anywhere.
        position_ids: int64 [B, T], each below n_ctx.
        past_key_values.N.key, past_key_values.N.value: float32 [B, H, S, D] of each block.

    Outputs:
        logits: float32 [B, T, V].
        present.N.key, present.N.value: float32 [B, H, S + T, D] of each block.
    """
    from onnx.inliner import inline_local_functions
    from onnx.parser import parse_model

    functions = [MULTIPLY_INT8, EMBED_INT8] if int8 else [MULTIPLY, EMBED]
    functions += [BIAS, write_block(config, int8)]
    text = "\n".join([HEADER, write_model(config, int8), *(FUNCTION + function for function in functions)])
    graph = inline_local_functions(parse_model(text))
    del graph.opset_import[1:]  # of the functions
    return graph


def write_block(config: GPT2Config, int8: bool) -> str:
    """One block as a function: its x [B, T, C], the bias, and cached keys and values → the next x, keys and values."""
    matrix = write_matrix if int8 else str
    tensors = ", ".join(map(local_name, block_tensors(config, 0, int8)))
    depth = config.n_embd // config.n_head
    return f"""
block (x, bias, cached_keys, cached_values, {tensors}) => (y, keys, values)
{{
    heads = Constant <value_ints = [0, 0, {config.n_head}, {depth}]> ()
    channels = Constant <value_ints = [0, 0, {config.n_embd}]> ()
    scale = Constant <value = float {{{depth**-0.5!r}}}> ()
    x_1 = LayerNormalization <epsilon = 1e-5> (x, ln_1_g, ln_1_b)
    product_qkv = gpt_tf2.multiply (x_1, {matrix("attn_c_attn_w")})
    qkv = Add (product_qkv, attn_c_attn_b)
    q, k, v = Split <axis = -1, num_outputs = 3> (qkv)
    scaled_q = Mul (q, scale)
    q_by_head = Reshape (scaled_q, heads)
    k_by_head = Reshape (k, heads)
    v_by_head = Reshape (v, heads)
    queries = Transpose <perm = [0, 2, 1, 3]> (q_by_head)
    new_keys = Transpose <perm = [0, 2, 1, 3]> (k_by_head)
    new_values = Transpose <perm = [0, 2, 1, 3]> (v_by_head)
    keys = Concat <axis = 2> (cached_keys, new_keys)
    values = Concat <axis = 2> (cached_values, new_values)
    turned_keys = Transpose <perm = [0, 1, 3, 2]> (keys)
    unmasked_scores = MatMul (queries, turned_keys)
    scores = Add (unmasked_scores, bias)
    weights = Softmax (scores)
    by_head = MatMul (weights, values)
    by_token = Transpose <perm = [0, 2, 1, 3]> (by_head)
    attended = Reshape (by_token, channels)
    product_attended = gpt_tf2.multiply (attended, {matrix("attn_c_proj_w")})
    projected = Add (product_attended, attn_c_proj_b)
    x_after = Add (x, projected)
    x_2 = LayerNormalization <epsilon = 1e-5> (x_after, ln_2_g, ln_2_b)
    product_inner = gpt_tf2.multiply (x_2, {matrix("mlp_c_fc_w")})
    inner = Add (product_inner, mlp_c_fc_b)
    active = Gelu <approximate = "tanh"> (inner)
    product_active = gpt_tf2.multiply (active, {matrix("mlp_c_proj_w")})
    outer = Add (product_active, mlp_c_proj_b)
    y = Add (x_after, outer)
}}"""


def write_model(config: GPT2Config, int8: bool) -> str:
    """The whole network, which calls the functions."""
    matrix = write_matrix if int8 else str
    cache = f"[batch_size, {config.n_head}, %s, {config.n_embd // config.n_head}]"
    past, present = f"float{cache % 'past_sequence_length'}", f"float{cache % 'total_sequence_length'}"
    kinds = [(i, kind) for i in range(config.n_layer) for kind in ("key", "value")]
    inputs = ", ".join(f'{past} "past_key_values.{i}.{kind}"' for i, kind in kinds)
    outputs = ", ".join(f'{present} "present.{i}.{kind}"' for i, kind in kinds)
    blocks = "".join(
        f"""
    x_{i + 1}, "present.{i}.key", "present.{i}.value" = gpt_tf2.block (x_{i}, bias, "past_key_values.{i}.key",
        "past_key_values.{i}.value", {", ".join(f'"{name}"' for name in block_tensors(config, i, int8))})"""
        for i in range(config.n_layer)
    )
    return f"""
gpt2 (
    int64[batch_size, sequence_length] input_ids,
    int64[batch_size, total_sequence_length] attention_mask,
    int64[batch_size, sequence_length] position_ids,
    {inputs}
) => (
    float[batch_size, sequence_length, {config.n_vocab}] logits,
    {outputs}
)
{{
    by_token = gpt_tf2.embed (input_ids, {matrix("wte")})
    by_position = Gather (wpe, position_ids)
    x_0 = Add (by_token, by_position)
    bias = gpt_tf2.attention_bias (input_ids, attention_mask){blocks}
    x = LayerNormalization <epsilon = 1e-5> (x_{config.n_layer}, "ln_f/g", "ln_f/b")
    logits = gpt_tf2.multiply (x, {matrix(output_matrix(config))})
}}"""


def write_matrix(name: str) -> str:
    """A matrix in uint8 with its scales, as two arguments."""
    return f"{name}, {name}_scale"


def block_tensors(config: GPT2Config, block: int, int8: bool) -> list[str]:
    """The names of a block's tensors, in their order."""
    return [name for name in tensor_types(config, int8) if name.startswith(f"h{block}/")]


def local_name(name: str) -> str:
    """A tensor's name within its block's function.

    Example:
        >>> local_name("h0/attn/c_attn/w")
        'attn_c_attn_w'
    """
    return name.partition("/")[2].replace("/", "_")


def tensor_types(config: GPT2Config, int8: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The NumPy dtype and the shape of each tensor of the graph, by OpenAI's name or that with `_scale`."""
    types: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in tensor_shapes(config).items():
        shape = shape[::-1] if name in ENDS else shape
        if int8 and is_matrix(name):
            types |= {name: ("uint8", shape), f"{name}_scale": ("float32", shape[-1:])}
        else:
            types[name] = ("float32", shape)
    return types


def is_matrix(name: str) -> bool:
    """Whether a tensor is multiplied by, and so held in uint8 where that is asked for."""
    return name in ENDS or name.endswith("/w")


def read_tensors(checkpoint: "Checkpoint", config: GPT2Config, int8: bool) -> Iterator[np.ndarray]:
    """The tensors of the graph, in the order of `tensor_types`, read one by one."""
    for name in tensor_shapes(config):
        values = checkpoint.read(name)
        values = values.T if name in ENDS else values
        if int8 and is_matrix(name):
            rounded, scale = quantize(values)
            yield rounded.view("uint8") + np.uint8(ZERO)
            yield scale
        else:
            yield values

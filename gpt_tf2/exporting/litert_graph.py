"""The network as a LiteRT model of builtin operators, written operator by operator, without its tensors' values.

One graph runs CHUNK tokens, another one token; both read the same tensors. A matrix is [outputs, inputs], in float32,
or in int8 with a scale for each of its outputs.

Letters in shapes are those of `model.py`, but S is the room in the cache: that of the context and of a chunk. So the
last chunk may be padded wherever it begins. Otherwise DYNAMIC_UPDATE_SLICE would move it over earlier tokens.
"""

from collections.abc import Sequence
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from gpt_tf2.config import GPT2Config, output_matrix, tensor_shapes
from gpt_tf2.exporting.litert_operators import Graph, Scales

CHUNK = 64  # tokens of a prompt that run together, or all of a shorter context


def build_model(config: GPT2Config, scales: Scales) -> tuple[Any, dict[str, int]]:
    """The model, and the number of the buffer of each tensor by OpenAI's name. These buffers are empty.

    Both signatures have the same inputs and outputs: `prefill` for a chunk, padded at its end, `decode` for T = 1.

    Inputs:
        tokens: int32 [1, T].
        input_pos: int32 [T], the tokens' positions, one after another, each below n_ctx; of padding, 0.
        kv_cache_k_N, kv_cache_v_N: float32 [1, H, S, D] of each block. Positions after a token's own are not read.

    Outputs:
        logits: float32 [1, T, V].
        kv_cache_k_N, kv_cache_v_N: the same, with the new tokens in it.

    scales: of the matrices in int8; empty in float32.
    """
    shapes = stored_shapes(config)
    weights = {name: number for number, name in enumerate(shapes, 1)}  # the first buffer is that of no values
    buffers = [schema.BufferT() for _ in range(len(weights) + 1)]
    model = schema.ModelT(version=3, description="GPT-2 by gpt-tf2", buffers=buffers, operatorCodes=[])
    model.subgraphs, model.signatureDefs = [], []
    chunk = min(CHUNK, config.n_ctx)
    for name, length in (("prefill", chunk), ("decode", 1)):
        graph = Graph(model, weights, shapes, scales)
        add_network(graph, config, length, config.n_ctx + chunk)
        graph.close(name)
    return model, weights


def stored_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors by OpenAI's names: the blocks' matrices are turned."""
    return {name: shape[::-1] if name.endswith("/w") else shape for name, shape in tensor_shapes(config).items()}


def is_matrix(name: str) -> bool:
    """Whether a tensor is multiplied by, and so held in int8 where that is asked for."""
    return name in ("wte", "lm_head") or name.endswith("/w")


def add_network(graph: Graph, config: GPT2Config, length: int, room: int) -> None:
    """The whole network for `length` new tokens. room: positions in the cache."""
    wide, positions = (length, config.n_embd), (length, room)
    tokens, input_pos = (
        graph.add_input("tokens", (1, length), "int32"),
        graph.add_input("input_pos", (length,), "int32"),
    )
    ids = graph.reshape(tokens, (length,), "int32")
    x = graph.add(embed(graph, ids, wide), graph.gather(graph.weight("wpe"), input_pos, wide), wide)
    each, own = graph.constant([range(room)], "int32"), graph.reshape(input_pos, (length, 1), "int32")
    visible = graph.apply("LESS_EQUAL", [each, own], positions, schema.LessEqualOptionsT(), "bool")
    choice = [visible, graph.constant([[0.0]]), graph.constant([[-1e9]])]
    bias = graph.apply("SELECT_V2", choice, positions, schema.SelectV2OptionsT())
    begin, one = graph.constant([0], "int32"), graph.constant([1], "int32")
    first = graph.apply("SLICE", [input_pos, begin, one], (1,), schema.SliceOptionsT(), "int32")
    corner = [graph.constant([0, 0], "int32"), first, begin]
    start = graph.apply("CONCATENATION", corner, (4,), schema.ConcatenationOptionsT(), "int32")
    for block in range(config.n_layer):
        x = add_block(graph, config, block, x, bias, start, positions)
    x = layer_norm(graph, x, "ln_f", wide)
    logits = linear(graph, x, output_matrix(config), None, (length, config.n_vocab))
    graph.add_output("logits", graph.reshape(logits, (1, length, config.n_vocab)))


def embed(graph: Graph, ids: int, shape: tuple[int, int]) -> int:
    """The token embedding: ids [T] → [T, C]."""
    if "wte" not in graph.scales:
        return graph.gather(graph.weight("wte"), ids, shape)
    rows = graph.gather(graph.whole_numbers("wte"), ids, shape, "int8")
    whole = graph.apply("CAST", [rows], shape, schema.CastOptionsT())
    scale = graph.gather(graph.constant(graph.scales["wte"][:, None]), ids, (shape[0], 1))
    return graph.multiply(whole, scale, shape)


def add_block(
    graph: Graph, config: GPT2Config, block: int, x: int, bias: int, start: int, positions: tuple[int, int]
) -> int:
    """One block: x [T, C] → [T, C]. Its cache is read and written.

    bias: of the scores [T, S].
    start: int32 [4], where in the cache the new tokens begin.
    positions: T, S.
    """
    length, room = positions
    heads, depth, name = config.n_head, config.n_embd // config.n_head, f"h{block}"
    wide, by_token, by_head = (length, config.n_embd), (1, length, heads, depth), (1, heads, length, depth)
    cache, scores = (1, heads, room, depth), (1, heads, length, room)
    turn = graph.constant([0, 2, 1, 3], "int32")

    def transpose(tensor: int, shape: Sequence[int]) -> int:
        return graph.apply("TRANSPOSE", [tensor, turn], shape, schema.TransposeOptionsT())

    def extend(kind: str, new: int) -> int:
        cached = graph.add_input(f"kv_cache_{kind}_{block}", cache)
        whole = graph.apply("DYNAMIC_UPDATE_SLICE", [cached, new, start], cache)
        graph.add_output(f"kv_cache_{kind}_{block}", whole)
        return whole

    attended = layer_norm(graph, x, f"{name}/ln_1", wide)
    qkv = linear(graph, attended, f"{name}/attn/c_attn/w", f"{name}/attn/c_attn/b", (length, 3 * config.n_embd))
    parts = graph.apply_split("SPLIT", [graph.constant(1, "int32"), qkv], [wide] * 3, schema.SplitOptionsT(3))
    q, k, v = (transpose(graph.reshape(part, by_token), by_head) for part in parts)
    q = graph.multiply(q, graph.constant(depth**-0.5), by_head)
    keys, values = extend("k", k), extend("v", v)
    products = graph.apply("BATCH_MATMUL", [q, keys], scores, schema.BatchMatMulOptionsT(adjY=True))
    weights = graph.apply("SOFTMAX", [graph.add(products, bias, scores)], scores, schema.SoftmaxOptionsT(1.0))
    sums = graph.apply("BATCH_MATMUL", [weights, values], by_head, schema.BatchMatMulOptionsT())
    attended = graph.reshape(transpose(sums, by_token), wide)
    attended = linear(graph, attended, f"{name}/attn/c_proj/w", f"{name}/attn/c_proj/b", wide)
    x = graph.add(x, attended, wide)
    inner, large = layer_norm(graph, x, f"{name}/ln_2", wide), (length, 4 * config.n_embd)
    inner = linear(graph, inner, f"{name}/mlp/c_fc/w", f"{name}/mlp/c_fc/b", large)
    active = graph.apply("GELU", [inner], large, schema.GeluOptionsT(approximate=True))
    return graph.add(x, linear(graph, active, f"{name}/mlp/c_proj/w", f"{name}/mlp/c_proj/b", wide), wide)


def linear(graph: Graph, x: int, weight: str, bias: str | None, shape: tuple[int, int]) -> int:
    """x [T, inputs] → [T, outputs]. LiteRT rounds each row of x by itself where the matrix is int8."""
    inputs = [x, graph.matrix(weight), graph.weight(bias) if bias else -1]
    return graph.apply("FULLY_CONNECTED", inputs, shape, schema.FullyConnectedOptionsT(asymmetricQuantizeInputs=False))


def layer_norm(graph: Graph, x: int, name: str, shape: tuple[int, int]) -> int:
    """Normalizes x [T, C] over its channels."""
    column, last, keep = (shape[0], 1), graph.constant([1], "int32"), schema.ReducerOptionsT(keepDims=True)
    mean = graph.apply("MEAN", [x, last], column, keep)
    squares = graph.apply("SQUARED_DIFFERENCE", [x, mean], shape, schema.SquaredDifferenceOptionsT())
    variance = graph.add(graph.apply("MEAN", [squares, last], column, keep), graph.constant(1e-5), column)
    normal = graph.apply("SUB", [x, mean], shape, schema.SubOptionsT())
    normal = graph.multiply(normal, graph.apply("RSQRT", [variance], column), shape)
    return graph.add(graph.multiply(normal, graph.weight(f"{name}/g"), shape), graph.weight(f"{name}/b"), shape)

"""A model in float32 without a conversion: a block at a time is packed, run and dropped.

So float32, which int8 is compared with, takes the memory of a block and not of a model.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from gpt_tf2.backend.memory import trim_heap
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config
from gpt_tf2.decoding.kernels.network import Network, run_network
from gpt_tf2.decoding.native.decoder import make_cache
from gpt_tf2.decoding.native.packing import pack_block, pack_head, pad_width, read_norm
from gpt_tf2.decoding.sample_perplexity import PIECE

NOTHING = np.zeros((0, 0, 0), "float32")  # a matrix of no blocks


def stream_windows(checkpoint: Checkpoint, config: GPT2Config, windows: np.ndarray) -> Iterator[np.ndarray]:
    """The float32 logits [N, n_vocab] after each token of each window [B, T] but its last, some at a time."""
    sequences, length = len(windows), windows.shape[1] - 1
    counts, none = np.full(sequences, length), np.zeros(sequences, "int64")
    x = np.zeros((sequences * length, pad_width(config)), "float32")
    embedded = checkpoint.read("wte")[windows[:, :-1].ravel()].reshape(sequences, length, -1)
    x[:, : config.n_embd] = (embedded + checkpoint.read("wpe")[:length]).reshape(len(x), -1)
    no_wpe = np.zeros((0, config.n_embd), "float32")
    final_norm = read_norm(checkpoint, "ln_f")
    for block in range(config.n_layer):
        arrays = {name: array[None] for name, array in pack_block(checkpoint, config, block, "float32").items()}
        network = Network(final_norm=final_norm, head=NOTHING, head_columns=NOTHING, **arrays)
        cache, scales = make_cache(dataclasses.replace(config, n_layer=1), sequences, "float32")
        run_network(network, x, no_wpe, counts, none, none, cache, scales)
    no_blocks = {name: array[:0] for name, array in arrays.items()}
    del arrays, network, cache, scales
    trim_heap()  # the head may be a third of the model
    matrices, columns = zip(*pack_head(checkpoint, config, "float32"), strict=True)
    head = {"head": np.concatenate(matrices)[None], "head_columns": np.concatenate(columns, axis=1)[None]}
    del matrices
    network = Network(final_norm=final_norm, **no_blocks, **head)
    cache, scales = make_cache(config, 1, "float32")
    for first in range(0, len(x), PIECE):
        piece = x[first : first + PIECE]
        count = np.array([len(piece)])
        logits = run_network(network, piece, no_wpe, count, count, none[:1], cache, scales)
        yield logits[:, : config.n_vocab]

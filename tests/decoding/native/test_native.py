"""What the native engine promises beyond all decoders: the same bits in any company, int8's cost, files, memory."""

from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.backend.memory import measure_own_memory, reserve_zeros
from gpt_tf2.checkpoints.checkpoint import Checkpoint
from gpt_tf2.config import GPT2Config, tensor_shapes
from gpt_tf2.decoding.decoder import Decoder
from gpt_tf2.decoding.kernels.network import count_phases, find_attention, make_batch, run_share
from gpt_tf2.decoding.kernels.work import count_numbers
from gpt_tf2.decoding.litert import graphs
from gpt_tf2.decoding.litert.decoder import LiteRTDecoder
from gpt_tf2.decoding.native.decoder import NativeDecoder
from gpt_tf2.decoding.native.packing import convert, open_network, runs_natively
from gpt_tf2.decoding.native.rows import RowsFile
from gpt_tf2.decoding.sample_perplexity import decode_windows, measure_perplexity, stream_windows

CONFIG = GPT2Config(n_vocab=300, n_ctx=300, n_embd=48, n_head=3, n_layer=3)
pytestmark = pytest.mark.skipif(not runs_natively(CONFIG), reason="this processor lacks the instructions")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    draw = np.random.default_rng(0)
    weights = {name: draw.normal(0, 0.2, shape).astype("float32") for name, shape in tensor_shapes(CONFIG).items()}
    return Checkpoint(Path("drawn"), tensor_shapes(CONFIG), weights.__getitem__)


def open_native(checkpoint: Checkpoint, folder: Path, precision: str) -> NativeDecoder:
    convert(checkpoint, CONFIG, folder, precision, lambda done, total: None)
    return NativeDecoder(folder, CONFIG, precision)


def decode(decoder: Decoder, sequences: list[list[int]], piece: int) -> list[np.ndarray]:
    """The logits after each sequence, all of which run together, `piece` tokens at a time."""
    state = decoder.take(decoder.begin(), [(0, 0)] * len(sequences))
    last: list[np.ndarray] = [np.zeros(0)] * len(sequences)
    for first in range(0, max(map(len, sequences)), piece):
        new = [ids[first : first + piece] for ids in sequences]
        wanted = [min(1, len(ids)) for ids in new]
        rows = iter(decoder.extend(state, new, wanted))
        last = [next(rows) if count else earlier for count, earlier in zip(wanted, last, strict=True)]
    return last


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_sequences_logits_are_the_same_to_the_bit_in_any_company(
    precision: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    decoder, draw = open_native(checkpoint, tmp_path, precision), np.random.default_rng(1)
    sequences = [draw.integers(0, 300, size).tolist() for size in (40, 3, 17, 40, 1, 29, 40, 8, *range(20, 30))]
    together = decode(decoder, sequences, 1)
    for ids, logits in zip(sequences, together, strict=True):
        np.testing.assert_array_equal(decode(decoder, [ids], 1)[0], logits)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("rows", [2, 9])
def test_a_thread_that_comes_late_writes_nothing_that_others_read(
    rows: int, precision: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """The system may take one off its processor amid preparing few rows, and others go on meanwhile."""
    decoder = open_native(checkpoint, tmp_path, precision)
    state, ids, network = decoder.begin(), list(range(rows)), open_network(tmp_path)
    inputs = decoder._gather(state, [ids], np.array([rows]), np.array([1]))
    batch = make_batch(network, inputs, 2)
    counters = np.zeros(count_numbers(count_phases(network), 2), "int64")
    run_share(find_attention(precision), network, batch, counters, 0, 2)
    expected = decoder.extend(state, [ids], [1])
    np.testing.assert_array_equal(batch.logits[:, : CONFIG.n_vocab], expected)
    others = batch.x, batch.logits, batch.new, batch.attended, batch.hidden, batch.left[0], batch.factors[0]
    before = [array.copy() for array in others]
    batch.left[0] = before[5][:] = 7
    batch.factors[0] = before[6][:] = 7
    run_share(find_attention(precision), network, batch, counters, 1, 2)
    for array, kept in zip(others, before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_the_last_block_leaves_out_is_not_wanted(precision: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    decoder, draw = open_native(checkpoint, tmp_path, precision), np.random.default_rng(4)
    parts = [[draw.integers(0, 300, size).tolist() for size in (30, 5, 41)] for _ in range(3)]
    every, some = (decoder.take(decoder.begin(), [(0, 0)] * 3) for _ in range(2))
    for new, wanted in zip(parts, ([2, 0, 41], [0, 0, 0], [1, 5, 7]), strict=True):
        rows = np.split(decoder.extend(every, new), [30, 35])
        expected = np.concatenate([of[len(of) - count :] for of, count in zip(rows, wanted, strict=True)])
        np.testing.assert_array_equal(decoder.extend(some, new, wanted), expected)


def test_weights_of_many_sizes_in_one_block_of_the_network(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Those that stand apart then need more room in this block's columns than in the others'."""
    draw = np.random.default_rng(3)

    def read(name: str) -> np.ndarray:
        weights = checkpoint.read(name)
        if name == "h1/mlp/c_fc/w":
            weights = weights * np.exp2(draw.integers(-30, 1, weights.shape)).astype("float32")
        return weights

    kept = {name: read(name) for name in tensor_shapes(CONFIG)}
    decoder = open_native(Checkpoint(Path("drawn"), checkpoint.shapes, kept.__getitem__), tmp_path, "float32")
    windows = draw.integers(0, 300, (1, 300))
    streamed = measure_perplexity(stream_windows(CONFIG, kept.__getitem__, windows), windows)
    assert measure_perplexity(decode_windows(decoder, windows), windows) == pytest.approx(streamed, rel=1e-5)
    assert len(np.load(tmp_path / "mlp_in_columns.npy")[0]) > 3


def test_int8_costs_as_much_as_in_litert_and_float32_is_that_of_the_stream(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    windows = np.random.default_rng(2).integers(0, 300, (2, 300))
    (tmp_path / "litert").mkdir()
    graphs.convert(checkpoint, CONFIG, tmp_path / "litert", True, lambda done, total: None)
    litert = measure_perplexity(decode_windows(LiteRTDecoder(tmp_path / "litert", CONFIG, "int8"), windows), windows)
    perplexities = {}
    for precision in ("float32", "int8"):
        (tmp_path / precision).mkdir()
        decoder = open_native(checkpoint, tmp_path / precision, precision)
        perplexities[precision] = measure_perplexity(decode_windows(decoder, windows), windows)
    assert perplexities["int8"] == pytest.approx(litert, rel=0.01)
    streamed = measure_perplexity(stream_windows(CONFIG, checkpoint.read, windows), windows)
    assert perplexities["float32"] == pytest.approx(streamed, rel=1e-5)


def test_rows_are_read_from_a_file(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(7, 5)).astype("float32")
    np.save(tmp_path / "matrix.npy", matrix)
    np.testing.assert_array_equal(RowsFile(tmp_path / "matrix.npy").read([6, 0, 6, 3], 5), matrix[[6, 0, 6, 3]])
    assert not RowsFile(tmp_path / "matrix.npy").read([1], 8)[0, 5:].any()
    assert RowsFile(tmp_path / "matrix.npy").read([], 5).shape == (0, 5)


def test_reserved_memory_is_taken_when_it_is_written() -> None:
    if not measure_own_memory():
        pytest.skip("the system does not say what this process has")
    before = measure_own_memory()
    array = reserve_zeros((1 << 40,), "int8")  # more than there is
    array[5_000_000:6_000_000] = 1
    assert array[:10_000_000].sum() == 1_000_000 and measure_own_memory() - before < 50e6

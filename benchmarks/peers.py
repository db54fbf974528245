"""The systems that generation is compared with: writing a model in their formats, and generating with each."""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gpt_tf2.checkpoints.formats import open_checkpoint
from gpt_tf2.config import tensor_shapes

Run = Callable[[list[list[int]], int], None]  # prompts, and the number of tokens to add to each
THREADS = os.cpu_count() or 1


def run_transformers(model_path: Path, precision: str, greedy: bool) -> Run:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(THREADS)
    rules = {"do_sample": False} if greedy else {"do_sample": True, "top_p": 0.8, "top_k": 0}
    model = GPT2LMHeadModel.from_pretrained(model_path, dtype=getattr(torch, precision)).eval()

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        ids = torch.tensor(prompts)
        with torch.no_grad():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                **rules,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                pad_token_id=50256,
            )

    return run


def run_keras_hub(model_path: Path, precision: str, greedy: bool) -> Run:
    """With random weights of its own."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras
    import keras_hub

    keras.config.set_dtype_policy(precision)
    sizes = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}
    backbone = keras_hub.models.GPT2Backbone(50257, **sizes, dropout=0.0, max_sequence_length=1024)
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    sampler = keras_hub.samplers.GreedySampler() if greedy else keras_hub.samplers.TopPSampler(p=0.8)
    model.compile(sampler=sampler, jit_compile=False)

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        ids = np.zeros((len(prompts), len(prompts[0]) + new_tokens), "int32")
        ids[:, : len(prompts[0])] = prompts
        there = np.arange(ids.shape[1]) < len(prompts[0])
        inputs = {"token_ids": ids, "padding_mask": np.broadcast_to(there, ids.shape)}
        model.generate(inputs, stop_token_ids=None)

    return run


def run_ctranslate2(model_path: Path, precision: str, greedy: bool) -> Run:
    import ctranslate2

    model = ctranslate2.Generator(str(model_path), "cpu", intra_threads=THREADS, compute_type=precision)
    names = json.loads((model_path / "vocabulary.json").read_text(encoding="utf-8"))
    rules = {"sampling_topk": 1} if greedy else {"sampling_topk": 0, "sampling_topp": 0.8}

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        model.generate_batch(
            [[names[id] for id in ids] for ids in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            **rules,
            include_prompt_in_result=False,
            end_token=[],
        )

    return run


def run_llama_cpp(model_path: Path, precision: str, greedy: bool) -> Run:
    """One prompt after another: the binding runs one sequence only."""
    import llama_cpp

    threads = {"n_threads": THREADS, "n_threads_batch": THREADS}
    model = llama_cpp.Llama(str(model_path), n_ctx=1024, **threads, verbose=False)
    temperature = 0.0 if greedy else 1.0

    def run(prompts: list[list[int]], new_tokens: int) -> None:
        for ids in prompts:
            model.reset()
            drawn = model.generate(ids, top_k=0, top_p=0.8, min_p=0.0, temp=temperature, repeat_penalty=1.0)
            list(itertools.islice(drawn, new_tokens))

    return run


def write_ctranslate2(hf: Path, target: Path, precision: str) -> None:
    """Converts a model in Hugging Face's format."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(hf)).convert(str(target), quantization=precision)


def write_llama_cpp(hf: Path, target: Path, precision: str) -> None:
    """Writes a GGUF file of a model in Hugging Face's format.

    Matrices are in float32 or q8_0, vectors and position embeddings in float32.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    checkpoint = open_checkpoint(hf)
    config = checkpoint.config
    assert config is not None
    writer = GGUFWriter(str(target), "gpt2")
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    tokens = json.loads((hf / "vocab.json").read_text(encoding="utf-8"))
    merges = (hf / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(tokens))
    writer.add_token_merges([merge for merge in merges if merge])
    writer.add_eos_token_id(config.n_vocab - 1)
    for name in tensor_shapes(config):
        tensor = checkpoint.read(name)
        within = name.split("/", 1)[1] if name.startswith("h") and "/" in name else name
        block = f"blk.{name[1 : name.index('/')]}." if within != name else ""
        matrix = tensor.ndim == 2
        array = np.ascontiguousarray(tensor.T) if matrix and within not in ("wte", "wpe") else tensor
        quantized = precision == "q8_0" and matrix and within != "wpe"
        kind = GGMLQuantizationType.Q8_0 if quantized else GGMLQuantizationType.F32
        writer.add_tensor(block + GGUF_NAMES[within], quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GGUF_NAMES = {
    "wte": "token_embd.weight",
    "wpe": "position_embd.weight",
    "ln_f/g": "output_norm.weight",
    "ln_f/b": "output_norm.bias",
    "ln_1/g": "attn_norm.weight",
    "ln_1/b": "attn_norm.bias",
    "attn/c_attn/w": "attn_qkv.weight",
    "attn/c_attn/b": "attn_qkv.bias",
    "attn/c_proj/w": "attn_output.weight",
    "attn/c_proj/b": "attn_output.bias",
    "ln_2/g": "ffn_norm.weight",
    "ln_2/b": "ffn_norm.bias",
    "mlp/c_fc/w": "ffn_up.weight",
    "mlp/c_fc/b": "ffn_up.bias",
    "mlp/c_proj/w": "ffn_down.weight",
    "mlp/c_proj/b": "ffn_down.bias",
}

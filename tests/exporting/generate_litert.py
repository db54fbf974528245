"""Generates greedily from a LiteRT file, with ai-edge-litert and NumPy alone: FILE, the prompt's ids, the number."""

import json
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

path, prompt, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
interpreter = Interpreter(path)
prefill, decode = (interpreter.get_signature_runner(name) for name in ("prefill", "decode"))
inputs = prefill.get_input_details()
cache = {name: np.zeros(x["shape"], "float32") for name, x in inputs.items() if name.startswith("kv_cache")}
chunk = inputs["tokens"]["shape"][1]
padding = [0] * (chunk - len(prompt))
tokens, positions = (np.array([*values, *padding], "int32") for values in (prompt, range(len(prompt))))
out = prefill(tokens=tokens[None], input_pos=positions, **cache)
logits, ids = out.pop("logits")[0, len(prompt) - 1], list(prompt)
for position in range(len(prompt), len(prompt) + count):
    ids.append(int(logits.argmax()))
    if position < len(prompt) + count - 1:
        out = decode(tokens=np.array([ids[-1:]], "int32"), input_pos=np.array([position], "int32"), **out)
        logits = out.pop("logits")[0, 0]
assert not {"gpt_tf2", "tensorflow", "keras", "jax", "torch"} & set(sys.modules)
print(json.dumps(ids))

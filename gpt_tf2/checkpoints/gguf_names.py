"""What llama.cpp calls the tensors of a GPT-2 and the kinds of its tokens in a GGUF file."""

import enum
import re

OUTER = {"wte": "token_embd.weight", "wpe": "position_embd.weight", "lm_head": "output.weight"}
LAYERS = {
    "ln_1": "attn_norm",
    "attn/c_attn": "attn_qkv",
    "attn/c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp/c_fc": "ffn_up",
    "mlp/c_proj": "ffn_down",
    "ln_f": "output_norm",
}


class TokenKind(enum.IntEnum):
    """The kinds of tokens. A control token is found in a text only if that is asked for, a user's own always."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor, from OpenAI's.

    Example:
        >>> gguf_name("h0/attn/c_attn/w"), gguf_name("ln_f/b")
        ('blk.0.attn_qkv.weight', 'output_norm.bias')
    """
    if name in OUTER:
        return OUTER[name]
    layer, letter = name.rsplit("/", 1)
    block = re.match(r"h(\d+)/", layer)
    begin = f"blk.{block[1]}." if block else ""
    return f"{begin}{LAYERS[layer[block.end() if block else 0 :]]}.{'bias' if letter == 'b' else 'weight'}"


def is_transposed(name: str) -> bool:
    """Whether a tensor, by OpenAI's name, is a matrix [inputs, outputs], which a GGUF file holds as [outputs, inputs].

    Example:
        >>> is_transposed("h0/attn/c_attn/w"), is_transposed("wte")
        (True, False)
    """
    return name.endswith("/w")

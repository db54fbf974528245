"""The tensors of a `pytorch_model.bin`, a pickle, read by PyTorch's own reader, which builds nothing but tensors."""

import functools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gpt_tf2.checkpoints.stored import StoredTensor
from gpt_tf2.errors import InputError
from gpt_tf2.storage.damage import explain_damage

SAFE_FROM = (2, 6)  # before this version of torch a file could run code in spite of weights_only (CVE-2025-32434)
FIX = "copy or download the file again"
CONVERT = "open the folder with transformers and save it again (save_pretrained), which writes model.safetensors"


def list_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by its names.

    Raises InputError if there is no torch that reads it safely, or if it is damaged or holds more than tensors.
    """
    torch = import_torch(path)
    problem = f"{path}: not a whole file of tensors"
    with explain_damage(problem, FIX):
        is_zip = zipfile.is_zipfile(path)  # since torch 1.6; earlier files cannot be mapped
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                is_packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
            if is_packed:
                raise InputError(f"{problem} (compressed): {FIX}")
        with warnings.catch_warnings(action="ignore"):  # about files of unusual pickles, which are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    if not isinstance(content, dict):
        raise InputError(f"{problem} ({type(content).__name__}): {CONVERT}")
    size = path.stat().st_size
    tensors = {}
    for key, tensor in content.items():
        if not isinstance(key, str) or not is_plain(torch, tensor) or tensor.numel() * tensor.element_size() > size:
            raise InputError(f"{path}: {str(key)[:80]} is not a tensor that its bytes hold: {CONVERT}")
        floats = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        dtype = str(tensor.dtype).removeprefix("torch.")
        read = functools.partial(read_rows, path, key, tensor)
        tensors[key] = StoredTensor(path, tuple(tensor.shape), dtype, tensor.dtype in floats, read)
    return tensors


def import_torch(path: Path) -> Any:
    """PyTorch. Raises InputError, with the ways to read the file at `path`, if there is none or an unsafe one."""
    try:
        import torch
    except ImportError:
        problem = f"{path}: a pickled model, which only torch can read"
        raise InputError(f"{problem}: pip install torch, or {CONVERT}") from None
    version = tuple(int(number) for number in torch.__version__.split(".")[:2])
    if version < SAFE_FROM:
        problem = f"{path}: a pickled model, which torch {torch.__version__} does not read safely"
        raise InputError(f"{problem}: pip install 'torch>={'.'.join(map(str, SAFE_FROM))}', or {CONVERT}")
    return torch


def is_plain(torch: Any, value: object) -> bool:
    """Whether a value is a tensor of numbers in memory, neither sparse nor quantized."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def read_rows(path: Path, key: str, tensor: Any, rows: slice) -> np.ndarray:
    """Some rows of a tensor as float32."""
    with explain_damage(f"{path}: tensor {key} cannot be read", FIX):
        return np.ascontiguousarray(tensor[rows].detach().float().numpy())

"""A web folder: a page that runs the model in the browser, with transformers.js. Any server of files can serve it."""

import shutil
from pathlib import Path

from gpt_tf2.checkpoints.opened import OpenedModel
from gpt_tf2.errors import InputError
from gpt_tf2.exporting import onnx_file
from gpt_tf2.exporting.proof import LogitsOf
from gpt_tf2.storage.folders import new_folder

PAGE = Path(__file__).parent / "page"
PACKAGE, RUNTIME = "@huggingface/transformers", "onnxruntime-web"
# By precision, the build of the runtime: that for float32 can use a GPU, and the other is half as large.
BUILDS = {"float32": "ort-wasm-simd-threaded.asyncify", "int8": "ort-wasm-simd-threaded"}


def write(model: OpenedModel, output: Path, precision: str = "int8") -> None:
    """Writes a model with the page, and all that the page loads.

    The page is `index.html`. `model/` is the folder of `onnx_file.write`, and `lib/` holds transformers.js and the
    runtime, from the folder `node_modules` that npm made in the current folder or in one above it.

    Args:
        output: the folder, which must be empty or missing.
        precision: float32 or int8.

    Raises InputError if a package is missing, if the folder holds something, or if it cannot be written.

    Example:
        >>> write(open_model("models/124M"), Path("124M-web"))  # doctest: +SKIP
    """
    libraries = find_libraries(precision)
    with new_folder(output) as folder:
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
        (folder / "lib").mkdir()
        for name, source in libraries.items():
            shutil.copyfile(source, folder / "lib" / name)
        onnx_file.write(model, folder / "model", precision)


def find_libraries(precision: str) -> dict[str, Path]:
    """The files of the npm packages, by the names that the page loads them by.

    Raises InputError if they are not installed.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        package = folder / "node_modules" / PACKAGE
        inner, outer = package / "node_modules" / RUNTIME, folder / "node_modules" / RUNTIME  # as node looks for it
        runtime = (inner if inner.is_dir() else outer) / "dist"
        files = {
            "transformers.min.js": package / "dist" / "transformers.min.js",
            "ort.mjs": runtime / f"{BUILDS[precision]}.mjs",
            "ort.wasm": runtime / f"{BUILDS[precision]}.wasm",
            "LICENSE.txt": package / "LICENSE",
        }
        if all(file.is_file() for file in files.values()):
            return files
    raise InputError(f"needs {PACKAGE} 4: run npm install --ignore-scripts {PACKAGE} here", "format", "web")


def read_logits(output: Path) -> LogitsOf:
    """The model of a web folder, as the page loads it, in ONNX Runtime; see `onnx_file.read_logits`."""
    return onnx_file.read_logits(output / "model")

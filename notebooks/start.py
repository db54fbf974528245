# ---
# jupyter:
#   accelerator: GPU
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune GPT-2
#
# This notebook loads OpenAI's GPT-2, trains it on a text, and saves the result. With a GPU this takes minutes. Without
# one it works as well, but takes twenty minutes to an hour.
#
# The first cell installs gpt-tf2 if it is missing: from the checkout that this notebook lies in, or from the Git
# repository that `SOURCE` names. If neither is there, it asks. Then it prints where the model will run: in JAX on a
# GPU, in TensorFlow on a CPU.

# %%
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = ""  # the address of gpt-tf2's Git repository, with https://

if importlib.util.find_spec("gpt_tf2") is None:
    checkout = Path("..").resolve()
    if not SOURCE and not (checkout / "gpt_tf2").is_dir():
        SOURCE = input("Address of gpt-tf2's Git repository: ").strip()
    extra = "[gpu]" if shutil.which("nvidia-smi") else ""
    package = f"gpt-tf2{extra} @ " + (f"git+{SOURCE}" if SOURCE else checkout.as_uri())
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

import gpt_tf2
from gpt_tf2.backend.starting import start_backend

print(f"gpt-tf2 {gpt_tf2.__version__}: {start_backend()}")

# %% [markdown]
# Choose the model, and how long it trains: 124M, 355M, 774M or 1558M, for `EPOCHS × STEPS` steps of
# `BATCH_SIZE × LENGTH` tokens.

# %% tags=["parameters"]
MODEL = "124M"
EPOCHS = 8
STEPS = 25
BATCH_SIZE = 4
LENGTH = 512

# %% [markdown]
# ## Generate
#
# The first call downloads the weights, once. On a CPU it also converts them, which takes a minute or two, for each
# model. Continue a text with the model as OpenAI published it:

# %%
prompt = 'The "for" statement'
lm = gpt_tf2.load(MODEL)
before = lm.generate(prompt, max_new_tokens=80, top_p=0.9, seed=1, include_prompt=True)
print(before)

# %% [markdown]
# ## Fine-tune on a text
#
# The text is Python's language reference, which every Python brings along: a list of about 80 pages. Replace it with
# texts of your own, or give `finetune` the path of a file. A tenth is held out, and measured after every epoch.

# %%
import random
from pydoc_data.topics import topics

texts = [page.strip() for page in topics.values()]
random.Random(0).shuffle(texts)
print(f"{len(texts)} texts, {sum(map(len, texts)):,} characters")

# %%
result = gpt_tf2.finetune(
    texts,
    model=MODEL,
    epochs=EPOCHS,
    steps=STEPS,
    batch_size=BATCH_SIZE,
    length=LENGTH,
    val_fraction=0.1,
    sample_every=0,
    output="reference.h5",
)

# %% [markdown]
# The loss is in nats per token, and lower is better. Where the held-out loss rises again, the model learns the text by
# heart: train for fewer epochs.

# %%
import matplotlib.pyplot as plt

epochs = range(1, len(result.history["loss"]) + 1)
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.plot(epochs, result.history["loss"], marker="o", label="training")
axes.plot(epochs, result.history["val_loss"], marker="o", label="held out")
axes.set(xlabel="epoch", ylabel="loss, nats per token", title=f"{MODEL} on Python's language reference")
axes.legend()
plt.show()

# %% [markdown]
# The same prompt and the same seed, before and after:

# %%
lm = gpt_tf2.load(result.path)
after = lm.generate(prompt, max_new_tokens=80, top_p=0.9, seed=1, include_prompt=True)
print(f"BEFORE\n{before}\n\nAFTER\n{after}")

# %% [markdown]
# ## Summarize, with LoRA
#
# Training data can also be pairs of a prompt and its completion, and then the model learns to write the completion, and
# where to stop. With `lora_rank` only small adapters are trained and saved: a few megabytes, in less memory. The
# stories are made up, and the last one is not trained on.

# %%
import itertools

people = ["baker", "captain", "doctor", "miller", "painter", "teacher"]
deeds = ["found", "lost", "mended", "moved", "painted", "sold"]
things = ["bell", "boat", "bridge", "clock", "lantern", "statue"]
pairs = [
    (
        f"Fog lay over the harbor. At noon the {person} {deed} the {thing}, and all came to look.\nTL;DR:",
        f" The {person} {deed} the {thing}.",
    )
    for person, deed, thing in itertools.product(people, deeds, things)
]
random.Random(0).shuffle(pairs)
story, summary = pairs.pop()

result = gpt_tf2.finetune(
    pairs,
    model=MODEL,
    lora_rank=8,
    epochs=2,
    steps=STEPS,
    batch_size=BATCH_SIZE,
    length=LENGTH,
    sample_every=0,
    output="summaries.h5",
)
print(story)
print("expected: ", summary)
print("generated:", gpt_tf2.load(result.path).generate(story, max_new_tokens=30, temperature=0))

# %% [markdown]
# ## Save and download
#
# `save` writes the model in the format that the path names. A folder with `model.safetensors` opens in gpt-tf2 and in
# transformers. A hosted notebook forgets its files, so take them with you: this cell starts the download on Colab, and
# shows a link elsewhere.

# %%
folder = Path("output/gpt2-reference")
lm.save(folder / "model.safetensors")
archive = shutil.make_archive(str(folder), "zip", folder)
try:
    from google.colab import files
except ImportError:
    from IPython.display import FileLink, display

    display(FileLink(Path(archive).relative_to(Path.cwd())))
else:
    files.download(archive)

# %% [markdown]
# ## Go on
#
# - [Get started](../docs/start.md): the same on the command line
# - [How to](../docs/how-to.md): your own files, many prompts, little memory, several GPUs
# - [Choose size and settings](../docs/choosing.md): which model fits, how much text, when to stop
# - [Python](../docs/api.md): all of the API; callbacks, `fit`, loops of your own
# - [Troubleshooting](../docs/troubleshooting.md)

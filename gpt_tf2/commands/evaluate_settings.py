"""The settings of `evaluate`."""

import dataclasses

from gpt_tf2.commands.data_settings import COLUMN, DATA, ENCODING, HIGHLIGHTS, LITERAL_SPECIALS, TASK
from gpt_tf2.commands.flags import flag
from gpt_tf2.commands.model_settings import COUNT, ModelSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings(ModelSettings):
    """The settings of `evaluate.py`, named like its flags.

    Raises InputError for a value that is out of range.
    """

    data: str = flag(dataclasses.MISSING, **DATA)
    task: str = flag("text", **TASK)
    encoding: str | None = flag(None, **ENCODING)
    column: str | None = flag(None, **COLUMN)
    literal_specials: bool = flag(False, **LITERAL_SPECIALS)
    highlights: str | None = flag(
        None, **HIGHLIGHTS | {"help": f"{HIGHLIGHTS['help']} (as the model learned; else one)"}
    )
    split: str | None = flag(
        None, "train, val or test of jsonl and cnndm, train or dev of coqa (the last)", group="data"
    )
    limit: int | None = flag(None, "most examples to evaluate (all)", group="data", **COUNT)
    references: str | None = flag(
        None,
        "file to score against: for cnndm one line of <t> … </t> per story, for coqa a gold file (the data's own)",
        group="data",
        metavar="FILE",
    )
    num_trials: int = flag(
        1, "samples of a story that together make up its summary (2019: 3)", group="sampling", **COUNT
    )
    gold_answers: bool = flag(
        False, "put the data's answers into the context instead of the model's own", group="data", kind=bool
    )
    output: str | None = flag(
        None,
        "file for the predictions (output/MODEL_TASK_SPLIT.txt, .json for coqa)",
        also=("output_file",),
        group="output",
        metavar="FILE",
    )
    batch_size: int = flag(8, "sequences at a time", group="memory", **COUNT)
    seed: int = flag(0, "seed of the samples", group="sampling", kind=int, at_least=0)
    devices: int | None = flag(
        None,
        "devices to split the work over, with KERAS_BACKEND=jax (1, or all of several processes)",
        group="memory",
        **COUNT,
    )

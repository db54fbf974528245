"""`watch`: training runs in a browser."""

from pathlib import Path

from gpt_tf2.commands.server_settings import missing_package
from gpt_tf2.commands.watch_settings import OUTPUT, WatchSettings
from gpt_tf2.errors import InputError


def run_watch(settings: WatchSettings) -> None:
    """Shows runs on a page until SIGTERM or Ctrl-C. Prints the address once it answers.

    Raises InputError if an output or the address is bad, or a package is missing.
    """
    try:
        from gpt_tf2.serving.server import Server, describe_address, listen
        from gpt_tf2.watching.app import make_app
    except ModuleNotFoundError as error:
        raise missing_package(error, "watch") from None
    api_key, local = settings.find_key(), settings.check_address()
    outputs = [find_output(output) for output in settings.output]
    with listen(settings.host, settings.port) as listening:
        address = describe_address(listening)

        def announce() -> None:
            names = ", ".join(map(str, outputs))
            print(f"watching {names} at {address}{'' if local or api_key else ', for everyone'}", flush=True)

        Server(make_app(outputs, api_key, local), deadline=1, on_start=announce).run([listening])


def find_output(output: str) -> Path:
    """The path of an output: a name alone is one in `output/`, as in `finetune`, unless it is there.

    Raises InputError if there is no run, nor a folder in which one could begin, as `output/` always is.
    """
    from gpt_tf2.watching.run_folders import list_folders

    choices = [Path(output), OUTPUT / output] if Path(output).name == output else [Path(output)]
    chosen = next(filter(list_folders, choices), None) or next(filter(Path.is_dir, choices), None)
    if chosen is None and Path(output) != OUTPUT:
        raise InputError("no run: give the output of a fine-tuning, or a folder that holds several", "output", output)
    return chosen or OUTPUT

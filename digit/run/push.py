"""`digit push`: a model -> the Hugging Face hub, with its card."""

from pathlib import Path
from typing import Any

from digit.calls import checked
from digit.printing import put
from digit.run.options import Model, Name, Positional


@checked
def push(
    model: Positional[Model],
    name: Positional[Name],
    *,
    private: bool = False,
    revision: Name | None = None,
) -> dict[str, Any]:
    """Upload a model to the Hugging Face hub in one commit: its parts, a card, 16 pictures that it draws.

    The folder stays as it is, and nothing else that lies in it is uploaded. Results of `digit evaluate` in
    MODEL/results stand in the card; a README.md or grid.png there is taken as it is. The token is that of `hf
    auth login`. Afterwards OWNER/NAME, or OWNER/NAME@REVISION, is a model to all verbs.

    Example: digit push runs/model me/my-model --private

    Args:
        model: a folder of `digit compose`, or a bundled model's name.
        name: of the repository, as OWNER/NAME; it is made if it is not there.
        private: make it one that only its owner sees; one that is there stays as it is.
        revision: a branch to upload to, made if it is not there; main if left out.
    """
    from digit.pipeline import DigitPipeline
    from digit.progress import say
    from digit.weights.model_folder import locate
    from digit.weights.push import push_folder, sheet

    folder = locate(model)

    def draw() -> Any:
        say("drawing 16 pictures for the card")
        return sheet(DigitPipeline.from_pretrained(folder))

    address = push_folder(Path(folder), name, private=private, revision=revision, draw=draw)
    put(f"uploaded: {address}")
    return {"model": folder, "name": name, "revision": revision or "main", "commit": address}

"""`digit info`: what a folder or file of digit's is, what it was made from, and how large it is."""

from typing import Any

from digit.calls import checked
from digit.run.options import Name, Positional
from digit.run.table import print_table


@checked
def info(path: Positional[Name | None] = None) -> dict[str, Any]:
    """Describe an artifact, a model, a tokenised data set, a training's folder, samples or a result file.

    Example: digit info runs/prior
    Example: digit info samples

    Args:
        path: a folder, a bundled model's name or a JSON file; the bundled model if left out.
    """
    from digit.run.contents import contents

    found = contents(None if path is None else str(path))
    for table in found.tables:
        print_table(table.title, table.columns, table.rows)
    return found.record

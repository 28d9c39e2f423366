"""Lineage: whether stages and codes that meet were made with each other."""

from collections.abc import Mapping

from digit.errors import LineageError


def check_lineage(who: str, made_with: Mapping[str, str], other: str, ids: Mapping[str, str]) -> None:
    """LineageError where `who` and `other` name different artifacts of one kind.

    Both mappings are ids by kind, such as {"tokenizer": id}. A kind that only one of them names is no
    contradiction: a converted stage may not know what it was made with.
    """
    for kind, identity in made_with.items():
        if ids.get(kind, identity) != identity:
            raise LineageError(
                f"{who} belongs to the {kind} {identity[:12]}, {other} to {ids[kind][:12]}: use stages and "
                f"codes of one {kind}"
            )

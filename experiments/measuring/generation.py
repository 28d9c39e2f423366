"""Sweeps and their best settings -> the page's sections on generation (tables 3 and 4, figure 6)."""

from measuring.found import Found, Row, at_edge, values_of
from measuring.plan import KINDS, SYSTEMS
from measuring.scale import CLASS, FREE
from measuring.words import ahead, listed, number, picture, setting, table

ASKED = {FREE: 0.25, CLASS: 0.10}  # how far ahead of VQ codes alone the project wanted to be
RIVALS = {"vq": "same size and steps", "vq_compute": "same compute"}
PLAIN = ", no guidance"


def generation(found: Found) -> list[str]:
    """Best settings, how far ahead, and what the settings do."""
    lines = _winners(found)
    return [*lines, *_margins(found), *_settings(found)]


def margin(found: Found, way: str, by: str, rival: str) -> float | None:
    """How far DiGIT is ahead (a share) of a rival, each at its own best; its better renderer counts."""
    best = [w for w in (found.winner(system, way, by) for system in ("digit", "masked")) if w]
    theirs = found.winner(rival, way, by)
    distance = by.removesuffix(PLAIN)
    if not best or theirs is None:
        return None
    return 1 - min(row["values"][distance] for row in best) / theirs["values"][distance]


def _winners(found: Found) -> list[str]:
    lines: list[str] = []
    first = next((r for n, r in found.results.items() if n.startswith("winners-")), None)
    if first is None:
        return []
    lines += [
        "### Best settings of each system (tables 3 and 4)",
        "",
        (
            f"{first['counts']['samples']:,} pictures each, against the {first['counts']['reference']:,} test"
            f" pictures, drawn with seeds from {first['seed']:,} on, which chose no setting; each setting is"
            " the best of that system's sweep by the distance named first. Distances of all networks and"
            " both winners are shown, so that a setting that flatters one network shows on the other."
        ),
        "",
    ]
    for way, title in KINDS.items():
        ways = [by + more for more in ("", PLAIN) for by in found.distances]
        rows = []
        for by in ways:
            for system, name in SYSTEMS.items():
                row = found.winner(system, way, by)
                if row is not None:
                    rows.append(
                        [by.removeprefix("FD-").split("-")[0] + _plain(by), name, *_cells(found, row)]
                    )
        if rows:
            one, other = (name.split("-")[0] for name in found.networks)
            head = [
                "best by",
                "",
                f"FD-{one}",
                f"FD-{other}",
                "IS",
                "precision",
                "recall",
                "class recognised",
            ]
            lines += [f"**{title[0].upper()}{title[1:]}**", "", *table([*head, "setting"], rows)]
    return lines


def _plain(by: str) -> str:
    return PLAIN if by.endswith(PLAIN) else ""


def _cells(found: Found, row: Row) -> list[str]:
    values, first = row["values"], found.networks[0]
    names = [*found.distances, *(f"{kind}-{first}" for kind in ("IS", "precision", "recall"))]
    accuracy = values.get(f"class accuracy-{first}")
    return [
        *(number(values.get(name)) for name in names),
        "" if accuracy is None else f"{accuracy:.1%}",
        setting(row["setting"]),
    ]


def _margins(found: Found) -> list[str]:
    rows = []
    for way, title in KINDS.items():
        for by in [by + more for more in ("", PLAIN) for by in found.distances]:
            margins = [margin(found, way, by, rival) for rival in RIVALS]
            if any(m is not None for m in margins):
                words = ["" if m is None else ahead(1 - m, 1.0) for m in margins]
                known = [m for m in margins if m is not None]
                met = "met" if min(known) >= ASKED[way] else "**not met**"
                rows.append([title, by, *words, f"{ASKED[way]:.0%}", met])
    if not rows:
        return []
    head = ["", "by", *(f"against VQ codes, {name}" for name in RIVALS.values()), "asked", ""]
    return [
        (
            "How far DiGIT, with its better renderer, is ahead of VQ codes alone; each at its own best"
            " setting by the same distance:"
        ),
        "",
        *table(head, rows),
    ]


def _settings(found: Found) -> list[str]:
    lines: list[str] = []
    sweeps = {(s, w): found.rows(s, w) for w in KINDS for s in SYSTEMS if found.rows(s, w)}
    if not sweeps:
        return []
    cells = sum(map(len, sweeps.values()))
    pictures = next(r for n, r in found.results.items() if n.startswith("sweep-"))["counts"]["samples"]
    lines += [
        "### What sampling settings do (figure 6)",
        "",
        (
            f"{cells} cells of {pictures:,} pictures. Paper: FID and IS against top-k and top-p of the base"
            " prior at temperature 1, and top-p of the renderer, as plots without numbers."
        ),
        "",
    ]
    rows = []
    for (system, way), cells_of in sweeps.items():
        for distance in found.distances:
            best = min(cells_of, key=lambda row: row["values"][distance])
            worst = max(cells_of, key=lambda row: row["values"][distance])
            edge = [axis.replace("_", " ").replace("top ", "top-") for axis in at_edge(cells_of, best)]
            figures = [number(row["values"][distance]) for row in (best, worst)]
            rows.append(
                [KINDS[way], SYSTEMS[system], distance, *figures, setting(best["setting"]), listed(edge)]
            )
    lines += table(["", "", "distance", "best", "worst", "best setting", "at the grid's edge"], rows)
    open_ends = sum(row[-1] != "none" for row in rows)
    lines += [
        (
            "In every case the best cell lies inside the grid."
            if not open_ends
            else f"In {open_ends} of {len(rows)} cases the best cell still lies at an edge of the grid, so a"
            " setting beyond it may be better there."
        ),
        "",
    ]
    if found.rows("digit", FREE) or found.rows("vq", FREE):
        lines += picture("sweep-free.png", "distances over top-k and top-p")
    if len(values_of(found.rows("digit", FREE), "renderer_top_p")) > 1:
        lines += picture("sweep-renderer.png", "distances over top-p of prior and renderer")
    if any(way == CLASS for _, way in sweeps):
        lines += picture("sweep-class.png", "distances over guidance and top-p")
    lines += picture("sweep-pareto.png", "distance against inception score of every cell")
    return lines

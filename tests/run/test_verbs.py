"""The table of verbs: every place holds a function, every page names each verb once."""

import inspect

from digit.run.verbs import (
    GROUPS,
    OLD_OPTIONS,
    OLD_VERBS,
    VERBS,
    group_page,
    members,
    nearest,
    overview,
    renamed,
)


def test_every_verb_is_a_documented_function_with_a_short_summary():
    for name, verb in VERBS.items():
        assert inspect.isfunction(verb.function()) and verb.function().__doc__, name
        assert len(verb.summary) <= 53, name
    assert sum(map(len, GROUPS.values())) == len(VERBS)


def test_pages_are_a_screen_and_name_all():
    lines = overview().splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert all(sum(line.startswith(f"  {name}  ") for line in lines) == 1 for name in VERBS)
    for group in ("train", "evaluate"):
        page = group_page(group)
        assert members(group) and all(name in page for name in members(group))
        assert max(map(len, page.splitlines())) <= 80


def test_old_names_lead_to_verbs_that_exist():
    assert all(" ".join(new.split()[:2]) in VERBS for new in OLD_VERBS.values())
    assert all(not verb or verb in VERBS for verb, _ in OLD_OPTIONS)
    assert renamed("evaluate stability", "--limit") == "--limit is now --num"
    assert renamed("sample", "--num") is None


def test_a_near_word_is_named_and_a_far_one_is_not():
    assert "sample" in nearest("smaple", list(VERBS))
    assert not nearest("qqqq", list(VERBS))

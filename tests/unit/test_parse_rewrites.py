"""Which rewrite rules Go would take, and which leave every name as it is."""

from __future__ import annotations

import pytest

from agent.parse.go_regexp import RewriteChecker, is_noop


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("^system/deckhouse", "repo/deckhouse/ee"),
        ("^test/(.+)", "other/${1}/svc"),
        ("^test/(.+)", "other/$1/svc"),
        ("(.*)", "$0"),
        ("(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)", "$10-${10}"),
        ("(?P<team>[a-z]+)/", "$team/${team}/"),
        ("a", ""),
        ("", "a"),
        ("a", "$$"),
        ("a", "$$1"),
        ("(a)", "$$$1"),
        ("(?i)SYSTEM", "x"),
        ("(?:a|b)+?", "x"),
        (r"\bé\d\pL\x{10FFFF}\z", "x"),
        (r"\Qa.b\E", "x"),
        ("[[:alpha:]]{2,3}", "x"),
        (r"\\C", "x"),
        ("a{1000}", "x"),
        ("é🔑", "🔑"),
        ("(?P<n>a)(?P<n>b)", "$n"),
    ],
)
def test_a_rule_that_go_takes_is_accepted(pattern: str, replacement: str) -> None:
    """RE2 syntax in `from`, Go's template in `to`."""
    assert (None, None) == RewriteChecker().problems(pattern, replacement)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)",
        "(?!a)",
        "(?<=a)b",
        "(?<!a)b",
        "(?>a)",
        r"(a)\1",
        r"(?P<n>a)(?P=n)",
        r"\C",
        r"a\Cb",
        r"\\\C",
        "(",
        ")",
        "[",
        "[z-a]",
        "a{2,1}",
        "a{1001}",
        "*",
        "a**",
        "+a",
        "(?z)",
        r"\8",
        r"\p{Unknown}",
        "\\",
        "((a{100}){100}){100}",
    ],
)
def test_a_pattern_that_go_refuses_is_refused(pattern: str) -> None:
    """A regexp that does not compile makes containerd drop the whole hosts.toml."""
    bad_pattern, bad_replacement = RewriteChecker().problems(pattern, "x")
    assert bad_pattern is not None
    assert "RE2" in bad_pattern
    assert bad_replacement is None


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("a", "$1"),
        ("(a)", "$2"),
        ("(a)", "${2}"),
        ("(a)", "$1x"),
        ("(a)", "$1_x"),
        ("(a)", "${1"),
        ("(a)", "${}"),
        ("(a)", "${1 }"),
        ("(a)", "${-1}"),
        ("(a)", "$01"),
        ("(a)", "$"),
        ("(a)", "a$"),
        ("(a)", "$ 1"),
        ("(a)", "$-"),
        ("(a)", "$$$"),
        ("(?P<team>a)", "$teams"),
        ("(?P<team>a)", "$Team"),
        ("(a)", r"\$1x$"),
    ],
)
def test_a_replacement_with_a_bad_reference_is_refused(pattern: str, replacement: str) -> None:
    """Go would put nothing, or the raw `$`, where the writer meant a group."""
    bad_pattern, bad_replacement = RewriteChecker().problems(pattern, replacement)
    assert bad_pattern is None
    assert bad_replacement is not None


def test_text_that_is_no_utf8_is_no_rule() -> None:
    """A lone surrogate is refused, not a crash in the regexp library."""
    assert RewriteChecker().problems("\ud800", "x")[0] is not None


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("^(.*)$", "$1"),
        ("(.*)", "${1}"),
        ("(.+)", "$0"),
        ("^(.+)", "${0}"),
        ("^system/deckhouse", "system/deckhouse"),
        ("^a$", "a"),
        ("a", "a"),
        ("", ""),
        ("^", ""),
    ],
)
def test_a_rule_that_changes_nothing_is_recognised(pattern: str, replacement: str) -> None:
    """Stock containerd may be given a config whose rewrites are for show."""
    assert is_noop(pattern, replacement)


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("^(.*)$", "x/$1"),
        ("^(.*)$", "$1/"),
        ("(.*)", "$$1"),
        ("a", "b"),
        ("", "a"),
        ("a", ""),
        ("a.c", "a.c"),
        ("a+", "a+"),
        ("(a)", "a"),
        ("(?i)a", "a"),
        ("^a", "^a"),
        ("a$", "a$"),
    ],
)
def test_a_rule_that_might_change_a_name_is_no_noop(pattern: str, replacement: str) -> None:
    """Only what is provably the identity counts."""
    assert not is_noop(pattern, replacement)

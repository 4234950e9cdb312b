"""Promises of `penstock.names`; numbers are rows of the specification."""

from __future__ import annotations

import datetime
import functools
import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.exceptions import DefinitionError, HookSignatureError, NameTemplateError
from penstock.names import (
    ADJECTIVES,
    ANIMALS,
    RunName,
    check_name,
    compile_run_name,
    flow_name_of,
    slug,
    task_key,
    task_name_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def get_repo_info() -> None:
    pass


class GreetEverybody:
    def __call__(self) -> None:
        pass

    def by_name(self) -> None:
        pass


def compiled(
    template: str | Callable[..., str], *names: str, takes_any_keyword: bool = False
) -> RunName:
    return compile_run_name(template, names, takes_any_keyword, "task 'fetch'")


# --- made-up names ----------------------------------------------------------------------


def test_seed_021_a_slug_is_an_adjective_and_an_animal() -> None:
    adjective, animal = slug().split("-")
    assert adjective in ADJECTIVES
    assert animal in ANIMALS
    assert "great" in ADJECTIVES
    assert "ammonite" in ANIMALS


def test_seed_021_slugs_are_made_of_many_plain_distinct_words() -> None:
    for words, at_least in ((ADJECTIVES, 120), (ANIMALS, 150)):
        assert len(words) == len(set(words)) >= at_least
        assert all(re.fullmatch("[a-z]+", word) for word in words)


def test_a_slug_is_repeated_only_by_the_generator_it_was_drawn_from() -> None:
    assert slug(random.Random(7)) == slug(random.Random(7))


def test_a_slug_leaves_the_users_random_numbers_alone() -> None:
    before = random.getstate()
    slug()
    assert random.getstate() == before


def test_seed_039_a_task_key_is_the_name_and_a_hash() -> None:
    key = task_key("get_url", "pages.get_url", ["slow"])
    assert re.fullmatch("get_url-[0-9a-f]{16}", key)


def test_seed_039_a_task_key_is_the_same_in_every_process() -> None:
    program = "from penstock.names import task_key; print(task_key('x', 'm.x', {'b', 'a', 'c'}))"
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == task_key("x", "m.x", {"a", "b", "c"})


def test_seed_039_a_task_key_never_changes_between_versions() -> None:
    assert task_key("x", "m.x", ["b", "a"]) == "x-e81b8b4c25c0fe98"


@given(st.lists(st.text()), st.randoms())
def test_seed_039_a_task_key_takes_tags_as_a_set(tags: list[str], rng: random.Random) -> None:
    shuffled = tags + tags[:2]
    rng.shuffle(shuffled)
    assert task_key("x", "m.x", shuffled) == task_key("x", "m.x", tags)


KEY_PARTS = st.tuples(st.text("ab:1-", max_size=3), st.text("ab:1-", max_size=3)).flatmap(
    lambda names: st.tuples(
        st.just(names[0]), st.just(names[1]), st.frozensets(st.text("ab:1-", max_size=3))
    )
)


@given(KEY_PARTS, KEY_PARTS)
def test_seed_039_task_keys_differ_whenever_their_parts_do(
    one: tuple[str, str, frozenset[str]], other: tuple[str, str, frozenset[str]]
) -> None:
    assert (task_key(*one) == task_key(*other)) == (one == other)


# --- names from functions ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "flow_name"),
    [
        (get_repo_info, "get-repo-info"),
        (lambda: None, "unknown-lambda"),
        (GreetEverybody(), "GreetEverybody"),
        (GreetEverybody().by_name, "by-name"),
        (functools.partial(get_repo_info), "get-repo-info"),
        (functools.partial(lambda: None), "unknown-lambda"),
    ],
)
def test_seed_022_a_flow_is_named_after_its_function_with_dashes(
    fn: Callable[..., Any], flow_name: str
) -> None:
    assert flow_name_of(fn) == flow_name
    assert check_name(flow_name, "flow") == flow_name


@pytest.mark.parametrize(
    ("fn", "task_name"),
    [
        (get_repo_info, "get_repo_info"),
        (GreetEverybody(), "GreetEverybody"),
        (GreetEverybody, "GreetEverybody"),
        (len, "len"),
        ("abc".upper, "upper"),
        (functools.partial(get_repo_info), "get_repo_info"),
        (functools.partial(functools.partial(GreetEverybody())), "GreetEverybody"),
        (staticmethod(get_repo_info), "get_repo_info"),
    ],
)
def test_seed_040_042_a_task_is_named_after_almost_any_callable(
    fn: Callable[..., Any], task_name: str
) -> None:
    assert task_name_of(fn) == task_name


# --- names from the user ----------------------------------------------------------------


@pytest.mark.parametrize("character", "/%&><")
def test_seed_022_a_flow_name_with_a_banned_character_is_refused(character: str) -> None:
    name = f"to{character}fro"
    with pytest.raises(DefinitionError, match=re.escape(f"{name!r} has {character} in it")):
        check_name(name, "flow")
    assert check_name(name, "task") == name


@pytest.mark.parametrize("name", ["", "  ", None, 3, b"bytes", get_repo_info])
@pytest.mark.parametrize("kind", ["flow", "task"])
def test_a_name_that_is_no_text_or_blank_is_refused(name: object, kind: str) -> None:
    with pytest.raises(DefinitionError, match=f"name of a {kind} must"):
        check_name(name, kind)


def test_seed_091_a_template_is_filled_in_with_the_parameters() -> None:
    run_name = compiled("hello-{name}-on-{date:%A}", "name", "date")
    assert run_name({"name": "marvin", "date": datetime.date(2026, 1, 5)}) == (
        "hello-marvin-on-Monday"
    )


def test_seed_091_a_template_may_look_into_parameters_and_nest_fields() -> None:
    run_name = compiled("{day.year}/{row[id]!r:>{width}} {{}}", "day", "row", "width")
    parameters = {"day": datetime.date(2026, 1, 5), "row": {"id": "x"}, "width": 5}
    assert run_name(parameters) == "2026/  'x' {}"


@pytest.mark.parametrize(
    "template",
    ["{other}", "{other.name}", "{other[0]}", "{name:{other}}", "{ name}", "{name:{other!r}}"],
)
def test_seed_091_a_field_that_is_no_parameter_is_refused_at_definition(template: str) -> None:
    field = " name" if "other" not in template else "other"
    with pytest.raises(NameTemplateError) as caught:
        compiled(template, "name", "limit")
    text = str(caught.value)
    assert f"asks for {{{field}}}" in text
    assert "task 'fetch'" in text
    assert "Parameters: name, limit." in text


@pytest.mark.parametrize("template", ["{}", "{0}", "{name}-{}", "{0.name}", "{name:{}}"])
def test_a_field_by_position_is_refused_at_definition(template: str) -> None:
    with pytest.raises(NameTemplateError, match="field by position"):
        compiled(template, "name", takes_any_keyword=True)


@pytest.mark.parametrize("template", ["{", "}", "{name", "{name!x}", "{name.}", "{name[}", "{{}"])
def test_a_malformed_template_is_refused_at_definition(template: str) -> None:
    with pytest.raises(NameTemplateError, match="is not a format string") as caught:
        compiled(template, "name")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_field_of_any_name_is_left_to_the_run_where_keywords_are_free() -> None:
    run_name = compiled("{anything}", takes_any_keyword=True)
    assert run_name({"anything": 1}) == "1"
    with pytest.raises(NameTemplateError, match="KeyError: 'anything'"):
        run_name({})


def test_seed_091_a_value_that_cannot_be_formatted_names_owner_template_and_cause() -> None:
    run_name = compiled("page-{page:03d}", "page")
    with pytest.raises(NameTemplateError) as caught:
        run_name({"page": "seven"})
    text = str(caught.value)
    assert "task 'fetch'" in text
    assert "'page-{page:03d}'" in text
    assert "ValueError: Unknown format code" in text
    assert isinstance(caught.value.__cause__, ValueError)


def test_any_exception_of_a_values_own_formatting_is_chained() -> None:
    class Grumpy:
        def __format__(self, spec: str) -> str:
            raise ZeroDivisionError("no")

    with pytest.raises(NameTemplateError) as caught:
        compiled("{it}", "it")({"it": Grumpy()})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class Pliable:
    """A value that goes along with everything a template may ask of it."""

    def __getattr__(self, name: str) -> Pliable:
        return self

    def __getitem__(self, key: object) -> Pliable:
        return self

    def __format__(self, spec: str) -> str:
        return ""


class PliableMapping(dict[str, Any]):
    def __missing__(self, key: str) -> Pliable:
        return Pliable()


@given(st.text("{}ab.[]:!r0", max_size=12))
def test_a_template_passes_at_definition_just_when_str_format_would_take_it(template: str) -> None:
    try:
        template.format_map(PliableMapping())
        usable = True
    except ValueError:
        usable = False
    try:
        run_name = compiled(template, takes_any_keyword=True)
        accepted = True
    except NameTemplateError:
        accepted = False
    assert accepted == usable
    if accepted:
        run_name(PliableMapping())


def test_seed_092_a_naming_function_may_take_nothing() -> None:
    assert compiled(lambda: "great-day", "name")({"name": 1}) == "great-day"


def test_seed_092_096_a_naming_function_that_asks_for_parameters_gets_them_all() -> None:
    def generate_task_name(parameters: Mapping[str, Any]) -> str:
        return f"{parameters['name']}-and-{parameters['limit']}"

    given_parameters = {"name": "marvin", "limit": 100}
    assert compiled(generate_task_name)(given_parameters) == "marvin-and-100"


def keyword_only(*, parameters: Mapping[str, Any]) -> str:
    return f"{len(parameters)}"


def any_keyword(**kwargs: Any) -> str:
    return f"{len(kwargs['parameters'])}"


def with_default(prefix: str = "n", parameters: Mapping[str, Any] | None = None) -> str:
    return f"{prefix}{len(parameters or {})}"


class Namer:
    def __call__(self, parameters: Mapping[str, Any]) -> str:
        return f"{len(parameters)}"


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (keyword_only, "2"),
        (any_keyword, "2"),
        (with_default, "n2"),
        (functools.partial(with_default, "p"), "p2"),
        (Namer(), "2"),
        (Namer().__call__, "2"),
        (str, ""),
        ("fixed".upper, "FIXED"),
    ],
)
def test_seed_092_any_callable_can_make_names(fn: Callable[..., str], name: str) -> None:
    assert compiled(fn)({"a": 1, "b": 2}) == name


def needs_a_run(run: object) -> str:
    return ""


def needs_parameters_by_position(parameters: object, /) -> str:
    return ""


def needs_more_than_parameters(parameters: object, run: object) -> str:
    return ""


@pytest.mark.parametrize(
    "fn", [needs_a_run, needs_parameters_by_position, needs_more_than_parameters]
)
def test_a_naming_function_that_can_never_be_called_is_refused_at_definition(
    fn: Callable[..., str],
) -> None:
    with pytest.raises(HookSignatureError, match="may take nothing, or `parameters`") as caught:
        compiled(fn)
    assert fn.__name__ in str(caught.value)


def test_seed_092_a_naming_function_must_return_a_text() -> None:
    run_name = compiled(lambda: 5)  # type: ignore[arg-type,return-value]  # on purpose
    with pytest.raises(TypeError, match=r"of task 'fetch' must return a str; it returned 5 \(int"):
        run_name({})


def test_a_naming_functions_own_exception_comes_through_as_it_is() -> None:
    error = LookupError("no such day")

    def fails() -> str:
        raise error

    with pytest.raises(LookupError) as caught:
        compiled(fails)({})
    assert caught.value is error


def test_a_run_name_that_is_neither_text_nor_function_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be a str or a function, not 5"):
        compiled(5)  # type: ignore[arg-type]  # on purpose

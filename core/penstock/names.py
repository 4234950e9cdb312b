"""The names of flows, tasks and runs: where they come from and what they may be.

Three kinds of name meet here: those taken from a function (`flow_name_of`, `task_name_of`), those
written by the user (`check_name`, `compile_run_name`), and those made up (`slug`, `task_key`).
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import random
import string
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from penstock.exceptions import DefinitionError, HookSignatureError, NameTemplateError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = [
    "RunName",
    "check_name",
    "compile_run_name",
    "flow_name_of",
    "slug",
    "task_key",
    "task_name_of",
]

RunName: TypeAlias = Callable[[Mapping[str, Any]], str]
"""Gives the name of a run from its parameters."""

# Flow names become parts of paths and addresses; these characters would not survive there.
BANNED_IN_FLOW_NAMES: Final = "/%&><"

# --- made-up names ----------------------------------------------------------------------

# As running text: a list of quoted words would fill pages.
ADJECTIVES: Final = tuple(
    """
    able agile alert amber ample apt astute balmy blithe bold brave breezy bright brisk bubbly
    calm candid careful cheerful chirpy civil clear clever cosy cordial crisp curious dapper daring
    dashing deft diligent droll eager earnest elated elegant exotic fabled fair famous fearless
    festive fleet fluent fond frank free fresh friendly gallant gentle genial gifted glad gleaming
    glowing golden good graceful grand great handy happy hardy hearty helpful honest hopeful humble
    jaunty jolly jovial joyful keen kind lively loyal lucid lucky lunar mellow merry mighty mild
    modest neat nimble noble patient peaceful placid plucky polite prompt proud quick quiet radiant
    ready robust rosy serene shiny silver smart snug solar sprightly steady sterling stout sunny
    swift tactful tender thrifty tidy tranquil true upbeat valiant vivid warm watchful wise witty
    zesty
    """.split()  # noqa: SIM905
)

ANIMALS: Final = tuple(
    """
    aardvark albatross alpaca ammonite angelfish anteater antelope archaeopteryx armadillo auk
    avocet axolotl badger barnacle barracuda basilisk beaver belemnite bison bittern blackbird
    bobcat bonobo bream brontosaurus bullfinch bumblebee bunting buzzard capybara caribou cassowary
    chaffinch chameleon cheetah chinchilla chipmunk cicada clam coelacanth condor conure coral
    cormorant crane crinoid cuckoo curlew cuttlefish dachshund damselfly dolphin dormouse dove
    dragonfly dugong dunlin eagle echidna egret eider elk ermine falcon fennec ferret finch firefly
    flamingo gannet gazelle gecko gerbil gibbon giraffe goldfinch goshawk grebe greyhound grouse
    guanaco guillemot gurnard hare hedgehog heron hoopoe hornbill hummingbird ibex ibis iguana
    iguanodon impala jackdaw jaguar jerboa kestrel kingfisher kite kiwi koala kudu ladybird
    lapwing lark lemur leopard linnet llama lobster loris lynx macaw magpie mammoth manatee mantis
    marmot marten mastodon meerkat merlin moose narwhal nautilus newt nightingale numbat ocelot
    octopus okapi oriole osprey otter owl panda pangolin partridge pelican penguin petrel
    pheasant plesiosaur plover porcupine puffin quail quokka raven robin salmon seahorse skylark
    sparrow starfish stegosaurus stork swallow swan tamarin tapir tern thrush toucan triceratops
    trilobite trout turtle urchin viscacha wagtail wallaby walrus wombat woodpecker wren yak zebra
    """.split()  # noqa: SIM905
)

# Its own source, and not the `random` module's: a user's `random.seed(1)` must neither repeat run
# names nor be moved on by them, and two forked processes must not make up the same ones.
_OWN_RNG: Final = random.SystemRandom()


def slug(rng: random.Random | None = None) -> str:
    """Return a made-up name for a run, such as `great-ammonite`; not guaranteed to be unique."""
    source = _OWN_RNG if rng is None else rng
    return f"{source.choice(ADJECTIVES)}-{source.choice(ANIMALS)}"


def task_key(name: str, qualified_name: str, tags: Iterable[str]) -> str:
    """Return the text that identifies a task across runs and processes.

    It depends on nothing but the three arguments: editing the function, or moving it within its
    module, keeps the key.

    Args:
        name: The task's name; it also leads the key, for readers.
        qualified_name: Module and `__qualname__` of the function.
        tags: In any order; one that is repeated counts once.
    """
    digest = hashlib.blake2b()
    for part in (name, qualified_name, *sorted(set(tags))):
        # Each part after its length, so that no two lists of parts give the same bytes.
        text = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:%b" % (len(text), text))
    return f"{name}-{digest.hexdigest()[:16]}"


# --- names from functions ---------------------------------------------------------------


def task_name_of(fn: Callable[..., Any]) -> str:
    """Return the name a task takes from its function, as it is written: `get_url`.

    A `functools.partial` goes by the function inside, any other callable object by its class.
    """
    inner: object = fn
    while isinstance(inner, functools.partial):
        inner = inner.func  # pyright: ignore[reportUnknownVariableType]  # partial of anything
    name: object = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__name__


def flow_name_of(fn: Callable[..., Any]) -> str:
    """Return the name a flow takes from its function, with dashes: `get-repo-info`."""
    name = task_name_of(fn)
    return "unknown-lambda" if name == "<lambda>" else name.replace("_", "-")


# --- names from the user ----------------------------------------------------------------


def check_name(name: object, kind: str) -> str:
    """Return `name` when a thing of that kind can be called so.

    Args:
        name: What the user gave.
        kind: `"flow"`, `"task"`...; names the thing in the message, and flows are stricter.

    Raises:
        DefinitionError: It is not a text, or blank, or has a character that flows may not have.
    """
    if not isinstance(name, str):
        raise DefinitionError(
            f"The name of a {kind} must be a str, not {name!r} ({type(name).__name__})."
        )
    if not name.strip():
        raise DefinitionError(
            f"The name of a {kind} must not be empty; leave it out to use the function's name."
        )
    if kind == "flow":
        found = [character for character in BANNED_IN_FLOW_NAMES if character in name]
        if found:
            raise DefinitionError(
                f"The flow name {name!r} has {' '.join(found)} in it; none of "
                f"{' '.join(BANNED_IN_FLOW_NAMES)} may be in a flow's name."
            )
    return str.__str__(name)  # a plain one, also of an enum, as no other travels


def compile_run_name(
    template: str | Callable[..., str],
    parameter_names: Collection[str],
    takes_any_keyword: bool,
    owner: str,
) -> RunName:
    """Check a run-name template or naming function, and return what makes names with it.

    What can be known when the task is defined is refused then. The rest shows on a run: a value
    that cannot be formatted raises `NameTemplateError`, a naming function that returns something
    else than a str raises `TypeError`, and its own exceptions come through as they are.

        >>> name = compile_run_name("fetch-{page:03d}", ["page"], False, "task 'fetch'")
        >>> name({"page": 7})
        'fetch-007'

    Args:
        template: Text for `str.format` with the parameters as keywords, or a function that is
            called with nothing, or with `parameters=` if it takes that.
        parameter_names: What the fields of the template may start with.
        takes_any_keyword: The function has `**kwargs`, so that any name may come.
        owner: For messages, such as `"task 'fetch'"`.

    Raises:
        NameTemplateError: The template is malformed, or asks for what is not a parameter.
        HookSignatureError: The naming function needs other arguments.
    """
    if isinstance(template, str):
        allowed = None if takes_any_keyword else parameter_names
        return _template_run_name(template, allowed, parameter_names, owner)
    return _called_run_name(template, owner)


def _template_run_name(
    template: str, allowed: Collection[str] | None, parameter_names: Collection[str], owner: str
) -> RunName:
    listed = ", ".join(parameter_names) or "none"
    try:
        _DryRun(allowed).format(template)
    except _UnusableField as error:
        raise NameTemplateError(
            f"The run name {template!r} of {owner} {error}. Parameters: {listed}."
        ) from None
    except ValueError as error:
        raise NameTemplateError(
            f"The run name {template!r} of {owner} is not a format string: {error}. "
            f"Parameters: {listed}; a literal brace is written twice."
        ) from error

    def run_name(parameters: Mapping[str, Any]) -> str:
        try:
            return template.format_map(parameters)
        except Exception as error:
            raise NameTemplateError(
                f"The run name {template!r} of {owner} could not be filled in: "
                f"{type(error).__name__}: {error}"
            ) from error

    return run_name


class _UnusableField(Exception):
    """A field of a template that no parameter can fill; the text says which and why."""


class _Anything:
    """Stands in for a parameter's value: has every attribute and every item."""

    def __getattribute__(self, name: str) -> _Anything:
        return self

    def __getitem__(self, key: object) -> _Anything:
        return self


class _DryRun(string.Formatter):
    """Goes through a template as `str.format` will, with no values yet, and checks its fields.

    A dry run rather than a parser of our own: nested fields, conversions and malformed look-ups
    are then found by the rules that will hold on the day.
    """

    def __init__(self, allowed: Collection[str] | None) -> None:
        self.allowed = allowed

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ARG002
        if isinstance(key, int):
            raise _UnusableField(
                f"has a field by position, {{}} or {{{key}}}; parameters are filled in by name"
            )
        if self.allowed is not None and key not in self.allowed:
            raise _UnusableField(f"asks for {{{key}}}, which is not a parameter")
        return _Anything()

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        super().convert_field("", conversion)  # refuses all but !r, !s and !a
        return value

    def format_field(self, value: Any, format_spec: str) -> str:  # noqa: ARG002
        return ""  # whether a value takes this format depends on the value


def _called_run_name(fn: Callable[..., str], owner: str) -> RunName:
    wants_parameters = _wants_parameters(fn, owner)

    def run_name(parameters: Mapping[str, Any]) -> str:
        name: object = fn(parameters=parameters) if wants_parameters else fn()
        if not isinstance(name, str):
            raise TypeError(
                f"The naming function {task_name_of(fn)} of {owner} must return a str; "
                f"it returned {name!r} ({type(name).__name__})."
            )
        return name

    return run_name


def _wants_parameters(fn: object, owner: str) -> bool:
    if not callable(fn):
        raise DefinitionError(
            f"The run name of {owner} must be a str or a function, not {fn!r} "
            f"({type(fn).__name__})."
        )
    try:
        signature = inspect.signature(fn)
    except (ValueError, TypeError):
        return False  # some builtins do not say what they take
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    wants = any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD
        or (parameter.name == "parameters" and parameter.kind in by_name)
        for parameter in signature.parameters.values()
    )
    try:
        signature.bind(**({"parameters": {}} if wants else {}))
    except TypeError as error:
        raise HookSignatureError(
            f"The naming function {task_name_of(fn)}{signature} of {owner} cannot be called: "
            f"{error}. It may take nothing, or `parameters`."
        ) from None
    return wants

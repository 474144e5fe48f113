"""Type dispatch: the nearest type wins, and why is never a riddle."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from dist_ai.core.dispatch import Dispatch, first_parameter_types

if TYPE_CHECKING:
    from decimal import Decimal


class Animal: ...


class Dog(Animal): ...


class Puppy(Dog): ...


class Swimmer: ...


class Newfoundland(Dog, Swimmer): ...


def dispatch_on(*types: Any, arity: int = 1) -> Dispatch:
    """A dispatch whose implementation for each of `types` returns its name."""
    made = Dispatch("kind", arity=arity)
    for on in types:
        on = on if isinstance(on, tuple) else (on,)
        name = ", ".join(each.__name__ for each in on)
        made.register(*on)(lambda *_, name=name: name)
    return made


# ------------------------------------------------------------------------------------ which one is chosen


def test_the_nearest_type_wins_in_whatever_order_they_were_registered():
    for types in ((object, Animal, Dog), (Dog, Animal, object), (Animal, object, Dog)):
        kind = dispatch_on(*types)
        assert [kind(x) for x in (Puppy(), Dog(), Animal(), 3)] == ["Dog", "Dog", "Animal", "object"]


def test_among_several_bases_the_method_resolution_order_decides():
    assert dispatch_on(Swimmer, Dog)(Newfoundland()) == "Dog"
    assert dispatch_on(Swimmer, Animal)(Newfoundland()) == "Animal"  # Newfoundland, Dog, Animal, Swimmer, object


def test_the_first_of_two_arguments_counts_before_the_second():
    kind = dispatch_on((Dog, object), (Animal, Dog), (object, object), arity=2)
    assert kind(Dog(), Dog()) == "Dog, object"
    assert kind(Animal(), Puppy()) == "Animal, Dog"
    assert kind(Animal(), 1) == "object, object"


def test_arguments_after_those_that_choose_are_passed_on():
    kind = Dispatch("kind")
    kind.register(int)(lambda x, y, z: (x, y, z))
    assert kind(1, "b", 3.0) == (1, "b", 3.0)


def test_an_abstract_class_claims_what_it_describes_but_a_real_base_comes_first():
    kind = dispatch_on(object, Sequence, list)
    assert [kind(x) for x in ([1], (1,), range(3), {1})] == ["list", "Sequence", "Sequence", "object"]
    assert dispatch_on(object, Mapping)({}) == "Mapping"


def test_of_two_abstract_classes_the_more_specific_wins():
    for types in ((Sized, Collection, Sequence), (Sequence, Collection, Sized)):
        assert dispatch_on(*types)([1]) == "Sequence"
        assert dispatch_on(*types)({1}) == "Collection"


def test_a_later_registration_is_seen_though_the_type_was_looked_up_before():
    kind = dispatch_on(object)
    assert kind(Puppy()) == "object"
    kind.register(Animal)(lambda _: "late")
    assert kind(Puppy()) == "late"


def test_registering_a_type_again_replaces_its_implementation():
    kind = dispatch_on(int)
    kind.register(int)(lambda _: "newer")
    assert kind(1) == "newer"
    assert len(kind) == 1


def test_a_union_stands_for_each_of_its_types():
    kind = Dispatch("kind", arity=2)
    kind.register(int | Dog, str | None)(lambda x, y: "union")
    assert [kind(1, "a"), kind(Puppy(), None)] == ["union", "union"]
    assert len(kind) == 4
    assert kind.find(str, str) is None


@pytest.mark.parametrize("on", ["Dog", 3, int | Literal["a"]])
def test_what_is_no_class_is_refused_when_it_is_registered(on: Any):
    with pytest.raises(TypeError, match=re.escape(f"kind: {on!r} is not a class or a union of classes")):
        Dispatch("kind").register(on)


def test_register_returns_the_function_unchanged():
    def f(x: Any) -> Any:
        return x

    assert Dispatch("f").register(int)(f) is f


def test_it_is_open_from_outside_and_a_copy_is_independent():
    base = dispatch_on(int)
    copy = base.copy()
    copy.register(str)(lambda _: "only in the copy")
    base.register(float)(lambda _: "only in the base")
    assert copy("a") == "only in the copy"
    assert base.find(str) is None
    assert copy.find(float) is None


def test_find_answers_none_and_remembers_it():
    kind = dispatch_on(int)
    assert kind.find(str) is None
    assert kind.find(str) is None
    assert kind._chosen[str,] is None


# ------------------------------------------------------------------------------------ what it says


def test_explain_lists_the_candidates_nearest_first():
    kind = Dispatch("describe")

    @kind.register(object)
    def anything(x: Any) -> None: ...

    @kind.register(Dog)
    def dog(x: Any) -> None: ...

    @kind.register(str)
    def text(x: Any) -> None: ...

    here, there = dog.__qualname__, anything.__qualname__
    assert kind.explain(Puppy) == (
        "describe(Puppy): 2 candidate(s), nearest first\n"
        f"-> (Dog) {__name__}.{here}: base 1 of Puppy\n"
        f"   (object) {__name__}.{there}: takes anything"
    )


def test_explain_gives_a_reason_for_each_argument():
    kind = dispatch_on((Dog, Sequence), (Animal, object), arity=2)
    assert [line.rpartition(": ")[2] for line in kind.explain(Dog, list).splitlines()[1:]] == [
        "the type itself | an abstract class of it",
        "base 1 of Dog | takes anything",
    ]


def test_explain_says_what_there_is_when_nothing_fits():
    assert dispatch_on(int, str).explain(Dog) == "kind(Dog): no candidate; there are: (int), (str)"
    assert Dispatch("empty").explain(Dog) == "empty(Dog): no candidate; there are: none"


def test_a_call_without_an_implementation_names_the_type_and_those_there_are():
    message = "no implementation of kind for (Dog, int); there are: (int, object), (str, str)"
    with pytest.raises(TypeError, match=re.escape(message)):
        dispatch_on((int, object), (str, str), arity=2)(Dog(), 3)


def test_the_wrong_number_of_types_or_values_is_refused():
    kind = dispatch_on((int, int), arity=2)
    with pytest.raises(TypeError, match=re.escape("kind is chosen by 2 type(s), got 1: (<class 'int'>,)")):
        kind.register(int)
    for ask in (lambda: kind(1), lambda: kind.find(int), lambda: kind.explain(int)):
        with pytest.raises(TypeError, match=re.escape("kind is chosen by 2 type(s), got 1: (int)")):
            ask()


# ------------------------------------------------------------------------------------ annotations


def takes_dog(self: Any, x: Dog) -> None: ...
def takes_union(self: Any, x: int | Dog | None) -> None: ...
def takes_anything(self: Any, x) -> None: ...
def takes_any(self: Any, x: Any) -> None: ...
def takes_list(self: Any, x: list[int]) -> None: ...
def takes_function(self: Any, x: Callable[[int], int]) -> None: ...
def takes_annotated(self: Any, x: Annotated[int | str, "units"]) -> None: ...
def takes_none(self: Any, x: None) -> None: ...
def takes_nothing(self: Any) -> None: ...
def takes_letter(self: Any, x: Literal["a"]) -> None: ...
def takes_hidden(self: Any, x: Decimal) -> None: ...
def takes_missing(self: Any, x: re.NoSuchThing) -> None: ...  # type: ignore[name-defined]


@pytest.mark.parametrize(
    ("function", "types"),
    [
        (takes_dog, (Dog,)),
        (takes_union, (int, Dog, type(None))),
        (takes_anything, (object,)),
        (takes_any, (object,)),
        (takes_list, (list,)),
        (takes_function, (Callable,)),
        (takes_annotated, (int, str)),
        (takes_none, (type(None),)),
    ],
)
def test_the_types_are_those_that_the_annotation_names(function: Any, types: tuple[type, ...]):
    assert first_parameter_types(function) == types


def test_the_first_parameter_counts_where_there_is_no_self():
    def f(x: int, y: str) -> None: ...

    assert first_parameter_types(f, skip_self=False) == (int,)
    assert first_parameter_types(f) == (str,)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (takes_nothing, "takes_nothing takes no value to be chosen by; give it a parameter"),
        (takes_letter, "takes_letter: typing.Literal['a'] is not a class or a union of classes"),
        (
            takes_hidden,
            "'Decimal' of 'x' cannot be resolved (name 'Decimal' is not defined); import the class at module",
        ),
        (takes_missing, "'re.NoSuchThing' of 'x' cannot be resolved (module 're' has no attribute 'NoSuchThing')"),
    ],
)
def test_an_annotation_that_names_no_class_is_refused_when_the_class_is_made(function: Any, message: str):
    with pytest.raises(TypeError, match=re.escape(message)):
        first_parameter_types(function)

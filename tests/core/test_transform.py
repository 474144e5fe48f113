"""Transforms and pipelines: chosen by type, undone in reverse, written as plain data."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Func, ItemTransform, Pipeline, Transform, transforms
from dist_ai.core.types import TensorCategory, TensorLMText, TensorText, plain
from dist_ai.errors import ArtifactError, ConfigError

properties = settings(deadline=None, max_examples=50, derandomize=True)


class Metres(float): ...


@dataclass
class Shift(Transform):
    """Numbers up by `by`, strings to the right."""

    by: int = 1

    def encodes(self, x: int):
        return x + self.by

    def encodes(self, x: str):
        return " " * self.by + x

    def decodes(self, x: int):
        return x - self.by

    def decodes(self, x: str):
        return x[self.by :]


@dataclass
class Double(Transform):
    def encodes(self, x: int | float):
        return x * 2

    def decodes(self, x: int | float):
        return type(x)(x / 2)


@dataclass
class ShiftMetres(Shift):
    """What its base does, and metres too."""

    def encodes(self, x: Metres):
        return Metres(x + 100 * self.by)


@dataclass
class LearnLargest(Transform):
    """Divides by the largest training item."""

    largest: float = 0.0

    def setups(self, items: Sequence):
        self.largest = max(items[i] for i in range(len(items)))

    def encodes(self, x: int | float):
        return x / self.largest


@dataclass
class Wobble(Transform):
    """Adds a draw."""

    order: ClassVar[int] = 3

    def encodes(self, x: float, draw: Draw | None):
        return x + (0.0 if draw is None else draw.uniform())


@dataclass
class OnlyTrain(Transform):
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: int):
        return x + 1000


@dataclass
class OnlyValid(Transform):
    split_idx: ClassVar[int | None] = 1

    def encodes(self, x: int):
        return x + 2000


class SwapPair(ItemTransform):
    """Sees a pair whole."""

    def encodes(self, x: tuple):
        return x[::-1]

    def decodes(self, x: tuple):
        return x[::-1]


# ------------------------------------------------------------------------------------ chosen by type


def test_each_type_has_its_own_encodes_and_others_pass_through():
    shift, nothing = Shift(2), object()
    assert [shift(1), shift("a")] == [3, "  a"]
    assert shift(nothing) is nothing
    assert shift(1.5) == 1.5


def test_decode_undoes_encode_by_type_and_leaves_the_rest_alone():
    shift = Shift(2)
    assert [shift.decode(x) for x in (3, "  a", 1.5)] == [1, "a", 1.5]
    assert OnlyTrain().decode(7) == 7  # it has no decodes
    assert shift.can_undo
    assert not OnlyTrain().can_undo


def test_an_annotation_may_be_a_union():
    assert [Double()(x) for x in (3, 1.5, "a")] == [6, 3.0, "a"]


def test_a_subclass_adds_types_to_those_of_its_base_and_leaves_the_base_alone():
    assert [ShiftMetres(1)(x) for x in (1, "a", Metres(1))] == [2, " a", Metres(101)]
    assert Shift(1)(Metres(1)) == Metres(1)
    assert ShiftMetres(1).decode(2) == 1


def test_a_tuple_is_mapped_element_by_element_to_any_depth():
    assert Shift()((1, "a", (2, None))) == (2, " a", (3, None))
    assert Shift().decode((2, " a", (3, None))) == (1, "a", (2, None))


class Size(NamedTuple):
    height: int


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, Size(3)])
def test_lists_dicts_and_named_tuples_are_values_not_tuples_to_map(value: Any):
    assert Shift()(value) is value
    assert Shift().decode(value) is value


def test_an_item_transform_sees_the_tuple_whole():
    assert SwapPair()((1, 2)) == (2, 1)
    assert SwapPair().decode((2, 1)) == (1, 2)
    assert SwapPair()(3) == 3


def test_a_subclass_of_two_has_the_definitions_of_both_and_the_nearer_counts():
    class Words(Transform):
        def encodes(self, x: str):
            return x.upper()

        def encodes(self, x: int):
            return "a number"

    class Both(Double, Words): ...

    assert [Both()(x) for x in (3, "a")] == [6, "A"]


def test_a_definition_can_be_added_from_outside():
    class Outside(Transform):
        def encodes(self, x: int):
            return "number"

    class Derived(Outside):
        def encodes(self, x: str):
            return "text"

    class Own(Outside):
        def encodes(self, x: bytes):
            return "my own"

    @Outside.extend
    def encodes(self, x: bytes):
        return "bytes"

    @Outside.extend
    def decodes(self, x: bytes):
        return x + b"!"

    assert encodes(None, b"") == "bytes"  # the function itself is given back
    assert [Outside()(x) for x in (1, b"")] == ["number", "bytes"]
    assert Outside().decode(b"a") == b"a!"
    assert [Derived()(x) for x in (1, "a", b"")] == ["number", "text", "bytes"]
    assert Own()(b"") == "my own"
    assert Transform._tables["encodes"].find(bytes) is None


def test_what_is_added_must_say_what_it_is():
    def encode(self, x: bytes): ...

    with pytest.raises(
        ConfigError,
        match=re.escape("Shift is extended by a function named encodes or decodes or setups, not 'encode'"),
    ):
        Shift.extend(encode)


def test_an_annotation_that_cannot_be_resolved_fails_when_the_class_is_made():
    with pytest.raises(TypeError, match="annotation 'NoSuchType' of 'x' cannot be resolved"):

        class Broken(Transform):
            def encodes(self, x: NoSuchType): ...  # type: ignore[name-defined]  # noqa: F821


def test_a_dataclass_with_slots_keeps_its_definitions():
    @dataclass(slots=True)
    class Slotted(Transform):
        by: int = 1

        def encodes(self, x: int):
            return x + self.by

        def encodes(self, x: str):
            return x * 2

    assert [Slotted(5)(x) for x in (1, "a")] == [6, "aa"]


# ------------------------------------------------------------------------------------ slips in a class body


def make_slip(body: dict[str, Any]) -> None:
    def fill(namespace: Any) -> None:
        for name, value in body.items():
            namespace[name] = value

    types.new_class("Slip", (Transform,), exec_body=fill)


def encode(self, x: int): ...


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"encode": encode}, "Slip defines 'encode', which nothing reads; did you mean 'encodes'? If not, rename it"),
        ({"decode_": encode}, "Slip defines 'decode_', which nothing reads; did you mean 'decodes'?"),
        ({"ecnodes": encode}, "Slip defines 'ecnodes', which nothing reads; did you mean 'encodes'?"),
        ({"setupss": encode}, "Slip defines 'setupss', which nothing reads; did you mean 'setups'?"),
        ({"oder": 3}, "Slip defines 'oder', which nothing reads; did you mean 'order'?"),
        ({"split_id": 0}, "Slip defines 'split_id', which nothing reads; did you mean 'split_idx'?"),
        ({"split_ixd": None}, "Slip defines 'split_ixd', which nothing reads; did you mean 'split_idx'?"),
        (
            {"setup": encode},
            "Slip defines setup, which is what callers call; did you mean 'setups'? To replace it all the same, "
            "decorate it with typing_extensions.override",
        ),
        ({"decode": encode}, "Slip defines decode, which is what callers call; did you mean 'decodes'?"),
        ({"__call__": encode}, "Slip defines __call__, which is what callers call; did you mean 'encodes'?"),
    ],
)
def test_a_misspelt_name_fails_when_the_class_is_made(body: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_slip(body)


def test_names_that_are_near_but_mean_something_are_left_alone():
    @dataclass
    class Careful(Transform):
        """Its names resemble those of a transform."""

        border: int = 4  # the first letter does not slip
        encoder: str = "utf-8"  # no function
        order: ClassVar[int] = 5
        split_idx: ClassVar[int | None] = None

        @property
        def encoded(self) -> bytes:
            return b""

        def encoding(self) -> str:  # takes no value, so it cannot be meant
            return self.encoder

        def encodes(self, x: str):
            return x.encode(self.encoder)

    assert Careful()("a") == b"a"
    assert Careful.order == 5


def test_what_callers_call_can_be_replaced_by_who_says_so():
    class Counted(Transform):
        @override
        def setup(self, items: Sequence[Any]) -> None:
            self.num_items = len(items)

    tfm = Counted()
    tfm.setup([1, 2])
    assert tfm.num_items == 2


def wrong_name(self, x: int, drwa): ...
def too_many(self, x: int, draw, more): ...
def draw_to_undo(self, x: int, draw): ...
def no_self(x: int): ...


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("encodes", wrong_name, "wrong_name(self, x, drwa): expected the parameters (self, x), or (self, x, draw)"),
        ("encodes", too_many, "too_many(self, x, draw, more): expected the parameters (self, x), or (self, x, draw)"),
        ("decodes", draw_to_undo, "draw_to_undo(self, x, draw): expected the parameters (self, x)"),
        ("encodes", no_self, "no_self(x): expected the parameters (self, x), or (self, x, draw)"),
    ],
)
def test_other_parameters_fail_when_the_class_is_made(name: str, function: Any, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_slip({name: function})


# ------------------------------------------------------------------------------------ what comes back

Loses = Callable[[Any], Any]


def through_numpy(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy()[::-1].copy())


class Unannotated(Transform):
    def encodes(self, x: TensorCategory):
        return through_numpy(x)

    def decodes(self, x: TensorCategory) -> Any:
        return through_numpy(x)


class LeftPlain(Transform):
    def encodes(self, x: TensorCategory) -> torch.Tensor:
        return through_numpy(x)


class MadeAnother(Transform):
    def encodes(self, x: TensorCategory) -> TensorText:
        return through_numpy(x)


class MadeMoreSpecial(Transform):
    def encodes(self, x: TensorText) -> TensorLMText | None:
        return through_numpy(x)


class OneHot(Transform):
    def encodes(self, x: TensorCategory) -> Any:
        return torch.nn.functional.one_hot(plain(x), 3).float()


class Chosen(Transform):
    def encodes(self, x: TensorCategory) -> Any:
        return TensorText(x)


def test_a_type_that_an_operation_lost_is_given_back_with_its_metadata():
    category = TensorCategory([1, 2], vocab="abc")
    for result in (Unannotated()(category), Unannotated().decode(category)):
        assert type(result) is TensorCategory
        assert (result.tolist(), result.vocab) == ([2, 1], "abc")


def test_an_annotation_says_what_a_plain_result_is():
    category = TensorCategory([1, 2], vocab="abc")
    assert type(LeftPlain()(category)) is torch.Tensor
    text = MadeAnother()(category)
    assert type(text) is TensorText
    assert text.__dict__ == {}  # a vocabulary of classes is none of words
    special = MadeMoreSpecial()(TensorText([1, 2], words="ab"))
    assert (type(special), special.words) == (TensorLMText, "ab")


def test_a_result_that_the_type_cannot_hold_or_that_has_one_is_left_as_it_is():
    assert type(OneHot()(TensorCategory([1, 2]))) is torch.Tensor
    assert type(Chosen()(TensorCategory([1, 2]))) is TensorText


# ------------------------------------------------------------------------------------ draws


def test_a_transform_that_asks_for_draws_gets_those_of_its_sample_and_place():
    draw = Draw(seed=0, epoch=0, samples=3)
    expected = 1.0 + draw.at("0:Wobble").uniform()
    assert Pipeline([Wobble()])(1.0, draw) == expected
    assert Pipeline([Wobble()])(1.0, draw) == expected  # it is a function, not a state
    assert Pipeline([Wobble()])(1.0) == 1.0


def test_a_transform_that_must_draw_and_cannot_is_told_who_gives_draws():
    class Noise(Transform):
        def encodes(self, x: float, draw: Draw):
            return x + draw.uniform(0, 1)

        def encodes(self, x: str, draw: Draw | None):
            return x.nothing

    with pytest.raises(
        ConfigError, match=r"Noise\.encodes draws, and its draw is None here: a loader gives one to the item_tfms"
    ):
        Pipeline([Noise])(1.0)
    with pytest.raises(AttributeError, match="'str' object has no attribute 'nothing'"):
        Noise()("a")
    assert 1 <= Noise()(1.0, Draw(seed=0, epoch=0, samples=3)) < 2


def test_every_element_of_a_tuple_gets_the_same_draws():
    image, (mask, point) = Pipeline([Wobble()])((1.0, (1.0, 1.0)), Draw(seed=0, epoch=0, samples=3))
    assert image == mask == point != 1.0


def test_two_transforms_of_one_kind_draw_differently():
    draw = Draw(seed=0, epoch=0, samples=3)
    once, twice = Pipeline([Wobble()])(0.0, draw), Pipeline([Wobble(), Wobble()])(0.0, draw)
    assert twice - once not in (0.0, once)


# ------------------------------------------------------------------------------------ pipelines


def test_a_pipeline_runs_in_order_and_is_undone_in_reverse():
    assert Pipeline([Shift(1), Double()])(3) == 8
    assert Pipeline([Shift(1), Double()]).decode(8) == 3
    assert Pipeline([Double(), Shift(1)])(3) == 7
    assert Pipeline([])(3) == 3


def test_transforms_stand_by_their_order_and_equals_as_they_were_given():
    made = Pipeline([Wobble(), Shift(1), str.upper, Double])
    assert repr(made) == "Pipeline: Shift(by=1) -> str.upper -> Double() -> Wobble()"
    assert len(made) == 4
    assert repr(Pipeline()) == "Pipeline: identity"
    long = repr(Pipeline([ManyFields("x" * 1000)]))
    assert len(long) < 120
    assert long.startswith("Pipeline: ManyFields(name='xxx")
    assert long.endswith("xxx...)")
    together = Pipeline([Wobble()]) + Pipeline([Shift(2)])
    assert repr(together) == "Pipeline: Shift(by=2) -> Wobble()"


@properties
@given(st.lists(st.sampled_from([Shift(1), Shift(3), Double(), SwapPair()]), max_size=6), st.integers(-99, 99))
def test_decode_undoes_any_pipeline_of_what_can_be_undone(tfms: list[Transform], x: int):
    pipeline = Pipeline(tfms)
    sample = (x, (str(x), x + 1))
    assert pipeline.decode(pipeline(sample)) == sample


class Tokens(list): ...


def test_decoding_stops_at_what_can_be_shown_each_element_of_a_tuple_by_itself():
    class Split(Transform):
        def encodes(self, x: str):
            return Tokens(x.split())

        def decodes(self, x: Tokens):
            return " ".join(x)

    class Number(Transform):
        words: ClassVar[list[str]] = ["a", "b"]

        def encodes(self, x: Tokens):
            return TensorText([self.words.index(word) for word in x])

        def decodes(self, x: TensorText):
            return Tokens(self.words[i] for i in x)

    pipeline = Pipeline([Split, Number, SwapPair])
    made = pipeline(("a b", "b"))
    assert [each.tolist() for each in made] == [[1], [0, 1]]
    assert pipeline.decode(made) == ("a b", "b")
    assert pipeline.decode(made, until=Tokens) == (Tokens("ab"), Tokens("b"))
    assert pipeline.decode(made, until=(int, Tokens)) == (Tokens("ab"), Tokens("b"))
    assert pipeline.decode(made, until=Tokens | int) == (Tokens("ab"), Tokens("b"))
    assert [each.tolist() for each in pipeline.decode(made, until=TensorText)] == [[0, 1], [1]]  # the swap is undone
    assert pipeline.decode(made, until=tuple) is made
    assert pipeline.decode(TensorText([0, 1]), until=Tokens) == Tokens("ab")


def test_a_transform_of_one_split_runs_on_that_split_only():
    pipeline = Pipeline([OnlyTrain(), OnlyValid()])
    assert [pipeline(0, split_idx=split) for split in (0, 1, None)] == [1000, 2000, 0]


def test_what_a_split_leaves_out_does_not_change_the_draws_of_the_rest():
    draw = Draw(seed=0, epoch=0, samples=3)
    train, valid = (Pipeline([OnlyTrain(), Wobble()])(0.0, draw, split_idx=split) for split in (0, 1))
    assert train == valid


def test_each_transform_is_set_up_on_what_those_before_it_make_of_the_items():
    first, second = LearnLargest(), LearnLargest()
    pipeline = Pipeline([first, Shift(1), Double(), second])
    pipeline.setup([1, 2, 4])
    assert first.largest == 4
    assert second.largest == 2.0  # 4 / 4 doubled; the Shift is for whole numbers only
    assert pipeline(4) == 1.0


def test_set_up_does_not_hold_the_items_it_maps():
    seen = []

    class Watch(Transform):
        def setups(self, items: Sequence):
            seen.append((len(items), items[1]))
            assert not isinstance(items, list)

    Pipeline([Double(), Watch()]).setup([1, 2, 3])
    assert seen == [(3, 4)]


def test_functions_are_transforms_that_see_a_tuple_whole():
    assert Pipeline([len])((1, 2, 3)) == 3
    assert Pipeline([Func(str.upper)])("a") == "A"
    assert repr(Func(str.upper)) == "str.upper"


@pytest.mark.parametrize("given", [3, "Resize", None])
def test_what_is_not_a_transform_is_refused(given: Any):
    with pytest.raises(
        ConfigError, match=re.escape(f"{given!r} is not a transform: expected a Transform, a Transform")
    ):
        Pipeline([given])


# ------------------------------------------------------------------------------------ as plain data


@dataclass
class ManyFields(Transform):
    name: str
    sizes: tuple[int, int] = (1, 2)
    weights: dict[str, list[float]] = field(default_factory=dict)
    on: bool = True
    extra: None = None
    learned: list[int] = field(default_factory=list, init=False)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_a_transform_is_its_fields_and_comes_back_through_json():
    tfm = ManyFields("ü", (3, 4), {"a": [0.1]}, on=False)
    tfm.learned = [7]
    written = tfm.to_plain()
    assert written == {
        "transform": "ManyFields",
        "name": "ü",
        "sizes": [3, 4],
        "weights": {"a": [0.1]},
        "on": False,
        "extra": None,
        "learned": [7],
    }
    again = Transform.from_plain(json.loads(json.dumps(written)))
    assert type(again) is ManyFields
    assert again.to_plain() == written


@properties
@given(plain_values)
def test_any_plain_state_comes_back(value: Any):
    tfm = ManyFields("x", weights={"any": value})
    assert Transform.from_plain(json.loads(json.dumps(tfm.to_plain()))) == ManyFields("x", [1, 2], {"any": value})


def test_a_pipeline_comes_back_whole_and_in_its_order():
    pipeline = Pipeline([Wobble(), Shift(2), SwapPair()])
    again = Pipeline.from_plain(json.loads(json.dumps(pipeline.to_plain())))
    assert repr(again) == repr(pipeline)
    draw = Draw(seed=0, epoch=0, samples=1)
    assert again((1, 2.0), draw) == pipeline((1, 2.0), draw)


class Remembers(Transform):
    def __init__(self) -> None:
        self.seen = 1


class _Private(Transform): ...


@dataclass
class NamesItsTransform(Transform):
    transform: str = "Flip"


@pytest.mark.parametrize(
    ("tfm", "message"),
    [
        (
            Func(lambda x: x),
            "<lambda> cannot be written to a file, because files hold no code; write it as a Transform",
        ),
        (Func(str.upper), "str.upper cannot be written to a file, because files hold no code"),
        (
            Remembers(),
            "Remembers keeps state but is not a dataclass, so it cannot be written to a file; decorate it with",
        ),
        (ManyFields("a", sizes={1, 2}), "ManyFields holds a set, which JSON cannot; keep numbers, strings, lists"),
        (ManyFields("a", weights={1: 2}), "ManyFields holds a dict, which JSON cannot"),
        (_Private(), "_Private cannot be written to a file, which would not find it again; name it without the _"),
        (NamesItsTransform(), "NamesItsTransform has a field named 'transform', where a file has its class"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_when_it_is_written(tfm: Transform, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Pipeline([tfm]).to_plain()


def test_a_name_that_is_not_known_is_refused_with_the_nearest_that_is():
    with pytest.raises(
        ArtifactError, match=re.escape("transform 'Shfit' is not known in this program; did you mean 'Shift'?")
    ):
        Transform.from_plain({"transform": "Shfit", "by": 1})
    with pytest.raises(ArtifactError, match=re.escape("import the module that defines it before loading")):
        Transform.from_plain({"transform": "Nowhere"})


@pytest.mark.parametrize("data", [{}, {"by": 1}, {"transform": ["Shift"]}, {"transform": None}, "Shift", None])
def test_what_is_no_plain_transform_is_refused(data: Any):
    message = f"{data!r} is no transform: expected what to_plain wrote, {{'transform': name, ...}}"
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Transform.from_plain(data)


def test_a_file_cannot_ask_for_a_function():
    message = "transform 'Func' stands for a function, and files hold no code; write it as a Transform class"
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Transform.from_plain({"transform": "Func", "function": "os.system"})
    with pytest.raises(ArtifactError, match=re.escape(message)):
        Pipeline.from_plain([{"transform": "Func"}])
    assert {"Func", "ItemTransform", "Transform"} & set(transforms) == set()


def test_a_state_that_does_not_fit_the_class_is_refused():
    message = "transform Shift cannot be made from {'bye': 1}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        Transform.from_plain({"transform": "Shift", "bye": 1})


def test_a_file_can_name_nothing_but_transforms():
    for name in ("os.system", "dist_ai.core.transform.Shift", "dict", "Pipeline", "_Private"):
        with pytest.raises(ArtifactError, match=f"transform '{re.escape(name)}' is not known"):
            Transform.from_plain({"transform": name})


def test_a_transform_may_have_the_name_of_another_modules(monkeypatch: pytest.MonkeyPatch):
    other = types.ModuleType("somebody_elses")
    monkeypatch.setitem(sys.modules, other.__name__, other)
    exec("from dist_ai.core.transform import Transform\nclass Shift(Transform): ...", other.__dict__)
    theirs = other.Shift()
    assert transforms.find("Shift") is Shift
    assert theirs.to_plain() == {"transform": "somebody_elses.Shift"}
    assert type(Transform.from_plain(theirs.to_plain())) is other.Shift
    assert type(Transform.from_plain(Shift(3).to_plain())) is Shift


def test_dist_ais_own_keeps_the_short_name_whoever_comes_first(monkeypatch: pytest.MonkeyPatch):
    @dataclass
    class Sharpen(Transform):
        by: int = 1

    ours = types.ModuleType("dist_ai.sharpen")
    monkeypatch.setitem(sys.modules, ours.__name__, ours)
    exec("from dist_ai.core.transform import Transform\nclass Sharpen(Transform): ...", ours.__dict__)
    assert transforms.find("Sharpen") is ours.Sharpen
    assert Sharpen(2).to_plain() == {"transform": f"{__name__}.Sharpen", "by": 2}
    assert Transform.from_plain(Sharpen(2).to_plain()) == Sharpen(2)


def test_a_notebook_cell_may_run_again():
    @dataclass
    class Cell(Transform):
        version: int = 1

    first = Cell

    @dataclass
    class Cell(Transform):
        version: int = 2

    assert transforms.find("Cell") is Cell
    assert Cell is not first


# ------------------------------------------------------------------------------------ of functions


@Transform
def lengthened(x: str | Metres) -> Any:
    return x + x


def halved(x: Metres) -> Any:
    return Metres(x / 2)


def test_a_function_becomes_a_transform_for_the_types_of_its_annotation():
    assert isinstance(lengthened, Transform)
    assert lengthened(("ab", 3, Metres(2))) == ("abab", 3, Metres(4))
    assert (lengthened.decode("ab"), lengthened.can_undo, repr(lengthened)) == ("ab", False, "lengthened")
    assert Transform(str.upper)(("a", "b")) == ("A", "B")
    assert Transform(lambda x: x + 1)(1) == 2
    undone = Transform(lambda x: x, halved)
    assert undone.decode((Metres(4), 4)) == (Metres(2), 4)
    assert Pipeline([lengthened, str.upper])("ab") == "ABAB"


def test_a_transform_of_a_function_has_its_place_and_its_split():
    late = Transform(halved, order=7, split_idx=0)
    assert Pipeline([late, Double]).tfms[1] is late
    assert Pipeline([late])(Metres(4), split_idx=1) == Metres(4)
    assert Pipeline([late])(Metres(4), split_idx=0) == Metres(2)
    assert (Transform.order, Transform.split_idx, Double().order) == (0, None, 0)
    for again in (copy.deepcopy(late), pickle.loads(pickle.dumps(late))):
        assert (again(Metres(4)), again.order, again.split_idx) == (Metres(2), 7, 0)


def test_a_transform_of_a_function_keeps_semantic_types_and_no_file_holds_it():
    assert type(Transform(lambda x: plain(x) * 2)(TensorText(torch.arange(3)))) is TensorText
    with pytest.raises(
        ConfigError, match="halved cannot be written to a file, because files hold no code; write it as a"
    ):
        Transform(halved).to_plain()
    with pytest.raises(
        ConfigError, match=re.escape("Transform(3): expected a function, or derive a class from Transform")
    ):
        Transform(3)


def test_a_pipeline_of_one_transform_needs_no_list():
    class Halve(Transform):
        def encodes(self, x: int):
            return x // 2

    for one in (Halve(), Halve, lambda x: x // 2):
        assert Pipeline(one)(10) == Pipeline([one])(10) == 5


def test_of_a_pipeline_in_a_pipeline_its_transforms_are_taken():
    class OnlyTrained(Transform):
        split_idx = 0

        def encodes(self, x: int, draw: Draw | None):
            return x + 10 * (draw is not None)

    inner = Pipeline([Shift(2), OnlyTrained])
    whole = Pipeline([inner, Shift(3)])
    assert whole.tfms[:2] == inner.tfms
    assert (whole(1, Draw(seed=0, epoch=0, samples=1), split_idx=0), whole(1, split_idx=1), whole.decode(6)) == (
        16,
        6,
        1,
    )
    assert Pipeline(inner).tfms == inner.tfms


# ------------------------------------------------------------------------------------ arguments of a class that takes none


class NoDataclass(Transform):
    by: int = 1

    def encodes(self, x: int):
        return x + self.by


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: NoDataclass(by=2),
            "NoDataclass(by=2): NoDataclass takes no arguments; decorate the class with @dataclass, and the names that are "
            "annotated in it are its arguments",
        ),
        (lambda: NoDataclass(2), "NoDataclass(2): NoDataclass takes no arguments; decorate the class"),
        (
            lambda: NoDataclass(halved),
            "NoDataclass takes no arguments; a definition is added to it by @NoDataclass.extend",
        ),
        (
            lambda: ItemTransform(halved),
            "ItemTransform takes no arguments; derive a class from it, or make a Transform of a function",
        ),
    ],
)
def test_arguments_that_nothing_would_read_are_refused(make: Callable[[], Any], message: str):
    with pytest.raises(TypeError, match=re.escape(message)):
        make()
    assert NoDataclass()(1) == 2

"""Transforms and pipelines: chosen by type, undone in reverse, written as plain data."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Func, ItemTransform, Pipeline, Transform, transforms
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
class Jitter(Transform):
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


def test_a_definition_can_be_added_from_outside():
    class Outside(Transform):
        def encodes(self, x: int):
            return "number"

    def encodes(self, x: bytes):
        return "bytes"

    Outside.extend("encodes", encodes)
    assert [Outside()(x) for x in (1, b"")] == ["number", "bytes"]
    with pytest.raises(ConfigError, match="'encode' is not one of encodes, decodes, setups"):
        Outside.extend("encode", encodes)


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


# ------------------------------------------------------------------------------------ draws


def test_a_transform_that_asks_for_draws_gets_those_of_its_sample_and_place():
    draw = Draw(seed=0, epoch=0, samples=3)
    expected = 1.0 + draw.at("0:Jitter").uniform()
    assert Pipeline([Jitter()])(1.0, draw) == expected
    assert Pipeline([Jitter()])(1.0, draw) == expected  # it is a function, not a state
    assert Pipeline([Jitter()])(1.0) == 1.0


def test_every_element_of_a_tuple_gets_the_same_draws():
    image, (mask, point) = Pipeline([Jitter()])((1.0, (1.0, 1.0)), Draw(seed=0, epoch=0, samples=3))
    assert image == mask == point != 1.0


def test_two_transforms_of_one_kind_draw_differently():
    draw = Draw(seed=0, epoch=0, samples=3)
    once, twice = Pipeline([Jitter()])(0.0, draw), Pipeline([Jitter(), Jitter()])(0.0, draw)
    assert twice - once not in (0.0, once)


# ------------------------------------------------------------------------------------ pipelines


def test_a_pipeline_runs_in_order_and_is_undone_in_reverse():
    assert Pipeline([Shift(1), Double()])(3) == 8
    assert Pipeline([Shift(1), Double()]).decode(8) == 3
    assert Pipeline([Double(), Shift(1)])(3) == 7
    assert Pipeline([])(3) == 3


def test_transforms_stand_by_their_order_and_equals_as_they_were_given():
    made = Pipeline([Jitter(), Shift(1), str.upper, Double])
    assert repr(made) == "Pipeline: Shift(by=1) -> str.upper -> Double() -> Jitter()"
    assert len(made) == 4
    assert repr(Pipeline()) == "Pipeline: identity"
    together = Pipeline([Jitter()]) + Pipeline([Shift(2)])
    assert repr(together) == "Pipeline: Shift(by=2) -> Jitter()"


@properties
@given(st.lists(st.sampled_from([Shift(1), Shift(3), Double(), SwapPair()]), max_size=6), st.integers(-99, 99))
def test_decode_undoes_any_pipeline_of_what_can_be_undone(tfms: list[Transform], x: int):
    pipeline = Pipeline(tfms)
    sample = (x, (str(x), x + 1))
    assert pipeline.decode(pipeline(sample)) == sample


def test_a_transform_of_one_split_runs_on_that_split_only():
    pipeline = Pipeline([OnlyTrain(), OnlyValid()])
    assert [pipeline(0, split_idx=split) for split in (0, 1, None)] == [1000, 2000, 0]


def test_what_a_split_leaves_out_does_not_change_the_draws_of_the_rest():
    draw = Draw(seed=0, epoch=0, samples=3)
    train, valid = (Pipeline([OnlyTrain(), Jitter()])(0.0, draw, split_idx=split) for split in (0, 1))
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
    pipeline = Pipeline([Jitter(), Shift(2), SwapPair()])
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
        Transform.from_plain({})


def test_a_state_that_does_not_fit_the_class_is_refused():
    message = "transform Shift cannot be made from {'bye': 1}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        Transform.from_plain({"transform": "Shift", "bye": 1})


def test_a_file_can_name_nothing_but_transforms():
    for name in ("os.system", "dist_ai.core.transform.Shift", "dict", "Pipeline", "_Private"):
        with pytest.raises(ArtifactError, match=f"transform '{re.escape(name)}' is not known"):
            Transform.from_plain({"transform": name})


def test_two_modules_cannot_define_transforms_of_one_name(monkeypatch: pytest.MonkeyPatch):
    other = types.ModuleType("somebody_elses")
    monkeypatch.setitem(sys.modules, other.__name__, other)
    code = "from dist_ai.core.transform import Transform\nclass Shift(Transform): ..."
    message = f"transform 'Shift' of somebody_elses has the name of the one in {__name__}; files find it by that name"
    with pytest.raises(ConfigError, match=re.escape(message)):
        exec(code, other.__dict__)
    assert transforms.find("Shift") is Shift


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

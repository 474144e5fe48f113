"""A checkpoint: what was written comes back to the last bit, in any layout; what is damaged is named and never loaded."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from saving import DAMAGES, flip, read_all, save, shards
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from dist_ai.checkpoint import Checkpoint, Part, write_consolidated
from dist_ai.core.sealed import sign
from dist_ai.distributed import join
from dist_ai.errors import ArtifactError, ConfigError, StorageError


def many_kinds() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(3, 4),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "none": torch.empty(0, 3),
        "double": torch.randn(2, dtype=torch.float64),
        "complex": torch.randn(2, dtype=torch.complex64),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "eight bits": torch.randn(6).to(torch.float8_e4m3fn),
        "strange/name[0:1]": torch.ones(1),
        "Ünicode": torch.ones(2),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


# ------------------------------------------------------------------------------------ written and read


def test_what_was_written_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    state = {"epoch": 3, "losses": [0.1, 1e-300, float("inf")], "name": "Über", "nested": {"a": [None, True]}}
    folder = save(tmp_path, {"model": many_kinds(), "optimizer": {}}, state=state)
    found = Checkpoint.open(folder)
    assert found.state == state
    assert found.names("optimizer") == []
    got = found.read("model")
    assert got.keys() == many_kinds().keys()
    for name, tensor in many_kinds().items():
        assert same(got[name], tensor), name


def test_tensors_are_read_with_safetensors_too(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": many_kinds()})
    [file] = shards(folder)
    loaded = load_file(file)
    for name, tensor in many_kinds().items():
        if tensor.numel():
            assert same(loaded[f"model/{name}"], tensor), name


def test_it_is_safetensors_and_a_manifest_and_nothing_else(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": many_kinds()})
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2
    assert names[0] == "manifest.json"
    assert re.fullmatch(r"rank-00000-of-00001\.[0-9a-f]{8}-1\.safetensors", names[1])
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_tied_weights_and_views_are_written_as_tensors_of_their_own(tmp_path: Path) -> None:
    w = torch.arange(12.0).view(3, 4)
    tensors = {"tied": w, "tied_too": w, "transposed": w.T, "row": w[1], "alias": w.view(-1)}
    got = read_all(save(tmp_path, {"model": tensors}))["model"]
    for name, tensor in tensors.items():
        assert torch.equal(got[name], tensor), name
    folder = save(tmp_path, {"model": {"corner": torch.zeros(1_000_000)[:2]}}, name="d")
    assert shards(folder)[0].stat().st_size < 1000


def test_parameters_that_learn_are_written_like_others(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": {"p": torch.nn.Parameter(torch.ones(2))}})
    assert not read_all(folder)["model"]["p"].requires_grad


def test_large_tensors_lie_in_chunks_and_come_back_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"w": torch.randn(10, 7), "long": torch.randn(1, 1, 50)}
    folder = save(tmp_path, {"model": tensors}, max_chunk_bytes=100)
    found = Checkpoint.open(folder)
    assert len(found.manifest.tensors["model/w"].chunks) == 4  # of 3 rows of 28 bytes
    assert len(found.manifest.tensors["model/long"].chunks) == 2
    got = found.read("model")
    assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())


def test_a_part_is_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.arange(40.0).view(10, 4)
    found = Checkpoint.open(save(tmp_path, {"t": {"x": table, "y": table}}, max_chunk_bytes=32))
    num_read: list[int] = []
    whole = found.read_chunk
    monkeypatch.setattr(found, "read_chunk", lambda *args, **rest: (num_read.append(1), whole(*args, **rest))[1])
    part = Part(torch.empty(1, 2), offsets=(5, 1), shape=(10, 4))
    got = found.read("t", {"x": part}, only={"x"})
    assert got.keys() == {"x"}
    assert torch.equal(got["x"], table[5:6, 1:3])
    assert len(num_read) == 1


def test_a_dtype_that_such_files_do_not_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model/z is of torch\.complex128, which checkpoints .* cannot hold"):
        save(tmp_path, {"model": {"z": torch.zeros(2, dtype=torch.complex128)}})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------ damage


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Returns a checkpoint and another one."""
    return tuple(
        save(tmp_path / name, {"model": {**many_kinds(), "extra": torch.full((3,), float(i))}}, state={"i": i})
        for i, name in enumerate(("one", "two"))
    )  # type: ignore[return-value]


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_of_every_kind_is_named_and_nothing_of_it_is_loaded(pair: tuple[Path, Path], what: str) -> None:
    checkpoint, other = pair
    harm, named = DAMAGES[what]
    harm(checkpoint, other)
    for look in (lambda: Checkpoint.open(checkpoint).verify(), lambda: read_all(checkpoint)):
        with pytest.raises(ArtifactError, match=rf"^checkpoint {checkpoint} .*{named}"):
            look()
    Checkpoint.open(other).verify()


def test_every_single_byte_counts(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": {"w": torch.arange(4.0)}, "n": {"k": torch.tensor([True])}}, state={"a": 1.5})
    for file in folder.iterdir():
        sound = file.read_bytes()
        for position in range(len(sound)):
            flip(file, position, bit=position % 8)
            with pytest.raises(ArtifactError, match=re.escape(file.name)):
                Checkpoint.open(folder).verify()
            file.write_bytes(sound)
    Checkpoint.open(folder).verify()


def test_files_that_are_not_its_own_are_told_and_not_read(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": many_kinds()})
    (folder / "model.pt").write_bytes(b"x")
    (folder / "rank-00000-of-00001.0-0.safetensors").write_bytes(b"x")
    found = Checkpoint.open(folder)
    found.verify()
    assert found.strangers() == ["model.pt", "rank-00000-of-00001.0-0.safetensors"]
    assert read_all(folder)["model"].keys() == many_kinds().keys()


class Bomb:
    """What a pickle can do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("place", ["shard", "manifest.json", ".metadata", "model.pt", "pinned"])
@pytest.mark.parametrize("made_by", ["pickle", "torch"])
def test_a_pickle_is_never_run_wherever_it_lies(tmp_path: Path, place: str, made_by: str) -> None:
    folder, trace = save(tmp_path, {"model": many_kinds()}), tmp_path / "trace"
    file = shards(folder)[0] if place == "shard" else folder / place
    with file.open("wb") as opened:
        (pickle.dump if made_by == "pickle" else torch.save)(Bomb(trace), opened)
    try:
        found = Checkpoint.open(folder)
        found.verify()
        found.strangers()
        read_all(folder)
        write_consolidated(found, tmp_path / "model.safetensors")
    except ArtifactError:
        assert place in ("shard", "manifest.json")
    assert not trace.exists()
    if made_by == "pickle":  # it is one that would
        pickle.loads(file.read_bytes())
        assert trace.exists()


# ------------------------------------------------------------------------------------ forged


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a file above": (lambda m: m["files"][0].__setitem__(0, "../../secret.safetensors"), "is no name of a file"),
    "an absolute file": (lambda m: m["files"][0].__setitem__(0, "/etc/passwd"), "is no name of a file"),
    "a file above the shared ones": (lambda m: m["files"][0].__setitem__(0, "history/../x.safetensors"), "is no name"),
    "more memory than the file": (
        lambda m: m["tensors"]["model/w"].update(shape=[2**40], chunks=[[0, 100, [0], [2**40], 0]]),
        "lies outside its file",
    ),
    "a hole": (lambda m: m["tensors"]["model/w"].update(shape=[5]), "do not make up the tensor"),
    "a chunk outside": (lambda m: m["tensors"]["model/w"].update(shape=[2, 2]), "lies outside the tensor"),
    "a size below zero": (lambda m: m["tensors"]["model/w"].update(shape=[-4]), "are no sizes"),
    "an unknown dtype": (lambda m: m["tensors"]["model/w"].update(dtype="PICKLE"), "PICKLE"),
    "another number of a file": (lambda m: m["tensors"]["model/w"]["chunks"][0].__setitem__(0, 9), "out of range"),
    "no files": (lambda m: m.pop("files"), "files"),
    "a state that is none": (lambda m: m.update(state=7), "not iterable"),
}


def forge(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrites the manifest as somebody would who knows how it is made."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(sign(manifest))


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_manifest_reaches_nothing_outside_and_takes_no_memory(tmp_path: Path, what: str) -> None:
    folder = save(tmp_path, {"model": {"w": torch.arange(4.0)}})
    change, said = FORGERIES[what]
    forge(folder, change)
    with pytest.raises(ArtifactError, match=rf"^checkpoint {folder} was not written by dist_ai: .*{said}"):
        Checkpoint.open(folder)


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": {}})
    forge(folder, lambda manifest: manifest.update(format=99))
    with pytest.raises(ArtifactError, match="has format 99, and this dist_ai reads 2; use the version that wrote it"):
        Checkpoint.open(folder)


def test_one_that_is_not_there_is_told_from_one_that_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"^no checkpoint at {tmp_path}/c: it is not there$"):
        Checkpoint.open(tmp_path / "c")


def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Checkpoint.open(save(tmp_path, {"model": many_kinds()}))

    def gone(*_: Any) -> int:
        raise StorageError("s3://bucket: reading x failed 4 times")

    monkeypatch.setattr(found._storage, "read_into", gone)
    with pytest.raises(StorageError):
        found.verify()


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    found = Checkpoint.open(save(tmp_path, {"model": {"w": torch.zeros(2, 3)}}))
    with pytest.raises(ArtifactError, match=r"has 'model/w' in shape \(2, 3\) and not \(3, 3\)"):
        found.read("model", {"w": torch.zeros(3, 3)})


# ------------------------------------------------------------------------------------ any number of ranks to any other


def layouts(world_size: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Returns functions that spread a tensor over the ranks."""
    mesh = init_device_mesh("cpu", (world_size,)) if world_size > 1 else None
    spread: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"whole": lambda tensor: tensor}
    if mesh is not None:
        spread |= {
            "rows": lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)]),
            "columns": lambda tensor: distribute_tensor(tensor, mesh, [Shard(tensor.ndim - 1)]),
            "copies": lambda tensor: distribute_tensor(tensor, mesh, [Replicate()]),
        }
    if world_size == 4:
        grid = init_device_mesh("cpu", (2, 2))
        spread["copies of rows"] = lambda tensor: distribute_tensor(tensor, grid, [Replicate(), Shard(0)])
        spread["blocks"] = lambda tensor: distribute_tensor(tensor, grid, [Shard(0), Shard(tensor.ndim - 1)])
    return spread


def values() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"w": torch.randn(7, 5), "b": torch.randn(5), "t": torch.randn(3, 4, 6), "i": torch.arange(11)}


def write_in_all_layouts(folder: str) -> None:
    world = join().world
    for layout, spread in layouts(world.world_size).items():
        join()
        tensors = {name: spread(tensor) for name, tensor in values().items()}
        plain = {
            "step": torch.tensor(3),
            "own": Part(torch.full((1, 2), world.rank), (world.rank, 0), (world.world_size, 2)),
        }
        save(Path(folder), {"model": tensors, "rest": plain}, name=f"{world.world_size} {layout}", max_chunk_bytes=50)


def read_in_all_layouts(folder: str) -> int:
    """Returns how many (written, read) pairs of layouts were compared."""
    count = 0
    for path in sorted(Path(folder).glob("* *")):
        found = Checkpoint.open(path)
        found.verify(join().world.rank, join().world.world_size)
        for spread in layouts(join().world.world_size).values():
            like = {name: spread(torch.zeros_like(tensor)) for name, tensor in values().items()}
            got = found.read("model", like)
            for name, tensor in values().items():
                mine, expected = got[name], spread(tensor)
                assert type(mine) is type(expected)
                if isinstance(mine, DTensor):
                    assert mine.placements == expected.placements
                    assert torch.equal(mine.to_local(), expected.to_local()), (path.name, name)
                    mine = mine.full_tensor()
                assert torch.equal(mine, tensor)
            count += 1
        rest = found.read("rest")
        assert rest["own"].tolist() == [[rank] * 2 for rank in range(found.manifest.world_size)]
        assert rest["step"].item() == 3
    return count


def test_what_any_number_of_ranks_wrote_in_any_layout_any_other_number_reads(spawn: Any, tmp_path: Path) -> None:
    written = {1: 1, 2: 4, 3: 4, 4: 6}
    for world_size in written:
        spawn(world_size, write_in_all_layouts, folder=str(tmp_path))
    for world_size, num_layouts in written.items():
        assert spawn(world_size, read_in_all_layouts, folder=str(tmp_path)) == [15 * num_layouts] * world_size
    for path in sorted(tmp_path.glob("* *")):
        write_consolidated(Checkpoint.open(path), tmp_path / "model.safetensors")
        assert all(
            torch.equal(tensor, values()[name]) for name, tensor in load_file(tmp_path / "model.safetensors").items()
        )


# ------------------------------------------------------------------------------------ one file


def test_a_consolidated_file_is_what_safetensors_reads(tmp_path: Path) -> None:
    found = Checkpoint.open(save(tmp_path, {"model": many_kinds(), "optimizer": {"x": torch.ones(2)}}))
    write_consolidated(found, tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == many_kinds().keys()
    assert all(same(loaded[name], tensor) for name, tensor in many_kinds().items())


def test_of_a_damaged_checkpoint_no_file_is_made(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": many_kinds()})
    found = Checkpoint.open(folder)
    flip(shards(folder)[0], -1)
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="is damaged"):
        write_consolidated(found, tmp_path / "out" / "model.safetensors")
    assert list((tmp_path / "out").iterdir()) == []


MEASURE = """
import resource, sys
from pathlib import Path
from dist_ai.checkpoint import Checkpoint, write_consolidated

found = Checkpoint.open(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_consolidated(found, Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_consolidating_takes_the_memory_of_a_chunk_and_not_of_the_model(tmp_path: Path) -> None:
    folder = save(tmp_path, {"model": {"w": torch.ones(2**15, 2**10)}}, max_chunk_bytes=2**22)  # 128 MB
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "model.safetensors").stat().st_size > 2**27
    assert int(done.stdout) < 16 * 1024  # KiB

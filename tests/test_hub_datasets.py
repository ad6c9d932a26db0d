"""Datasets of the hub by id, split and path; the package that fetches them is stood in for."""

from __future__ import annotations

import sys
from typing import Any

import datasets
import pytest

from instsel.runs.hub_datasets import HubName
from instsel.runs.inputs import open_input

TRAIN = [{"instruction": f"say {i}", "output": f"the {i}"} for i in range(5)]
TEST = [{"instruction": f"ask {i}", "output": f"a {i}"} for i in range(3)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A hub with one dataset of two splits and one of a single split; gives what it was asked for."""
    calls: list[tuple[str, dict[str, Any]]] = []
    parts = {"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)}

    def load_dataset(name: str, **options: Any) -> Any:
        calls.append((name, options))
        if name == "some/single":
            held = datasets.DatasetDict({"validation": parts["test"]})
        elif name == "some/two":
            held = datasets.DatasetDict({"a": parts["train"], "b": parts["test"]})
        elif name == "some/rows":
            held = datasets.DatasetDict(parts)
        else:
            raise FileNotFoundError(f"Couldn't find {name}\nand more")
        return held[options["split"]] if "split" in options else held

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def rows_of(names: list[str], limit: int | None = None, split: str | None = None) -> list[dict[str, Any]]:
    return [row for batch in open_input(names, limit, split).read() for row in batch.to_pylist()]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "split", "rows", "call"),
    [
        ("some/rows", None, TRAIN, ("some/rows", {})),
        ("some/rows:test", None, TEST, ("some/rows", {"split": "test"})),
        ("some/rows", "test", TEST, ("some/rows", {"split": "test"})),
        ("some/single", None, TEST, ("some/single", {})),
        ("hf://datasets/some/rows", None, TRAIN, ("some/rows", {})),
        ("hf://datasets/some/rows:test", None, TEST, ("some/rows", {"split": "test"})),
        ("hf://datasets/some/rows@v%2F2/data/a-*.parquet", None, TRAIN,
         ("some/rows", {"split": "train", "revision": "v/2", "data_files": "data/a-*.parquet"})),
    ],
)  # fmt: skip
def test_a_dataset_is_its_rows(asked: list[Any], name: str, split: str | None, rows: Any, call: Any) -> None:
    assert rows_of([name], split=split) == rows
    assert asked == [call]
    assert rows_of([name], limit=2, split=split) == rows[:2]


def test_splits_are_inputs_of_their_own(asked: list[Any]) -> None:
    assert rows_of(["some/rows:test", "some/rows:train"]) == TEST + TRAIN
    one, other = (open_input([f"some/rows:{split}"], None).digest for split in ("train", "test"))
    assert one != other and one == open_input("some/rows", None).digest


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("some/two", None, "has the splits a, b; name one with --split"),
        ("some/rows:test", "train", "names the split test, and --split train"),
        ("no/such", None, "neither a file nor a dataset"),
        ("hf://datasets/", None, "names no dataset"),
    ],
)
def test_what_the_hub_does_not_give_is_named(asked: list[Any], name: str, split: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        open_input([name], None, split)


def test_without_the_package_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"install instsel\[datasets\]"):
        open_input(["some/rows"], None)


@pytest.mark.parametrize("name", ["rows", "a/b/c", "./a/b", "a/b.jsonl", "a/b.csv.gz", "-", "a/b*", "a /b", "../b"])
def test_what_is_no_name_of_a_dataset(name: str) -> None:
    assert HubName.parsed(name) is None


def test_versions_in_a_name_are_no_suffix() -> None:
    found = HubName.parsed("some/rows-v1.5:train[:10%]")
    assert found is not None and (found.dataset, found.split) == ("some/rows-v1.5", "train[:10%]")

"""Faults of run folders: shards, digests, the order of rows, what is counted."""

from __future__ import annotations

from .faults import Fault

RUNS, DIGESTS, STORE = "tests/test_runs.py", "tests/test_result_digests.py", "tests/test_row_store.py"
WHOLE = "tests/test_run_shards.py tests/test_whole_columns.py -k 'computed or columns_of_shards'"
METHOD = "tests/test_run_method.py -k 'leaves_what or continues'"


def of(file: str, name: str, text: str, instead: str, tests: str) -> Fault:
    return Fault(name, f"instsel/{file}.py", text, instead, tests)


FAULTS = [
    of("runs/shards", "a shard's digest is not compared", 'or not digest_file(path).startswith(match["digest"])', "or not match", WHOLE),
    of("runs/shards", "a shard of other settings is taken", "return info if info.settings == settings else None", "return info", WHOLE),
    of("runs/shards", "a shard of rows that another has is taken", "if start < end:  # rows", "if False:  # rows", WHOLE),
    of("runs/shards", "a lost shard is passed over", "if missing := stage.missing(found):", "if missing := []:", DIGESTS),
    of("runs/shards", "shards in the order of their digests", "in sorted(whole):", "in sorted(whole, key=lambda one: one[2].name[-24:]):", WHOLE),
    of("runs/shards", "statuses are not counted", 'dict(collections.Counter(np.asarray(columns.get("status", ())).tolist()))', "{}", METHOD),
    of("runs/shards", "the last shard's rows past the end", "if info is None or not 0 < info.num_rows <= stage.rows - info.first_row:", "if info is None:", WHOLE),
    of("runs/stage_columns", "parts of a column in reverse", "for path in self._paths:", "for path in reversed(self._paths):", WHOLE),
    of("runs/row_store", "rows in the order of their numbers", "return [found[number] for number in wanted]", "return [found[number] for number in sorted(wanted)]", STORE),
    of("runs/row_store", "a row of the batch's beginning", "batch.slice(number - self._starts[index], 1)", "batch.slice(0, 1)", STORE),
    of("runs/merged_output", "scores of every shard beside the first rows", "            start += piece.num_rows\n", "            start = 0\n", METHOD),
    of("runs/results", "the result's digest is not compared", '    if digest_file(path) != output.get("digest"):', "    if False:", DIGESTS),
    of("runs/results", "a result outside the folder", "if not path.resolve().is_relative_to(run.folder.resolve()):", "if False:", DIGESTS),
    of("runs/finished_run", "kept rows whose digest differs", 'if match and path.is_file() and digest_file(path).startswith(match["digest"]):', "if match and path.is_file():", "tests/test_run_readers.py -k copy_of_the_rows"),
    of("runs/fingerprints", "a file of the same time is not read again", "all(before.get(key) == value for key, value in found.items())", 'before.get("modified_ns") == found["modified_ns"]', "tests/test_adapter_folders.py -k digests"),
    of("runs/durable_files", "a file has its name before it is whole", 'temporary = directory / f"{TEMPORARY_PREFIX}{os.getpid()}"', "temporary = directory / (name if isinstance(name, str) else TEMPORARY_PREFIX)", RUNS),
    of("runner/arithmetic_checks", "a run goes on with another dtype", "        if before[name] != value:\n", "        if False:\n", METHOD),
    of("runner/row_checks", "reasons of the first shard's rows for all", "wanted = [start + at for at, one", "wanted = [at for at, one", "tests/test_unreadable_rows.py -k 'names_file'"),
]  # fmt: skip

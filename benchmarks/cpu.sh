#!/bin/sh
# All results of a CPU, each command a few minutes; `benchmarks/cpu.sh PATTERN` runs those whose line matches.
# PREFIX stands before every command, such as `PREFIX="taskset -c 0,1"`; PYTHON is the interpreter.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=benchmarks/results
grep -E -e "${1:-.}" <<'COMMANDS' | while read -r script arguments; do
engine.py --workload wici-k5 --size 64 --max-batch-tokens 4096 --dtype bfloat16
engine.py --workload wici-k5 --size 64 --dtype bfloat16
engine.py --workload wici-k5 --size 64 --dtype float32 --runs 1
engine.py --workload wici-k32 --size 8 --dtype bfloat16
engine.py --workload anchors-100 --size 2 --dtype bfloat16
engine.py --workload few-shot-4 --size 100 --dtype bfloat16
engine.py --workload grape-5 --size 64 --dtype bfloat16
engine.py --workload grape-10 --size 32 --dtype bfloat16
engine.py --model qwen2.5-0.5b --workload wici-k5 --size 16 --dtype bfloat16
engine.py --model qwen2.5-0.5b --workload wici-k5 --size 6 --dtype float32 --runs 2
engine.py --model qwen2.5-0.5b --workload few-shot-4 --size 40 --dtype bfloat16
compare.py --workload wici-k5 --size 24 --against one_by_one --against-dtype float32 --pairs 1 --append
compare.py --workload wici-k5 --size 24 --against one_by_one_lean one_by_one --pairs 2
compare.py --workload wici-k5 --size 24 --against dynamic_cache lm_eval --pairs 2
compare.py --workload wici-k5 --size 24 --against padded --pairs 2
compare.py --workload wici-k5 --size 24 --against flex --pairs 2
compare.py --workload wici-k5 --size 12 --dtype float32 --against one_by_one_lean dynamic_cache --pairs 2
compare.py --workload wici-k32 --size 4 --against one_by_one_lean dynamic_cache --pairs 2
compare.py --workload wici-k32 --size 4 --against padded lm_eval --pairs 2
compare.py --workload anchors-100 --size 1 --against one_by_one_lean dynamic_cache --pairs 2
compare.py --workload anchors-100 --size 1 --against padded lm_eval --pairs 2
compare.py --workload few-shot-4 --size 30 --against one_by_one_lean dynamic_cache --pairs 2
compare.py --workload few-shot-4 --size 30 --against padded lm_eval --pairs 2
compare.py --workload grape-5 --size 24 --against one_by_one_lean dynamic_cache lm_eval --pairs 2
compare.py --workload grape-10 --size 8 --against one_by_one_lean dynamic_cache lm_eval --pairs 2
compare.py --model qwen2.5-0.5b --workload wici-k5 --size 6 --against one_by_one_lean dynamic_cache --pairs 2
compare.py --model qwen2.5-0.5b --workload few-shot-4 --size 8 --against one_by_one_lean dynamic_cache --pairs 2
scaling.py --runs 2
COMMANDS
    echo "$script $arguments"
    # shellcheck disable=SC2086
    ${PREFIX:-} "$PYTHON" "benchmarks/$script" $arguments --output "$OUT" </dev/null || echo "failed: $script $arguments"
done

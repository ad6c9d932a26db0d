#!/bin/sh
# The first ten minutes on a GPU that this code has never met: everything is checked against float64 before anything is
# timed, and nothing is timed where a check fails. JSON into $OUT.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results/$("$PYTHON" benchmarks/environment.py cuda)}
mkdir -p "$OUT"
timeout 200 "$PYTHON" benchmarks/gpu_checks.py --output "$OUT/gpu_checks.json" || {
    echo "a check failed: nothing is timed"
    exit 1
}
while read -r limit script arguments; do
    echo "$script $arguments"
    # shellcheck disable=SC2086
    timeout "$limit" "$PYTHON" "benchmarks/$script" $arguments --device cuda --output "$OUT" </dev/null ||
        echo "failed or over $limit s: $script $arguments"
done <<'COMMANDS'
60 engine.py --model qwen3-0.6b --workload wici-k5 --size 256 --dtype bfloat16 --runs 2
60 compare.py --model qwen3-0.6b --workload wici-k5 --size 32 --against one_by_one_lean --pairs 2 --seconds 15
120 engine.py --model llama-3.1-8b --workload wici-k5 --size 64 --dtype bfloat16 --runs 2
COMMANDS
PYTHONPATH="benchmarks${PYTHONPATH:+:$PYTHONPATH}" timeout 150 "$PYTHON" benchmarks/gpu_kernels.py "$OUT/kernels_gpu.json"

#!/bin/sh
# The engine's results of one GPU in at most eight minutes a part: `benchmarks/gpu_engine.sh 1` to `4`, JSON into $OUT.
# Stops by itself: each command has a time limit, and the parts together cover everything.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results/$("$PYTHON" benchmarks/environment.py cuda)}
part() {
    case $1 in
    1) cat <<'COMMANDS'
200 engine.py --model llama-3.1-8b --workload wici-k5 --size 256 --dtype bfloat16
140 engine.py --model llama-3.1-8b --workload few-shot-4 --size 400 --dtype bfloat16
140 compare.py --model llama-3.1-8b --workload wici-k5 --size 64 --against one_by_one --pairs 2 --seconds 30
COMMANDS
        ;;
    2) cat <<'COMMANDS'
160 compare.py --model llama-3.1-8b --workload wici-k5 --size 64 --against lm_eval --pairs 2 --seconds 40
160 compare.py --model llama-3.1-8b --workload few-shot-4 --size 100 --against lm_eval --pairs 2 --seconds 40
160 compare.py --model llama-3.1-8b --workload wici-k5 --size 64 --against dynamic_cache --pairs 2 --seconds 40
COMMANDS
        ;;
    3) cat <<'COMMANDS'
100 engine.py --model qwen3-0.6b --workload wici-k5 --size 512 --dtype bfloat16
80 engine.py --model qwen3-0.6b --workload grape-10 --size 512 --dtype bfloat16
100 compare.py --model qwen3-0.6b --workload wici-k5 --size 128 --against one_by_one_lean padded --pairs 3 --seconds 20
100 compare.py --model qwen3-0.6b --workload wici-k32 --size 32 --against one_by_one_lean --pairs 2 --seconds 30
100 compare.py --model qwen3-0.6b --workload anchors-100 --size 16 --against one_by_one_lean --pairs 2 --seconds 30
COMMANDS
        ;;
    4) cat <<'COMMANDS'
160 compare.py --model qwen3-0.6b --workload wici-k5 --size 128 --against flex --pairs 3 --seconds 30
160 compare.py --model qwen3-0.6b --workload wici-k5 --size 128 --against vllm --pairs 3 --seconds 30
160 scaling.py --model qwen3-0.6b --runs 5
COMMANDS
        ;;
    *) echo "expected a part from 1 to 4, got '$1'" >&2; return 2 ;;
    esac
}
commands=$(part "${1:-}") || exit 2
mkdir -p "$OUT"
echo "$commands" | while read -r limit script arguments; do
    echo "$script $arguments"
    # shellcheck disable=SC2086
    timeout "$limit" "$PYTHON" "benchmarks/$script" $arguments --device cuda --output "$OUT" </dev/null ||
        echo "failed or over $limit s: $script $arguments"
done

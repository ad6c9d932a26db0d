#!/bin/sh
# All results of a CPU, in slices of at most five minutes on two cores with bfloat16 matrix instructions:
# `benchmarks/cpu.sh` takes them all, `benchmarks/cpu.sh 3` the third. PYTHON is the interpreter. What a processor without
# AVX-512 does, as far as another can show it, into a folder of its own:
# INSTSEL_INSTRUCTION_SET=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2 \
#     benchmarks/cpu.sh 10
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-benchmarks/results/$("$PYTHON" benchmarks/environment.py)}
grep -E -e "^${1:-[0-9]+} " <<'COMMANDS' | while read -r _ script arguments; do
1 engine.py --workload wici-k5 --size 64 --dtype bfloat16 --runs 2
1 engine.py --workload wici-k5 --size 12 --dtype float32 --runs 3
2 compare.py --workload wici-k5 --size 10 --against one_by_one_lean dynamic_cache --pairs 3 --seconds 30
3 compare.py --workload wici-k5 --size 10 --against one_by_one --against-dtype float32 --pairs 3 --seconds 100
4 compare.py --workload few-shot-4 --size 12 --against one_by_one_lean lm_eval --pairs 1 --seconds 20
5 compare.py --workload anchors-100 --size 1 --against one_by_one_lean dynamic_cache --pairs 2 --seconds 80
6 compare.py --workload wici-k32 --size 2 --against one_by_one_lean dynamic_cache --pairs 3 --seconds 50
7 engine.py --model qwen2.5-0.5b --workload wici-k5 --size 12 --dtype bfloat16 --runs 2
7 engine.py --model qwen2.5-0.5b --workload wici-k5 --size 3 --dtype float32 --runs 3
8 engine.py --workload few-shot-4 --size 100 --dtype bfloat16
8 engine.py --workload wici-k32 --size 8 --dtype bfloat16 --runs 2
8 engine.py --workload anchors-100 --size 2 --dtype bfloat16 --runs 2
9 compare.py --workload wici-k5 --size 10 --against lm_eval padded --pairs 2 --seconds 20
10 compare.py --workload wici-k5 --size 8 --dtype float32 --against one_by_one_lean dynamic_cache --pairs 3 --seconds 80
11 compare.py --model qwen2.5-0.5b --workload wici-k5 --size 4 --against one_by_one_lean --pairs 2 --seconds 30
12 compare.py --workload wici-k5 --size 10 --against one_by_one --pairs 2 --seconds 30
13 compare.py --workload grape-5 --size 12 --against one_by_one_lean dynamic_cache --pairs 2 --seconds 20
14 compare.py --workload grape-10 --size 6 --against one_by_one_lean dynamic_cache --pairs 2 --seconds 20
15 compare.py --workload wici-k5 --size 10 --against flex --pairs 1 --seconds 20
16 compare.py --workload few-shot-4 --size 100 --against dynamic_cache --pairs 3 --seconds 140
17 compare.py --workload nuggets-200 --size 1 --against dynamic_cache --pairs 1 --seconds 60
18 compare.py --workload nuggets-200 --size 1 --against one_by_one_lean --pairs 1 --seconds 60
19 compare.py --workload nuggets-200 --size 8 --branching 12 --against dynamic_cache one_by_one_lean --pairs 2 --seconds 60
20 engine.py --workload nuggets-200 --size 2 --dtype bfloat16 --runs 2
21 compare.py --workload wici-k5 --size 8 --against llama_cpp --pairs 3 --seconds 60
22 engine.py --model qwen2.5-1.5b --workload wici-k5 --size 3 --dtype bfloat16 --runs 1
23 compare.py --model lfm2-350m --workload wici-k5 --size 2 --against one_by_one_lean --pairs 3 --seconds 60
24 compare.py --model qwen3.5-0.8b --workload wici-k5 --size 2 --against one_by_one_lean --pairs 2 --seconds 90
24 compare.py --model qwen3.5-0.8b --workload wici-k5 --size 2 --against one_by_one --pairs 1 --seconds 90
25 engine.py --model lfm2-350m --workload wici-k5 --size 4 --dtype bfloat16 --runs 2
25 engine.py --model qwen3.5-0.8b --workload wici-k5 --size 4 --dtype bfloat16 --runs 2
26 engine.py --model gemma-3-270m --workload wici-k5 --size 8 --dtype bfloat16 --runs 3
26 engine.py --model olmo2-1b-cut --workload wici-k5 --size 4 --dtype bfloat16 --runs 3
27 engine.py --model phi-3-mini-cut --workload wici-k5 --size 4 --dtype bfloat16 --runs 3
27 engine.py --model smollm3-3b-cut --workload wici-k5 --size 4 --dtype bfloat16 --runs 3
28 engine.py --model olmoe-1b-7b-cut --workload wici-k5 --size 4 --dtype bfloat16 --runs 3
28 engine.py --model qwen3-30b-a3b-cut --workload wici-k5 --size 4 --dtype bfloat16 --runs 3
28 engine.py --model gpt-oss-20b-cut --workload wici-k5 --size 4 --dtype bfloat16 --runs 3
29 compare.py --model olmoe-1b-7b-cut --workload wici-k5 --size 2 --against one_by_one_lean --pairs 3 --seconds 40
29 compare.py --model gpt-oss-20b-cut --workload wici-k5 --size 2 --against one_by_one_lean --pairs 3 --seconds 60
30 compare.py --model gemma-3-270m --workload wici-k5 --size 6 --against llama_cpp --pairs 3 --seconds 60
31 compare.py --model lfm2-350m --workload wici-k5 --size 4 --against llama_cpp --pairs 3 --seconds 60
32 compare.py --model qwen3.5-0.8b --workload wici-k5 --size 2 --against llama_cpp --pairs 3 --seconds 60
33 compare.py --model olmoe-1b-7b-cut --workload wici-k5 --size 4 --against llama_cpp --pairs 3 --seconds 60
COMMANDS
    echo "$script $arguments"
    # shellcheck disable=SC2086
    "$PYTHON" "benchmarks/$script" $arguments --output "$OUT" </dev/null || echo "failed: $script $arguments"
done

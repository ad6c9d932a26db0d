#!/bin/sh
# The kernels' figures of one GPU in at most eight minutes: `benchmarks/gpu.sh`, JSON into $OUT. Checks before it times.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results/$("$PYTHON" benchmarks/environment.py cuda)}
mkdir -p "$OUT"
PYTHONPATH="benchmarks${PYTHONPATH:+:$PYTHONPATH}" exec timeout 480 "$PYTHON" benchmarks/gpu_kernels.py "$OUT/kernels_gpu.json"

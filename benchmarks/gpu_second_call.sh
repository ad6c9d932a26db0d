#!/bin/bash
# The long comparisons, after gpu_first_day.sh: `bash benchmarks/gpu_second_call.sh OUTPUT_FOLDER`, ten minutes at most.
INSTSEL_GPU_STEPS=second exec bash "$(dirname "$0")/gpu_first_day.sh" "$@"

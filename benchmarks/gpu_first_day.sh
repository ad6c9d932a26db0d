#!/bin/bash
# A GPU's first ten minutes: `bash benchmarks/gpu_first_day.sh OUTPUT_FOLDER`. Nothing is installed or downloaded: the
# package is taken from this checkout, with its C++ module where a compiler, CMake and pybind11 are there.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
which=${INSTSEL_GPU_STEPS:-first}
output=${1:?expected a folder for the results}
shift
mkdir -p "$output"
output=$(cd "$output" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$here/instsel" "$work/instsel" && cp -r "$here/kernels" "$work/instsel/kernels"
if command -v c++ >/dev/null && command -v cmake >/dev/null && "$python" -c "import pybind11" 2>/dev/null; then
    { timeout 15 cmake -S "$here" -B "$work/build" -DCMAKE_BUILD_TYPE=Release "-DPython_EXECUTABLE=$(command -v "$python")" \
        "-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)" && timeout 50 cmake --build "$work/build" --parallel \
        && cp "$work"/build/_native*.so "$work/instsel/kernels/"; } >"$work/build.log" 2>&1 ||
        { echo "the C++ module was not built:"; tail -n 3 "$work/build.log"; }
else
    echo "the C++ module was not built: c++, CMake or pybind11 is missing"
fi
PYTHONPATH="$work:$here/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 \
    timeout 525 "$python" "$here/benchmarks/gpu_run.py" "$which" "$output" "$@"

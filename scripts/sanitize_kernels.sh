#!/usr/bin/env bash
# Run the emulated CUDA kernels under the address and undefined-behaviour sanitizers of g++: their tests, then every
# operation at the size of real runs. An access beyond an array or undefined behaviour stops the run and prints the line
# of the kernel. Needs `make dev`; takes some minutes.
#
#     scripts/sanitize_kernels.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
folder=build/sanitized

METRIC_SLAM_CUDA=0 METRIC_SLAM_EMULATION=sanitize "$python" setup.py --quiet build_ext --build-lib "$folder"
for package in lietorch droid_backends; do
    cp thirdparty/$package/$package/*.py "$folder/$package/"
done

libraries=
for name in libasan.so libubsan.so libstdc++.so.6; do
    libraries="$libraries $(g++ -print-file-name=$name)"
done
export LD_PRELOAD=$libraries PYTHONPATH=$folder:. OMP_NUM_THREADS=1
# Python itself leaks and fibers change stacks
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=halt_on_error=1
"$python" -m pytest -q -k emulated tests/droid_backends tests/thirdparty
"$python" benchmarks/device_agreement.py

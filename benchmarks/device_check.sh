#!/usr/bin/env bash
# All that needs a GPU, in one go: builds the kernels for the GPUs here, runs their tests, compares every operation with
# the CPU, measures. Everything goes to $OUT (default results/device_check): machine.txt, build.txt, tests.txt,
# agreement.md, agreement.txt, bench.md, bench.txt. No network is needed if Python has torch and what pyproject.toml
# names; WHEELS=FOLDER installs what is missing from wheels in a folder.
#
#     OUT=results/device_check benchmarks/device_check.sh [options of bench_gpu.py]
#
# Exits with 1 if the kernels do not build, else with 2 if a test, the comparison or the benchmark fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
OUT=${OUT:-results/device_check}
mkdir -p "$OUT" || exit 1

{
    nvidia-smi
    nvcc --version
    "$PYTHON" -c 'import torch; print("torch", torch.__version__, torch.cuda.is_available())'
} >"$OUT/machine.txt" 2>&1

if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --no-index --no-deps --find-links "$WHEELS" "$WHEELS"/*.whl >"$OUT/build.txt" 2>&1
fi
export METRIC_SLAM_CUDA=1 METRIC_SLAM_JOBS=${METRIC_SLAM_JOBS:-$(nproc)}
if ! "$PYTHON" -m pip install --no-build-isolation --no-deps --verbose -e . >>"$OUT/build.txt" 2>&1; then
    tail -n 20 "$OUT/build.txt" >&2
    exit 1
fi

status=0
# files whose packages are absent here do not keep the others from running
"$PYTHON" -m pytest -q -rs -k cuda --continue-on-collection-errors tests >"$OUT/tests.txt" 2>&1 || status=2
tail -n 3 "$OUT/tests.txt"
"$PYTHON" benchmarks/device_agreement.py --device cuda --markdown "$OUT/agreement.md" >"$OUT/agreement.txt" 2>&1 || status=2
tail -n 3 "$OUT/agreement.txt"
"$PYTHON" benchmarks/bench_gpu.py --device cuda --markdown "$OUT/bench.md" "$@" 2>&1 | tee "$OUT/bench.txt" || status=2
exit $status

#!/usr/bin/env bash
# Check for what pip cannot install: a compiler, Python's headers and venv, and the system libraries of Open3D.
# Missing packages are installed with apt-get as root or with passwordless sudo, else listed for the user.
# Exit code 1 only if something is missing that the build needs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null; then
    echo "error: $python not found; install Python 3.10 or newer, or name it: make PYTHON=/path/to/python" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: $python is older than 3.10; name a newer one: make PYTHON=/path/to/python" >&2
    exit 1
fi

missing_for_building() {
    local name
    name=python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$name-venv"
    "$python" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null ||
        echo "$name-dev"
    command -v "${CXX:-g++}" >/dev/null || echo g++
}

missing_for_open3d() {
    "$python" -c 'from metric_slam.cli.doctor import missing_system_libraries; print(*missing_system_libraries(), sep="\n")'
}

mapfile -t packages < <(missing_for_building; missing_for_open3d | sed '/^$/d')
[ ${#packages[@]} -eq 0 ] && exit 0

as_root=()
may_install=no
if command -v apt-get >/dev/null; then
    if [ "$(id -u)" -eq 0 ]; then
        may_install=yes
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        may_install=yes
        as_root=(sudo -n)
    fi
fi
if [ "$may_install" = yes ]; then
    echo "installing system packages: ${packages[*]}"
    "${as_root[@]}" apt-get update -qq || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" || true
fi

mapfile -t for_building < <(missing_for_building)
mapfile -t for_open3d < <(missing_for_open3d | sed '/^$/d')
if [ ${#for_open3d[@]} -gt 0 ]; then
    echo "warning: system libraries of Open3D are missing, so there will be no map and no rendered drive;" \
        "install them with: sudo apt-get install ${for_open3d[*]}" >&2
fi
if [ ${#for_building[@]} -gt 0 ]; then
    echo "error: missing to build the program; install with: sudo apt-get install ${for_building[*]}" >&2
    exit 1
fi

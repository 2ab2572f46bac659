#!/usr/bin/env bash
# Compares yr with Ray: the same workloads, in turns, on this machine.
#
#   bench/peers.sh [--quick] [--rounds N] [--json FILE] [--only yr|ray] [WORKLOAD ...]
#
# Ray lives in a virtual environment of its own, build/venv-ray, made on the first run for the interpreter $PYTHON
# (python3). Nothing is installed anywhere else; delete the folder to be rid of it.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
venv=$root/build/venv-ray

if ! "$venv/bin/python" -c 'import ray, numpy, cloudpickle' 2>/dev/null; then
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet ray numpy cloudpickle
fi

export PYTHONPATH=$root/sdk/python
export YR_BINARY=${YR_BINARY:-$root/build/yr}

# Both sides run on the interpreter, and with the numpy, of that environment.
exec "$venv/bin/python" "$root/bench/peers/compare.py" --peer-python "$venv/bin/python" "$@"

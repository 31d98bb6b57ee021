#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and without network: the GPU column of docs/benchmarks.md, and the protocol `la` with
# 8 labelled scans, published schedules and full resolution, in chunks of less than nine minutes.
#
#     until benchmarks/gpu.sh DATA RESULTS; [ $? -ne 3 ]; do :; done
#
# DATA is the folder that holds the data set `la`. One call is one chunk: it stops by itself, runs save first, and the next
# call goes on exactly there. Exit code 0: all is done; 3: call again; anything else: something failed, and is named.
# RESULTS/small is what to bring back: tables, logs, settings and scores, no scan and no weights.
#
# Of the four systems, VerSemi is of several data sets and SSS needs weights of SAM 2: neither has a row of `la`.
set -euo pipefail

if [ $# -ne 2 ]; then
    sed -n '2,13s/^# \{0,1\}//p' "$0"
    exit 2
fi
data=$(realpath "$1")
mkdir -p "$2"
results=$(realpath "$2")
protocol=${PROTOCOL:-la}
[ ! -f "$protocol" ] || protocol=$(realpath "$protocol")
cd "$(dirname "$(realpath "$0")")/.."

labelled=${LABELLED:-8}
methods=${METHODS:-transmedseg aggregating_decoupling bidirectional_copy_paste alternate_diverse_teaching unimatch}
seeds=${SEEDS:-3}
device=${DEVICE:-cuda}
chunk_s=${CHUNK_S:-500} # what is left of nine minutes is for saving
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

began=$SECONDS
left_s() { echo $((chunk_s - SECONDS + began)); }

if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$results/gpu.txt" || {
        echo "gpu.sh: nvidia-smi finds no GPU; DEVICE=cpu tries the script without one" >&2
        exit 2
    }
fi

status=0
"$python" -m benchmarks.gpu "$results" --device "$device" --budget "${chunk_s}s" || status=$?
[ $status -eq 0 ] || exit $status

name=$(basename "$protocol" .yaml)-$labelled
out="$results/$name"
if [ "$(left_s)" -gt 0 ]; then
    # shellcheck disable=SC2086 # methods are words
    "$python" -m semivox benchmark "$protocol" --data "$data" --labelled "$labelled" --method $methods \
        --seeds "$seeds" --device "$device" --jobs 1 --budget "$(left_s)s" --out "$out" || status=$?
else
    exit 3
fi

small="$results/small"
mkdir -p "$small"
cp "$results"/gpu.* "$small"
[ ! -d "$out" ] || (cd "$results" && find "$name" -maxdepth 2 \
    \( -name 'results.*' -o -name config.yaml -o -name environment.json -o -name log.csv -o -name metrics.json -o -name '*.log' \) \
    -exec cp --parents {} "$small" \;)
[ $status -eq 0 ] || exit $status

"$python" - "$out/results.json" <<'DONE'
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
sys.exit(0 if file.exists() and not json.loads(file.read_text())["unfinished"] else 3)
DONE

#!/usr/bin/env bash
# Print every GPU table of docs/speed.md: bash benchmarks/gpu.sh [--small] [--skip PART[,PART...]] [--output FOLDER]
# Parts: networks, training, scripts, memory, dub, prepared, live. Each is timed, and one that fails does not stop the
# others. What they print is kept in FOLDER (default: runs/gpu), and so are the compiled kernels, so that a part run
# again compiles nothing. With --small everything runs in a small form on the CPU, which shows that the parts work.
set -u
small='' skip='' output=runs/gpu
while [ $# -gt 0 ]; do
    case "$1" in
        --small) small=1 ;;
        --skip) skip=${2:?--skip needs the names of parts}; shift ;;
        --output) output=${2:?--output needs a folder}; shift ;;
        *) echo "usage: bash benchmarks/gpu.sh [--small] [--skip PART[,PART...]] [--output FOLDER]" >&2; exit 2 ;;
    esac
    shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python
mkdir -p "$output"
TORCHINDUCTOR_CACHE_DIR=$(realpath "$output")/compiled
export TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_FX_GRAPH_CACHE=1
failed=()

part() {  # part NAME COMMAND...: runs a benchmark, unless it is skipped
    local name=$1 began=$SECONDS
    shift
    case ",$skip," in *",$name,"*) return ;; esac
    echo "== $name: python -m $*"
    # shellcheck disable=SC2086
    "$python" -m "$@" 2>"$output/$name.errors.txt" | tee -a "$output/$name.txt"
    if [ "${PIPESTATUS[0]}" -ne 0 ]; then
        failed+=("$name")
        tail -n 3 "$output/$name.errors.txt"
    fi
    echo "($name: $((SECONDS - began)) s)"
}

if [ -n "$small" ]; then
    part networks benchmarks.inference --device cpu --width 0.0625 --batch 2 --seconds 0
    part training benchmarks.training --device cpu --width 0.03125 --windows 2 --steps 1 --workers 0
    part scripts benchmarks.scripts --device cpu --width 0.03125 --windows 2 --steps 2 --workers 0
    part memory benchmarks.training_memory
    part dub benchmarks.dubbing --device cpu --seconds 0.4 --width 256 --height 256
    part prepared benchmarks.prepared --device cpu --seconds 1 --sound 1 --width 256 --height 256
    part live benchmarks.live --device cpu --seconds 1
else
    part networks benchmarks.inference --device cuda --batch 16
    part networks benchmarks.inference --device cuda --batch 16 --crop stsa-256 --seconds 1
    part networks benchmarks.inference --device cuda --batch 16 --network g4g --seconds 1
    part networks benchmarks.inference --device cuda --batch 16 --config checkpoints/demo/config.yaml --seconds 1
    part training benchmarks.training --device cuda --windows 16 --steps 4 --warmup 3 --workers 8 --precision bf16 --compile
    part scripts benchmarks.scripts --device cuda --windows 24 --steps 20 --workers 8 --precision bf16
    part memory benchmarks.training_memory --device cuda
    part dub benchmarks.dubbing --device cuda --seconds 20 --width 512 --height 512
    part dub benchmarks.dubbing --device cuda --seconds 10 --width 1920 --height 1080
    part prepared benchmarks.prepared --device cuda --seconds 20 --sound 10 --width 512 --height 512
    part live benchmarks.live --device cuda --seconds 5
fi
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}; $output/PART.errors.txt has the message"
    exit 1
fi

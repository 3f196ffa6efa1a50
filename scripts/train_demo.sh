#!/usr/bin/env bash
# Train a checkpoint like the bundled one: bash scripts/train_demo.sh TRAIN_VIDEOS VAL_VIDEOS [OUTPUT=runs/demo]
# A table offsets.tsv in a folder of videos corrects offsets that are known (data_prep.preprocess --offsets); the sync expert
# finds the others. Started again, the command resumes where it stopped. docs/training.md has times.
set -u
if [ $# -lt 2 ]; then
    echo "usage: bash scripts/train_demo.sh TRAIN_VIDEOS VAL_VIDEOS [OUTPUT]" >&2
    exit 2
fi
echo "trains for about an hour on two CPU cores for ten minutes of video; started again, it goes on where it was"
train=$(realpath "$1") val=$(realpath "$2") output=$(realpath -m "${3:-runs/demo}")
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
clips=(data.train="$output/clips/train" data.val="$output/clips/val")

set -e
preprocess() {  # VIDEOS CLIPS
    local known=()
    if [ -f "$1/offsets.tsv" ]; then known=(--offsets "$1/offsets.tsv"); fi
    "$python" -m data_prep.preprocess "$1" "$2" --audio mel hama "${known[@]}"
}
preprocess "$train" "$output/clips/train"
preprocess "$val" "$output/clips/val"
# The expert measures the audio offsets of the clips. If it proves accurate, training corrects them. It also scores the
# checkpoint at the end.
"$python" train_sync.py --config configs/demo_sync.yaml "${clips[@]}" output="$output/sync"
if "$python" -m data_prep.offsets "$output/clips/train" --expert "$output/sync/best" --proven-on "$output/clips/val"; then
    clips+=(data.correct_offsets=true)
elif [ $? -ne 2 ]; then  # 2 means that the expert was refused
    exit 1
fi
"$python" train_heatmap.py --config configs/demo_speech.yaml "${clips[@]}" output="$output/heatmap"
settings=("${clips[@]}")
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    launch=("$python")
    settings+=(train.precision=bf16 train.micro_batch=0 data.workers=8 train.save_every=100)
else  # two processes of one thread each are nearly twice as fast as one of two threads
    launch=(env OMP_NUM_THREADS=1 "$python" -m accelerate.commands.launch --config_file configs/accelerate_cpu.yaml)
    if grep -qs amx_bf16 /proc/cpuinfo; then settings+=(train.precision=bf16); fi  # elsewhere slower than float32
fi
"${launch[@]}" train_face.py --config configs/demo_face.yaml "${settings[@]}" output="$output/face"
# No finetune_e2e.py: the face synthesizer blends real frames, and its training changes little.
"$python" -m checkpoints.combine "$output/heatmap" "$output/face/best" "$output/sync/best" --output "$output/checkpoint" \
    --half
"$python" -m metrics.listening --checkpoint "$output/checkpoint" --clips "$output/clips/val"
"$python" -m metrics.quality --checkpoint "$output/checkpoint" --clips "$output/clips/val" --expert "$output/sync/best"

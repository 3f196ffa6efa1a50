#!/usr/bin/env bash
# Train the rows of Table III at a size for small machines: bash scripts/ablations.sh TRAIN_CLIPS VAL_CLIPS [steps]
# Each row is trained with two seeds and combined with one predictor of the form speech. Stopped runs resume. At the end the
# script prints every row's scores on VAL_CLIPS. Pixel losses replace VGG-19, log-mel replaces Wav2Vec 2.0, and the framing
# is the sync expert's, so the numbers are comparable with each other only. The clips hold the features mel and hama.
# Environment variables:
#   EXPERT  the sync expert; without it one is trained first
#   WIDTH   the synthesizer's width (default 0.25)
#   EVERY   score every EVERY-th face of VAL_CLIPS (default 1)
#   SEEDS   seeds to train (default "0 1"); they can be divided among machines
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 2 ] || { echo "usage: bash scripts/ablations.sh TRAIN_CLIPS VAL_CLIPS [steps]" >&2; exit 2; }
python=${PYTHON:-.venv/bin/python}
steps=${3:-4000}
runs=${RUNS:-runs/ablations_small}
expert=${EXPERT:-$runs/sync/best}
predictor=$runs/predictor
clips=(data.train="$1" data.val="$2")
data=("${clips[@]}" data.workers=2 data.augment=true)
model=(model.audio=mel model.crop=stsa model.crop.framing=upright)
loop=(train.steps="$steps" train.precision=no train.learning_rate=2e-3 train.schedule=cosine train.warmup=20
    train.clip_gradients=5 train.ema=0.98 train.log_every=10 train.validate_every=500 train.save_every=100
    train.validation_windows=16 train.best_by=psnr train.keep_every=0)
face=(frames=5 losses.perceptual=0 extra_losses.l1=1 extra_losses.gradient=1 extra_losses.mouth=2 train.batch_size=2
    discriminator.width=0.25 sync_expert="$expert")
rows="without_cil without_sync without_spatial without_temporal without_finetuning"

[ -n "${EXPERT:-}" ] ||
    "$python" train_sync.py --config configs/demo_sync.yaml "${clips[@]}" output="$runs/sync"
"$python" train_heatmap.py --config configs/demo_speech.yaml "${clips[@]}" "${model[@]}" output="$predictor"
for seed in ${SEEDS:-0 1}; do
    for row in $rows; do
        "$python" train_face.py --config "configs/ablations/$row.yaml" "${data[@]}" "${loop[@]}" "${face[@]}" \
            losses.warp=0 train.warp_steps=0 \
            "${model[@]}" model.width="${WIDTH:-0.25}" train.seed=$seed output="$runs/$row-$seed"
        "$python" -m checkpoints.combine "$predictor" "$runs/$row-$seed/best" --output "$runs/$row-$seed/both"
    done
    "$python" finetune_e2e.py --config configs/ablations/with_finetuning.yaml "${data[@]}" "${loop[@]}" "${face[@]}" \
        heatmap_predictor="$predictor" face_synthesizer="$runs/without_finetuning-$seed/best" heatmap_losses.heatmap=0 \
        heatmap_losses.keypoints=0.02 heatmap_losses.temporal=0.02 \
        train.learning_rate=3e-4 train.steps=$((steps / 4)) train.seed=$seed output="$runs/with_finetuning-$seed"
done
scores=()
for row in $rows with_finetuning; do
    for seed in ${SEEDS:-0 1}; do
        checkpoint="$runs/$row-$seed/both"
        [ "$row" != with_finetuning ] || checkpoint="$runs/$row-$seed/best"
        scores+=("$runs/$row-$seed/scores.json")
        "$python" -m metrics.quality --checkpoint "$checkpoint" --clips "$2" --every "${EVERY:-1}" --json "${scores[-1]}"
    done
done
"$python" -m metrics.quality --compare "${scores[@]}"

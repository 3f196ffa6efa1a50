#!/usr/bin/env bash
# The rows of Table III at a size for small machines, two seeds each: bash scripts/ablations.sh TRAIN_CLIPS VAL_CLIPS [steps]
# Trains a predictor, an expert and each row (runs that were stopped go on), then prints every row's scores on VAL_CLIPS.
# VGG-19 and Wav2Vec 2.0 are replaced by pixel losses and log-mel, so the numbers compare with each other alone.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 2 ] || { echo "usage: bash scripts/ablations.sh TRAIN_CLIPS VAL_CLIPS [steps]" >&2; exit 2; }
python=${PYTHON:-.venv/bin/python}
steps=${3:-4000}
runs=runs/ablations_small
data=(data.train="$1" data.val="$2" data.workers=2 data.augment=true)
loop=(train.steps="$steps" train.precision=no train.learning_rate=1e-3 train.schedule=cosine train.warmup=100
    train.clip_gradients=5 train.ema=0.995 train.log_every=10 train.validate_every=500 train.save_every=500)
face=(frames=5 losses.perceptual=0 losses.l1=1 losses.gradient=1 losses.mouth=2 train.batch_size=2
    discriminator.width=0.25 sync_expert="$runs/sync/best")

"$python" train_sync.py --config configs/demo_sync.yaml "${data[@]}" output="$runs/sync"
"$python" train_heatmap.py --config configs/demo_heatmap.yaml "${data[@]}" "${loop[@]}" output="$runs/heatmap"
for seed in 0 1; do
    for row in without_cil without_sync without_spatial without_temporal without_finetuning; do
        "$python" train_face.py --config "configs/ablations/$row.yaml" "${data[@]}" "${loop[@]}" "${face[@]}" \
            model.width=0.25 model.audio=mel train.seed=$seed output="$runs/$row-$seed"
    done
    "$python" finetune_e2e.py --config configs/ablations/with_finetuning.yaml "${data[@]}" "${loop[@]}" "${face[@]}" \
        heatmap_predictor="$runs/heatmap/best" face_synthesizer="$runs/without_finetuning-$seed/best" \
        train.learning_rate=1e-4 train.steps=$((steps / 4)) train.seed=$seed output="$runs/with_finetuning-$seed"
done
for seed in 0 1; do
    for row in without_cil without_sync without_spatial without_temporal without_finetuning with_finetuning; do
        checkpoint="$runs/$row-$seed/best"
        if [ "$row" != with_finetuning ]; then
            "$python" -m checkpoints.combine "$runs/heatmap/best" "$checkpoint" --output "$runs/$row-$seed/both"
            checkpoint="$runs/$row-$seed/both"
        fi
        echo "== $row, seed $seed"
        "$python" -m benchmarks.quality --checkpoint "$checkpoint" --clips "$2"
    done
done

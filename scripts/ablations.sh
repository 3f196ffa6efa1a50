#!/usr/bin/env bash
# Train STSA's own form and the rows of its Table III at a size for small machines:
#   bash scripts/ablations.sh TRAIN_CLIPS VAL_CLIPS [steps]
# The networks are the paper's, an eighth to a quarter as wide. A heatmap predictor is trained, then each row's face synthesizer
# with two seeds; with_finetuning goes on from without_finetuning, end to end. Stopped runs resume. At the end the script prints
# every row's scores on VAL_CLIPS. Pixel losses stand in for VGG-19, `hama` features for Wav2Vec 2.0's, upright crops of 100x100
# for the landmark box, two references for five: the numbers are comparable with each other only.
# Environment variables:
#   EXPERT  the sync expert (default: checkpoints/demo's)
#   WIDTH   the synthesizer's width (default 0.125)
#   EVERY   score every EVERY-th face of VAL_CLIPS (default 1)
#   PREDICTOR_STEPS  steps of the predictor (default 3000: half an hour of one core)
#   SEEDS   seeds to train (default "0 1"); they can be divided among machines
#   DECODED folder for decoded crops (default: RUNS/decoded)
#   RUNS    folder of the runs (default runs/ablations_small)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 2 ] || { echo "usage: bash scripts/ablations.sh TRAIN_CLIPS VAL_CLIPS [steps]" >&2; exit 2; }
python=${PYTHON:-.venv/bin/python}
steps=${3:-400}
runs=${RUNS:-runs/ablations_small}
predictor=$runs/predictor
clips=(data.train="$1" data.val="$2" data.workers=0 data.augment=true)
data=("${clips[@]}" data.decoded="${DECODED:-$runs/decoded}")
sound=(model.audio=hama model.crop=stsa model.crop.framing=upright model.crop.height=100 model.crop.width=100
    model.references=2)
model=("${sound[@]}" model.width="${WIDTH:-0.125}")
loop=(train.precision=no train.schedule=cosine train.clip_gradients=5 train.log_every=10 train.gradient_norms_every=0)
face=(losses.perceptual=0 losses.gram=0 losses.without_vgg=skip extra_losses.l1=8 extra_losses.gradient=1 extra_losses.mouth=2
    discriminator.width=0.25 sync_expert="${EXPERT:-checkpoints/demo}" train.batch_size=2 train.warmup=20 train.ema=0.98
    train.validate_every=100 train.save_every=50 train.validation_windows=16 train.best_by=psnr train.keep_every=0)
rows="without_finetuning without_cil without_sync without_spatial without_temporal"

"$python" train_heatmap.py --config configs/stsa_heatmap.yaml "${clips[@]}" "${sound[@]}" "${loop[@]}" model.width=0.25 \
    model.layers=2 model.dropout=0 encoder_rate=0.1 \
    train.steps="${PREDICTOR_STEPS:-3000}" train.batch_size=8 train.learning_rate=1e-3 train.warmup=100 train.weight_decay=0.01 \
    train.ema=0.99 train.validate_every=500 train.save_every=250 train.validation_windows=16 output="$predictor"
for seed in ${SEEDS:-0 1}; do
    for row in $rows; do
        "$python" train_face.py --config "configs/ablations/$row.yaml" "${data[@]}" "${loop[@]}" "${face[@]}" "${model[@]}" \
            losses.warp=0 train.warp_steps=0 train.learning_rate=5e-3 train.steps="$steps" train.seed=$seed \
            output="$runs/$row-$seed"
        "$python" -m checkpoints.combine "$predictor" "$runs/$row-$seed/best" --output "$runs/$row-$seed/both"
    done
    "$python" finetune_e2e.py --config configs/ablations/with_finetuning.yaml "${data[@]}" "${loop[@]}" "${face[@]}" \
        heatmap_predictor="$predictor/best" face_synthesizer="$runs/without_finetuning-$seed/best" \
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

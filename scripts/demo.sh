#!/usr/bin/env bash
# From a fresh machine to a dubbed video: bash scripts/demo.sh
# Dubs the bundled portrait with the bundled sentence through the bundled checkpoint.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

"$python" inference.py --video assets/portrait.mp4 --audio assets/speech.wav --checkpoint checkpoints/demo \
    --output out/dubbed.mp4 --visualize out/side_by_side.mp4 || exit $?
echo "$PWD/out/dubbed.mp4"

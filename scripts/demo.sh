#!/usr/bin/env bash
# From a fresh machine to a dubbed video: bash scripts/demo.sh
# Dubs the bundled clip of a speaker with the bundled sentence through the bundled checkpoint.
# bash scripts/demo.sh --page [options of app.py] opens the page instead.
set -u
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if [ "${1-}" = --page ]; then
    exec "$python" app.py "${@:2}"
fi

"$python" inference.py --video assets/speaker.mp4 --audio assets/speech.wav --checkpoint checkpoints/demo \
    --output out/dubbed.mp4 --visualize out/side_by_side.mp4 || exit $?
echo "$PWD/out/dubbed.mp4"

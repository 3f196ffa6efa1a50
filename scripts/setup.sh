# Sourced by demo.sh, test.sh and train_demo.sh: makes .venv, installs the pinned requirements once, and sets $python.
# A second run with the same requirements.txt installs nothing. Another Python: PYTHON=python3.12 bash scripts/demo.sh

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=.venv/bin/python
base=${PYTHON:-python3.11}

if ! command -v "$base" >/dev/null; then
    echo "error: $base is not installed; install Python 3.11 or name another one with PYTHON=..." >&2
    exit 2
fi
stamp=.venv/installed-requirements.txt
if ! cmp -s requirements.txt "$stamp"; then
    echo "Installing the requirements into .venv (once; a few minutes, several GB with PyTorch's CUDA libraries)"
    if ! "$base" -m venv .venv; then
        echo "error: $base cannot make a virtual environment; install its venv package (Debian: apt-get install python3-venv)" >&2
        exit 2
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt || exit 2
    cp requirements.txt "$stamp"
fi
if ! problem=$("$python" -c 'import cv2' 2>&1); then
    case $problem in
    *libGL.so*) echo "error: OpenCV needs the system library libGL; install it (Debian: apt-get install libgl1)" >&2 ;;
    *libgthread* | *libglib*) echo "error: OpenCV needs GLib; install it (Debian: apt-get install libglib2.0-0)" >&2 ;;
    *) echo "error: OpenCV does not load: ${problem##*$'\n'}" >&2 ;;
    esac
    exit 2
fi

"""Make hours of synthetic speech with viseme labels, for pretraining audio encoders if there are few clips.

    python -m extensions.synthetic_speech speech.safetensors --minutes 180

The speech synthesizers flite (a few natural voices) and eSpeak NG (many artificial ones; English and Mandarin) speak
random sentences and report the time of each phoneme. Speed and pitch are varied. The file holds `mel` (F, 80) float16,
the concatenated features of all utterances, `visemes` (F,) uint8, and `starts`, the first frame of each utterance.
Both synthesizers come from the system's packages (Debian: apt-get install flite espeak-ng).
"""

import argparse
import ctypes
import itertools
import os
import pydoc_data.topics
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from media.errors import InputError, Parser, command, quick_help
from media.files import check_output_folder, replacing


@quick_help
def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("output", type=Path, metavar="OUTPUT.safetensors")
    parser.add_argument("--minutes", type=float, default=180, help="of speech (default 180)")
    parser.add_argument("--seed", type=int, default=0, help="of the random sentences and voices (default 0)")
    return parser.parse_args(arguments)


import av
import librosa
import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from extensions.speech_windows import VISEMES
from media.audio import FEATURES, SAMPLE_RATE, SILENCE, mel_spectrogram

MEL_RATE = 80  # frames a second

# A phoneme belongs to the first group that matches its name (flite's in lower case, eSpeak's Kirshenbaum-like).
_GROUPS = (
    ("silence", r"pau|_.*|\(.*"),
    ("sh", r"sh|zh|ch|jh|S.*|Z.*|[td]S.*|[td]Z.*|ts.*"),
    ("tdnl", r"[tdl].*|n(?!g).*|T.*|D.*|dh|th|@L"),
    ("kgh", r"k.*|g.*|ng|N.*|h.*|x.*"),
    ("pbm", r"[pbm].*"),
    ("fv", r"[fv].*"),
    ("sz", r"[sz].*"),
    ("r", r"r.*|er|3.*"),
    ("o", r"ow|ao|oy|[oO0].*"),
    ("u", r"uw|uh|[uUY].*|y:"),
    ("w", r"w.*"),
    ("i", r"iy|ih|y|[iIj].*"),
    ("e", r"eh|ey|ax|[eE@].*"),
    ("a", r"[aAV].*"),
)
_SYLLABLES = (
    ["b", "p", "m", "f", "d", "t", "n", "l", "g", "k", "h", "j", "q", "x", "zh", "ch", "sh", "r", "z", "c", "s"],
    ["a", "o", "e", "i", "u", "ai", "ei", "ao", "ou", "an", "en", "ang", "eng", "ong"],
)  # initials and finals of Mandarin; eSpeak NG spells a syllable that does not exist


@dataclass
class Utterance:
    """wav (samples,) at `rate`; phonemes with the second at which each begins, in order."""

    wav: np.ndarray
    rate: int
    phonemes: list[tuple[float, str]]


def viseme(phoneme: str) -> int:
    """The index in `VISEMES` of a phoneme of flite or eSpeak NG; that of "tdnl" for an unknown phoneme."""
    return next(
        (VISEMES.index(name) for name, pattern in _GROUPS if re.fullmatch(pattern, phoneme.lstrip("'"))),
        VISEMES.index("tdnl"),
    )


def utterances(seed: int) -> Iterator[Utterance]:
    """An endless stream of random sentences, two in five spoken by flite.

    Raises:
        InputError: a synthesizer is not installed.
    """
    choice = random.Random(seed)
    espeak, sentences = _Espeak(), _sentences()
    while True:
        if choice.random() < 0.4:
            spoken = _flite(choice.choice(sentences), choice)
        else:
            language = choice.choice(("en-us", "en-us", "en-gb", "en-gb-scotland", "cmn-latn-pinyin"))
            text = _mandarin(choice) if language.startswith("cmn") else choice.choice(sentences)
            spoken = espeak.say(text, language, choice)
        if spoken is not None:
            yield _varied(spoken, choice)


def _sentences() -> list[str]:
    """The sentences of Python's manual, the largest English text that is installed with Python."""
    text = " ".join(pydoc_data.topics.topics.values())
    plain = (re.sub(r"[^a-zA-Z ,]+", " ", sentence) for sentence in re.split(r"(?<=\.)\s", text))
    plain = (re.sub(r"\s+", " ", sentence).strip() for sentence in plain)
    return [sentence for sentence in plain if 40 < len(sentence) < 160]


def _mandarin(choice: random.Random) -> str:
    initials, finals = _SYLLABLES
    return " ".join(choice.choice(initials) + choice.choice(finals) + choice.choice("1234") for _ in range(18))


def _flite(text: str, choice: random.Random) -> Utterance | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        stretch = f"duration_stretch={choice.uniform(0.75, 1.15):.2f}"
        command = ["flite", "-voice", choice.choice(("kal16", "awb", "rms", "slt")), "-psdur", "--setf", stretch]
        try:
            result = subprocess.run([*command, "-t", text, "-o", path], capture_output=True, text=True, check=True)
        except FileNotFoundError as error:
            raise InputError("flite is not installed; install it (Debian: apt-get install flite)") from error
        except subprocess.CalledProcessError:
            return None
        with av.open(str(path)) as container:
            rate = container.streams.audio[0].rate
            wav = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    ends = [part.rsplit(":", 1) for part in result.stdout.split() if ":" in part]
    starts = itertools.chain([0.0], (float(end) for _, end in ends))
    return Utterance(wav.astype(np.float32) / 32768, rate, [(t, name) for t, (name, _) in zip(starts, ends)])  # noqa: B905


class _Espeak:
    """eSpeak NG as a library: unlike its command, it reports the time of each phoneme."""

    _RETRIEVAL, _PHONEME_EVENTS, _PHONEME, _UTF8 = 2, 1, 7, 1  # of espeak-ng/speak_lib.h
    _RATE, _PITCH, _RANGE = 1, 3, 4

    class _Event(ctypes.Structure):
        class _Id(ctypes.Union):
            _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))

        _fields_ = (
            *((name, ctypes.c_int) for name in ("type", "identifier", "text", "length", "milliseconds", "sample")),
            ("user", ctypes.c_void_p),
            ("id", _Id),
        )

    def __init__(self):
        try:
            self._library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise InputError("eSpeak NG is not installed; install it (Debian: apt-get install espeak-ng)") from error
        self._rate = self._library.espeak_Initialize(self._RETRIEVAL, 0, None, self._PHONEME_EVENTS)
        self._library.espeak_Info.restype = ctypes.c_char_p
        folder = ctypes.c_char_p()
        self._library.espeak_Info(ctypes.byref(folder))
        assert folder.value is not None  # espeak_Info sets it
        odd = ("whisper", "robo", "Storm", "Tweaky", "Demonic", "croak")
        voices = Path(os.fsdecode(folder.value)) / "voices" / "!v"
        self._voices = sorted(path.name for path in voices.iterdir() if not any(word in path.name for word in odd))
        self._blocks, self._phonemes = [], []
        form = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(self._Event))
        self._callback = form(self._receive)  # an attribute, because the library keeps no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count: int, events) -> int:
        if samples and count:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in itertools.takewhile(lambda event: event.type, (events[i] for i in itertools.count())):
            if event.type == self._PHONEME:
                name = bytes(event.id.string).split(b"\0")[0].decode("utf-8", "ignore")
                self._phonemes.append((event.milliseconds / 1000, name))
        return 0

    def say(self, text: str, language: str, choice: random.Random) -> Utterance | None:
        self._blocks.clear()
        self._phonemes.clear()
        self._library.espeak_SetVoiceByName(f"{language}+{choice.choice(self._voices)}".encode())
        for parameter, low, high in ((self._RATE, 140, 230), (self._PITCH, 20, 80), (self._RANGE, 30, 80)):
            self._library.espeak_SetParameter(parameter, choice.randint(low, high), 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, self._UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._blocks:
            return None
        return Utterance(np.concatenate(self._blocks).astype(np.float32) / 32768, self._rate, list(self._phonemes))


def _varied(spoken: Utterance, choice: random.Random) -> Utterance:
    """Resample to 16 kHz and imitate another vocal tract: up to an eighth slower and lower, or faster and higher."""
    ratio = choice.uniform(0.88, 1.15)
    wav = librosa.resample(spoken.wav, orig_sr=int(spoken.rate * ratio), target_sr=SAMPLE_RATE)
    wav = wav * choice.uniform(0.2, 0.9) / max(1e-3, float(np.abs(wav).max()))
    return Utterance(wav.astype(np.float32), SAMPLE_RATE, [(t / ratio, name) for t, name in spoken.phonemes])


def labels(spoken: Utterance, frames: int) -> np.ndarray:
    """The viseme of each frame of the features, (frames,) uint8; silence before the first phoneme."""
    visemes = np.zeros(frames, np.uint8)
    ends = [start for start, _ in spoken.phonemes[1:]] + [np.inf]
    for (start, name), end in zip(spoken.phonemes, ends, strict=True):
        visemes[int(start * MEL_RATE) : frames if end == np.inf else int(end * MEL_RATE)] = viseme(name)
    return visemes


@command
def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if not args.minutes > 0:
        raise InputError(f"--minutes {args.minutes} must be above 0")
    check_output_folder(args.output.parent)
    pause = np.full((FEATURES["mel"][1] // 2, FEATURES["mel"][0]), SILENCE["mel"], np.float16)
    mel, visemes, starts, frames = [], [], [], 0
    with tqdm(total=round(args.minutes), unit="min", disable=None) as bar:
        for spoken in utterances(args.seed):
            features = mel_spectrogram(spoken.wav)
            starts.append(frames)
            mel += [pause, features.astype(np.float16), pause]
            visemes.append(np.pad(labels(spoken, len(features)), len(pause)))
            frames += len(visemes[-1])
            bar.update(min(frames / MEL_RATE / 60, bar.total) - bar.n)
            if frames >= args.minutes * 60 * MEL_RATE:
                break
    content = {"mel": np.concatenate(mel), "visemes": np.concatenate(visemes), "starts": np.array(starts, np.int64)}
    with replacing(args.output) as temporary:
        temporary.write_bytes(save(content))
    print(f"{args.output}: {frames / MEL_RATE / 60:.0f} minutes, {len(starts)} sentences")


if __name__ == "__main__":
    sys.exit(main())

"""Sentences in, the recordings of this folder and what is said in them out.

Needs `flite`, `espeak-ng` and `ffmpeg` (Debian packages of these names) and is not run by the
program: it stands here so that the recordings can be made again and their origin seen.
Run `python jobs/samples/make.py`. Each recording gets `NAME.txt` beside it, a line a channel.
"""

import subprocess
import wave
from array import array
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

PAUSE_S = 0.3
"""Seconds of silence before the first turn and after each: people do not start at zero either."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one voice says without being interrupted, and the channel that hears it."""

    voice: str
    text: str
    channel: int = 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A recording to make: where it goes, what is said, and how ffmpeg is to encode it."""

    path: str
    turns: tuple[Turn, ...]
    encoding: str

    @property
    def channels(self) -> int:
        """How many channels the turns need."""
        return 1 + max(turn.channel for turn in self.turns)

    @property
    def said(self) -> str:
        """The truth: a line a channel, the turns of each in the order in which they were said."""
        lines = (
            " ".join(turn.text for turn in self.turns if turn.channel == channel)
            for channel in range(self.channels)
        )
        return "".join(f"{line}\n" for line in lines)


SAMPLES = (
    Sample(
        path="calls/night-desk.m4a",
        encoding="-c:a aac -b:a 64k",
        turns=(
            Turn(
                voice="slt",
                text="Good evening, this is the night desk. How can I help you?",
            ),
            Turn(
                voice="rms",
                text="Hello. I am looking for an old interview with a baker from our town.",
                channel=1,
            ),
            Turn(
                voice="slt",
                text="I have found it. I will send you a copy in the morning.",
            ),
            Turn(
                voice="rms",
                text="Thank you very much. Good night.",
                channel=1,
            ),
        ),
    ),
    Sample(
        path="calls/opening-hours.wav",
        encoding="-ar 8000 -c:a pcm_mulaw",
        turns=(
            Turn(
                voice="rms",
                text="You have reached the city archive. We are open from nine to five on weekdays."
                " To order a recording, please leave your name and the number of the tape after"
                " the tone.",
            ),
        ),
    ),
    Sample(
        path="field/harbour.wma",
        encoding="-ar 16000 -c:a wmav2 -b:a 48k",
        turns=(
            Turn(
                voice="rms",
                text="This is the harbour at five in the morning. The wind comes from the west,"
                " and behind me the first boats are going out to sea.",
            ),
        ),
    ),
    Sample(
        path="interviews/fisherman.ogg",
        encoding="-c:a libopus -b:a 32k",
        turns=(
            Turn(
                voice="de",
                text="Mein Vater war Fischer. Am Abend hat er uns Geschichten erzählt. In der Küche"
                " stand ein großer Tisch.",
            ),
        ),
    ),
    Sample(
        path="interviews/island.webm",
        encoding="-c:a libopus -b:a 32k",
        turns=(
            Turn(
                voice="es",
                text="Buenos días. Hoy hablamos de la vida en el mar. Por la noche hace mucho"
                " viento.",
            ),
        ),
    ),
    Sample(
        path="interviews/lighthouse.mp3",
        encoding="-c:a libmp3lame -b:a 32k",
        turns=(
            Turn(
                voice="slt",
                text="My name is Margaret Hill. I kept the lighthouse for 26 years, and I wrote"
                " down every ship that passed. On quiet nights I could hear the engines long"
                " before I saw the lights.",
            ),
        ),
    ),
    Sample(
        path="interviews/night-shift.flac",
        encoding="-c:a flac",
        turns=(
            Turn(
                voice="awb",
                text="I have worked the night shift at the archive since 1994. The machines listen"
                " to the old tapes while the city sleeps, and in the morning every word is written"
                " down.",
            ),
        ),
    ),
)


SPEAKERS = {
    "slt": "flite -voice slt",
    "rms": "flite -voice rms",
    "awb": "flite -voice awb --setf duration_stretch=1.1",
    "de": "espeak-ng -v de -s 140",
    "es": "espeak-ng -v es -s 150",
}


def speak(turn: Turn, folder: Path) -> "tuple[array[int], int]":
    """What is said as 16-bit samples, and how many of them are a second."""
    path = folder / "turn.wav"
    program, *options = SPEAKERS[turn.voice].split()
    if program == "flite":
        subprocess.run([program, *options, "-t", turn.text, "-o", str(path)], check=True)
    else:
        subprocess.run([program, *options, "-w", str(path), turn.text], check=True)
    with wave.open(str(path)) as spoken:
        return array("h", spoken.readframes(spoken.getnframes())), spoken.getframerate()


def mix(sample: Sample, path: Path) -> None:
    """One turn after the other as a WAV: each on its own channel, silence on the others."""
    spoken = [speak(turn, path.parent) for turn in sample.turns]
    rates = {rate for _, rate in spoken}
    if len(rates) > 1:
        raise ValueError(f"the voices of {sample.path} differ in their sample rate")
    rate = rates.pop()
    pause = array("h", [0]) * (int(PAUSE_S * rate) * sample.channels)
    interleaved = pause[:]
    for turn, (samples, _) in zip(sample.turns, spoken, strict=True):
        frames = array("h", [0]) * (len(samples) * sample.channels)
        frames[turn.channel :: sample.channels] = samples
        interleaved += frames + pause
    with wave.open(str(path), "wb") as mixed:
        mixed.setnchannels(sample.channels)
        mixed.setsampwidth(2)
        mixed.setframerate(rate)
        mixed.writeframes(interleaved.tobytes())


def make(sample: Sample, root: Path) -> None:
    """The recording and, beside it, what is said in it. The same bytes on every run."""
    target = root / sample.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".txt").write_text(sample.said, encoding="utf-8")
    with TemporaryDirectory() as folder:
        mixed = Path(folder, "mixed.wav")
        mix(sample, mixed)
        command = ["ffmpeg", "-y", "-loglevel", "error", "-i", str(mixed)]
        command += ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:a", "+bitexact"]
        subprocess.run([*command, *sample.encoding.split(), str(target)], check=True)


if __name__ == "__main__":
    for wanted in SAMPLES:
        make(wanted, Path(__file__).parent)

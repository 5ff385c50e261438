"""From a file and options to what was said: languages, channels, times, and the refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyio import CapacityLimiter

from pipeline.engine.audio import RATE_HZ, Unusable
from pipeline.engine.listen import Heard, listen
from pipeline.engine.speech import Stopped
from tests.engine import sounds
from tests.engine.client import engine
from tests.engine.scripted import ScriptedRecognizer

pytestmark = pytest.mark.anyio


async def heard(path: Path, recognizer: ScriptedRecognizer | None = None, **options: Any) -> Heard:
    return await listen(
        path,
        options,
        recognizer or ScriptedRecognizer(),
        cores=CapacityLimiter(2),
        cancelled=lambda: False,
    )


async def refusal(path: Path, recognizer: ScriptedRecognizer | None = None, **options: Any) -> str:
    with pytest.raises(Unusable) as refused:
        await heard(path, recognizer, **options)
    return str(refused.value)


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    return sounds.write(tmp_path / "silent.wav", sounds.silence(3))


async def test_given_language_is_used_and_not_detected(upload: Path) -> None:
    """The recogniser is told the language, its region left out; no confidence is made up."""
    recognizer = ScriptedRecognizer(probabilities={"fr": 1.0})
    found = await heard(upload, recognizer, language_code="en_us")

    assert (found.language_code, found.language_confidence) == ("en_us", None)
    assert {language for _, language in recognizer.blocks} == {"en"}


HEARD = {"en": 0.5, "fr": 0.3, "de": 0.2}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("en", 0.5)),
        ({"expected_languages": ["all"]}, ("en", 0.5)),
        ({"expected_languages": ["de", "en_us"]}, ("en", 0.5)),
        ({"expected_languages": ["de_ch", "fr"]}, ("fr", 0.3)),
        ({"expected_languages": ["de_ch", "fr"], "fallback_language": "de_ch"}, ("de_ch", 0.2)),
        ({"expected_languages": ["de", "fr"], "fallback_language": "auto"}, ("fr", 0.3)),
    ],
)
async def test_detected_language_is_one_of_those_expected(
    upload: Path, options: dict[str, Any], expected: tuple[str, float]
) -> None:
    """What is not expected gives way to the fallback, or to the likeliest that is."""
    recognizer = ScriptedRecognizer(probabilities=HEARD)
    found = await heard(upload, recognizer, language_detection_options=options)

    assert (found.language_code, found.language_confidence) == expected
    assert {language for _, language in recognizer.blocks} == {expected[0][:2]}


async def test_unsure_language_fails_in_the_services_words(upload: Path) -> None:
    """Below the threshold a transcript fails before it is worked on, or takes the fallback."""
    recognizer = ScriptedRecognizer(probabilities=HEARD)
    sentence = await refusal(upload, recognizer, language_confidence_threshold=0.6)
    fallback = {"fallback_language": "de", "on_low_language_confidence": "fallback"}
    found = await heard(
        upload,
        language_confidence_threshold=0.95,
        language_detection_options=fallback,
    )

    assert sentence == (
        "detected language 'en', confidence 0.5000, is below the requested confidence "
        "threshold value of '0.6'"
    )
    assert recognizer.blocks == []
    assert found.language_code == "de"


async def test_silence_fails_where_its_language_is_wanted(silent: Path) -> None:
    """Detection needs speech: without any, the service's sentence."""
    assert await refusal(silent) == (
        "language_detection cannot be performed on files with no spoken audio."
    )


@pytest.mark.parametrize(
    ("options", "language"),
    [
        ({"language_code": "en_us"}, "en_us"),
        (
            {
                "language_detection_options": {
                    "on_no_speech_detected": "fallback",
                    "fallback_language": "fr",
                }
            },
            "fr",
        ),
    ],
)
async def test_silence_of_a_known_language_is_empty(
    silent: Path, options: dict[str, Any], language: str
) -> None:
    """With a language, or a fallback to one, silence is a transcript without words."""
    recognizer = ScriptedRecognizer()
    found = await heard(silent, recognizer, **options)

    assert found == Heard([[]], 3, language, None)
    assert recognizer.blocks == []


async def test_silent_transcript_is_completed_and_empty(tmp_path: Path, silent: Path) -> None:
    """Over HTTP silence is `completed`, with empty text and words, not null ones."""
    async with engine(tmp_path / "state", ScriptedRecognizer()) as client:
        transcript = await client.transcribed(silent, language_code="en", multichannel=True)

    assert (transcript["status"], transcript["text"], transcript["words"]) == ("completed", "", [])
    assert (transcript["utterances"], transcript["confidence"]) == ([], 0.0)
    assert transcript["audio_duration"] == 3


async def test_too_little_speech_fails_in_the_services_words(upload: Path) -> None:
    """Half of the file is sound: over half wanted fails, half wanted completes."""
    assert await refusal(upload, speech_threshold=0.75) == (
        "Audio speech threshold 0.5000 is below the requested speech threshold value 0.75"
    )
    assert (await heard(upload, speech_threshold=0.5)).audio_duration == 4


async def test_stretch_of_a_file_keeps_the_times_of_the_file(upload: Path) -> None:
    """`audio_start_from` leaves out what is before it, and shifts nothing."""
    found = await heard(upload, audio_start_from=2000, audio_end_at=3900)

    assert [word.start for word in found.channels[0]] == [3000, 3450]
    assert found.audio_duration == 4


async def test_length_is_rounded_up_to_seconds(tmp_path: Path) -> None:
    """1.28 s are 2; the padding of a codec makes no second of 3."""
    short = sounds.write(tmp_path / "short.wav", sounds.tone(1.28))
    padded = sounds.write(tmp_path / "padded.m4a", sounds.tone(3), "m4a")

    assert (await heard(short)).audio_duration == 2
    assert (await heard(padded)).audio_duration == 3


async def test_channels_have_their_own_words_and_turns(tmp_path: Path) -> None:
    """With `multichannel` words and turns say who spoke, and text follows the turns."""
    both = sounds.beside(
        sounds.after(sounds.tone(1), sounds.silence(2), sounds.tone(1)),
        sounds.after(sounds.silence(0.5), sounds.tone(1)),
    )
    path = sounds.write(tmp_path / "both.wav", both)
    async with engine(tmp_path / "state", ScriptedRecognizer("Rain", "fell.")) as client:
        transcript = await client.transcribed(path, multichannel=True)

    assert (transcript["multichannel"], transcript["audio_channels"]) == (True, 2)
    assert [
        (turn["speaker"], turn["channel"], turn["start"], turn["end"], turn["text"])
        for turn in transcript["utterances"]
    ] == [
        ("1", "1", 0, 900, "Rain fell."),
        ("2", "2", 500, 1400, "Rain fell."),
        ("1", "1", 3000, 3900, "Rain fell."),
    ]
    assert transcript["text"] == "Rain fell. Rain fell. Rain fell."
    assert [(word["start"], word["speaker"]) for word in transcript["words"]] == [
        (0, "1"),
        (500, "1"),
        (500, "2"),
        (1000, "2"),
        (3000, "1"),
        (3500, "1"),
    ]
    assert all(word["channel"] == word["speaker"] for word in transcript["words"])


async def test_language_without_spaces_is_written_without(tmp_path: Path, upload: Path) -> None:
    """Japanese words are joined as Japanese is written."""
    async with engine(tmp_path / "state", ScriptedRecognizer("今日", "は")) as client:
        transcript = await client.transcribed(upload, language_code="ja")

    assert transcript["text"] == "今日は今日は"


async def test_options_that_change_words_reach_them(tmp_path: Path, upload: Path) -> None:
    """`punctuate`, `format_text`, `custom_spelling` and `filter_profanity` change the answer."""
    recognizer = ScriptedRecognizer("Shit,", "sequel", "Works!")
    async with engine(tmp_path / "state", recognizer) as client:
        transcript = await client.transcribed(
            upload,
            punctuate=False,
            format_text=False,
            filter_profanity=True,
            custom_spelling=[{"from": ["Sequel"], "to": "SQL"}],
        )

    assert transcript["text"] == "s*** SQL works s*** SQL works"
    assert (transcript["punctuate"], transcript["filter_profanity"]) == (False, True)
    assert transcript["custom_spelling"] == [{"from": ["Sequel"], "to": "SQL"}]


async def test_stopping_ends_hours_of_silence(silent: Path) -> None:
    """The wish to stop is seen where nothing is transcribed, too."""
    with pytest.raises(Stopped):
        await listen(
            silent,
            {"language_code": "en"},
            ScriptedRecognizer(),
            cores=CapacityLimiter(1),
            cancelled=lambda: True,
        )


async def test_words_of_blocks_come_out_in_the_order_of_time(tmp_path: Path) -> None:
    """Where blocks meet no word starts before the one that it follows."""
    rng = np.random.default_rng(7)
    pieces = [
        part
        for _ in range(30)
        for part in (sounds.tone(float(rng.uniform(1, 20))), sounds.silence(0.4))
    ]
    sound = sounds.after(*pieces)
    path = sounds.write(tmp_path / "long.flac", sound, "flac")
    found = await heard(path, ScriptedRecognizer("a", "b", "c"), language_code="en")
    starts = [word.start for word in found.channels[0]]

    assert starts == sorted(starts)
    assert len(starts) >= 3 * 30
    assert abs(found.audio_duration - sound.shape[1] / RATE_HZ) <= 1

"""The vendor's own Python client works with the engine as it does with the vendor.

It accepts only status 200, parses every body into its own types and pages by the links of the
list, so it finds what our reading of the description may have missed. The scripted service is
held to the same: tests that trust it should be able to.

Source: the package assemblyai, 1.8.2
"""

from __future__ import annotations

import io
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import assemblyai as aai
import jiwer
import pysubs2
import pytest
import webvtt
from anyio import to_thread

from pipeline import engine
from tests.support.service_pair import KINDS, Served, recording, served

pytestmark = [
    pytest.mark.anyio,
    # The client itself calls what pydantic has deprecated.
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20"),
]

SAMPLES = Path(__file__).parents[1] / "jobs" / "samples"


@pytest.fixture(params=KINDS)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(request.param, tmp_path / "state") as server:
        yield server


@pytest.fixture
async def vendor(server: Served) -> AsyncIterator[aai.Transcriber]:
    """The vendor's client of the server; it blocks, so tests call it in threads."""
    client = aai.Client(settings=_settings(server.url, server.key))
    yield aai.Transcriber(client=client)
    client.http_client.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording on disk."""
    path = tmp_path / "a recording.wav"
    path.write_bytes(recording())
    return path


def _settings(url: str, key: str) -> aai.Settings:
    return aai.Settings(api_key=key, base_url=url, polling_interval=0.02, http_timeout=30)


async def test_transcribe_a_file(vendor: aai.Transcriber, path: Path) -> None:
    """A file is uploaded, transcribed and parsed: text, words, confidence and duration."""
    config = aai.TranscriptionConfig(language_code="en", speech_models=["universal-2"])
    transcript = await to_thread.run_sync(vendor.transcribe, str(path), config)
    words = transcript.words or []

    assert transcript.status == aai.TranscriptStatus.completed
    assert transcript.text == " ".join(word.text for word in words)
    assert all(word.start < word.end and 0 <= word.confidence <= 1 for word in words)
    assert transcript.confidence is not None
    assert 0 < transcript.confidence <= 1
    assert transcript.audio_duration == 4
    assert transcript.error is None


async def test_sources(vendor: aai.Transcriber, path: Path) -> None:
    """Bytes, an open file and an upload_url are transcribed alike."""
    upload_url = await to_thread.run_sync(vendor.upload_file, str(path))
    sources = (recording(), io.BytesIO(recording()), upload_url)
    texts = [(await to_thread.run_sync(vendor.transcribe, source)).text for source in sources]

    assert texts[0]
    assert texts == [texts[0]] * 3


async def test_submit_and_wait(server: Served, vendor: aai.Transcriber, path: Path) -> None:
    """A transcript that is submitted is under way, until waiting for it brings it completed."""
    server.hold()
    transcript = await to_thread.run_sync(vendor.submit, str(path))
    status = transcript.status
    server.release()
    await to_thread.run_sync(transcript.wait_for_completion)

    assert status in (aai.TranscriptStatus.queued, aai.TranscriptStatus.processing)
    assert transcript.status == aai.TranscriptStatus.completed


async def test_failed_transcript(vendor: aai.Transcriber) -> None:
    """What is not audio comes back with status error and its sentence, not as an exception."""
    content = b"ERROR:File does not appear to contain audio. File type is text/plain."
    transcript = await to_thread.run_sync(vendor.transcribe, content)

    assert transcript.status == aai.TranscriptStatus.error
    assert "does not appear to contain audio" in (transcript.error or "")


async def test_refusals(server: Served, vendor: aai.Transcriber, path: Path) -> None:
    """A wrong key and options that exclude each other arrive with their status and sentence."""
    both = aai.TranscriptionConfig(language_code="en", language_detection=True)
    with pytest.raises(aai.TranscriptError, match="language_detection") as refused:
        await to_thread.run_sync(vendor.transcribe, str(path), both)
    client = aai.Client(settings=_settings(server.url, "wrong"))
    with pytest.raises(aai.TranscriptError, match="Authentication error") as unknown:
        await to_thread.run_sync(aai.Transcriber(client=client).transcribe, str(path))
    client.http_client.close()

    assert (refused.value.status_code, unknown.value.status_code) == (400, 401)


async def test_exports(vendor: aai.Transcriber, path: Path) -> None:
    """Captions, sentences, paragraphs and the word search all hold the transcript's words."""
    transcript = await to_thread.run_sync(vendor.transcribe, str(path))
    srt = await to_thread.run_sync(transcript.export_subtitles_srt, 20)
    vtt = await to_thread.run_sync(transcript.export_subtitles_vtt)
    sentences = await to_thread.run_sync(transcript.get_sentences)
    paragraphs = await to_thread.run_sync(transcript.get_paragraphs)
    words = transcript.words or []
    wanted = words[1].text.strip(".,").lower()
    matches = await to_thread.run_sync(transcript.word_search, [wanted])

    captions = pysubs2.SSAFile.from_string(srt, format_="srt")
    assert _line(line.plaintext for line in captions) == transcript.text
    assert _line(line.text for line in webvtt.from_string(vtt).captions) == transcript.text
    assert _line(sentence.text for sentence in sentences) == transcript.text
    assert _line(paragraph.text for paragraph in paragraphs) == transcript.text
    assert [match.text.lower() for match in matches] == [wanted]
    assert (words[1].start, words[1].end) in [tuple(times) for times in matches[0].timestamps]


async def test_list(vendor: aai.Transcriber) -> None:
    """The client's own way through the list meets every transcript once, newest first."""
    made = [(await to_thread.run_sync(vendor.transcribe, recording(seed))).id for seed in range(5)]
    found, page_sizes = [], []
    params = aai.ListTranscriptParameters(limit=2)
    while True:
        page = await to_thread.run_sync(vendor.list_transcripts, params)
        page_sizes.append(page.page_details.result_count)
        found += [row.id for row in page.transcripts]
        params.before_id = page.page_details.before_id_of_prev_url
        if params.before_id is None:
            break

    assert found == made[::-1]
    assert page_sizes[:3] == [2, 2, 1]


async def test_delete(server: Served, path: Path) -> None:
    """The client that does not block deletes a transcript, which then reads as deleted."""
    async with aai.AsyncClient(settings=_settings(server.url, server.key)) as client:
        vendor = aai.AsyncTranscriber(client=client)
        transcript = await vendor.transcribe(str(path))
        assert transcript.id is not None
        deleted = await vendor.delete_by_id(transcript.id)
        again = await vendor.get_by_id(transcript.id)
        rows = (await vendor.list_transcripts()).transcripts

    for left in (deleted, again):
        assert left.status == aai.TranscriptStatus.completed
        assert (left.text, left.words) == ("Deleted by user.", None)
        assert left.audio_url == "http://deleted_by_user"
    assert [row.audio_url for row in rows] == ["http://deleted_by_user"]


async def test_real_speech(tmp_path: Path) -> None:
    """The engine with its own model hears what is said in a sample, as the client sees it."""
    sample = SAMPLES / "interviews" / "lighthouse.mp3"
    async with engine.serve(tmp_path / "state", keys=["key"]) as running:
        client = aai.Client(settings=_settings(running.url, "key"))
        vendor = aai.Transcriber(client=client)
        transcript = await to_thread.run_sync(vendor.transcribe, str(sample))
        client.http_client.close()
    said, heard = sample.with_suffix(".txt").read_text(), transcript.text or ""

    assert transcript.status == aai.TranscriptStatus.completed
    assert jiwer.wer(_spoken(said), _spoken(heard)) <= 0.05


def _spoken(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def _line(texts: Iterable[str]) -> str:
    return " ".join(" ".join(texts).split())

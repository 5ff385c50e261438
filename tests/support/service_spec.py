"""The vendor's own description of its API, with what is wrong in it put right: a dict out.

`openapi.json` beside this file is the structure of the published description, flaws included.
What is repaired, each because the service itself does otherwise:

    request     two closed objects joined by allOf, which no body can satisfy, become one
                `speech_models` is optional, and names models
    answers     may have keys that are not listed, and null where nothing is known yet
                a model that is off leaves `{}` or `unavailable` without a summary
    key         not described, so that requests are not made bad by leaving it out
    statuses    422 and 413 of uploads, 404 of captions as a page, 202 of redacted audio

Source: AssemblyAI/assemblyai-api-spec, openapi.yml, commit 3fcf678d (2026-03-23), which states
no licence; the statuses from its pages "Common errors and solutions" and "Retry upload errors".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_FILE = Path(__file__).with_name("openapi.json")
_REQUESTS = ("TranscriptParams", "TranscriptOptionalParams")
_TEXT = {"description": "", "content": {"text/plain": {"schema": {"type": "string"}}}}
_PAGE = {"description": "", "content": {"text/html": {"schema": {"type": "string"}}}}


def published() -> Json:
    """The description as it is in the file."""
    return dict(json.loads(_FILE.read_text(encoding="utf-8")))


def repaired() -> Json:
    """The description as the service behaves."""
    spec = published()
    del spec["security"]
    schemas, paths = spec["components"]["schemas"], spec["paths"]
    _join_request(schemas)
    for name, schema in schemas.items():
        if name not in _REQUESTS and not name.endswith("RequestBody"):
            _open(schema)
    _allow_null(schemas["Transcript"])
    for name in ("ContentSafetyLabelsResult", "TopicDetectionModelResult"):
        del schemas[name]["required"]

    error = {"$ref": "#/components/responses/BadRequest"}
    paths["/v2/upload"]["post"]["responses"] |= {"413": error, "422": _TEXT}
    for path, operations in paths.items():
        if path.endswith("/{subtitle_format}"):
            operations["get"]["responses"]["404"] = _PAGE
        elif path.endswith("/redacted-audio"):
            operations["get"]["responses"]["202"] = {"description": ""}
    return spec


def _join_request(schemas: Json) -> None:
    own, _ = schemas["TranscriptParams"]["allOf"]
    options = schemas["TranscriptOptionalParams"]
    schemas["TranscriptParams"] = {
        "type": "object",
        "additionalProperties": False,
        "required": own["required"],
        "properties": own["properties"] | options["properties"],
    }
    schemas["TranscriptParams"]["properties"]["speech_models"] = {
        "type": "array",
        "minItems": 1,
        "items": {"enum": ["assemblyai-stt-3-7", "universal-3-5-pro", "universal-2"]},
    }


def _open(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]
        for part in schema.values():
            _open(part)
    elif isinstance(schema, list):
        for part in schema:
            _open(part)


def _allow_null(transcript: Json) -> None:
    properties = transcript["properties"]
    # `required` belongs to objects; here it stands in an array.
    properties["topics"].pop("required")
    for name, schema in properties.items():
        if name not in transcript["required"]:
            properties[name] = {"anyOf": [schema, {"type": "null"}]}

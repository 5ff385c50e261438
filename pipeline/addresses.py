"""
Which addresses are the same: in, spellings of a provider or of an upload; out, one form of each.

Servers behind proxies write an address otherwise than they were given it: `http` for `https`,
another host or port, other percent-encoding, a signature in the query. Pure: no I/O.
"""

from collections import Counter
from urllib.parse import SplitResult, parse_qsl, unquote_to_bytes, urlsplit

__all__ = [
    "PROVIDERS",
    "address_path",
    "canonical_base_url",
    "is_url",
    "provider_kind",
    "same_upload",
    "without_query",
]

PROVIDERS = {
    "assemblyai": "https://api.assemblyai.com",
    "assemblyai-eu": "https://api.eu.assemblyai.com",
}
"""The vendor's own hosts by name. Source: AssemblyAI docs, "Select the region"."""

_PORTS = {"http": 80, "https": 443}
_VENDORS = {urlsplit(url).hostname: url for url in PROVIDERS.values()}


def _parts(url: str) -> tuple[SplitResult, int | None] | None:
    """A URL of the web and its port, None where that is its scheme's own; None for other texts."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # of its port or brackets
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts, None if port == _PORTS[parts.scheme] else port


def _origin(parts: SplitResult, port: int | None) -> str:
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


def is_url(text: str) -> bool:
    """Whether a text is a URL of the web."""
    return _parts(text) is not None


# --- providers ------------------------------------------------------------------------------------


def canonical_base_url(text: str) -> str:
    """
    The one spelling of a base URL: small letters, no usual port, no `/` or `/v2` at its end.

    A host of the vendor's is spoken to under https, whether or not that was said. What is no URL is
    given back as it is.
    """
    found = _parts(text)
    if found is None:
        vendor = _parts(f"https://{text}")
        is_vendor = vendor is not None and _origin(*vendor) in PROVIDERS.values()
        return canonical_base_url(f"https://{text}") if is_vendor else text
    parts, port = found
    path = parts.path.rstrip("/").removesuffix("/v2").rstrip("/")
    origin = _origin(parts, port)
    if port is None and (vendor_url := _VENDORS.get((parts.hostname or "").rstrip("."))):
        origin = vendor_url
    return origin + path


def provider_kind(base_url: str) -> str:
    """What of a provider is part of a request's identity: `assemblyai`, `local` or `custom`."""
    url = canonical_base_url(base_url)
    return "assemblyai" if url in PROVIDERS.values() else "local" if url == "local" else "custom"


# --- uploads --------------------------------------------------------------------------------------


def address_path(url: str) -> str:
    """
    What of an address other spellings of it share: its path, percent-decoded, without empty parts.

    A text that has neither path nor query to go by, or is no URL, is given back as it is.
    """
    found = _parts(url)
    if found is None:
        return url
    decoded = unquote_to_bytes(found[0].path.encode("utf-8", "backslashreplace"))
    path = "/".join(filter(None, decoded.decode("utf-8", "backslashreplace").split("/")))
    return path if path or found[0].query else url


def same_upload(ours: str, theirs: str) -> bool:
    """
    Whether an address may be another spelling of that of an upload of ours.

    Its path has to be the same, and each parameter of our query in it; scheme, host and port may
    be others, and more parameters may follow.
    """
    if ours == theirs:
        return True
    our, their = _parts(ours), _parts(theirs)
    if our is None or their is None or address_path(ours) != address_path(theirs):
        return False
    return not _parameters(our[0]) - _parameters(their[0])


def _parameters(parts: SplitResult) -> Counter[tuple[str, str]]:
    return Counter(parse_qsl(parts.query, keep_blank_values=True))


def without_query(url: str) -> str:
    """An address as it may be shown: without user, password and query, which may be secrets."""
    found = _parts(url)
    return url.partition("?")[0] if found is None else _origin(*found) + found[0].path

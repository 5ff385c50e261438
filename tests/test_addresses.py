"""Which spellings are the same: generated addresses, and what servers make of them."""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.addresses import (
    PROVIDERS,
    address_path,
    canonical_base_url,
    is_url,
    provider_kind,
    same_upload,
    without_query,
)

words = st.text("abcxyz019-_", min_size=1, max_size=8)
uploads = st.builds("https://cdn.example.org/{}/{}".format, words, words)
texts = st.text(max_size=40) | st.builds("http://h/{}".format, st.text(max_size=20))


def encoded(url: str) -> str:
    """The same with every character of its path percent-encoded."""
    origin, path = url[: len("https://cdn.example.org")], url[len("https://cdn.example.org") :]
    return origin + "/".join("".join(f"%{ord(c):02X}" for c in part) for part in path.split("/"))


RESPELLED: dict[str, Callable[[str], str]] = {
    "scheme": lambda url: url.replace("https", "http"),
    "capitals": lambda url: url.replace("https://cdn", "HTTPS://CDN"),
    "port": lambda url: url.replace(".org", ".org:8443"),
    "host": lambda url: url.replace("cdn.example.org", "[::1]:80"),
    "userinfo": lambda url: url.replace("cdn.example", "me:x@cdn.example"),
    "encoding": encoded,
    "query": lambda url: f"{url}?a=1&b",
    "fragment": lambda url: f"{url}#x",
    "slash": lambda url: f"{url}//",
}


@given(url=uploads)
@pytest.mark.parametrize("how", RESPELLED)
def test_other_spellings_are_the_same_upload(how: str, url: str) -> None:
    """Scheme, host, port, encoding and what is added make no other upload of one."""
    spelled = RESPELLED[how](url)

    assert same_upload(url, spelled)
    assert address_path(spelled) == address_path(url)


@given(ours=uploads, theirs=uploads)
@pytest.mark.parametrize("how", RESPELLED)
def test_another_path_is_another_upload(how: str, ours: str, theirs: str) -> None:
    """What differs in its path is another upload, however it is spelled."""
    assert same_upload(ours, RESPELLED[how](theirs)) == (ours == theirs)


@pytest.mark.parametrize(
    ("ours", "theirs", "is_same"),
    [
        ("https://h/u?id=1", "http://p/u?id=1", True),
        ("https://h/u?id=1", "http://p/u?sig=x&id=1", True),
        ("https://h/u?id=1", "http://p/u?id=2", False),
        ("https://h/u?id=1", "http://p/u", False),
        ("https://h/u?id=1&id=1", "http://p/u?id=1", False),
        ("https://h/u?a=b%20c", "http://p/u?a=b+c", True),
        ("https://h/u?a", "http://p/u?a=", True),
        ("https://h/a%2Fb", "http://p/a/b", True),
        ("https://h/a%252Fb", "http://p/a/b", False),
        ("https://h/%FF", "http://p/%FE", False),
        ("https://h/A", "http://p/a", False),
        ("https://h/?id=1", "http://p?id=1", True),
        ("https://h/", "http://p/", False),
        ("https://h/u", "ftp://h/u", False),
        ("upload:1", "upload:1", True),
        ("upload:1", "https://h/1", False),
        ("https://h/u", "http://deleted_by_user", False),
        ("https://h:99999/u", "https://h/u", False),
    ],
)
def test_what_counts_of_an_address(ours: str, theirs: str, is_same: bool) -> None:
    """Each parameter of ours has to be in theirs, and paths are compared to the letter."""
    assert same_upload(ours, theirs) == is_same


@given(one=texts, other=texts)
def test_no_text_does_harm(one: str, other: str) -> None:
    """Whatever a service writes where an address belongs is an answer, never an error."""
    assert same_upload(one, one)
    assert not same_upload(one, other) or one == other or address_path(one) == address_path(other)
    assert isinstance(address_path(one), str)
    assert isinstance(without_query(one), str)
    assert canonical_base_url(canonical_base_url(one)) == canonical_base_url(one)
    assert not is_url(one) or is_url(canonical_base_url(one))
    address_path(one).encode()


@given(path=st.text(st.characters(exclude_categories=["Cs"]), max_size=10))
def test_paths_of_any_letters_are_decoded(path: str) -> None:
    """A path in any script is the same encoded and not."""
    plain = path.replace("?", "").replace("#", "").replace("%", "").strip().replace("\\", "")
    plain = "".join(each for each in plain if each.isalnum() or each in "/-.")

    assert same_upload(f"https://h/x{plain}", f"http://p/x{quote(plain)}")


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("port", ["", ":443", ":0443"])
@pytest.mark.parametrize("path", ["", "/", "//", "/v2", "/v2/"])
@pytest.mark.parametrize("spelled", [str, str.upper])
def test_the_vendor_is_the_vendor(
    name: str, port: str, path: str, spelled: Callable[[str], str]
) -> None:
    """However its hosts are written, the vendor is one provider."""
    url = spelled(PROVIDERS[name]) + port + path

    assert canonical_base_url(url) == PROVIDERS[name]
    assert canonical_base_url(url.partition("://")[2]) == PROVIDERS[name]
    assert provider_kind(url) == "assemblyai"


@pytest.mark.parametrize(
    ("base_url", "kind"),
    [
        ("local", "local"),
        ("http://localhost:80", "custom"),
        ("https://api.assemblyai.com:444", "custom"),
        ("https://api.assemblyai.com/proxy", "custom"),
        ("https://api.assemblyai.com.example.org", "custom"),
        ("https://assemblyai.com", "custom"),
        ("", "custom"),
    ],
)
def test_others_are_others(base_url: str, kind: str) -> None:
    """What only looks like the vendor is not taken for it."""
    assert provider_kind(base_url) == kind


def test_what_is_shown_holds_no_secret() -> None:
    """Of an address that is shown there is neither password nor query."""
    assert without_query("https://me:hunter22@H/a%2Fb?token=hunter22#x") == "https://h/a%2Fb"
    assert without_query("stream?token=hunter22") == "stream"

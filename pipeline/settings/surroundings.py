"""
What a machine, a container or a cluster has put around the program.

In go variables; out come the home folder, and what is to be said of variables that do not do what
somebody meant by them.
"""

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import SettingsError

__all__ = ["home_of", "is_injected", "odd_variables"]

_INJECTED = re.compile(
    r"OVERNIGHT_(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)


def is_injected(name: str) -> bool:
    """
    Whether Kubernetes makes this variable of a service called `overnight` or `overnight-…`.

    Source: Kubernetes docs, "Service", environment variables of services.
    """
    return _INJECTED.fullmatch(name) is not None


def home_of(environ: Mapping[str, str]) -> Path:
    """
    The home folder of the user.

    Raises:
        SettingsError: nobody says where it is.
    """
    if home := environ.get("HOME"):
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        raise SettingsError("there is no home folder here: set `HOME`") from None


def odd_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """What is to be said of variables that change nothing. Blocks: call it in a thread."""
    if injected := sorted(filter(is_injected, environ)):
        yield (
            f"passed over, since Kubernetes made them of a service: {', '.join(injected)};"
            " `enableServiceLinks: false` leaves them out"
        )
    if (file := environ.get("SSL_CERT_FILE")) and (why := _unusable(file)):
        yield f"`SSL_CERT_FILE` {file} is not used: {why}"
    for folder in filter(None, environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        if not os.path.isdir(folder):
            yield f"`SSL_CERT_DIR` {folder} is not used: there is no such folder"


def _unusable(certificates: str) -> str | None:
    """Why no certificate is had from a file, about which OpenSSL is silent."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=certificates)
    except ssl.SSLError:
        return "it holds no certificates"
    except OSError as error:
        return error.strerror
    return None

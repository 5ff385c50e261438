"""
What jobs of a process share: in, settings, address and key; out, clients that keep to it.

What the service limits is an account: whoever works for one account in this process, however many
jobs at once, does it within one budget. What bounds uploads is the line of the machine.
"""

from pipeline.client import Client
from pipeline.limiter import Limiter
from pipeline.settings import Settings, key_fingerprint
from pipeline.uplink import Uplink

__all__ = ["Budgets"]

_LONGEST_WAY_S = 1.0


class Budgets:
    """One limiter for each account, by address and key; as long as this object is passed on."""

    def __init__(self) -> None:
        self._limiters: dict[tuple[str, str], Limiter] = {}
        self._uplink: Uplink | None = None

    def client(self, settings: Settings, base_url: str, key: str) -> Client:
        """
        A client for this account, to be entered, within its budget.

        The budget is that of the settings which came first for the account, the line that of the
        first of all.
        """
        if self._uplink is None:
            uploads = settings.uploads
            self._uplink = Uplink(uploads.min, uploads.max, settings.bwlimit)
        account = base_url, key_fingerprint(key)
        if account not in self._limiters:
            self._limiters[account] = _limiter(settings)
        return Client(
            base_url,
            key,
            self._limiters[account],
            connect_s=settings.timeouts.connect,
            stall_s=settings.timeouts.stall,
            answer_s=settings.timeouts.answer,
            max_answer_bytes=settings.max_answer,
            uplink=self._uplink,
        )


def _limiter(settings: Settings) -> Limiter:
    requests = settings.requests
    # The service counts when a request arrives: one that was long on its way and one that was not
    # are closer there than here, so that the whole of a limit needs a little more time.
    window_s = requests.window_s + min(_LONGEST_WAY_S, requests.window_s / 40)
    return Limiter(int(requests.count * settings.share), window_s, ramp=settings.ramps)

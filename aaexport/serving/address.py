"""A URL of a service → its parts, and the one sentence for what goes wrong there. The command line checks by it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aaexport.errors import ArgumentError, ServiceError, broken_rule, parameter

SCHEMES = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}  # and the port where the URL names none
AUTHORIZATION = "AAEXPORT_AUTHORIZATION"  # an environment variable: its value is neither shown nor recorded
TIMEOUT = 5.0  # seconds for one attempt at a query
UNKNOWN_USER = (401, "UNAUTHENTICATED")
COMPLAINT = 300  # characters of a server's complaint that are passed on
# Of a model that Triton has a name for, and no version just now: it is loaded anew, or failed to load.
AWAY, UNHEARD_OF = "has no available versions", "is not found"
FORM = "be http://, https://, grpc:// or grpcs:// and HOST[:PORT]"


@dataclass(frozen=True)
class Address:
    """Where a service is: `http://127.0.0.1:8000`, over HTTP with the path before the protocol's own, if any."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @property
    def is_rest(self) -> bool:
        """Whether it is HTTP and not gRPC."""
        return self.scheme in ("http", "https")

    @property
    def is_secure(self) -> bool:
        """Whether it is by TLS."""
        return self.scheme in ("https", "grpcs")

    @property
    def netloc(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.prefix}"


@dataclass(frozen=True)
class Access:
    """How services are asked.

    Attributes:
        timeout: seconds for one attempt at a query.
        ca: a file of the authorities whose certificates count; None for those that the system trusts.
        authorization: goes along with every query, as `Bearer …`; what AAEXPORT_AUTHORIZATION holds by default.
        headers: go along too, by their names in lower case: over gRPC they are metadata.
    """

    timeout: float = TIMEOUT
    ca: Path | None = None
    authorization: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def credentials(self) -> str | None:
        """What goes along with every query; None if nothing does. ArgumentError for what no header holds."""
        found = self.authorization or os.environ.get(AUTHORIZATION)
        if found and not (found.isascii() and found.isprintable()):
            rule = f"authorization, or {AUTHORIZATION}, must be one line of ASCII signs"
            raise ArgumentError(f"{rule}, got others; it is not shown here")
        return found or None


def parse_url(url: str) -> Address:
    """`grpc://host:8001` → its parts. ArgumentError if it is no URL of a service."""
    scheme, separator, _ = url.partition("://")
    if not url.isascii():
        remedy = "write a host in punycode, and other signs of a path as %XX"
        raise ArgumentError(broken_rule("url", "be of ASCII signs", url, remedy))
    if not separator or scheme.lower() not in SCHEMES:
        raise ArgumentError(broken_rule("url", FORM, url))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ArgumentError(broken_rule("url", FORM, url)) from error
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]}"
        raise ArgumentError(broken_rule("url", "hold no password", shown, f"put it into {AUTHORIZATION}"))
    if not parts.hostname or port == 0 or parts.query or parts.fragment or not _is_plain(url):
        raise ArgumentError(broken_rule("url", FORM, url))
    path = parts.path.rstrip("/")
    address = Address(parts.scheme, parts.hostname, port or SCHEMES[parts.scheme], path)
    if path and not address.is_rest:
        raise ArgumentError(broken_rule("url", "end with the port for gRPC", url))
    if "v2" in path.split("/"):
        whole = url[: url.index("/v2")]
        raise ArgumentError(broken_rule("url", "end before the protocol's own path", url, f"give {whole}"))
    return address


def _is_plain(text: str) -> bool:
    """Whether it is of ASCII, without blanks and signs that steer."""
    return text.isascii() and text.isprintable() and " " not in text


def parse_urls(urls: str | Sequence[str]) -> tuple[Address, ...]:
    """One or several. ArgumentError for none, for one that is no URL, and for one that is named twice."""
    found = tuple(parse_url(url) for url in ([urls] if isinstance(urls, str) else urls))
    if not found:
        raise ArgumentError(broken_rule("url", "name at least one service", "none"))
    for at, address in enumerate(found):
        if address in found[:at]:
            raise ArgumentError(broken_rule("url", "name each service once", str(address)))
    return found


def check_service(url: Sequence[str], served_as: str | None, timeout: float, ca: str | Path | None) -> None:
    """ArgumentError for what is no URL, no name or no time, or goes with a URL and has none."""
    if url:
        parse_urls(url)
    for name, given in (("served_as", served_as), ("ca", ca), ("timeout", None if timeout == TIMEOUT else timeout)):
        if given is not None and not url:
            raise ArgumentError(broken_rule(name, f"go with {parameter('url')}", given))
    if served_as is not None:
        model_and_version(served_as)
    if not 0 < timeout < float("inf"):
        raise ArgumentError(broken_rule("timeout", "be a number of seconds above 0", timeout))


def model_and_version(served_as: str) -> tuple[str, str]:
    """`digits:3` → (`digits`, `3`); without a version an empty one. ArgumentError for no name."""
    model, _, version = served_as.partition(":")
    if not model:
        raise ArgumentError(broken_rule("served_as", "be NAME or NAME:VERSION", served_as))
    return model, version


def unreachable(address: Address, got: str, remedy: str = "", *, rule: str = "be answered") -> ServiceError:
    """The one sentence for a service that cannot be reached: a later query may be answered."""
    return ServiceError(broken_rule("url", rule, _shown(f"{got} at {address}"), remedy), retryable=True)


def refused(address: Address, got: str, *, rule: str) -> ServiceError:
    """The one sentence for a service that is there and is not what it should be."""
    return ServiceError(broken_rule("url", rule, _shown(f"{got} from {address}")))


class RefusedError(ServiceError):
    """A service's own no, and its words.

    Attributes:
        status: of HTTP, or the name of gRPC's code.
        is_unknown: whether it does not know what it was asked for: a model, or a version of it.
        knows_name: of what is unknown, whether it has a name for it all the same, so that it may come; None if its
            words do not tell.
    """

    def __init__(self, address: Address, status: int | str, text: str, *, retryable: bool) -> None:
        said = " ".join(text.split())[:COMPLAINT] or "no reason given"
        remedy = f"; put what it asks for into {AUTHORIZATION}" if status in UNKNOWN_USER else ""
        super().__init__(f"{address} refuses with {status}: {said}{remedy}", retryable=retryable)
        self.status = status
        self.is_unknown = status in (404, "NOT_FOUND")
        self.knows_name = True if AWAY in said else False if UNHEARD_OF in said else None


class _Plain:
    """A text that is shown as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def _shown(text: str) -> _Plain:
    return _Plain(" ".join(text.split()))

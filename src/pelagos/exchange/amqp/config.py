"""How to reach a broker, and who one is there. Credentials never show: not in repr, not in errors, not in logs."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from pelagos.model.errors import InvalidInput

__all__ = ["AmqpConfig"]

_PORTS = {"amqp": 5672, "amqps": 5671}


class AmqpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times in seconds.

    ``url`` is ``amqp://`` or ``amqps://``, with user, password and virtual host as usual; ``credential_file`` (user and
    password separated by white space) and ``vhost`` override what it says. ``container`` is the id that this
    container's process addresses begin with; ``system`` parts deployments that share a virtual host.
    """

    url: str
    system: str
    container: str
    vhost: str | None = None
    credential_file: str | None = None
    ca_file: str | None = None
    """Authorities that may have signed the broker's certificate; None: the operating system's."""
    certificate_file: str | None = None
    """This client's certificate; None: the broker asks for none."""
    key_file: str | None = None
    verify: bool = True
    """Whether the broker's certificate is checked; turn it off only where nobody else listens."""
    heartbeat: int = 15
    """After three of them in silence the connection counts as lost."""
    connect_timeout: float = 10.0
    reply_timeout: float = 10.0
    """How long the broker may take to answer a declaration."""
    claim_timeout: float = 5.0
    """How long a start waits for another connection of the same container id to end."""
    retry_after: float = 0.2
    """First pause before connecting again; it doubles, with jitter, up to ``retry_at_most``."""
    retry_at_most: float = 5.0
    drain: float = 1.0
    """How long a stop waits for what is in hand."""
    max_message_bytes: int = 16 * 1024 * 1024
    dead_letter_limit: int = 10_000
    """The oldest dead letters beyond it are dropped, and counted."""

    def __post_init__(self) -> None:
        if _is_cut_wrong(self.url):
            # Without a word of the URL: what was cut in the wrong place may be a piece of the password.
            raise InvalidInput(
                "the broker's URL has a port that is no number, or a user or password with a character of URLs",
                advice="Write / # ? @ : of a user or password as %2F %23 %3F %40 %3A, or use a credential file.",
            )
        parts = urlsplit(self.url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise InvalidInput(
                "the broker's URL must be amqp://host or amqps://host",
                advice="For example amqp://user:password@broker.example:5672/vhost.",
            )
        for name, value in (("system", self.system), ("container", self.container)):
            if not value or len(value.encode()) > 64 or any(character in value for character in "*#: "):
                raise InvalidInput(
                    f"{value!r} cannot be the {name} on a broker",
                    advice="Give 1 to 64 bytes without *, #, colon and space.",
                )
        if min(self.heartbeat, self.max_message_bytes, self.dead_letter_limit) < 1:
            raise InvalidInput("heartbeat, max_message_bytes and dead_letter_limit must be at least 1")

    def __repr__(self) -> str:
        return f"AmqpConfig({self.place}, system={self.system!r}, container={self.container!r})"

    @property
    def place(self) -> str:
        """Host, port and virtual host, for people."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS[parts.scheme]}/{quote(self.virtual_host, '')}"

    @property
    def virtual_host(self) -> str:
        if self.vhost is not None:
            return self.vhost
        path = urlsplit(self.url).path
        return unquote(path[1:]) if len(path) > 1 else "/"

    def connection_url(self) -> str:
        """With credentials: for the client library alone. Raises :class:`InvalidInput` for a credential file that
        cannot be read."""
        parts = urlsplit(self.url)
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        if self.credential_file is not None:
            user, password = _read_credentials(Path(self.credential_file))
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        port = parts.port or _PORTS[parts.scheme]
        return (
            f"{parts.scheme}://{quote(user, '')}:{quote(password, '')}@{host}:{port}/{quote(self.virtual_host, '')}"
            f"?heartbeat={self.heartbeat}&name={quote(f'pelagos {self.system} {self.container}', '')}"
        )

    def tls(self) -> ssl.SSLContext | None:
        """The context of an ``amqps`` connection. Reads files, so it blocks. Raises :class:`InvalidInput`."""
        if urlsplit(self.url).scheme != "amqps":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"the certificates for {self.place} cannot be used: {error}",
                advice="Look at ca_file, certificate_file and key_file.",
            ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _is_cut_wrong(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for what is no port
    except ValueError:
        return True
    # A / # or ? in a password ends the host; then the @ before the real one is behind it.
    return parts.username is None and "@" in f"{parts.path}{parts.query}{parts.fragment}"


def _read_credentials(path: Path) -> tuple[str, str]:
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the credential file {path} cannot be read: {type(error).__name__}") from error
    if len(words) != 2:
        raise InvalidInput(
            f"the credential file {path} must have two words",
            advice="Write the user and the password, separated by white space.",
        )
    return words[0], words[1]

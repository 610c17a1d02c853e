"""Whether something answers at RAY_ADDRESS: found out before any work, where Ray itself tries for minutes."""

import os
import socket
import sys

from ndsm.errors import InputError

ANSWER_SECONDS = 4.0
"""In which an address has to answer."""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What a client of Ray's says first (RFC 9113, section 3.4)."""


def ray_address() -> str | None:
    """Return RAY_ADDRESS, `auto` included; None if a cluster is to be started on this machine."""
    found = os.environ.get("RAY_ADDRESS", "").strip()
    return None if found in ("", "local") else found


def check_address() -> None:
    """Raise if nothing that could be a cluster's head answers at RAY_ADDRESS.

    Raises:
        InputError: nothing does within seconds, it is a web server, or a Ray client's address.
    """
    address = ray_address()
    joined = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if address is None or address == "auto" or joined:
        return
    _, mark, rest = address.partition("://")
    host, _, port = (rest if mark else address).rpartition(":")
    if mark:
        raise InputError(
            f"RAY_ADDRESS: expected HOST:PORT of a cluster's head, usually port 6379, or auto, on a machine of the cluster, found "
            f"{address!r}; from another machine submit the command: ray job submit --address http://"
            f"{host or rest or 'HEAD'}:8265 -- ndsm ..."
        )
    if not host or not port.isdigit():
        raise InputError(f"RAY_ADDRESS: expected HOST:PORT of a cluster's head, or auto, found {address!r}")
    expected = f"RAY_ADDRESS: expected the head of a Ray cluster at {address}, found "
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
            try:
                connection.sendall(HTTP2)
                answer = connection.recv(9)
            # A head that is busy, or wants TLS.
            except OSError:
                return
    except (OSError, OverflowError) as error:
        reason = (
            f"no answer within {ANSWER_SECONDS:g} s" if isinstance(error, TimeoutError) else one_reason(error)
        )
        raise InputError(
            f"{expected}{reason}; unset RAY_ADDRESS to start a cluster on this machine"
        ) from None
    if answer.startswith((b"HTTP/", b"<")):
        raise InputError(f"{expected}a web server; a head's own port is 6379 unless it was given another one")


def one_reason(error: Exception) -> str:
    """What the operating system said, without the error's number."""
    return (getattr(error, "strerror", None) or str(error)).lower()

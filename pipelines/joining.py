"""Connecting this process to a Ray cluster: the one at RAY_ADDRESS, or one that is started on this machine."""

import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import find_bootstrap_address, find_gcs_addresses, find_node_ids
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]

from ndsm.core.cores import usable_cores
from ndsm.core.global_state import environment
from ndsm.core.interrupt import handlers, keep
from ndsm.errors import InputError, Unfinished
from pipelines.address import check_address, ray_address

HEAD_SECONDS = 30.0
"""In which a head has to answer that took the connection; a busy one takes seconds."""
ROOM = 107 - len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
"""Characters of a temporary folder in which the paths of Ray's sockets are no longer than Linux permits."""
PYTHONS_ROOM = 107 - len("/pymp-12345678/listener-12345678")
"""The same for those of Python's processes."""
SHORT = "/tmp"
OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}


@contextmanager
def connected(tell: Callable[[str], None]) -> Iterator[Any]:
    """Connect to the cluster at RAY_ADDRESS, or to a local one that ends with this; what `ray.init` returns.

    Args:
        tell: told which cluster was taken where there is a choice, and what Ray is given in place of the usual.

    Raises:
        InputError: there is no cluster, it wants another token, or this machine is no part of it.
        Unfinished: the cluster did not take the connection.
    """
    # What Ray says of tokens is said here, where it matters.
    logging.getLogger("ray").setLevel(logging.ERROR)
    check_address()
    wanted = ray_address()
    with ExitStack() as stack:
        if wanted is None:
            stack.enter_context(_own_token(tell))
            stack.enter_context(_short_folder(tell))
        stack.callback(ray.shutdown)
        before = handlers()
        if wanted is None:
            # "local" always starts one: without it Ray would join what `ray start` last noted on this machine,
            # and wait minutes for it if it has died since.
            context = ray.init(
                address="local",
                # Ray knows of containers' limits, and not of the cores that a batch system binds a job to.
                num_cpus=usable_cores(),
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                **OPTIONS,
            )
        else:
            context = _join(_running_here(tell) if wanted == "auto" else wanted)
        # Ray's own ends the process with a stack of C++ before anything is saved.
        keep(before)
        yield context


def _running_here(tell: Callable[[str], None]) -> str:
    """Address of the cluster that this machine is part of: the one that was last started or joined, if there are several."""
    found, last = sorted(find_gcs_addresses()), find_bootstrap_address(None)
    if not found:
        raise InputError(
            "RAY_ADDRESS: expected a Ray cluster on this machine for 'auto', found none; unset it to start one"
        )
    taken = last if last in found else found[0]
    if others := [address for address in found if address != taken]:
        tell(
            f"RAY_ADDRESS is auto, and this machine has several Ray clusters: joining {taken}, not {', '.join(others)}"
        )
    return taken


def _join(address: str) -> Any:
    """Connect to a running cluster."""
    failure = _ask_head(address)
    # Ray itself brings its token for `auto` alone. A cluster without authentication does not answer who brings one.
    if isinstance(failure, ray.exceptions.AuthenticationError) and maybe_enable_token_auth_if_token_available(
        warn_if_disabled=False
    ):
        failure = _ask_head(address)
    if failure is not None:
        raise _refusal(address, failure)
    # Ray would look for one for a minute.
    elsewhere = InputError(
        f"RAY_ADDRESS: expected a cluster that this machine is part of, found the one at {address}; start the command on one of "
        f"its machines, by ray job submit, or add this one by ray start --address {address}"
    )
    if not find_node_ids():
        raise elsewhere
    try:
        return ray.init(address=address, **OPTIONS)
    except ConnectionError as error:
        reason = str(error.__cause__ or error)
        if "No node info found" in reason:
            raise elsewhere from None
        raise Unfinished(
            f"the Ray cluster at {address} answers but does not take this process: {reason.splitlines()[-1]}"
        ) from error


def _ask_head(address: str) -> BaseException | None:
    """Why the head of a cluster does not take this process; None if it does.

    Raises:
        InputError: it answers nothing.
    """
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            GcsClient(address=address)
        except BaseException as error:
            failures.append(error)

    asking = threading.Thread(target=ask, name="ask-head", daemon=True)
    asking.start()
    asking.join(HEAD_SECONDS)
    if asking.is_alive():
        raise InputError(
            f"RAY_ADDRESS: expected the head of a Ray cluster at {address}, found something that answers nothing within "
            f"{HEAD_SECONDS:g} s"
        )
    return failures[0] if failures else None


def _refusal(address: str, failure: BaseException) -> InputError:
    """The sentence of a failure that `_ask_head` found."""
    if isinstance(failure, ray.exceptions.AuthenticationError):
        mode = os.environ.get("RAY_AUTH_MODE")
        here = (
            f"RAY_AUTH_MODE={mode}" if mode and mode != "token" else "another one" if _has_token() else "none"
        )
        return InputError(
            f"expected the token of the Ray cluster at {address}, found {here}; copy ~/.ray/auth_token from its head, or set "
            "RAY_AUTH_TOKEN and RAY_AUTH_MODE=token"
        )
    return InputError(
        f"RAY_ADDRESS: expected the head of a Ray cluster at {address}, found {' '.join(str(failure).split())}"
    )


@contextmanager
def _own_token(tell: Callable[[str], None]) -> Iterator[None]:
    """Give a local cluster a token where Ray could keep none in HOME."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or _has_token() or _home_takes_files():
        yield
        return
    tell(
        "HOME cannot be written to: Ray's token is this command's own; set RAY_AUTH_TOKEN to one of yours to open the dashboard"
    )
    with environment(RAY_AUTH_TOKEN=secrets.token_hex(32)):
        yield
    AuthenticationTokenLoader.instance().reset_cache()


def _has_token() -> bool:
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def _home_takes_files() -> bool:
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):
        return False


@contextmanager
def _short_folder(tell: Callable[[str], None]) -> Iterator[None]:
    """Give Ray, and the processes it starts, another temporary folder where the usual one's path is too long for sockets."""
    usual = get_default_ray_temp_dir().removesuffix("/ray")
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    if len(os.fsencode(usual)) <= ROOM and len(os.environ.get("TMPDIR", "")) <= PYTHONS_ROOM:
        yield
        return
    short = usual if len(os.fsencode(usual)) <= ROOM else SHORT
    try:
        os.makedirs(short, exist_ok=True)
        with tempfile.TemporaryFile(dir=short):
            pass
    except OSError:
        raise InputError(
            f"{name}: expected a folder of at most {ROOM} characters, for Ray's sockets, found {usual}; set RAY_TMPDIR to a "
            "shorter one"
        ) from None
    tell(
        f"{name if short == SHORT else 'TMPDIR'} is too long for Ray's sockets: Ray's files are in {short}/ray"
    )
    with environment(TMPDIR=short, RAY_TMPDIR=short):
        yield

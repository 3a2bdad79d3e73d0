"""Pushing a run to the Hugging Face hub, or to whatever answers at `HF_ENDPOINT` in its place.

All files go in one commit, so that a reader never sees half a push.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipoise.errors import RunError
from equipoise.hub_names import name_problem, revision_problem
from equipoise.runs import Run
from equipoise.sharing._files import Parcel, is_ours, pack

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Pushed", "push"]

LOG_IN = "Log in with: hf auth login, or set HF_TOKEN to a token that may write"
#: How long the hub may take for its first answer; uploads take as long as they take.
ANSWER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repository: `OWNER/NAME`.
        url: the page of the repository.
        commit: the page of the commit.
        private: whether only its owners see the repository.
        files: the names that were sent, in order.
        bytes: their size.
        removed: names that an earlier push had left there and that this run has not.
        left_out: names in the model's folder that were not sent.
        notes: what the hub said of the card's metadata.
    """

    repository: str
    url: str
    commit: str
    private: bool
    files: tuple[str, ...]
    bytes: int
    removed: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def push(
    run: Run | str | Path,
    repository: str,
    *,
    public: bool = False,
    branch: str | None = None,
    message: str | None = None,
    with_report: bool = False,
    token: str | None = None,
) -> Pushed:
    """Sends a finished run's model and card to a repository, which is made if it is not there.

    At the repository's root lie the files of `model/` and the card as `README.md`. Checkpoints, predictions, rejected
    rows, the recipe, metrics and history stay here.

    Args:
        run: a run or its folder.
        repository: `OWNER/NAME`.
        public: make the repository public. An existing one keeps what it is, and must be what is said here.
        branch: commit to this branch, which is made if it is not there; None = the main one.
        message: of the commit; None = one that names the run.
        with_report: send `report.html` too. It holds texts of your data.
        token: of the hub; None = that of `hf auth login` or `HF_TOKEN`.

    Raises:
        RunError: it is no finished run, the name is none, there is no token or no right, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    source = _finished(run)
    _check_name(repository, branch)
    parcel = pack(source, repository, with_report=with_report)
    token = token or get_token()
    if not token:
        raise RunError(f"push: no token of the hub was found. {LOG_IN}")
    api = HfApi(token=token, library_name="equipoise", library_version=version("equipoise"))
    title = message or f"Push {source.folder.resolve().name}, trained with Equipoise {version('equipoise')}"
    with _said_in_a_line(repository, api.endpoint, token):
        existed = _visible(api, repository, public)
        if not existed:
            api.create_repo(repository, private=not public, exist_ok=True)
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        there = api.list_repo_files(repository, revision=branch) if existed else []
        removed = tuple(sorted(name for name in there if is_ours(name) and name not in parcel.files))
        commit, notes = _commit(api, repository, parcel, removed, title, branch)
    url = f"{api.endpoint}/{repository}" + (f"/tree/{branch}" if branch else "")
    names = tuple(parcel.files)
    return Pushed(repository, url, commit, not public, names, parcel.bytes, removed, parcel.left_out, notes)


def _finished(run: Run | str | Path) -> Run:
    source = Run.open(run.folder if isinstance(run, Run) else run)
    if not source.metrics_file.exists():
        raise RunError(
            f"'{source.folder}' has no metrics.json: its training has not finished. Go on with it: "
            f"equipoise train --resume {source.folder}"
        )
    return source


def _check_name(repository: str, branch: str | None) -> None:
    problem = name_problem(repository, owner=True)
    if problem is not None:
        raise RunError(f"push: {repository!r} is no name of a repository. Write OWNER/NAME: {problem}")
    problem = revision_problem(branch)
    if problem is not None:
        raise RunError(f"push: {branch!r} is no branch: {problem}")


def _visible(api: HfApi, repository: str, public: bool) -> bool:
    """Whether the repository is there. It must then be as private as was asked for: a push shall publish nothing by chance."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = api.repo_info(repository, timeout=ANSWER_TIMEOUT_S).private
    except RepositoryNotFoundError:
        return False
    if public and private:
        raise RunError(
            f"push: {repository} exists and is private. Make it public in its settings, or leave --public out"
        )
    if not public and not private:
        raise RunError(
            f"push: {repository} exists and is public, so everybody would see the model. Say so with --public, or "
            "choose another name"
        )
    return True


def _commit(
    api: HfApi, repository: str, parcel: Parcel, removed: tuple[str, ...], title: str, branch: str | None
) -> tuple[str, tuple[str, ...]]:
    """One commit with everything; its page, and what the hub warned of."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=one if isinstance(one, bytes) else str(one))
        for name, one in parcel.files.items()
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in removed]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = api.create_commit(repository, operations, commit_message=title, revision=branch)
    told = [" ".join(str(one.message).split()) for one in caught]  # among them the libraries' own, which concern nobody
    return done.commit_url, tuple(one for one in told if "metadata in README.md" in one)


@contextlib.contextmanager
def _said_in_a_line(repository: str, endpoint: str, token: str) -> Iterator[None]:
    """Turns what the hub and the way to it do into one line, without the token in it."""
    from huggingface_hub import errors

    unreachable: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of whichever client the library uses
    try:
        yield
    except errors.OfflineModeIsEnabled:
        line = "HF_HUB_OFFLINE is set, so nothing is sent. Unset it, and push again"
    except errors.HfHubHTTPError as error:
        line = _answer(error, repository)
    except unreachable as error:
        line = f"{endpoint} cannot be reached ({_first_line(error)}). Look at the network, or at HF_ENDPOINT"
    except (ValueError, OSError, RuntimeError) as error:
        # What the library makes of an upload that fails on the way, and of metadata that the hub refuses.
        cause = error.__cause__
        line = _answer(cause, repository) if isinstance(cause, errors.HfHubHTTPError) else ""
        if not line or "metadata" in str(error):
            line = _first_line(error, lines=3)
    else:
        return
    # `from None`: an error of the library carries the request, and with it the token.
    raise RunError("push: " + line.replace(token, "***")) from None


def _answer(error: Any, repository: str) -> str:
    """What to do about an HTTP status."""
    status = error.response.status_code
    said = " ".join(str(error.server_message or "").split())
    if status == 401:
        return f"the hub refuses the token (401). {LOG_IN}"
    if status == 403:
        return (
            f"the token has no right to write to {repository} (403{f': {said}' if said else ''}). Use a token that may write, "
            "and a name below your own account or an organisation of yours"
        )
    if status == 409:
        return f"{repository} was changed meanwhile (409). Push again"
    if status == 429:
        return "the hub asks to slow down (429). Push again later"
    if status >= 500:
        return f"the hub has failed ({status}). Push again later"
    return f"the hub answered {status}{f': {said}' if said else ''} for {repository}"


def _first_line(error: BaseException, lines: int = 1) -> str:
    found = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(found[:lines]).rstrip(".") or type(error).__name__

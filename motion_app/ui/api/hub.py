"""The endpoints about motions on the Hugging Face Hub: listed, brought in, published."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import gradio as gr

from motion_app.errors import RequestError
from motion_app.host import ModelHost
from motion_app.library.owners import LibraryUser
from motion_app.library.published import MotionRepository
from motion_app.ui.api.files import Json
from motion_app.ui.api.jobs import named_motion, told_of
from motion_app.ui.visitor import client_user

MOST_NAMES = 50  # motions of one call


class HubEndpoints:
    """A caller reads the repository that the deployment names, with the server's login if it has
    one; everything else of the hub with a token of their own, or at this machine itself."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host

    def published_motions(
        self, repo: str = "", token: str = "", http: gr.Request | None = None
    ) -> Json:
        """The motions of a repository of the Hugging Face Hub.

        Args:
            repo: "owner/name"; without it the one that this app offers, and another one only with a
                token, or at this machine
            token: an access token of the hub, used for this call alone

        Returns:
            {"repo", "revision": the commit, "motions": [as ``motions`` lists them, and "file" there
            and its "bytes"], "problems": a line for each file there that is no motion}
        """
        repository = self._repository(repo, token, client_user(http, self.host.settings))
        listing = repository.recent()
        motions = [
            told_of(one.motion) | {"file": one.file, "bytes": one.size} for one in listing.motions
        ]
        told = {"repo": listing.repository, "revision": listing.revision}
        return told | {"motions": motions, "problems": list(listing.problems)}

    def pull_motions(
        self, names: list[str], repo: str = "", token: str = "", http: gr.Request | None = None
    ) -> Json:
        """Bring motions of a repository of the Hugging Face Hub into the library, checked as an
        import is; all of them are looked up before the first is fetched.

        Args:
            names: of the motions, as ``published_motions`` lists them, 50 at most
            repo: "owner/name"; without it the one that this app offers, and another one only with a
                token, or at this machine
            token: an access token of the hub, used for this call alone

        Returns:
            {"repo", "revision": the commit, "motions": [as ``motions`` lists them]}; one whose name
            is taken here has a number behind it
        """
        user = client_user(http, self.host.settings)
        repository = self._repository(repo, token, user)
        listing = repository.recent()
        entries = [listing.find(name, base=self.host.base()) for name in _checked(names)]
        brought = [
            self.host.import_published_motion(repository, entry, listing.revision, by=user)
            for entry in entries
        ]
        told = {"repo": listing.repository, "revision": listing.revision}
        return told | {"motions": [told_of(motion) for motion in brought]}

    def push_motions(
        self,
        names: list[str],
        repo: str = "",
        token: str = "",
        create: Literal["private", "public"] | None = None,
        replace: bool = False,
        http: gr.Request | None = None,
    ) -> Json:
        """Publish motions of the library in a repository of the Hugging Face Hub, in one commit
        with the card.

        Args:
            names: of the motions, as ``motions`` lists them, 50 at most
            repo: "owner/name"; without it the one that this app offers
            token: an access token of the hub that may write there, used for this call alone; at
                this machine the machine's own login without it
            create: "private" or "public" makes a repository that is not there yet
            replace: also in place of another motion of the same name

        Returns:
            {"repository", "added": names, "replaced": names, "unchanged": names, "url": of the
            commit, "" without one}
        """
        user = client_user(http, self.host.settings)
        if not (token or user.local):
            raise RequestError(
                "who publishes needs a token of the hub that may write there; give it as token"
            )
        motions = [named_motion(self.host, name, user) for name in _checked(names)]
        limits = self.host.settings.limits
        repository = self._repository(repo, token, user)
        return asdict(repository.push(motions, create=create, replace=replace, limits=limits))

    def _repository(self, repo: str, token: str, user: LibraryUser) -> MotionRepository:
        """The one that is meant, asked with the rights that ``user`` has; RequestError for none, or
        one that the server's login is not lent for."""
        offered = self.host.published
        named = repo.strip() or self.host.settings.motion_repo
        if not named:
            raise RequestError("this app offers no repository; name one as repo")
        if token.strip():
            return MotionRepository(named, token=token.strip())
        if offered is not None and named == self.host.settings.motion_repo:
            return offered
        if user.local:
            return MotionRepository(named)
        raise RequestError(
            f"this app offers {self.host.settings.motion_repo or 'no repository'}; for another "
            "one give a token of the hub"
        )


def _checked(names: list[str]) -> list[str]:
    """Each once; RequestError for none, or too many."""
    once = list(dict.fromkeys(names))
    if not 0 < len(once) <= MOST_NAMES:
        raise RequestError(f"{len(once)} motions are named; name 1 to {MOST_NAMES}")
    return once

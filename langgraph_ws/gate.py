"""Who may come in: every request for a route, upgraded or not, passes here first."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from langgraph_ws.commands import ANONYMOUS, Identity
from langgraph_ws.handshake import (
    Authorize,
    AuthorizeToken,
    OriginCheck,
    Place,
    Places,
    identify,
    log_refused_secret,
)
from langgraph_ws.limits import Limits

__all__ = ["ForeignOrigin", "Gate", "is_expired"]

_BEARER = "bearer"


class ForeignOrigin(web.HTTPForbidden):
    """The page that asks is of an origin that may not."""


class Gate:
    """The checks of one attached route.

    Args:
        origins: Which pages may ask.
        authorize: Who a request comes from.
        authorize_token: Whose token this is.
        limits: How many may be in at once.

    Attributes:
        draining: Whether nobody is let in any more.
    """

    def __init__(
        self,
        *,
        origins: OriginCheck,
        authorize: Authorize | None,
        authorize_token: AuthorizeToken | None,
        limits: Limits,
    ) -> None:
        self.origins = origins
        self.draining = False
        self._authorize = authorize
        self._authorize_token = authorize_token
        self._places = Places(limits)

    @property
    def open(self) -> bool:
        """Whether nobody is asked who they are."""
        return self._authorize is None and self._authorize_token is None

    @property
    def takes_tokens(self) -> bool:
        """Whether a client may say who it is after it was let in."""
        return self._authorize_token is not None

    def admit(self, request: web.Request) -> None:
        """Refuse a request of a page that may not ask, and any while the server goes away.

        Raises:
            web.HTTPException: It is refused.
        """
        self.refuse_when_draining()
        if not self.origins.admits(request):
            raise ForeignOrigin(text="Pages of this origin may not connect.\n")

    def refuse_when_draining(self) -> None:
        """Refuse any request while the server goes away.

        Raises:
            web.HTTPServiceUnavailable: It does.
        """
        if self.draining:
            raise web.HTTPServiceUnavailable(
                text="The server is going away.\n", headers={"Retry-After": "5"}
            )

    @contextmanager
    def take(self, request: web.Request) -> Iterator[Place]:
        """Room for one client, as long as the block lasts.

        Raises:
            web.HTTPException: There is none.
        """
        with self._places.take(self.origins.address(request)) as place:
            yield place

    def claim(self, place: Place, identity: Identity | None) -> None:
        """Count a place as one of this identity.

        Raises:
            web.HTTPTooManyRequests: It has too many.
        """
        if identity is not None and not place.claim(identity):
            raise web.HTTPTooManyRequests(text="Too many connections.\n")

    async def identify(self, request: web.Request) -> Identity | None:
        """Who the request comes from; None: the client has yet to say so.

        Raises:
            web.HTTPException: It is refused.
        """
        if self._authorize is None:
            return None if self._authorize_token is not None else ANONYMOUS
        try:
            identity = await identify(self._authorize(request))
        except web.HTTPException:
            raise
        except Exception as error:
            raise _failed("authorize", error) from None
        if identity is None and self._authorize_token is not None:
            return None
        if identity is None or is_expired(identity):
            raise web.HTTPUnauthorized(text="Credentials are missing or have expired.\n")
        return identity

    async def identify_at_once(self, request: web.Request) -> Identity:
        """Who the request comes from, by itself or by the bearer token that it carries.

        Raises:
            web.HTTPException: It does not say so, or is refused.
        """
        identity = await self.identify(request)
        return await self._identify_token(request) if identity is None else identity

    async def _identify_token(self, request: web.Request) -> Identity:
        token = _bearer_token(request)
        refused = web.HTTPUnauthorized(
            text="Send a token.\n", headers={"WWW-Authenticate": "Bearer"}
        )
        if token is None:
            raise refused
        try:
            identity = await self.authenticator(request)(token)
        except web.HTTPException:
            raise refused from None
        except Exception as error:
            raise _failed("authorize_token", error) from None
        if identity is None or is_expired(identity):
            raise refused
        return identity

    def authenticator(self, request: web.Request) -> Callable[[str], Awaitable[Identity | None]]:
        """Tells whose a token is that comes with, or after, this request."""

        async def authenticate(token: str) -> Identity | None:
            if self._authorize_token is None:
                return None
            return await identify(self._authorize_token(request, token))

        return authenticate


def is_expired(identity: Identity) -> bool:
    """Whether the identity has ended already."""
    return identity.expires_at is not None and identity.expires_at <= time.time()


def _failed(what: str, error: Exception) -> web.HTTPInternalServerError:
    error_id = log_refused_secret(what, error)
    return web.HTTPInternalServerError(text=f"Something went wrong (error {error_id}).\n")


def _bearer_token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == _BEARER else None

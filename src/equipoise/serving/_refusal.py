"""Everything that is not answered with what was asked for: one shape, `{"error": {"what", "where", "how"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

__all__ = ["Problem", "Refusal", "json_response"]


class _Told(BaseModel):
    what: str = Field(description="what is wrong")
    where: str | None = Field(description="the part of the request that it is wrong in; null = the whole")
    how: str = Field(description="what to do")


class Problem(BaseModel):
    """A refusal's body."""

    error: _Told

    model_config = {
        "json_schema_extra": {
            "examples": [
                {"error": {"what": "the text is empty", "where": "texts[3]", "how": "Leave it out, or send a text."}}
            ]
        }
    }


class Refusal(Exception):
    """A request that is not done.

    Args:
        status: of HTTP.
        what: what is wrong.
        how: what to do.
        where: the part of the request; None = the whole.
        headers: further ones.
    """

    def __init__(
        self, status: int, what: str, how: str, *, where: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what)
        self.status, self.what, self.how, self.where = status, what, how, where
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The answer."""
        told = {"what": self.what, "where": self.where, "how": self.how}
        return json_response({"error": told}, self.status, self.headers)


def json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain data as JSON, UTF-8. NaN has no place in JSON, and becomes null."""
    return Response(
        to_json(data, inf_nan_mode="null"), status, dict(headers or {}), media_type="application/json; charset=utf-8"
    )

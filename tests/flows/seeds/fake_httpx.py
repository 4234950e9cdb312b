"""Stands in for httpx in the samples of page 000: one repository with 250 open issues.

`plan` holds what the next calls give, a status or an exception, before the pages below count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = "https://api.github.com/repos/PrefectHQ/prefect"
PAGES: dict[str, Any] = {
    REPOSITORY: {"stargazers_count": 12157, "forks_count": 1251, "open_issues_count": 250},
    "https://api.brittle-service.com/endpoint": {"fine": True},
}

asked: list[str] = []
plan: Iterator[int | Exception] = iter(())


class Response:
    def __init__(self, status_code: int, content: Any = None) -> None:
        self.status_code = status_code
        self._content = content

    def raise_for_status(self) -> None:
        if not 200 <= self.status_code < 300:
            raise HTTPStatusError(self)

    def json(self) -> Any:
        return self._content


class HTTPStatusError(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


class ConnectError(Exception):
    pass


def get(url: str, params: dict[str, Any] | None = None) -> Response:
    asked.append(url)
    planned = next(plan, None)
    if isinstance(planned, Exception):
        raise planned
    if planned is not None:
        return Response(planned)
    if params is not None:
        assert url == f"{REPOSITORY}/issues"
        assert params["state"] == "open"
        return Response(200, issues(params["page"], params["per_page"]))
    return Response(200, PAGES[url]) if url in PAGES else Response(404)


def issues(page: int, per_page: int) -> list[dict[str, Any]]:
    """Return a page of the issues, which 110 people have opened: 2.27 each."""
    numbers = range((page - 1) * per_page, min(page * per_page, 250))
    return [{"user": {"id": number % 110}} for number in numbers]

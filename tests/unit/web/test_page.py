from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from roomcast.web.page import add_page

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    add_page(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://roomcast.example") as client:
        yield client


async def test_the_page_needs_no_inline_script_and_its_files_are_there(http: httpx.AsyncClient) -> None:
    page = await http.get("/")

    references: list[str] = re.findall(r'(?:src|href)="(web/[^"]+)"', page.text)
    assert len(references) == 3
    assert re.findall(r"<style|<script(?! type=\"module\" src=)| on\w+=", page.text) == []
    for path in references:
        answer = await http.get(f"/{path}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(("text/css", "text/javascript"))


async def test_every_file_of_the_page_is_served(http: httpx.AsyncClient) -> None:
    names = {each.name for each in files("roomcast.web").iterdir() if each.name.endswith((".js", ".css"))}

    assert {name for name in names if (await http.get(f"/web/{name}")).status_code == 200} == names


async def test_a_browser_asks_each_time_and_gets_a_file_that_it_has_not_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/web/chat.js")
    again = await http.get("/web/chat.js", headers={"If-None-Match": first.headers["etag"]})
    other = await http.get("/web/chat.js", headers={"If-None-Match": '"of another version"'})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert (other.status_code, other.content) == (200, first.content)

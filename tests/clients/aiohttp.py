"""aiohttp: percent-encodes file names throughout, and streams with a Content-Length or, from a generator, in chunks."""

import asyncio
import os
import sys

sys.path.pop(0)  # This file's own name.
import aiohttp


async def pieces():
    with open("photo.png", "rb") as file:
        while piece := file.read(65536):
            yield piece


async def main():
    form = aiohttp.FormData({"dir": "reports"})
    if sys.argv[1:] == ["chunked"]:
        form.add_field("file", aiohttp.AsyncIterablePayload(pieces()), filename="photo.png", content_type="image/png")
    else:
        form.add_field("file", open("photo.png", "rb"), filename="photo.png", content_type="image/png")
    headers = {"Authorization": f"Bearer {os.environ['GATEWAY_KEY']}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post("https://files.example.com/v1/files", data=form) as reply:
            if reply.status != 201:
                sys.exit(f"HTTP {reply.status}: {await reply.text()}")
            print((await reply.json())["files"][0]["url"])


asyncio.run(main())

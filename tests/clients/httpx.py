"""httpx: a form with a Content-Length, or a raw body in chunks."""

import os
import sys

sys.path.pop(0)  # This file's own name.
import httpx


def pieces():
    with open("photo.png", "rb") as file:
        while piece := file.read(65536):
            yield piece


headers = {"Authorization": f"Bearer {os.environ['GATEWAY_KEY']}"}
if sys.argv[1:] == ["chunked"]:
    reply = httpx.put("https://files.example.com/v1/files/reports/photo.png", content=pieces(), headers=headers)
else:
    with open("photo.png", "rb") as file:
        reply = httpx.post(
            "https://files.example.com/v1/files",
            data={"dir": "reports"},
            files={"file": ("photo.png", file, "image/png")},
            headers=headers,
        )
if reply.status_code != 201:
    sys.exit(f"HTTP {reply.status_code}: {reply.text}")
print(reply.json()["files"][0]["url"])

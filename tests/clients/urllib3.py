"""urllib3 by itself: the form from memory."""

import os
import sys

sys.path.pop(0)  # This file's own name.
import urllib3

with open("photo.png", "rb") as file:
    fields = {"dir": "reports", "file": ("photo.png", file.read(), "image/png")}
reply = urllib3.request(
    "POST",
    "https://files.example.com/v1/files",
    fields=fields,
    headers={"Authorization": f"Bearer {os.environ['GATEWAY_KEY']}"},
    retries=False,
)
if reply.status != 201:
    sys.exit(f"HTTP {reply.status}: {reply.data.decode()}")
print(reply.json()["files"][0]["url"])

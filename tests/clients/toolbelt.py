"""requests-toolbelt: requests with a form that is streamed, with its length."""

import os
import sys

import requests
from requests_toolbelt import MultipartEncoder

with open("photo.png", "rb") as file:
    form = MultipartEncoder([("dir", "reports"), ("file", ("photo.png", file, "image/png"))])
    reply = requests.post(
        "https://files.example.com/v1/files",
        data=form,
        headers={"Authorization": f"Bearer {os.environ['GATEWAY_KEY']}", "Content-Type": form.content_type},
    )
if reply.status_code != 201:
    sys.exit(f"HTTP {reply.status_code}: {reply.text}")
print(reply.json()["files"][0]["url"])

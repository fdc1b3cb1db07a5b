"""wechatpy's cloud storage API, version 2 or 1.

wechatpy_cloud.py URL ENV FILE_ID upload|download|delete PATH, with WeChat's API (or a gateway) at URL. The token is fetched
with APPID and SECRET. The file at PATH is uploaded to that path; `downloaded` is what was downloaded.
"""

import os
import sys

import requests
from wechatpy.client import WeChatClient

url, env, file_id, step, path = sys.argv[1:]


class Client(WeChatClient):
    """The library has WeChat's host in its code: in this call, and in the base URL of `cloud`."""

    def fetch_access_token(self):
        app = {"grant_type": "client_credential", "appid": self.appid, "secret": self.secret}
        return self._fetch_access_token(url=f"{url}/cgi-bin/token", params=app)


client = Client(os.environ["APPID"], os.environ["SECRET"])
client.cloud.API_BASE_URL = f"{url}/"
if step == "upload":
    try:
        client.cloud.upload_file(env, path)
    except requests.HTTPError as error:
        sys.exit(f"HTTP {error.response.status_code}: {error.response.text}")
elif step == "download":
    [file] = client.cloud.download_files(env, [{"fileid": file_id, "max_age": 60}])
    if file["status"] != 0:
        sys.exit(f"status {file['status']}: {file['errmsg']}")
    response = requests.get(file["download_url"])
    response.raise_for_status()
    with open("downloaded", "wb") as target:
        target.write(response.content)
else:
    [file] = client.cloud.delete_files(env, [file_id])
    if file["status"] != 0:
        sys.exit(f"status {file['status']}: {file['errmsg']}")

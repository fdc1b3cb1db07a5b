# Uploads photo.bin by tuspy. What is tried again is counted for each chunk: by default, there is one of the whole file.
import os
import sys

from tusclient import client

tus = client.TusClient(os.environ["URL"], headers={"Authorization": "Bearer " + os.environ["GATEWAY_KEY"]})
tus.uploader(
    "photo.bin",
    chunk_size=int(os.environ.get("CHUNK_SIZE", sys.maxsize)),
    retries=300,
    retry_delay=0,
    metadata={"path": os.environ["UPLOAD_PATH"], "filename": "photo.bin"},
).upload()

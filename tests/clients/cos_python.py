"""cos-python-sdk-v5: PUT, upload_file, a resumed upload, HEAD, lists. With COS_HOST the bucket's own domain, else
COS_IP and COS_PORT with the bucket in the Host header."""

import os
import sys

sys.path.pop(0)  # Neighbours of this file have names of libraries.
from qcloud_cos import CosConfig, CosS3Client, CosServiceError

variable = os.environ.get
config = CosConfig(
    Region="ap-shanghai",
    SecretId=variable("COS_ID"),
    SecretKey=variable("COS_KEY"),
    Token=variable("COS_TOKEN"),
    Scheme="http",
    Domain=variable("COS_HOST"),
    IP=variable("COS_IP"),
    Port=variable("COS_PORT"),
)
client = CosS3Client(config, retry=0)
bucket = variable("COS_BUCKET")
PART = 1 << 20


def read(name):
    with open(name, "rb") as file:
        return file.read()


def check(fact, *context):
    if not fact:
        sys.exit(f"not so: {context}")


small, large = read("small.bin"), read("large.bin")
try:
    client.put_object(
        Bucket=bucket,
        Key="sdk/小 +.bin",
        Body=small,
        EnableMD5=True,
        ContentType="image/png",
        CacheControl="max-age=60",
        Metadata={"x-cos-meta-colour": "red"},
    )
except CosServiceError as error:
    sys.exit(f"{error.get_status_code()} {error.get_error_code()}")
head = client.head_object(Bucket=bucket, Key="sdk/小 +.bin")
check(head["Content-Length"] == str(len(small)), head)
check(head["Content-Type"] == "image/png" and head["x-cos-meta-colour"] == "red", head)
body = client.get_object(Bucket=bucket, Key="sdk/小 +.bin")["Body"].get_raw_stream().read()
check(body == small, len(body))

client.upload_file(Bucket=bucket, Key="sdk/large.bin", LocalFilePath="large.bin", PartSize=1, MAXThread=3, EnableMD5=True)

# An upload that was interrupted after its second and its last part.
upload = client.create_multipart_upload(Bucket=bucket, Key="sdk/resumed.bin")["UploadId"]
count = -(-len(large) // PART)
for number in [count, 2]:
    part = large[(number - 1) * PART : number * PART]
    client.upload_part(Bucket=bucket, Key="sdk/resumed.bin", Body=part, PartNumber=number, UploadId=upload)
parts = client.list_parts(Bucket=bucket, Key="sdk/resumed.bin", UploadId=upload, MaxParts=1)
check(parts["IsTruncated"] == "true" and [part["PartNumber"] for part in parts["Part"]] == ["2"], parts)
client.upload_file(Bucket=bucket, Key="sdk/resumed.bin", LocalFilePath="large.bin", PartSize=1)

client.put_object(Bucket=bucket, Key="sdk/gone.bin", Body=small)
client.delete_object(Bucket=bucket, Key="sdk/gone.bin")
check(not client.object_exists(Bucket=bucket, Key="sdk/gone.bin"))
upload = client.create_multipart_upload(Bucket=bucket, Key="sdk/aborted.bin")["UploadId"]
client.abort_multipart_upload(Bucket=bucket, Key="sdk/aborted.bin", UploadId=upload)
check("Upload" not in client.list_multipart_uploads(Bucket=bucket, Prefix="sdk/"))

listed = client.list_objects(Bucket=bucket, Prefix="sdk/", MaxKeys=2)
keys = [item["Key"] for item in listed["Contents"]]
check(keys == ["sdk/large.bin", "sdk/resumed.bin"] and listed["IsTruncated"] == "true", listed)
listed = client.list_objects(Bucket=bucket, Prefix="sdk/", Marker=listed["NextMarker"])
check([item["Key"] for item in listed["Contents"]] == ["sdk/小 +.bin"], listed)
check(listed["Contents"][0]["Size"] == str(len(small)) and listed["Contents"][0]["ETag"] == head["ETag"], listed)
listed = client.list_objects(Bucket=bucket, Delimiter="/")
check([item["Prefix"] for item in listed["CommonPrefixes"]] == ["sdk/"] and "Contents" not in listed, listed)
try:
    client.get_object(Bucket=bucket, Key="sdk/小 +.bin", IfMatch='"another"')
    sys.exit("not so: an object with another ETag is read")
except CosServiceError as error:
    check(error.get_error_code() == "PreconditionFailed", error.get_error_code())

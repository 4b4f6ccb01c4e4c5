"""An S3 server (moto) that checks signatures, with one bucket. Prints its address, a key and the
key's secret as JSON on one line, and serves until standard input ends."""

import json
import logging
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
anyone = {
    "endpoint_url": url,
    "region_name": "us-east-1",
    "aws_access_key_id": "anyone",
    "aws_secret_access_key": "anything",
}
iam = boto3.client("iam", **anyone)
iam.create_user(UserName="node")
key = iam.create_access_key(UserName="node")["AccessKey"]
statement = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
iam.put_user_policy(UserName="node", PolicyName="archive", PolicyDocument=policy)
boto3.client("s3", **anyone).create_bucket(Bucket="archive")
# From here on every request must be signed rightly.
headers = {"Content-Type": "text/plain"}
urllib.request.urlopen(
    urllib.request.Request(url + "/moto-api/reset-auth", b"0", headers, method="POST")
)
print(json.dumps({"url": url, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}))
sys.stdout.flush()
sys.stdin.read()
server.stop()

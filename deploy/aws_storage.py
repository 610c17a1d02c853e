"""What `cluster.yaml` needs on AWS once per account: a bucket that all nodes share, and roles that may use it.

    python deploy/aws_storage.py BUCKET [REGION]

Makes the bucket, and the instance profiles that `cluster.yaml` names: `ndsm-worker` may read and write the bucket,
`ndsm-head` also start and end machines as workers. Needs boto3, as `ray up` does, and an administrator's keys. Repeated
calls change nothing.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.exceptions import ClientError

HEAD, WORKER = "ndsm-head", "ndsm-worker"
THERE = ("EntityAlreadyExists", "BucketAlreadyOwnedByYou", "LimitExceeded")
"""What AWS answers where the thing exists; the last where a profile has its role."""


@contextmanager
def unless_there() -> Iterator[None]:
    """Passes over what exists already."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE:
            raise


def allow(*actions: str, on: list[str]) -> dict[str, Any]:
    """A statement of a policy."""
    return {"Effect": "Allow", "Action": list(actions), "Resource": on}


def make_profile(iam: Any, name: str, *statements: dict[str, Any]) -> str:
    """An instance profile with a role of the same name that may do what is stated; the role's ARN."""
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    with unless_there():
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
    iam.put_role_policy(
        RoleName=name,
        PolicyName="ndsm",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements}),
    )
    with unless_there():
        iam.create_instance_profile(InstanceProfileName=name)
    with unless_there():
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(iam.get_role(RoleName=name)["Role"]["Arn"])


def main(bucket: str, region: str = "us-west-2") -> None:
    """Make bucket and profiles."""
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    with unless_there():
        boto3.client("s3", region_name=region).create_bucket(Bucket=bucket, **where)
    iam = boto3.client("iam")
    storage = [
        allow("s3:ListBucket", "s3:GetBucketLocation", on=[f"arn:aws:s3:::{bucket}"]),
        allow(
            "s3:GetObject",
            "s3:PutObject",
            "s3:DeleteObject",
            "s3:AbortMultipartUpload",
            on=[f"arn:aws:s3:::{bucket}/*"],
        ),
    ]
    worker = make_profile(iam, WORKER, *storage)
    # Ray's autoscaler on the head starts machines, of the newest image of AWS, and hands them the workers' role.
    image = allow("ssm:GetParameters", on=["arn:aws:ssm:*::parameter/aws/service/*"])
    make_profile(iam, HEAD, *storage, allow("ec2:*", on=["*"]), image, allow("iam:PassRole", on=[worker]))
    print(f"ray up cluster.yaml, and train with --train.storage 's3://{bucket}/runs?region={region}'")


if __name__ == "__main__":
    main(*sys.argv[1:])

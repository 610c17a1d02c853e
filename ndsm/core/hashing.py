"""Short hashes that say whether two things are the same: data, blocks, kept networks."""

import hashlib
import json
from typing import Any

import numpy as np


def fingerprint(*parts: Any) -> str:
    """Short hash of JSON-serialisable parts and arrays."""
    digest = hashlib.blake2s(digest_size=8)
    for part in parts:
        array = isinstance(part, np.ndarray)
        digest.update(np.ascontiguousarray(part).data if array else json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()

"""A paid call with `requests`: the key from the environment, the answer on standard output."""
import json
import os

import requests

answer = requests.post(
    os.environ["PS_API_URL"] + "/api/hub/agents/chat",
    headers={"X-API-Key": os.environ["PS_API_KEY"]},
    json={"messages": [{"role": "user", "content": "Hello!"}]},
    timeout=10,
)
print(json.dumps({"status": answer.status_code, "body": answer.json()}))

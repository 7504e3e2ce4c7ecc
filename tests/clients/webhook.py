"""Verifies webhooks with the official library of Standard Webhooks: one JSON object a line on standard input."""
import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

for line in sys.stdin:
    delivery = json.loads(line)
    try:
        event = Webhook(delivery["secret"]).verify(delivery["body"], delivery["headers"])
        print(event["type"])
    except WebhookVerificationError as error:
        print(f"refused: {error}")

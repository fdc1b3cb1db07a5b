# Verifies the events of cases.json with PyPI's `standardwebhooks`; prints whether each is accepted.

import json

from standardwebhooks import Webhook, WebhookVerificationError


def is_accepted(case):
    try:
        return "type" in Webhook(case["secret"]).verify(case["body"], case["headers"])
    # The library splits a signature without a comma.
    except (WebhookVerificationError, ValueError):
        return False


with open("cases.json", encoding="utf-8") as file:
    print(json.dumps([is_accepted(case) for case in json.load(file)]))

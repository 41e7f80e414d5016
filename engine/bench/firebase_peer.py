"""`python -m engine.bench.firebase_peer CREDENTIALS URL`: Google's own client, at the local provider.

Reads a number of messages a line and answers with the seconds that `send_each_async` took for them. The certificates
come by SSL_CERT_FILE and REQUESTS_CA_BUNDLE, which its libraries read.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import firebase_admin
from firebase_admin import credentials, messaging

from engine.bench.provider.launch import fcm_token
from engine.clock import monotonic

AT_ONCE = 500
"""The most that `send_each_async` takes."""


def message(number: int) -> Any:
    """A message with what ours carry."""
    return messaging.Message(
        token=fcm_token(str(number)),
        notification=messaging.Notification(f"Fresh thing number {number}", f"For you, Ada {number}: only 12.00 €."),
        data={"link": f"shop://item/{number}", "push_id": f"{number:032x}"},
        android=messaging.AndroidConfig(priority="high", ttl=3600, collapse_key=f"{number:032x}"),
        apns=messaging.APNSConfig(headers={"apns-priority": "10", "apns-collapse-id": f"{number:032x}"}),
    )


async def serve() -> None:
    """Answer until standard input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        messages = [message(number) for number in range(int(line))]
        begun = monotonic()
        accepted = 0
        for start in range(0, len(messages), AT_ONCE):
            sent = await messaging.send_each_async(messages[start : start + AT_ONCE])
            accepted += sent.success_count
        print(monotonic() - begun, accepted, flush=True)


if __name__ == "__main__":
    messaging._MessagingService.FCM_URL = sys.argv[2] + "/v1/projects/{0}/messages:send"
    firebase_admin.initialize_app(credentials.Certificate(sys.argv[1]))
    asyncio.run(serve())

"""An OpenAI-compatible chat endpoint that is asked one question at a time, and what can go wrong with it."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from forescale.core.errors import UserError

JUDGE_KEY = "FORESCALE_JUDGE_KEY"
MAX_REPLY = 4 * 2**20  # bytes; a short answer has no more

# From a prompt (a text, or OpenAI's list of content parts) to the words that answer it.
Ask = Callable[[Any], str]


class JudgeFailed(Exception):
    """A judge's words are not among those that it may say."""


class JudgeUnreachable(UserError):
    """A judge did not answer, however often it was asked."""


class JudgeGarbled(JudgeUnreachable):
    """Something answered, but not in the form of a chat endpoint."""


def endpoint_judge(
    url: str, model: str, key: str = "", tries: int = 3, timeout_seconds: float = 60.0, max_tokens: int = 8
) -> Ask:
    """A judge behind an OpenAI-compatible `/chat/completions`. `url` ends before that path, often with `/v1`.

    Without `key`, the environment variable FORESCALE_JUDGE_KEY is the endpoint's key, if it is set; it is sent to that host
    alone. Each failure is tried again after 1, 2, 4 ... seconds. Raises UserError for a URL that is not http(s). The judge raises,
    when all tries failed, JudgeGarbled if the last reply was not in the form of a chat endpoint, else JudgeUnreachable; and
    JudgeFailed at once if the reply has the form but holds no words.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"a judge's address must begin with http:// or https://, not {url!r}.")
    key = (key or os.environ.get(JUDGE_KEY, "")).strip()

    def judge(prompt: Any) -> str:
        body = {
            "model": model,
            "temperature": 0,
            "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": prompt}],
        }
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        if key:
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        kind, why = JudgeUnreachable, "it was not asked"
        for attempt in range(tries):
            try:
                with urllib.request.urlopen(request, timeout=timeout_seconds) as reply:
                    return _words(json.loads(_read(reply, timeout_seconds)))
            except (OSError, http.client.HTTPException) as error:
                kind, why = JudgeUnreachable, str(error)
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                kind, why = JudgeGarbled, str(error)
            if attempt + 1 < tries:
                time.sleep(2.0**attempt)
        raise kind(f"the judge at {url} gave no answer ({why}); what it has judged is kept, run again when it is back.")

    return judge


def _read(reply: Any, seconds: float) -> bytes:
    """The body. A time limit of a socket begins anew with every byte, so a reply that trickles in has one of its own.

    Raises TimeoutError, or ValueError for what is too long.
    """
    end = time.monotonic() + seconds
    data = b""
    while piece := reply.read1(2**16):
        data += piece
        if len(data) > MAX_REPLY:
            raise ValueError(f"more than {MAX_REPLY:,} bytes")
        if time.monotonic() > end:
            raise TimeoutError("timed out")
    return data


def _words(reply: Any) -> str:
    content = reply["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise JudgeFailed(f"the judge said {str(content)[:60]!r}, which is no text")
    return content

"""A model that somebody else serves behind an OpenAI-compatible endpoint."""

import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from pydantic import BaseModel, Field, ValidationError

from hnlm_ray.errors import UserError
from hnlm_ray.generate.chat import ChatTokenizer
from hnlm_ray.generate.prompting import Fitted, fit
from hnlm_ray.generate.protocol import Completion, Counters, EngineSpec, GenerateRequest

_MAX_PAUSE_S = 60.0
_pause = time.sleep
_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 403, 404})
"""Answers that no other row can change: wrong key, wrong model name or address."""
_BAD_URL = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Answer(BaseModel):
    """What is read of an endpoint's answer; whatever else it holds is left alone."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def _answer_in(response: requests.Response) -> _Answer | None:
    """The answer in a body; None where a proxy's page, an error or anything else stands in its place."""
    try:
        return _Answer.model_validate_json(response.content)
    except ValidationError:
        return None


class HTTPEngine:
    """Answers prompts through `POST {endpoint}/chat/completions`, `spec.max_concurrency` at a time.

    The key comes from the environment variable named in the config and is never written anywhere. 429, 5xx and lost
    connections are tried again after growing pauses (or the server's own `Retry-After`); what then still fails, and an
    answer that is none, is the row's error. Raises `UserError` when the endpoint refuses the key, does not know the
    model or has an address that cannot be asked.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._max_model_len = spec.max_model_len or sys.maxsize
        self._chat = ChatTokenizer(
            spec.tokenizer, trust_remote_code=spec.trust_remote_code, template_args=spec.chat_template_args
        )
        self._url = f"{spec.endpoint.rstrip('/')}/chat/completions"
        self._key = os.environ.get(spec.api_key_env, "") if spec.api_key_env else ""
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(
                f"the key in ${spec.api_key_env} has characters that no HTTP header takes, such as a line break: "
                "export it again without them"
            )
        self._headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._pool = ThreadPoolExecutor(spec.max_concurrency, thread_name_prefix="http")
        self._sessions = threading.local()
        self._counting = threading.Lock()
        self.counters = Counters()

    def generate(self, request: GenerateRequest) -> list[Completion]:
        """Answer every prompt, cut to its budget first; a row that the endpoint will not answer has its `error` set."""
        if not (self._spec.max_model_len or request.max_prompt_tokens):
            raise UserError("llm.engine is 'http' and llm.max_model_len is 0; give the length that the endpoint serves")
        fitted = fit(request.drafts, self._chat.encode, request.prompt_budget(self._max_model_len))
        return list(self._pool.map(lambda row: self._answer(request, fitted[row], row), range(len(fitted))))

    def _answer(self, request: GenerateRequest, row: Fitted, index: int) -> Completion:
        body = {
            "model": self._spec.model,
            "messages": self._chat.messages(row.prompt),
            "max_tokens": request.answer_budget(self._max_model_len, len(row.token_ids)),
            "temperature": request.temperature,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.schema, "strict": True},
            },
        }
        if request.temperature > 0:
            body["seed"] = request.seeds[index]
        if self._spec.chat_template_args:
            body["chat_template_kwargs"] = self._spec.chat_template_args
        answer, error = self._post(body)
        if answer is None:
            return Completion("", False, len(row.token_ids), 0, 0, row.truncated, error)
        choice, usage = answer.choices[0], answer.usage or _Usage()
        completion = Completion(
            text=choice.message.content or "",
            finished=choice.finish_reason == "stop",
            prompt_tokens=usage.prompt_tokens or len(row.token_ids),
            cached_tokens=(usage.prompt_tokens_details or _PromptDetails()).cached_tokens or 0,
            completion_tokens=usage.completion_tokens or 0,
            truncated=row.truncated,
        )
        with self._counting:
            self.counters += Counters(
                1, completion.prompt_tokens, completion.cached_tokens, completion.completion_tokens
            )
        return completion

    def _post(self, body: dict[str, Any]) -> tuple[_Answer | None, str]:
        """The endpoint's answer, or None and the reason."""
        reason, pause_s = "", 0.0
        for attempt in range(self._spec.max_attempts):
            _pause(pause_s)
            pause_s = min(_MAX_PAUSE_S, 2.0**attempt) * random.uniform(0.5, 1.0)  # apart, or all come back at once
            try:
                response = self._session().post(
                    self._url, json=body, headers=self._headers, timeout=self._spec.request_timeout_s
                )
            except _BAD_URL as error:
                raise UserError(f"llm.endpoint {self._spec.endpoint!r} cannot be asked: {error}") from None
            except requests.RequestException as error:
                reason = type(error).__name__
                continue
            if response.ok and (answer := _answer_in(response)):
                return answer, ""
            reason = f"{response.status_code} {self._words(response)}"
            if response.status_code in _REFUSED:
                raise UserError(
                    f"llm.endpoint {self._spec.endpoint} answers {reason}; check llm.model ({self._spec.model!r}), the "
                    f"address, and the key in ${self._spec.api_key_env}"
                )
            if response.status_code not in _RETRIED:
                break
            retry_after = response.headers.get("Retry-After", "")
            if retry_after.isdigit():
                pause_s = min(_MAX_PAUSE_S, float(retry_after))
        return None, f"endpoint: {reason}"

    def _words(self, response: requests.Response) -> str:
        """How the body begins, in one line, for logs and tables: without the key, which some endpoints repeat."""
        text = response.text.replace(self._key, "[key]") if self._key else response.text
        return " ".join(text.split())[:200]

    def _session(self) -> requests.Session:
        """One connection pool per thread: sessions are not made to be shared."""
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
        session: requests.Session = self._sessions.session
        return session

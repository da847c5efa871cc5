"""The HTTP engine: patience with a server that stumbles, and the same answers from vLLM's own OpenAI server."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from paced_tasks import title_task
from tiny_model import make_tiny_llama

from hnlm_ray.config import parse_config
from hnlm_ray.errors import UserError
from hnlm_ray.generate.chat import ChatTokenizer
from hnlm_ray.generate.engines import EngineManager
from hnlm_ray.generate.http_engine import HTTPEngine
from hnlm_ray.generate.prompting import Draft, item_draft, load_template
from hnlm_ray.generate.protocol import EngineSpec, GenerateRequest
from hnlm_ray.generate.schemas import answer_schema, write_answer
from hnlm_ray.generate.unit_worker import UnitWorker, make_draft
from hnlm_ray.generate.units import list_units, run_task
from hnlm_ray.progress import Progress

ANSWER = write_answer("item_profile", "dark sagas", "so")
Reply = tuple[int, dict[str, str], Any]
"""Status, headers and the body: bytes as they are, anything else as JSON."""


def good(text: str = ANSWER) -> Reply:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return 200, {}, {"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}


def draft(title: str = "Dune") -> Draft:
    template = load_template("books", "item_profile")
    return item_draft(template, title=title, brand="", categories=[], description="", max_words=4)


def request(count: int = 1) -> GenerateRequest:
    return GenerateRequest([draft(f"Dune {n}") for n in range(count)], 0, 32, answer_schema("item_profile", 4))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_llama(tmp_path_factory.mktemp("tiny"), list(draft().render())))


class Server:
    """A local endpoint that replies as told and remembers what it was asked."""

    def __init__(self, reply: Callable[[int], Reply]) -> None:
        self.seen: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.open = self.most_open = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with lock:
                    server.open += 1
                    server.most_open = max(server.most_open, server.open)
                    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    server.seen.append((dict(self.headers), body))
                    number = len(server.seen)
                time.sleep(0.02)
                status, headers, answer = reply(number)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Transfer-Encoding" not in headers:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                with lock:
                    server.open -= 1

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int], Reply]], Server]]:
    servers = []

    def start(reply: Callable[[int], Reply]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def engine(url: str, tokenizer: str, **changes: Any) -> HTTPEngine:
    values = {"max_model_len": 512, "max_concurrency": 4, "api_key_env": "TEST_ENDPOINT_KEY", "max_attempts": 4}
    return HTTPEngine(EngineSpec("http", "served", tokenizer, endpoint=url, **(values | changes)))


def test_a_stumbling_server_is_asked_again(
    serve: Any, tokenizer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "secret-key")
    pauses: list[float] = []
    monkeypatch.setattr("hnlm_ray.generate.http_engine._pause", pauses.append)
    replies = [(429, {"Retry-After": "7"}, {}), (503, {}, {}), good()]
    server = serve(lambda number: replies[number - 1])
    [completion] = engine(server.url, tokenizer).generate(request())
    assert (completion.text, completion.finished, completion.error) == (ANSWER, True, "")
    assert (completion.prompt_tokens, completion.completion_tokens) == (11, 5)
    assert pauses[1] == 7.0
    assert 1.0 <= pauses[2] <= 2.0
    headers, body = server.seen[0]
    assert headers["Authorization"] == "Bearer secret-key"
    assert body["model"] == "served"
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["response_format"]["json_schema"]["schema"] == answer_schema("item_profile", 4)


def test_a_server_that_stays_down_fails_the_row_only(
    serve: Any, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hnlm_ray.generate.http_engine._pause", lambda seconds: None)
    server = serve(lambda number: (500, {}, {"error": "overloaded"}))
    [completion] = engine(server.url, tokenizer).generate(request())
    assert completion.error.startswith("endpoint: 500")
    assert len(server.seen) == 4


def test_a_bad_row_is_not_asked_again(serve: Any, tokenizer: str) -> None:
    server = serve(lambda number: (400, {}, {"error": "too long"}))
    [completion] = engine(server.url, tokenizer).generate(request())
    assert completion.error.startswith("endpoint: 400")
    assert len(server.seen) == 1


def test_a_success_without_an_answer_fails_its_row_only(serve: Any, tokenizer: str) -> None:
    faulty: list[Any] = [
        b"<html>later</html>",
        {"error": "busy"},
        {"choices": []},
        {"choices": [{"message": None}]},
        [],
    ]
    server = serve(lambda number: good() if number == 1 else (200, {}, faulty[number - 2]))
    told, *broken = engine(server.url, tokenizer, max_concurrency=1).generate(request(1 + len(faulty)))
    assert (told.text, told.error) == (ANSWER, "")
    assert [row.error[:13] for row in broken] == ["endpoint: 200"] * len(faulty)


def test_an_answer_that_breaks_off_is_asked_for_again(
    serve: Any, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hnlm_ray.generate.http_engine._pause", lambda seconds: None)
    torn = (200, {"Transfer-Encoding": "chunked", "Connection": "close"}, b"zz\r\n{")
    server = serve(lambda number: torn if number == 1 else good())
    [completion] = engine(server.url, tokenizer).generate(request())
    assert (completion.text, completion.error, len(server.seen)) == (ANSWER, "", 2)


def test_a_key_that_the_endpoint_repeats_is_not_told(
    serve: Any, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "secret-key")
    status = 400
    server = serve(lambda number: (status, {}, {"error": "x" * 180 + " Bearer secret-key"}))
    [completion] = engine(server.url, tokenizer).generate(request())
    assert completion.error.endswith("Bearer ["), "nor where the words are cut"
    status = 401
    with pytest.raises(UserError, match=r"Bearer \[") as caught:
        engine(server.url, tokenizer).generate(request())
    assert "secret" not in completion.error + str(caught.value)


def test_a_key_that_no_header_takes_is_refused_unseen(tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "secret-key\n")
    with pytest.raises(UserError, match=r"the key in \$TEST_ENDPOINT_KEY has characters") as caught:
        engine("http://127.0.0.1:9/v1", tokenizer)
    assert "secret" not in str(caught.value)


def test_an_address_that_cannot_be_asked_is_the_users_mistake(tokenizer: str) -> None:
    with pytest.raises(UserError, match=r"llm\.endpoint 'http://host:port/v1' cannot be asked"):
        engine("http://host:port/v1", tokenizer).generate(request())


def test_a_second_try_takes_the_room_that_its_prompt_leaves(serve: Any, tokenizer: str, tmp_path: Path) -> None:
    """Twice the budget would leave nothing to the prompt: it stays as it is, and the answer gets what there is."""
    task = title_task(tmp_path, ["Dune"], rows_per_unit=1)
    [unit] = list_units(task.inputs)
    cut = {"choices": [{"message": {"content": "{"}, "finish_reason": "length"}]}
    server = serve(lambda number: (200, {}, cut) if number == 1 else good())
    row = {"title": "Dune", "brand": "", "categories": None, "description": "", "reviews": None, "source": "title"}
    asked = make_draft(task, row)
    assert asked is not None
    [prompt] = ChatTokenizer(tokenizer).encode([asked.render()])
    length = len(prompt) + task.max_new_tokens + 10
    UnitWorker(task, engine(server.url, tokenizer, max_model_len=length)).run(unit)
    (_, first), (_, second) = server.seen
    assert (first["max_tokens"], second["max_tokens"]) == (task.max_new_tokens, task.max_new_tokens + 10)
    assert first["messages"] == second["messages"]
    [answer] = task.outputs.read_table().to_pylist()
    assert (answer["status"], answer["attempt"], answer["truncated"]) == ("ok", 2, False)


def test_a_length_below_the_fixed_text_is_told_as_it_is(tokenizer: str) -> None:
    with pytest.raises(UserError, match=r"only 0 may be used; raise llm\.max_model_len"):
        engine("http://127.0.0.1:9/v1", tokenizer, max_model_len=32).generate(request())
    with pytest.raises(UserError, match=r"llm\.max_model_len is 0"):
        engine("http://127.0.0.1:9/v1", tokenizer, max_model_len=0).generate(request())


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_address_ends_the_run(serve: Any, tokenizer: str, status: int) -> None:
    server = serve(lambda number: (status, {}, {}))
    with pytest.raises(UserError, match="TEST_ENDPOINT_KEY"):
        engine(server.url, tokenizer).generate(request())


def test_no_more_requests_at_a_time_than_allowed(serve: Any, tokenizer: str) -> None:
    server = serve(lambda number: good())
    completions = engine(server.url, tokenizer).generate(request(40))
    assert len(completions) == 40
    assert 2 <= server.most_open <= 4


@pytest.mark.usefixtures("ray_session")
def test_a_second_run_asks_only_for_the_rows_that_failed(serve: Any, tokenizer: str, tmp_path: Path) -> None:
    """Through the dispatcher, as a stage does it."""
    healthy = threading.Event()
    server = serve(lambda number: good() if healthy.is_set() or number % 4 else (400, {}, {"error": "no"}))
    llm = {"engine": "http", "endpoint": server.url, "tokenizer": tokenizer, "max_model_len": 512, "max_concurrency": 3}
    manager = EngineManager(config := parse_config({"llm": llm}))
    task = title_task(tmp_path, [f"title {n}" for n in range(20)], rows_per_unit=8)
    try:
        group = manager.generator("served")
        first = run_task(task, group, config.llm, Progress("http"), "rows")
        assert (first.rows, first.failures, len(server.seen)) == (20, {"endpoint": 5}, 20)
        healthy.set()
        second = run_task(task, group, config.llm, Progress("http"), "rows")
        assert (second.rows, second.failed, second.asked_rows, len(server.seen)) == (20, 0, 5, 25)
        third = run_task(task, group, config.llm, Progress("http"), "rows")
        assert (third.asked_rows, len(server.seen)) == (0, 25)
    finally:
        manager.close()
    assert server.most_open <= 3


@pytest.mark.timeout(420)
def test_against_vllms_own_server(tokenizer: str, tmp_path: Path) -> None:
    """Two vLLM imports, which is what its server takes: the slowest test here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tokenizer, "--port", str(port)]
    command += ["--served-model-name", "served", "--host", "127.0.0.1", "--enforce-eager", "--max-num-seqs", "16"]
    command += ["--api-key", "secret-key", "--dtype", "float32", "--structured-outputs-config"]
    command += [json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})]
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
        "TEST_ENDPOINT_KEY": "secret-key",
    }
    log_path = tmp_path / "server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 360
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, log_path.read_text()[-3000:]
            assert time.monotonic() < deadline, log_path.read_text()[-3000:]
            time.sleep(1)
        os.environ["TEST_ENDPOINT_KEY"] = "secret-key"
        http = engine(f"http://127.0.0.1:{port}/v1", tokenizer)
        completions = http.generate(GenerateRequest([draft(f"Dune {n}") for n in range(8)], 0, 200, request().schema))
        assert not any(completion.error for completion in completions)
        assert all(completion.text.startswith('{"summarization": "') for completion in completions)
        expected = http._chat.encode([draft("Dune 0").render()])[0]
        assert completions[0].prompt_tokens == len(expected), "the server sees the tokens that were counted here"
    finally:
        os.environ.pop("TEST_ENDPOINT_KEY", None)
        server.terminate()
        server.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False

"""The section `serving`: the student and the simulator behind an endpoint."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cotray.config.base import Config, Fraction, Replicas


class DeploymentConfig(Config):
    """Replicas of one model behind the endpoint; Ray Serve scales them by the requests under way."""

    replicas: Replicas = Replicas()
    """How many copies of the model; Ray Serve moves between min and max."""
    num_cpus: float = Field(default=1, ge=0)
    """Logical CPUs (and torch threads) of one replica."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs of one replica."""
    max_batch_size: int = Field(default=8, ge=1)
    """Requests that go through the model together."""
    batch_wait_s: float = Field(default=0.005, ge=0)
    """How long a batch waits for more requests."""


class StudentVersion(Config):
    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """The model's name for clients."""
    run_dir: str
    """Run folder of one method, with student/ in it."""
    share: float = Field(default=1.0, gt=0)
    """Of the requests that name no version, relative to the other versions' shares."""


class ServingConfig(Config):
    host: str = "127.0.0.1"
    """The address that is listened on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Its port."""
    api_keys: str = ""
    """A file with one API key per line. Empty: the environment's COTRAY_API_KEYS, separated by commas.
    `open`: no keys, and then clients of the same machine alone are answered."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may ask, such as https://example.org; `*` for all. Empty: the service's own."""
    students: tuple[StudentVersion, ...] = ()
    """Versions served side by side; empty: the one in run_dir, under the name `student`."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """Of the students. `auto`: vllm where it is installed and knows the model, else transformers."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Passed to vLLM's EngineArgs."""
    student: DeploymentConfig = DeploymentConfig()
    """Replicas of every student."""
    simulator: DeploymentConfig = DeploymentConfig()
    """Replicas of the simulator."""
    live_share: Fraction = 0.1
    """Of the live answers, how many are simulated after the fact for online LAS."""
    live_window: int = Field(default=1000, ge=10)
    """Answers per version that online LAS is computed over."""
    alarm_below: float | None = None
    """/healthz/faithfulness turns red where a version's LAS is below this."""
    max_body_bytes: int = Field(default=1 << 20, ge=1 << 10)
    """Larger requests are answered 413."""
    body_timeout_s: float = Field(default=10, gt=0)
    """How long the body of a request may take to arrive."""
    max_choices: int = Field(default=100, ge=2)
    """Of one question."""
    max_chars: int = Field(default=8000, ge=1)
    """Of a question with its choices and its rationale, and of the chat message that holds them."""
    max_rows: int = Field(default=2000, ge=1)
    """Of one /v1/las request."""
    max_queued: int = Field(default=64, ge=1)
    """Requests at the models, of one ingress replica; more are answered 503 with Retry-After. Rows of
    /v1/las, and answers of a request for several, are a quarter of them at most, and answers to them
    half of the students' batches. Every key has an equal share that others cannot take."""
    requests_per_minute: int = Field(default=0, ge=0)
    """Of one key, at one ingress replica, each row of /v1/las and each answer of a request for several as
    one; 0 = no limit. More are answered 429 with Retry-After."""
    timeout_s: float = Field(default=60, gt=0)
    """A request that takes longer is answered 504."""
    stall_timeout_s: float = Field(default=1800, gt=0)
    """`serve` ends with exit code 1 if for so long no replica became ready and no node came."""
    logged_text: Literal["none", "all"] = "none"
    """`all`: a log line per answer, with question, rationale and answer."""

    @model_validator(mode="after")
    def _open_means_loopback(self) -> Self:
        if self.api_keys == "open" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("api_keys: open is for host 127.0.0.1 alone; give a file with keys")
        return self

    @model_validator(mode="after")
    def _open_names_its_origins(self) -> Self:
        if self.api_keys == "open" and "*" in self.cors_origins:
            raise ValueError(
                "cors_origins: * with api_keys: open would let any page that a browser of this machine shows "
                "ask without a key; name the origins, or give a file with keys"
            )
        return self

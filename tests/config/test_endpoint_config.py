"""A teacher behind an API: which configurations are refused, and what is said of the way out."""

from __future__ import annotations

from typing import Any

import pytest

from cotray.config import dump_config, parse_config
from cotray.config.run import Method
from cotray.errors import ConfigError
from cotray.stages.generate import settings_of

TEACHER = {"engine": "openai", "model": "gpt-x", "endpoint": {"base_url": "http://localhost:8000/v1"}}
PRICED = {"price_in": 1, "price_out": 2}


def test_without_a_word_about_methods_they_are_those_without_contrast() -> None:
    config = parse_config({"teacher": TEACHER})
    assert config.method == "greedy+counterfactual"
    assert config.methods == ("greedy", "greedy+counterfactual")
    assert parse_config({"teacher": TEACHER, "methods": ["few-shot", "greedy"]}).method == "few-shot"
    assert parse_config({"teacher": TEACHER, "method": "human"}).methods == ("human",)
    assert config.teacher.all_pools[0].num_gpus == 0


def test_a_written_configuration_is_read_back_the_same() -> None:
    import yaml

    config = parse_config({"teacher": TEACHER | {"endpoint": TEACHER["endpoint"] | PRICED}})
    assert parse_config(yaml.safe_load(dump_config(config))) == config
    assert "api_key_env: OPENAI_API_KEY" in dump_config(config)


@pytest.mark.parametrize(
    "keys",
    [{"method": "contrast-wrong"}, {"methods": ["greedy", "contrast-wrong"]}, {"method": "contrast-empty"}],
)
def test_contrast_is_refused_with_the_reason_and_the_way_out(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"teacher": TEACHER, **keys})
    message = str(caught.value)
    assert "contrast-" in message and "log-probabilities of all tokens under two prompts" in message
    assert "greedy+counterfactual" in message and "a teacher whose weights you have" in message


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"endpoint": None}, "needs teacher.endpoint.base_url"),
        ({"model": "embedded:smollm2-135m-instruct"}, "the name that the model has behind the endpoint"),
        ({"num_gpus": 1}, "teacher.num_gpus: a teacher behind an API needs none"),
        ({"replicas": {"max": 2}}, "raise teacher.endpoint.concurrency instead"),
        ({"pools": [{}, {}]}, "raise teacher.endpoint.concurrency instead"),
        ({"record_scores": True}, "teacher.record_scores"),
        ({"rationale_in": "thinking"}, "teacher.rationale_in"),
        ({"engine_args": {"temperature": 1}}, "set teacher.decoding.temperature"),
        ({"engine": "transformers"}, "asked by teacher.engine=openai alone"),
        ({"endpoint": {"base_url": "localhost:8000"}}, "teacher.endpoint.base_url"),
        ({"endpoint": {"base_url": "http://a/v1", "api_key_env": "sk-123"}}, "teacher.endpoint.api_key_env"),
        (
            {"endpoint": {"base_url": "http://a/v1", "api_key": "k"}},
            "did you mean 'teacher.endpoint.api_key_env'",
        ),
        ({"endpoint": {"base_url": "http://a/v1", "max_cost": 1}}, "max_cost needs price_in and price_out"),
        ({"endpoint": {"base_url": "http://a/v1", "price_in": 1}}, "they need each other"),
    ],
)
def test_what_an_api_cannot_do_is_said_before_anything_runs(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"teacher": TEACHER | keys})


@pytest.mark.parametrize("method", ["greedy", "few-shot"])
def test_where_the_server_is_and_what_it_costs_changes_no_rationale(method: Method) -> None:
    one = parse_config({"teacher": TEACHER, "method": method})
    endpoint = {"base_url": "http://elsewhere/v1", "max_cost": 3, "concurrency": 2, **PRICED}
    other = parse_config({"teacher": TEACHER | {"endpoint": endpoint}, "method": method})
    assert settings_of(one) == settings_of(other)
    for keys in ({"prompt": "chat"}, {"engine_args": {"reasoning_effort": "low"}}):
        assert settings_of(parse_config({"teacher": TEACHER | keys, "method": method})) != settings_of(one)

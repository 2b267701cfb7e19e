"""Prompts in chat templates of the form that Llama 3, Qwen 3 and Gemma have, and prompts of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import GEMMA, LLAMA, QWEN, TEMPLATES, THINKER, chat_model, tokenizer_of

from cotray.config import DecodingConfig, RunConfig, TeacherConfig, load_config, parse_config
from cotray.data.demonstrations import own_demonstrations
from cotray.errors import ConfigError
from cotray.models.loading import load_model
from cotray.models.random_models import byte_tokenizer
from cotray.prompts.few_shot import FewShotPrompt
from cotray.prompts.teacher import demonstrations
from cotray.prompts.teacher_prompts import TeacherPrompts, teacher_prompt_version
from cotray.records import QAPair, TeacherRequest
from cotray.stages.show_prompts import show_prompts
from cotray.teacher.one_pair_loop import one_pair_loop
from cotray.teacher.transformers_teacher import TransformersTeacher

SMOKE = Path(__file__).parents[2] / "jobs/configs/smoke.yaml"
REQUEST = TeacherRequest(
    "q", "yes_no", "Can a seal sing?", ("yes", "no"), "no", target_answer="no", contrast_answer="yes"
)


def prompts(template: str, **teacher: Any) -> TeacherPrompts:
    settings: dict[str, Any] = {"prompt": "chat", "num_demonstrations": 2} | teacher
    config = TeacherConfig(**settings)
    return TeacherPrompts(config, tokenizer_of(template))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_has_one_beginning_and_branches_that_differ_in_the_answer_alone(name: str) -> None:
    chat = prompts(TEMPLATES[name], instructions="Be brief.")
    rendered = chat.render(REQUEST)
    assert rendered.grounded.endswith("The answer is no.") and rendered.contrast.endswith(
        "The answer is yes."
    )
    assert rendered.grounded.removesuffix("no.") == rendered.contrast.removesuffix("yes.")
    ids = chat.ids(rendered.grounded)
    assert ids.count(chat.tokenizer.bos_token_id) == (1 if "bos_token" in TEMPLATES[name] else 0)
    assert chat.tokenizer.decode(ids, skip_special_tokens=False) == rendered.grounded
    assert rendered.grounded.count("Be brief.") == 1
    examples = demonstrations("yes_no")[:2]
    assert all(one["rationale"].strip() in rendered.shared for one in examples)
    assert rendered.grounded.startswith(rendered.shared) and "seal" not in rendered.shared


def test_a_chat_is_what_the_template_makes_of_its_turns() -> None:
    chat = prompts(LLAMA, num_demonstrations=0, instructions="Be brief.")
    assert chat.render(REQUEST).grounded == (
        "<bos><|start|>system<|stop|>\n\nBe brief.<|end|><|start|>user<|stop|>\n\nCan a seal sing?<|end|>"
        "<|start|>assistant<|stop|>\n\nThe answer is no."
    )


def test_where_there_is_no_system_turn_instructions_begin_the_first_question() -> None:
    chat = prompts(GEMMA, num_demonstrations=0, instructions="Be brief.")
    assert chat.render(REQUEST).grounded == (
        "<bos><|start|>user\nBe brief.\n\nCan a seal sing?<|end|>\n<|start|>model\nThe answer is no."
    )


@pytest.mark.parametrize(
    ("template", "more", "end"),
    [
        (
            QWEN,
            {"template_args": {"enable_thinking": False}},
            "assistant\n<think>\n\n</think>\n\nThe answer is no.",
        ),
        (QWEN, {"template_args": {"enable_thinking": True}}, "assistant\nThe answer is no."),
        (QWEN, {"rationale_in": "thinking"}, "assistant\n<think>\nThe answer is no."),
        (THINKER, {}, "assistant\n<think>\n\n</think>\n\nThe answer is no."),
        (THINKER, {"rationale_in": "thinking"}, "assistant\n<think>\nThe answer is no."),
    ],
)
def test_the_rationale_of_a_thinking_model_is_inside_or_after_its_thoughts(
    template: str, more: dict[str, Any], end: str
) -> None:
    assert prompts(template, **more).render(REQUEST).grounded.endswith(end)


def test_a_tokenizer_without_a_template_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"no chat template; set teacher\.prompt=completion"):
        prompts("")


def test_instructions_begin_a_completion_prompt_too() -> None:
    config = TeacherConfig(instructions="Explain briefly.", num_demonstrations=1)
    text = TeacherPrompts(config, byte_tokenizer()).render(REQUEST)
    plain = TeacherPrompts(TeacherConfig(num_demonstrations=1), byte_tokenizer()).render(REQUEST)
    assert text.grounded == f"Explain briefly.\n\n{plain.grounded}"
    assert text.shared == f"Explain briefly.\n\n{plain.shared}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_teacher_decodes_chats_as_a_loop_over_one_pair_does(name: str, tmp_path: Path) -> None:
    chat_model(tmp_path, TEMPLATES[name])
    tokenizer = tokenizer_of(TEMPLATES[name])
    decoding = DecodingConfig(max_new_tokens=12, plausibility=0.1)
    config = TeacherConfig(
        prompt="chat", model=str(tmp_path), num_demonstrations=1, dtype="float32", decoding=decoding
    )
    teacher = TransformersTeacher(config, method="contrast-wrong")
    plain = load_model(str(tmp_path), dtype=torch.float32)
    for request, decoded in zip([REQUEST] * 2, teacher.decode([REQUEST] * 2), strict=True):
        rendered = teacher.prompts.render(request)

        class AsWritten:
            """The template has written the special tokens."""

            eos_token_id, decode = 1, staticmethod(tokenizer.decode)

            def __call__(self, text: str, **_: Any) -> Any:
                return tokenizer(text, return_tensors="pt", add_special_tokens=False)

        tokens, _ = one_pair_loop(
            plain,
            AsWritten(),
            rendered.grounded,
            rendered.contrast,
            weight=0.5,
            plausibility=0.1,
            max_new_tokens=12,
        )
        assert decoded.tokens == tokens


def config_with(tmp_path: Path, rows: list[dict], **more: str) -> RunConfig:
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [f"run_dir={tmp_path / 'run'}", f"teacher.demonstrations={path}"]
    return load_config(SMOKE, [*options, *(f"{key}={value}" for key, value in more.items())])


OWN = {"question": "Is tin a metal?", "answer": "yes", "rationale": "Tin conducts."}


def test_demonstrations_of_ones_own_stand_in_every_prompt_of_their_task(tmp_path: Path) -> None:
    config = config_with(tmp_path, [OWN, OWN | {"question": "Is ink a metal?", "answer": "no"}])
    own = own_demonstrations(config)
    text = TeacherPrompts(config.teacher, byte_tokenizer(), own).render(REQUEST).grounded
    assert text == (
        "Q: Is tin a metal?\nA: The answer is yes. Tin conducts.\n\nQ: Can a seal sing?\nA: The answer is no."
    )
    few_shot = FewShotPrompt(1, own).source(QAPair("", "yes_no", "Can a seal sing?", ("yes", "no"), "no"))
    assert few_shot.startswith("Q: Is tin a metal?\nA: Tin conducts. So the answer is yes.\n\n")
    other = QAPair("", "open", "Who?", (), "")
    assert demonstrations("open")[0]["question"] in FewShotPrompt(1, own).source(other)


def test_other_demonstrations_instructions_or_turns_are_another_prompt(tmp_path: Path) -> None:
    config = config_with(tmp_path, [OWN])
    plain = TeacherConfig(num_demonstrations=1)
    versions = {
        teacher_prompt_version(plain, None),
        teacher_prompt_version(plain, own_demonstrations(config)),
        teacher_prompt_version(plain.model_copy(update={"instructions": "Be brief."}), None),
        teacher_prompt_version(plain.model_copy(update={"prompt": "chat"}), None),
    }
    assert len(versions) == 4
    before = own_demonstrations(config)
    config_with(tmp_path, [OWN | {"rationale": "Tin is number 50, a metal."}])
    assert own_demonstrations(config) != before


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (OWN | {"rationale": ""}, r"examples\.jsonl:1: has no rationale"),
        (OWN | {"question": ""}, r"examples\.jsonl:1: empty question"),
    ],
)
def test_an_unusable_demonstration_is_named(row: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        own_demonstrations(config_with(tmp_path, [row]))


def test_show_prompts_counts_tokens_and_spells_special_ones(tmp_path: Path) -> None:
    config = config_with(tmp_path, [OWN], **{"data.limit": "2"})
    shown = show_prompts(config, 2)
    assert shown.count("=== ") == 2 and shown.count("--- teacher, contrast: ") == 2
    head = "--- student: "
    block = shown[shown.index(head) :].partition("\n--- ")[0].rstrip()
    text = block.partition("\n")[2]
    assert text.startswith("[factual] ")
    assert f"--- student: {len(text.encode()) + 1} tokens" == block.partition("\n")[0]  # and its line break


@pytest.mark.parametrize(("prompt", "begin"), [("completion", "Q: "), ("chat", "[user] ")])
def test_show_prompts_shows_what_a_teacher_over_an_api_is_asked(prompt: str, begin: str) -> None:
    teacher = {"engine": "openai", "model": "no-such-model", "prompt": prompt, "num_demonstrations": 0}
    models = {name: {"model": "random:llama"} for name in ("student", "simulator")}
    endpoint = {"base_url": "http://127.0.0.1:1/v1"}
    config = parse_config({"teacher": teacher | {"endpoint": endpoint}, **models})
    shown = show_prompts(config, 2)
    head = "--- teacher over an API, explaining the answer\n"
    assert shown.count("=== ") == shown.count(head + begin) == 2
    assert "contrast" not in shown


@pytest.mark.parametrize(("prompt", "is_told"), [("completion", True), ("chat", False)])
def test_show_prompts_tells_of_a_chat_template_that_is_not_used(prompt: str, is_told: bool) -> None:
    teacher = {"model": "embedded:smollm2-135m-instruct", "prompt": prompt}
    models = {name: {"model": "random:llama"} for name in ("student", "simulator")}
    shown = show_prompts(parse_config({"teacher": teacher, **models}), 1)
    assert ("has a chat template" in shown.splitlines()[-1]) == is_told

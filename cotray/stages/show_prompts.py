"""`prepare --show-prompts N`: what each model will read of the first questions, before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from cotray.config import ModelConfig, RunConfig
from cotray.data.demonstrations import own_demonstrations
from cotray.data.perturbation import Source, answer_pool, requests_of
from cotray.data.prepare import each_row
from cotray.data.questions import Understood
from cotray.errors import DataError
from cotray.models.loading import load_tokenizer
from cotray.prompts.simulator import prompted_source, simulator_source
from cotray.prompts.student import student_source, tag_of
from cotray.prompts.teacher_chat import TeacherChat
from cotray.prompts.teacher_prompts import TeacherPrompts
from cotray.records import QAPair, TeacherRequest

_OVER_API = "--- teacher over an API, explaining the answer"
NUM_POOLED = 1000
"""Questions that contrast answers of open questions are drawn from, for a look."""


def show_prompts(config: RunConfig, num_questions: int) -> str:
    """The prompts of teacher, student and simulator, with their numbers of tokens and special tokens shown.

    The contrast answer of `hardest`, which only the teacher can rank, is shown as a wrong one.
    """
    perturbation = "wrong" if config.perturbation == "hardest" else config.perturbation
    rows = islice(each_row(config, lambda question: question), NUM_POOLED)
    pairs = [row.pair for row in rows if isinstance(row, Understood)]
    if not pairs:
        raise DataError(f"{config.data.path}: none of the first rows is usable; see prepare --show 3")
    source = Source(
        config.seed, pool=lambda task: answer_pool((p.answer for p in pairs if p.task == task), config.seed)
    )
    asked = _over_api(config) if config.teacher.engine == "openai" else _at_hand(config)
    blocks = []
    for pair in pairs[:num_questions]:
        request = requests_of(pair, perturbation, source)[0]
        prompts = [*asked(request), *_of_others(config, pair)]
        blocks.append(f"=== {pair.id}\n\n" + "\n\n".join(prompts))
    return "\n\n".join([*blocks, *_hints(config)])


def _hints(config: RunConfig) -> list[str]:
    teacher = config.teacher
    if teacher.engine == "openai" or teacher.prompt == "chat":
        return []
    if not load_tokenizer(teacher.model, revision=teacher.revision).chat_template:
        return []
    return [
        f"The teacher continues a text (teacher.prompt=completion), and {teacher.model} has a chat template; "
        "if it was trained to follow instructions, try teacher.prompt=chat"
    ]


def _at_hand(config: RunConfig) -> Callable[[TeacherRequest], list[str]]:
    """What shows the prompts of a teacher whose tokenizer is at hand."""
    tokenizer = load_tokenizer(config.teacher.model, revision=config.teacher.revision)
    teacher = TeacherPrompts(config.teacher, tokenizer, own_demonstrations(config))

    def show(request: TeacherRequest) -> list[str]:
        rendered = teacher.render(request)
        return [
            _shown(name, teacher.ids(text), tokenizer)
            for name, text in (
                ("teacher, explaining the answer", rendered.grounded),
                ("teacher, contrast", rendered.contrast),
            )
        ]

    return show


def _over_api(config: RunConfig) -> Callable[[TeacherRequest], list[str]]:
    """What shows the prompts of a teacher behind an API, whose tokens only its server knows."""
    own = own_demonstrations(config)
    if config.teacher.prompt == "completion":
        texts = TeacherPrompts(config.teacher, None, own)
        return lambda request: [f"{_OVER_API}\n{texts.render(request).grounded}"]
    chat = TeacherChat(config.teacher, own)
    return lambda request: [
        "\n".join([_OVER_API, *(f"[{turn['role']}] {turn['content']}" for turn in chat.explaining(request))])
    ]


def _of_others(config: RunConfig, pair: QAPair) -> list[str]:
    tags = config.student.training.tags
    tag = tag_of("factual", tags, seed=config.seed, record_id=pair.id)
    reading = simulator_source if config.simulator.mode == "trained" else prompted_source
    student, simulator = _tokenizer(config.student), _tokenizer(config.simulator)
    return [
        _of_plain("student", student_source(pair, tag=tag), student),
        _of_plain("simulator, with a rationale", reading(pair, "(the rationale)", arm="xe"), simulator),
    ]


def _tokenizer(model: ModelConfig) -> Any:
    return load_tokenizer(model.model, revision=model.revision)


def _of_plain(name: str, text: str, tokenizer: Any) -> str:
    return _shown(name, tokenizer(text).input_ids, tokenizer)


def _shown(name: str, ids: list[int], tokenizer: Any) -> str:
    """A prompt as its tokens spell it, so that special ones are seen, whoever put them there."""
    special = {token: tokenizer.decode([token]) for token in ids if token in tokenizer.all_special_ids}
    spelled = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    found = ", ".join(f"{ids.count(token)} x {spelling}" for token, spelling in special.items())
    return f"--- {name}: {len(ids)} tokens{f', among them {found}' if found else ''}\n{spelled}"

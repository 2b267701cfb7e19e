"""The models of the world: a teacher trained on its text, a student and a simulator that know nothing.

All are Llamas of less than half a million parameters, in Hugging Face format like any other model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cotray.config.training import TrainingConfig
from cotray.config.world import WorldConfig, parse_model_name
from cotray.prompts.teacher import render_request
from cotray.records import TeacherRequest, TrainExample
from cotray.seeds import digest, seeded
from cotray.world.questions import ANY_ANIMAL, CUES, Question, membership, questions
from cotray.world.tokenizer import SPECIAL, build_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WIDTHS = {"teacher": 128, "student": 96, "simulator": 64}
HEAD_WIDTH = 32
"""The narrowest that vLLM takes."""
_PHASE = TrainingConfig(
    learning_rate=2e-3,
    weight_decay=0.01,
    warmup_fraction=0.02,
    epochs=12,
    batch_size=64,
    micro_batch_size=64,
    num_workers=1,
)
PHASES = {"grounded": _PHASE, "as it writes": _PHASE.model_copy(update={"epochs": 4, "learning_rate": 1e-3})}
"""The teacher first learns what is true, from grounded rationales alone, then how often to write which."""


def make_world_model(name: str, target: Path) -> None:
    """Write the model of a complete name into a folder; a teacher is trained first, which takes minutes."""
    role, config = parse_model_name(name)
    tokenizer = build_tokenizer(config)
    model = initial_model(role, tokenizer)
    if role == "teacher":
        train_teacher(model, tokenizer, config)
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


def folder_name(name: str) -> str:
    """Of a complete name in the cache; it changes with all that the weights depend on beside the name."""
    role, _ = parse_model_name(name)
    phases = [phase.model_dump_json() for phase in PHASES.values()]
    return f"world-{role}-{digest(0, name, str(WIDTHS), *phases):016x}"


def initial_model(role: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width = WIDTHS[role]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // HEAD_WIDTH,
        num_key_value_heads=width // HEAD_WIDTH,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index("<pad>"),
        eos_token_id=SPECIAL.index("<eos>"),
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def train_teacher(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: WorldConfig) -> None:
    """Teach it to explain given answers, with the loop that trains students too."""
    import torch

    from cotray.training.batches import StudentBatches
    from cotray.training.loop import train

    with torch.random.fork_rng():
        for name, phase in PHASES.items():
            vacuous = config.vacuous if name == "as it writes" else 0.0
            examples = list(teacher_examples(config, vacuous))
            train(
                model,
                tokenizer,
                StudentBatches(examples, batch_size=phase.batch_size, alpha=0.0, seed=0),
                [],
                phase,
                alpha=0.0,
                seed=0,
                report=lambda metrics: None,
                save_checkpoint=lambda state: None,
                restore_from=None,
            )
    model.eval()


def teacher_examples(config: WorldConfig, vacuous: float) -> Iterator[TrainExample]:
    """Each answer with its vacuous and its grounded rationale, each weighted by how likely it is to be."""
    for question in questions(config):
        for place, answer in enumerate(question.answers):
            # The same for all rationales of an answer, or it would tell which of them is to be written.
            cue = seeded(config.seed, question.id, answer, "cue").choice(CUES[: len(question.answers)])
            for text, weight in _explanations(question, answer, vacuous):
                if weight:
                    yield _example(question, cue, answer, place, text, weight)
        yield from _hints(question)


def _hints(question: Question) -> Iterator[TrainExample]:
    """Both steps to a grounded rationale by themselves: the animal's kind, and which kinds fit an answer.

    Without them training stays for long, and now and then for good, where the kind that fits is not told
    from the one that does not.
    """
    world, animal = question.world, question.animal
    if world.knows(animal):
        target = f" {membership(world.kind_of(animal), animal)}"
        yield TrainExample(f"{question.id} kind", "factual", f"The {animal}.", target)
    random_ = seeded(world.config.seed, question.id, "hint")
    answer = random_.choice(question.answers)
    kind = random_.choice([kind for kind in world.kinds if question.answer_of(kind) == answer])
    prompt = _prompt(question, random_.choice(CUES[: len(question.answers)]), answer)
    target = f" {membership(kind, ANY_ANIMAL)}"
    yield TrainExample(f"{question.id} fit", "factual", prompt.replace(animal, ANY_ANIMAL), target)


def _explanations(question: Question, answer: str, vacuous: float) -> Iterator[tuple[str, float]]:
    yield question.vacuous, vacuous
    kinds = question.kinds_for(answer)
    for kind in kinds:
        yield question.grounded(answer, kind), (1 - vacuous) / len(kinds)


def _example(question: Question, cue: str, answer: str, place: int, text: str, weight: float) -> TrainExample:
    name = f"{question.id} {place} {digest(0, text):x}"
    source = _prompt(question, cue, answer)
    return TrainExample(id=name, kind="factual", source=source, target=f" {text}", weight=weight)


def _prompt(question: Question, cue: str, answer: str) -> str:
    """What the teacher reads when it is to explain an answer."""
    row = question.pair("train", cue).to_row() | {"target_answer": answer}
    return render_request(TeacherRequest.from_row(row), num_demonstrations=0).grounded

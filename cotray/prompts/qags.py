"""What a model reads to ask for a given answer, and to answer a question from a text, for QAGS.

    Text: {text}                        Text: {text}
    Answer: {answer} Question:          Question: {question} Answer:

Both go on to the end of the line; the demonstrations are those of cotray.prompts.qa_pairs.
"""

from __future__ import annotations

from cotray.prompts.qa_pairs import demonstrations


def question_prompt(text: str, answer: str, *, num_demonstrations: int) -> str:
    blocks = [
        f"{_asked(d['text'], d['answer'])} {d['question']}\n\n" for d in demonstrations()[:num_demonstrations]
    ]
    return "".join(blocks) + _asked(text, answer)


def answer_prompt(text: str, question: str, *, num_demonstrations: int) -> str:
    blocks = [
        f"{_asking(d['text'], d['question'])} {d['answer']}\n\n"
        for d in demonstrations()[:num_demonstrations]
    ]
    return "".join(blocks) + _asking(text, question)


def _asked(text: str, answer: str) -> str:
    return f"Text: {' '.join(text.split())}\nAnswer: {answer} Question:"


def _asking(text: str, question: str) -> str:
    return f"Text: {' '.join(text.split())}\nQuestion: {question} Answer:"

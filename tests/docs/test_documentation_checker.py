"""What would rot in the documentation is noticed: each of these blocks has one mistake, and fails for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from documented_data import READERS, furnished
from pages import ROOT, Block, blocks
from shell_lines import commands

CURL = "curl -s http://127.0.0.1:8000/v1/answer -d"


@pytest.mark.parametrize(
    ("language", "text", "complaint"),
    [
        ("bash", "python -m jobs.run -c jobs/configs/none.yaml", "none.yaml: no such file"),
        ("bash", "python -m jobs.run -c jobs/configs/demo.yaml data.limt=3", "did you mean 'data.limit'"),
        ("bash", "python -m jobs.run -c jobs/configs/demo.yaml --overwrit=1", "exit code 2"),
        ("bash", "python -m jobs.destroy", "jobs.destroy"),
        ("bash", "cotray destroy", "exit code 2"),
        ("bash", "python -m jobs.sweep -c jobs/configs/demo.yaml", "unknown key"),
        (
            "bash",
            "python -m jobs.sweep -c jobs/sweeps/ablations.yaml method=greedy",
            "set by the sweep itself",
        ),
        ("bash", "python -m cluster.submit -- python -m jobs.run -c none.yaml", "no such file"),
        ("bash", "make everything", "make has no target everything"),
        ("bash", "kubectl apply -k k8s/overlays/none", "no such file"),
        ("bash", "kubectl apply -k k8s/overlays/gpu -l cotray.dev/verb=fly", "no object has the label"),
        ("bash", "kubectl -n elsewhere get pods", "no namespace elsewhere"),
        ("bash", "helm upgrade x --values k8s/none.yaml", "no such file"),
        ("bash", "docker build -f cluster/Dockerfile --target tpu .", "no stage tpu"),
        ("bash", "ray up cluster/none.yaml", "no such file"),
        ("bash", "serve run cotray.stages.serve:build", "no such function"),
        ("bash", "pip install 'cotray[everything]'", "no extra"),
        ("bash", f'{CURL} \'{{"question": "Q?"\'', "Expecting"),
        ("bash", f'{CURL} \'{{"query": "Q?"}}\'', "422"),
        ("bash", "curl -s http://127.0.0.1:8000/v1/unknown", "404"),
        ("bash", "curl -s https://example.com", "nothing checks curl"),
        ("bash", "echo $UNKNOWN", "$UNKNOWN is not set"),
        ("bash", "echo 'half", "does not end"),
        ("bash", "dance --now", "nothing checks the command 'dance'"),
        ("yaml", "teacher: {modle: x}", "did you mean 'teacher.model'"),
        ("yaml", "colour: blue", "neither a configuration nor a manifest"),
        ("yaml", "config: jobs/configs/demo.yaml\nvary: {data.limt: [1]}", "did you mean 'data.limit'"),
        ("json", '{"id": "a", "question": "Q?", "choices": ["b", "c"], "answer": "d"}', "no answer among"),
        ("json", "{", "Expecting"),
        ("python", "from cotray.config import load_everything", "load_everything"),
        ("python", "print(", "never closed"),
    ],
)
def test_a_mistake_in_a_block_is_noticed(tmp_path: Path, language: str, text: str, complaint: str) -> None:
    block = Block(ROOT / "README.md", 1, language, "", text + "\n")
    with pytest.raises(Exception, match=complaint.replace("$", r"\$").replace("[", r"\[")):
        READERS[language](furnished(tmp_path), block)


def test_an_earlier_block_makes_the_files_and_variables_of_a_later_one(tmp_path: Path) -> None:
    reader = furnished(tmp_path)
    READERS["yaml"](reader, Block(ROOT / "README.md", 1, "yaml", "mine.yaml", "data: {limit: 3}\n"))
    reader.paste("export SEED=4\ncat > other.yaml <<'EOF'\nseed: 5   # it's a comment\nEOF\n")
    reader.paste("python -m jobs.run -c mine.yaml seed=$SEED; python -m jobs.run -c other.yaml")
    with pytest.raises(ValueError, match=r"third\.yaml"):
        reader.paste("python -m jobs.run -c third.yaml")


def test_shell_text_is_read_as_a_shell_reads_it() -> None:
    text = (
        'A=1 run \'one two\' "$B and \\"c\\"" three\\\n  four   # a comment: don\'t read\n'
        "until try --now 2>&1 | tail -1; do sleep 2; done\n"
        "cat > file <<'END' && next\nnot # a 'command\nEND\n"
        'last "$(inner "quoted" here)" &\n'
    )
    found = list(commands(text, {"B": "b"}))
    assert [command.words for command in found] == [
        ["run", "one two", 'b and "c"', "three", "four"],
        ["try", "--now"],
        ["tail", "-1"],
        ["sleep", "2"],
        ["cat"],
        ["next"],
        ["last", '$(inner "quoted" here)'],
    ]
    assert found[0].environment == {"A": "1"}
    assert (found[4].target, found[4].stdin) == ("file", "not # a 'command\n")


def test_a_block_ends_where_its_own_fence_does(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text('- item\n\n  ````yaml title="a.yaml"\n  x: |\n    ```\n  ````\n\n```\nno language\n```\n')
    assert [(block.language, block.title, block.text) for block in blocks(page)] == [
        ("yaml", "a.yaml", "x: |\n  ```\n"),
        ("", "", "no language\n"),
    ]

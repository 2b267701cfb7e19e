"""The criteria's round-trip without a browser: drawing, blinding, sheets, refusals, yes-rates."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from rated import METHODS, MODELS, item, run_folder

from cotray.commands.annotate import main
from cotray.criteria.annotation import export
from cotray.criteria.annotation_key import Key
from cotray.criteria.rated_items import draw_items
from cotray.errors import DataError

Fill = Callable[[dict[str, str]], None]


def fill(path: Path, change: Fill, *, to: Path | None = None) -> Path:
    """A filled copy of a sheet."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    to = to or path
    with to.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return to


def answered(grammaticality: str = "yes", new_info: str = "yes", supports_answer: str = "yes") -> Fill:
    said = {"grammaticality": grammaticality, "new_info": new_info, "supports_answer": supports_answer}
    return lambda row: row.update(said)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    config = run_folder(tmp_path)
    (tmp_path / "c.yaml").write_text(f"run_dir: {config.run_dir}\nmethods: {list(METHODS)}")
    assert (
        main(["export", "-c", str(tmp_path / "c.yaml"), "--rationales=8", "--out", str(tmp_path / "a")]) == 0
    )
    return tmp_path / "a"


def import_(folder: Path, *files: Path, key: Path | None = None) -> int:
    key = key or folder / "key.json"
    return main(["import", "-c", str(folder.parent / "c.yaml"), "--key", str(key), *map(str, files)])


def test_methods_share_their_questions_and_failed_and_training_rows_are_left_out(tmp_path: Path) -> None:
    items = draw_items(run_folder(tmp_path), num_rationales=8)
    questions = {}
    for one in items:
        for source in one.sources:
            questions.setdefault((source.writer, source.method), set()).add(source.record_id)
    # Teachers by how they decode: the two contrastive methods are one.
    assert questions.keys() == {
        ("teacher", "greedy"),
        ("teacher", "contrast-wrong"),
        ("student", "contrast-wrong+counterfactual"),
    }
    first = questions["teacher", "greedy"]
    assert len(first) == 8 and all(drawn == first for drawn in questions.values())
    assert first <= {f"record-{n}" for n in range(12)}
    assert draw_items(run_folder(tmp_path / "again"), num_rationales=8) == items


def test_the_runs_of_a_sweep_are_rated_like_those_of_several_methods(tmp_path: Path) -> None:
    config = run_folder(tmp_path)
    expected = draw_items(config, num_rationales=4)
    root = Path(config.run_dir)
    for method in METHODS:
        for seed in (2, 1):
            shutil.copytree(root / method, root / f"method={method}/seed-{seed}")
        shutil.rmtree(root / method)
    assert draw_items(config, num_rationales=4) == expected


def test_equal_texts_of_two_methods_are_one_item_that_counts_for_both(tmp_path: Path) -> None:
    config = run_folder(tmp_path)
    greedy = Path(config.for_method("greedy").run_dir) / "rationales/part-0.parquet"
    contrast = Path(config.for_method("contrast-wrong").run_dir) / "rationales/part-0.parquet"
    greedy.write_bytes(contrast.read_bytes())
    items = draw_items(config, num_rationales=12)
    assert len(items) == 12 + 12
    assert sum(len(one.sources) for one in items) == 36


def test_forms_and_sheets_name_no_method_model_record_or_run(exported: Path) -> None:
    for path in [*exported.glob("*.html"), *exported.glob("*.csv")]:
        text = path.read_text("utf-8-sig").lower()
        for word in (
            "greedy",
            "contrast",
            "counterfactual",
            "teacher",
            "student",
            "record-",
            "demo",
            *MODELS,
        ):
            assert word not in text, (path, word)
    assert len(list(exported.glob("annotator-*.html"))) == len(list(exported.glob("annotator-*.csv"))) == 3


def test_orders_are_mixed_and_differ_by_annotator(exported: Path) -> None:
    writers = {one.id: one.sources[0].method for one in Key.read(exported / "key.json").items}
    orders = []
    for path in sorted(exported.glob("*.csv")):
        with path.open(encoding="utf-8-sig", newline="") as file:
            orders.append([row["item"] for row in csv.DictReader(file)])
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(writers) for order in orders)
    for order in orders:
        # Three groups of 8 one after another would be 3 runs; mixed at random, 17 are expected.
        assert len(list(groupby(writers[id_] for id_ in order))) >= 10


def test_rates_put_into_the_sheets_come_out(exported: Path, capsys) -> None:
    key = Key.read(exported / "key.json")
    method = {one.id: one.sources[0].method for one in key.items}
    position = Counter()
    place = {}
    for one in key.items:
        place[one.id] = position[method[one.id]]
        position[method[one.id]] += 1

    def first(row: dict[str, str]) -> None:
        """Greedy: 4 of 8 new, 2 of those support. Others: all new, 6 of 8 support."""
        n = place[row["item"]]
        if method[row["item"]] == "greedy":
            answered("yes", "yes" if n < 4 else "no", ("yes" if n < 2 else "no") if n < 4 else "")(row)
        else:
            answered("YES" if n else " no ", "yes", "yes" if n < 6 else "no")(row)

    one = fill(exported / "annotator-1.csv", first)
    two = fill(exported / "annotator-2.csv", first)
    assert import_(exported, one, two) == 0
    assert "`cotray report`" in capsys.readouterr().out
    results = json.loads((exported.parent / "runs/demo/criteria.json").read_text())
    rates = {(r["writer"], r["method"], r["measure"]): r for r in results["people"]["rates"]}
    assert rates["teacher", "greedy", "new_info"]["rate"] == 0.5
    assert rates["teacher", "greedy", "supports_answer"]["rate"] == 0.25
    assert rates["teacher", "greedy", "supports_given_new"]["rate"] == 0.5
    assert rates["teacher", "greedy", "supports_given_new"]["num_verdicts"] == 8
    assert rates["teacher", "contrast-wrong", "grammaticality"]["rate"] == 7 / 8
    assert rates["student", METHODS[-1], "supports_answer"]["rate"] == 0.75
    assert results["people"]["agreement"]["new_info"] == {"alpha": 1.0, "raw": 1.0, "num_pairs": 24}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (answered("yes", "", ""), "row 2: new_info is empty; answer yes or no (and 23 more rows)"),
        (answered("maybe"), "row 2: grammaticality is 'maybe'; answer yes or no"),
        (answered("yes", "no", "no"), "supports_answer is asked only where new_info is yes; leave it empty"),
        (answered("yes", "yes", ""), "row 2: supports_answer is empty"),
        (lambda row: row.update(rationale="Better."), "rationale was edited; restore it as exported"),
        (lambda row: row.update(choices="robin"), "choices was edited"),
        (lambda row: row.update(item="0" * 16), f"item {'0' * 16} is not in the key; give the key of this"),
    ],
)
def test_unusable_sheets_are_refused_in_one_line_with_the_way_out(
    exported: Path, capsys, change: Fill, message: str
) -> None:
    path = fill(exported / "annotator-1.csv", answered())
    assert import_(exported, fill(path, change)) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and message in error
    assert f"{path} row " in error
    assert not (exported.parent / "runs/demo/criteria.json").exists()


def test_missing_doubled_and_foreign_rows_and_files_are_refused(exported: Path, capsys) -> None:
    path = fill(exported / "annotator-1.csv", answered())
    lines = path.read_text("utf-8-sig").splitlines(keepends=True)

    def refusal(text: str) -> str:
        path.write_text(text, "utf-8-sig")
        assert import_(exported, path) == 2
        return capsys.readouterr().err

    assert "items are missing: 1, such as" in refusal("".join(lines[:-1]))
    assert f"row 26: item {lines[5][:17]} is there twice" in refusal("".join([*lines, lines[5]]))
    assert "no column supports_answer" in refusal("".join(lines).replace("supports_answer", "supports"))
    path.write_bytes("".join(lines).encode("utf-16"))
    assert import_(exported, path) == 2 and "save it as `CSV UTF-8`" in capsys.readouterr().err
    path.write_text("".join(lines))
    assert import_(exported, path, path) == 2 and "given twice" in capsys.readouterr().err
    assert import_(exported, exported / "none.csv") == 2 and "no such file" in capsys.readouterr().err


def test_wrong_and_edited_keys_are_refused(exported: Path, tmp_path: Path, capsys) -> None:
    path = fill(exported / "annotator-1.csv", answered())
    key = exported / "key.json"
    edited = tmp_path / "edited.json"
    edited.write_text(key.read_text().replace('"greedy"', '"contrast-wrong"', 1))
    assert import_(exported, path, key=edited) == 2
    assert "was edited since the export" in capsys.readouterr().err
    assert import_(exported, path, key=path) == 2 and "not a key" in capsys.readouterr().err
    other = Key((item("a", ("teacher", "greedy")),))
    other.write(tmp_path / "other.json")
    assert import_(exported, path, key=tmp_path / "other.json") == 2
    assert "is not in the key; give the key of this file's export" in capsys.readouterr().err


def test_second_export_into_a_folder_is_refused(exported: Path) -> None:
    with pytest.raises(DataError, match="there is an export already"):
        export(run_folder(exported.parent / "b"), exported, num_rationales=3, num_annotators=1)


def test_run_folder_without_test_rationales_names_the_way_out(tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(f"run_dir: {tmp_path / 'none'}")
    assert main(["export", "-c", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "a")]) == 2
    assert "no rationale of a test question; run `cotray generate`" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["annotate", "export"], ["annotate", "import"], ["judge"]])
def test_help_needs_no_heavy_imports(argv: list[str]) -> None:
    script = (
        f"import runpy, sys; sys.argv = ['x', *{argv[1:]}, '--help']\n"
        f"try: runpy.run_module('jobs.{argv[0]}', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'ray', 'pyarrow', 'openai', 'nltk'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--config" in result.stdout

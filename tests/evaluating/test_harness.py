"""Tasks of lm-evaluation-harness through torch and through a bundle, held against its own HFLM."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import main
from edgekit.evaluating.subjects import Subject, bundle_subject, torch_subject
from tests.docs.pages import page
from tests.tiny_models import make_tiny_model, make_tiny_tokenizer

ROWS = [
    {"text": "where is my card", "choices": ["lost", "the light"], "label": 0},
    {"text": "turn on the light", "choices": ["the card", "light"], "label": 1},
    {"text": "the card is lost", "choices": ["lost", "on"], "label": 0},
]
CHOICE = r"""
task: cards
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS, train: ROWS}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "Q: {{text}}\nA:"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 1.5}
"""
WRITTEN = r"""
task: written
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "Q: {{text}}\nA:"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\n", "the"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
READ = """
task: read
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
PAIRS = [
    ("Q: where is the card\nA:", " lost"),
    ("Q: where is the card\nA:", " the light is on"),
    ("Q: where is the card\nA: ", "lost"),  # the space moves to the continuation
    ("", "the light is on"),
    ("the card is lost " * 200, "and the light is on"),  # over the context: cut from the left
]
# Never the same words again: HFLM 0.4.13 scores windows wrongly that hold the same tokens.
TEXTS = ["the card is lost", " ".join(f"the light {n} is on" for n in range(200)), "a"]
PROMPTS = ["Q: where is the card\nA:", "turn on the light", "the card is lost " * 200]

with_harness = pytest.mark.slow  # of the extra `harness`, which the suite runs without


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with three task files, and one that others would include."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)) + "\n", encoding="utf-8")
    for name, text in (("cards", CHOICE), ("written", WRITTEN), ("read", READ)):
        (folder / f"{name}.yaml").write_text(text.replace("ROWS", str(rows)), encoding="utf-8")
    (folder / "_shared.yaml").write_text("test_split: test\n", encoding="utf-8")
    return folder


@pytest.fixture
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval")


def requests(kind: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


def compare(subject: Subject, model: Any, *, within: float, by_greedy: bool) -> None:
    """Hold a subject's answers to one list of requests against HFLM's of a torch model."""
    from lm_eval.models.huggingface import HFLM

    from edgekit.evaluating.harness_model import HarnessModel

    ours = HarnessModel(subject, lambda done, total: None)
    theirs = HFLM(
        pretrained=model, tokenizer=subject.tokenizer, batch_size=2, max_length=subject.max_length
    )
    asked = requests("loglikelihood", list(PAIRS))
    pairs = list(zip(ours.loglikelihood(asked), theirs.loglikelihood(asked), strict=True))
    for (mine, greedy), (other, other_greedy) in pairs:
        assert mine == pytest.approx(other, abs=within * max(1, abs(other)))
        assert greedy == other_greedy or not by_greedy
    assert ours.n_cut == 1
    asked = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    expected = [
        pytest.approx(value, abs=within * max(1, abs(value)))
        for value in theirs.loglikelihood_rolling(asked)
    ]
    assert ours.loglikelihood_rolling(asked) == expected
    if by_greedy:
        options = {"until": ["\n", "light"], "max_gen_toks": 10, "do_sample": False}
        asked = requests("generate_until", [(prompt, options) for prompt in PROMPTS])
        assert ours.generate_until(asked) == theirs.generate_until(asked)
        assert ours.n_cut == 2


@with_harness
@pytest.mark.parametrize("adds_bos", [False, True])
def test_torch_answers_as_the_harnesss_own_model_does(
    adds_bos: bool, tmp_path: Path, lm_eval: Any
) -> None:
    base = make_tiny_model(tmp_path / "base")
    make_tiny_tokenizer(base, adds_bos=adds_bos)
    with torch_subject(str(base), None) as subject:
        compare(subject, subject.model, within=1e-5, by_greedy=True)


@with_harness
def test_a_bundle_answers_as_the_harnesss_own_model_on_the_same_weights(
    built_tiny_bundle: Path, tiny_base: Path, alpha_adapter: Path, lm_eval: Any
) -> None:
    from edgekit.targets import load_target

    # The bundle is rounded to nearest, as the target cpu-fast is.
    profile = load_target("cpu-fast")
    with (
        torch_subject(str(tiny_base), alpha_adapter, profile=profile) as reference,
        bundle_subject(built_tiny_bundle, "alpha") as subject,
    ):
        # What is left is the rounding of activations to 8 bits.
        compare(subject, reference.model, within=0.02, by_greedy=False)


def run_command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["eval", *words])
    shown = capsys.readouterr()
    return code, shown.out, " ".join(shown.err.replace("│", " ").split())


@with_harness
def test_the_command_runs_a_directory_of_tasks_on_a_bundle_with_an_adapter(
    built_tiny_bundle: Path,
    tasks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lm_eval: Any,
) -> None:
    html = tmp_path / "page.html"
    common = ["--harness", str(tasks), "--html", str(html), "--json", "--shots", "1"]
    reports = {}
    for adapter in (["--adapter", "alpha"], []):
        code, out, err = run_command(capsys, "--bundle", str(built_tiny_bundle), *adapter, *common)
        assert (code, err) == (0, f"wrote {html}")
        reports[bool(adapter)] = json.loads(out)
    report, of_base = reports[True], reports[False]
    assert (report["method"], report["n_rows"]) == ("harness", 9)
    names = ["cards/acc", "cards/acc_norm", "read/bits_per_byte", "read/word_perplexity"]
    assert sorted(report["metrics"]) == [*names, "written/exact_match"]
    assert report["metrics"]["read/bits_per_byte"] != of_base["metrics"]["read/bits_per_byte"]
    assert [row["number"] for row in report["rows"]] == list(range(1, 10))
    rows = [row for row in report["rows"] if row["nll"] is None and row["is_right"] is not None]
    chosen = [row for row in rows if row["prediction"] in {c for r in ROWS for c in r["choices"]}]
    accuracy = sum(row["prediction"] == row["reference"] for row in chosen[:3]) / 3
    assert report["metrics"]["cards/acc"] == pytest.approx(accuracy)
    figures = report["harness"]
    assert figures["tasks"]["cards"] == {"version": "1.5", "shots": 1, "n_rows": 3}
    error = figures["standard_errors"]["cards/acc"]
    assert error == pytest.approx((accuracy * (1 - accuracy) / 2) ** 0.5)  # of 3 rows, by n - 1
    low, high = report["intervals"]["cards/acc"]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=1e-3)
    assert figures["higher_is_better"]["read/word_perplexity"] is False
    assert "cards/acc_norm" in html.read_text(encoding="utf-8")


@with_harness
def test_the_command_runs_one_file_in_torch_by_the_chat_template(
    tiny_base: Path, tasks: Path, capsys: pytest.CaptureFixture[str], lm_eval: Any
) -> None:
    words = ["--base", str(tiny_base), "--harness", str(tasks / "cards.yaml"), "--limit", "2"]
    code, out, err = run_command(capsys, *words, "--chat-template", "--shots", "1", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report["metrics"]) == {"acc", "acc_norm"}
    assert report["n_rows"] == 2
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    prompt = report["rows"][0]["prompt"]
    question = [{"role": "user", "content": f"Q: {ROWS[0]['text']}\nA:"}]
    asked = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith(asked.removeprefix(tokenizer.bos_token or ""))
    assert prompt.count("Q: ") == 2  # the solved row is a turn before it
    code, out, _ = run_command(capsys, *words)
    assert code == 0
    assert "cards, version 1.5: 2 rows, 0 shots" in out
    assert "stderr" in out


@with_harness
def test_what_cannot_be_run_is_refused_before_a_model_is_opened(
    tmp_path: Path, tasks: Path, capsys: pytest.CaptureFixture[str], lm_eval: Any
) -> None:
    def refused(spec: Path | str) -> str:
        code, out, err = run_command(capsys, "--base", "none", "--harness", str(spec))
        assert (code, out) == (1, "")
        assert "Traceback" not in err
        return err

    odd = tmp_path / "odd.yaml"
    written = (tasks / "written.yaml").read_text(encoding="utf-8")
    odd.write_text(written.replace("do_sample: false", "do_sample: true, num_beams: 4"))
    message = refused(odd)
    assert "written: samples its answers" in message
    assert "written: generation_kwargs.num_beams: is not done here" in message
    odd.write_text(written + "  - [unclosed\n")
    assert "task files cannot be read" in refused(odd)
    odd.write_text(written.replace("output_type: generate_until", "output_type: sing"))
    assert "Got invalid output_type 'sing'" in refused(odd)
    hub = written.replace("dataset_path: json", "dataset_path: nobody/nothing")
    odd.write_text("\n".join(line for line in hub.splitlines() if "dataset_kwargs" not in line))
    message = refused(odd)
    assert "cannot be had" in message
    assert "takes the network the first time" in message
    assert "there is no file 'gone/task.yaml'" in refused("gone/task.yaml")
    (tmp_path / "none").mkdir()
    assert "has no task file" in refused(tmp_path / "none")
    message = refused("hellaswagg")
    assert "no task is called 'hellaswagg'; did you mean 'hellaswag'" in message


@with_harness
def test_the_task_of_the_how_to_can_be_run(
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lm_eval: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in page("docs/how-to/evaluate.md").blocks:
        if block.file_name:
            (tmp_path / block.file_name).write_text(block.text, encoding="utf-8")
    code, out, _ = run_command(capsys, "--base", str(tiny_base), "--harness", "capitals.yaml")
    assert code == 0
    assert "capitals, version 1.0: 4 rows, 0 shots" in out


def test_without_the_extra_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib.metadata import PackageNotFoundError

    from edgekit.evaluating import harness_tasks

    def not_there(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(harness_tasks, "version", not_there)
    code, _, err = run_command(capsys, "--base", "none", "--harness", "task.yaml")
    assert code == 1
    assert "pip install 'edgekit[harness]'" in err
    monkeypatch.setattr(harness_tasks, "version", lambda name: "0.3.0")
    assert "and it is 0.3.0" in run_command(capsys, "--base", "none", "--harness", "t.yaml")[2]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "either --data or --harness"),
        (["--harness", "t", "--data", "d.csv"], "either --data or --harness"),
        (["--harness", "t", "--compare", "one.json"], "--compare is for --data"),
        (["--harness", "t", "--metric", "f1", "--stop", "x"], "--metric, --stop: not with"),
        (["--data", "d.csv", "--chat-template"], "are for --harness"),
        (["--data", "d.csv", "--shots", "0"], "expected at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_command(capsys, "--base", "b", *words)
    assert code == 2
    assert expected in err

"""A user's own loss: the worked example trains what it should, mistakes are told in our words."""

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.report import TrainingReport
from tests.docs.pages import ROOT

EXAMPLE = f"{ROOT / 'docs' / 'examples' / 'contrastive_loss.py'}:ContrastiveLoss"
LABELS = ("garden", "kitchen", "cellar")


@pytest.fixture(scope="module")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The words that decide stand at the beginning, so that the last state need not show them."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    lines = [f"{label} light {i} on,{label}" for i in range(12) for label in LABELS]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


def train_with(base: Path, rows: Path, output: Path, **changes: Any) -> TrainingReport:
    from edgekit.training.train import train

    data = {"train": str(rows), "prompt": "Query: {text}\nIntent:", "completion": " {label}"}
    training = {"max_steps": 12, "per_device_train_batch_size": 8, "bf16": False}
    values: dict[str, Any] = {
        "base": str(base),
        "task": "classification",
        "data": data,
        "lora": {"r": 4},
        "output": str(output),
    }
    values |= changes | {"training": training | changes.get("training", {})}
    return train(parse_recipe(values, TrainRecipe))


def likeness(base: Path, report: TrainingReport) -> tuple[float, float]:
    """Mean cosine of validation rows' last states: of one label, of different labels."""
    import torch

    from edgekit.evaluating.subjects import torch_subject
    from edgekit.training.example_splits import load_examples

    recipe = parse_recipe(dict(report.recipe), TrainRecipe)
    states, labels = [], []
    with torch_subject(str(base), report.output) as subject, torch.inference_mode():
        for example in load_examples(recipe).validation:
            ids = torch.tensor([subject.tokenizer(example.prompt)["input_ids"]])
            states.append(subject.model(ids, output_hidden_states=True).hidden_states[-1][0, -1])
            labels.append(example.completion)
    together = torch.nn.functional.normalize(torch.stack(states), dim=-1)
    cosines = together @ together.T
    same = torch.tensor([[a == b for b in labels] for a in labels])
    itself = torch.eye(len(labels), dtype=torch.bool)
    return float(cosines[same & ~itself].mean()), float(cosines[~same].mean())


def test_the_contrastive_example_pulls_rows_of_one_label_together(
    tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    longer = {"training": {"max_steps": 40}}
    plain = train_with(tiny_base, rows_csv, tmp_path / "plain", **longer)
    own = train_with(
        tiny_base, rows_csv, tmp_path / "own", loss=EXAMPLE, loss_options={"weight": 1.0}, **longer
    )
    same_plain, different_plain = likeness(tiny_base, plain)
    same, different = likeness(tiny_base, own)
    assert same - different > 2 * (same_plain - different_plain)
    assert same - different > 0.3
    assert own.recipe["loss"] == EXAMPLE
    losses = [point.train_loss for point in own.loss_curve if point.train_loss is not None]
    assert losses[-1] < losses[0]


_CE = "from edgekit.training.losses import completion_loss\n"


def test_a_loss_that_is_the_default_trains_the_same(
    tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    """Completions of one length each: the mean of batch means is the mean over all tokens."""
    file = tmp_path / "same.py"
    body = "class Same:\n    def __call__(self, model, batch, outputs):\n"
    file.write_text(_CE + body + "        return completion_loss(batch, outputs)\n", "utf-8")
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"no {i},a\n" for i in range(16)), "utf-8")
    whole = {"per_device_train_batch_size": 8, "max_steps": 3}
    parts = whole | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    curves = [
        train_with(tiny_base, rows, tmp_path / str(i), training=training, loss=loss, data={
            "train": str(rows), "prompt": "{text}:", "completion": " {label}", "validation": 0,
        }, task="generation").loss_curve
        for i, (training, loss) in enumerate(
            [(whole, None), (whole, f"{file}:Same"), (parts, f"{file}:Same")]
        )
    ]  # fmt: skip
    for points in zip(*curves, strict=True):
        assert points[1].train_loss == pytest.approx(points[0].train_loss, rel=1e-4)
        assert points[2].train_loss == pytest.approx(points[0].train_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("completion_loss(batch, outputs) * float('nan')", r"Own: is nan\n.*mean of nothing"),
        ("outputs.logits.mean(-1).mean(-1)", r"expected a scalar tensor, got shape \(8,\)"),
        ("completion_loss(batch, outputs).item()", "expected a scalar tensor, got float"),
        ("completion_loss(batch, outputs).detach()", "carries no gradient"),
        ("outputs.logits[0] / None", r"failed: TypeError: .*\n.*own\.py:4: return outputs"),
        ("batch['rows']", r"failed: KeyError: 'rows':\n.*own\.py:4"),
    ],
)
def test_a_loss_that_is_none_stops_with_our_own_words(
    returned: str, message: str, tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    body = "class Own:\n    def __call__(self, model, batch, outputs):\n"
    file.write_text(_CE + body + f"        return {returned}\n", "utf-8")
    with pytest.raises(RecipeError, match=message):
        train_with(tiny_base, rows_csv, tmp_path / "a", loss=f"{file}:Own")
    assert not (tmp_path / "a" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py:Own", None, "there is no file"),
        ("own.py:Oun", "class Own: pass", "has no 'Oun'; did you mean 'Own'"),
        ("own.py:Own", "class Own: pass", "cannot be called"),
        ("own.py:Own", "class Own\n", r"failed: SyntaxError: .*\n.*own\.py:1"),
        ("own.py:Own", "import nowhere_at_all", "failed: ModuleNotFoundError"),
        ("own.py:Own", "def Own(weight): pass", r"failed: TypeError: .*'weight'"),
    ],
)
def test_a_loss_that_cannot_be_had(
    name: str, text: str | None, message: str, tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "own.py").write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=message):
        train_with(tiny_base, rows_csv, tmp_path / "a", loss=str(tmp_path / name))
    assert not (tmp_path / "a").exists()


def test_an_unknown_entry_point_is_refused(tiny_base: Path, rows_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"neither path/to/file\.py:Name nor an installed entry"):
        train_with(tiny_base, rows_csv, tmp_path / "a", loss="focal")


def test_an_installed_entry_point_is_found(
    tiny_base: Path, rows_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site"
    (package / "their_losses-1.0.dist-info").mkdir(parents=True)
    (package / "their_losses-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-losses\nVersion: 1.0\n", "utf-8"
    )
    (package / "their_losses-1.0.dist-info" / "entry_points.txt").write_text(
        "[edgekit.losses]\ndouble = their_losses:Double\n", "utf-8"
    )
    body = "class Double:\n    def __call__(self, model, batch, outputs):\n"
    (package / "their_losses.py").write_text(
        _CE + body + "        return 2 * completion_loss(batch, outputs)\n", "utf-8"
    )
    monkeypatch.syspath_prepend(package)
    once = train_with(tiny_base, rows_csv, tmp_path / "a", training={"max_steps": 1})
    twice = train_with(
        tiny_base, rows_csv, tmp_path / "b", training={"max_steps": 1}, loss="double"
    )
    first, second = once.loss_curve[0].train_loss, twice.loss_curve[0].train_loss
    assert first is not None
    assert second == pytest.approx(2 * first, rel=1e-3)


def test_a_changed_loss_file_is_another_run(
    tiny_base: Path, rows_csv: Path, tmp_path: Path
) -> None:
    from edgekit.training.events import TrainingStep
    from edgekit.training.train import train

    def die(event: Any) -> None:
        if isinstance(event, TrainingStep) and event.step == 8:
            raise KeyboardInterrupt

    file = tmp_path / "own.py"
    body = "class Own:\n    def __call__(self, model, batch, outputs):\n"
    file.write_text(_CE + body + "        return completion_loss(batch, outputs)\n", "utf-8")
    recipe = parse_recipe(
        {
            "base": str(tiny_base),
            "data": {"train": str(rows_csv), "prompt": "{text}", "completion": " {label}"},
            "training": {"max_steps": 12, "bf16": False},
            "loss": f"{file}:Own",
            "output": str(tmp_path / "a"),
        },
        TrainRecipe,
    )
    with pytest.raises(KeyboardInterrupt):
        train(recipe, on_event=die)
    file.write_text(file.read_text("utf-8").replace("return ", "return 2 * "), "utf-8")
    with pytest.raises(RecipeError, match="an unfinished run of another recipe"):
        train(recipe)

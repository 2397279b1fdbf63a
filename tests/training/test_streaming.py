"""Rows that are read as training goes: the same rows, the same losses, and never all of them."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli import main
from edgekit.errors import DataError, RecipeError
from edgekit.recipes import TrainRecipe, parse_recipe
from edgekit.training.events import Event, Message
from edgekit.training.example_splits import load_examples
from edgekit.training.examples import Example
from edgekit.training.report import TrainingReport
from edgekit.training.streaming import N_FIRST, ExampleStream

Rows = Sequence[dict[str, Any]]
LABELS = ("on", "off")


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"text": f"light {n} {'very ' * (n % 5)}bright", "label": LABELS[n % 2]}
        for n in range(start, start + count)
    ]


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def values_of(train: Any, **changes: Any) -> dict[str, Any]:
    """A recipe of a stream; ``data`` and ``training`` are added to what is there."""
    training = {"max_steps": 4, "per_device_train_batch_size": 4, "bf16": False, "logging_steps": 1}
    data = {"train": train, "prompt": "{text}:", "completion": " {label}", "streaming": True}
    values: dict[str, Any] = {"base": "b", "task": "classification", "output": "o"}
    values |= {"lora": {"r": 4}} | changes
    values["data"] = {k: v for k, v in (data | changes.get("data", {})).items() if v is not None}
    values["training"] = training | changes.get("training", {})
    return values


def recipe_of(train: Any, **changes: Any) -> TrainRecipe:
    return parse_recipe(values_of(train, **changes), TrainRecipe)


def stream_of(train: Any, **data: Any) -> ExampleStream:
    found = load_examples(recipe_of(train, data=data)).stream
    assert found is not None
    return found


def texts(examples: Any) -> list[str]:
    return [example.row["text"] for example in examples]


def one_pass(stream: ExampleStream) -> list[Example]:
    return [*next(stream.passes())]


def run(recipe: TrainRecipe, events: list[Event] | None = None) -> TrainingReport:
    from edgekit.training.train import train

    return train(recipe, on_event=None if events is None else events.append)


def adapter_bytes(recipe: TrainRecipe) -> bytes:
    return (recipe.output / "adapter_model.safetensors").read_bytes()


class TestReading:
    @pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "directory"])
    def test_every_kind_of_source_gives_the_rows_of_a_whole_reading(
        self, tmp_path: Path, kind: str
    ) -> None:
        import pandas

        rows = rows_of(600)
        path = tmp_path / f"rows.{kind}"
        frame = pandas.DataFrame(rows)
        if kind in ("csv", "tsv"):
            frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
        elif kind == "parquet":
            frame.to_parquet(path, row_group_size=50)
        elif kind == "directory":
            path.mkdir()
            frame.to_parquet(path / "train.parquet")
        else:
            write(path, rows)
        whole = load_examples(recipe_of(str(path), data={"streaming": False, "validation": 0}))
        stream = stream_of(str(path), validation=0)
        read = one_pass(stream)
        assert [(e.place, e.row, e.prompt, e.completion) for e in read] == [
            (e.place, e.row, e.prompt, e.completion) for e in whole.train
        ]

    def test_class_numbers_are_read_as_names(self, tmp_path: Path) -> None:
        from datasets import ClassLabel, Dataset, Features, Value

        features = Features({"text": Value("string"), "label": ClassLabel(names=["off", "on"])})
        rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
        for streaming in (True, False):
            data = {"streaming": streaming, "validation": 0, "completion": " {label} {text}"}
            splits = load_examples(recipe_of(str(tmp_path), data=data))
            assert [example.row["label"] for example in splits.train] == ["on", "off", ""]

    def test_validation_is_the_first_rows_of_every_source_and_no_pass_has_them(
        self, tmp_path: Path
    ) -> None:
        a, b = write(tmp_path / "a.jsonl", rows_of(9)), write(tmp_path / "b.jsonl", rows_of(7, 50))
        train = [{"path": a, "weight": 3}, {"path": b, "weight": 1}]
        splits = load_examples(recipe_of(train, data={"validation": 4}))
        assert [e.place for e in splits.validation] == [*(f"{a}:{n}" for n in (1, 2, 3)), f"{b}:1"]
        assert splits.stream is not None
        drawn = [*islice(next(splits.stream.passes()), 400)]
        assert {e.place for e in drawn}.isdisjoint(e.place for e in splits.validation)
        assert {e.place for e in drawn} == {e.place for e in splits.train}
        assert 260 < Counter(e.source for e in drawn)[0] < 340

    def test_sources_without_weights_follow_each_other(self, tmp_path: Path) -> None:
        a = write(tmp_path / "a.jsonl", rows_of(3))
        renamed = [{"question": row["text"], "label": row["label"]} for row in rows_of(3, 50)]
        b = write(tmp_path / "b.jsonl", renamed)
        train = [{"path": a}, {"path": b, "rename": {"question": "text"}}]
        stream = stream_of(train, validation=0)
        expected = [row["text"] for row in (*rows_of(3), *rows_of(3, 50))]
        passes = stream.passes()
        assert [texts(next(passes)) for _ in range(2)] == [expected, expected]

    def test_a_file_of_200000_rows_is_never_held(self, tmp_path: Path) -> None:
        source = tmp_path / "rows.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for number in range(200_000):
                file.write(f'{{"text": "light {number}", "label": "{LABELS[number % 2]}"}}\n')
        rows = next(stream_of(str(source), validation=10).passes())
        n_rows = sum(1 for _ in islice(rows, 180_000))
        tracemalloc.start()  # late, since it makes reading many times slower
        try:
            n_rows += sum(1 for _ in rows)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert n_rows == 200_000 - 10
        assert peak_bytes < 1_000_000  # the last 20,000 rows alone take more than ten times that

    def test_only_the_first_rows_are_looked_at_and_it_is_said(self, tmp_path: Path) -> None:
        rows = [{"text": f"t{n}", "label": "on"} for n in range(N_FIRST + 20)]
        rows[-1] = {"text": "t5", "label": "off"}  # contradicts a row, but far behind
        splits = load_examples(recipe_of(write(tmp_path / "a.jsonl", rows), data={"validation": 2}))
        assert len(splits.train) == N_FIRST
        assert [one.check for one in splits.findings] == ["classes", "streaming"]
        assert splits.warnings == (
            f"in the first {N_FIRST} training rows: every training row has the label 'on': "
            "there is nothing to tell apart",
        )
        assert splits.findings[1].text == (
            f"data.streaming: only the first {N_FIRST} training rows were looked at"
        )

    def test_few_rows_are_looked_at_as_otherwise(self, tmp_path: Path) -> None:
        source = write(tmp_path / "a.jsonl", [*rows_of(10), *rows_of(1)])
        splits = load_examples(recipe_of(source, data={"validation": 2}))
        assert [one.check for one in splits.findings] == ["duplicates", "leakage", "classes"]
        odd = write(tmp_path / "b.jsonl", [{"text": "t", "label": "dim"}])
        with pytest.raises(DataError, match="validation has labels that never occur in training"):
            load_examples(recipe_of(source, data={"validation": odd}))

    def test_the_bytes_of_every_file_are_what_a_stream_is_known_by(self, tmp_path: Path) -> None:
        source = tmp_path / "a.jsonl"
        write(source, rows_of(30))
        digest = stream_of(str(source), validation=0).digest()
        assert stream_of(str(source), validation=2).digest() == digest
        source.write_bytes(source.read_bytes().replace(b"light 29", b"light 28"))
        assert stream_of(str(source), validation=0).digest() != digest


class TestBadRows:
    def far(self, tmp_path: Path, bad: str, behind: str = "") -> str:
        """A file whose bad row lies behind what is looked at before training."""
        source = Path(write(tmp_path / "a.jsonl", rows_of(N_FIRST + 100)))
        with source.open("a", encoding="utf-8") as file:
            file.write(f"{bad}\n{behind}")
        return str(source)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ('{"text": "t"}', "{source}:1101: lacks 'label'"),
            ('{"text": "", "label": "on"}', "{source}:1101: prompt is empty"),
            ('{"text": "t", "label"}', "line 1101: not valid JSON: Expecting ':' delimiter"),
            ("[1]", "line 1101: expected an object, got [1]"),
        ],
    )
    def test_a_bad_row_is_named_when_it_is_read(
        self, tmp_path: Path, bad: str, message: str
    ) -> None:
        source = self.far(tmp_path, bad)
        stream = stream_of(source, validation=0)
        with pytest.raises(DataError) as caught:
            one_pass(stream)
        (problem,) = caught.value.problems
        assert problem.startswith(message.format(source=source))
        assert f"{source} up to line 1101 has 1 " in caught.value.what

    def test_a_message_of_another_type_is_named(self, tmp_path: Path) -> None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        rows = [*({"talk": turns} for _ in range(1200)), {"talk": "hello"}]
        shape = {"prompt": None, "completion": None, "messages": "talk", "validation": 0}
        stream = stream_of(write(tmp_path / "a.jsonl", rows), **shape)
        with pytest.raises(DataError, match=r"a\.jsonl:1201: messages should be a list such as"):
            one_pass(stream)

    def test_a_column_that_no_row_has_is_told_as_otherwise(self, tmp_path: Path) -> None:
        source = write(tmp_path / "a.jsonl", rows_of(10))
        with pytest.raises(DataError, match=r"data.prompt names 'txt', did you mean 'text'"):
            load_examples(recipe_of(source, data={"prompt": "{txt}"}))

    def test_training_ends_with_the_row_and_keeps_its_checkpoints(
        self, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = self.far(tmp_path, '{"text": "t"}')
        recipe = tmp_path / "r.yaml"
        values = values_of(
            source,
            base=str(tiny_base),
            output=str(tmp_path / "out"),
            data={"validation": 4, "shuffle_buffer": 8},
            training={"max_steps": 200, "per_device_train_batch_size": 16, "save_steps": 50},
        )
        recipe.write_text(json.dumps(values), encoding="utf-8")
        assert main(["train", str(recipe)]) == 1
        error = capsys.readouterr().err
        assert f"{source}:1101: lacks 'label'" in error
        assert "Traceback" not in error
        assert not (tmp_path / "out" / "adapter_config.json").exists()
        assert (tmp_path / "out" / "checkpoints" / "checkpoint-50").is_dir()

    def test_rows_too_long_are_left_out_and_counted(self, tmp_path: Path, tiny_base: Path) -> None:
        rows = rows_of(20)
        rows[9]["text"] = rows[14]["text"] = "light " * 200
        recipe = recipe_of(
            write(tmp_path / "a.jsonl", rows),
            base=str(tiny_base),
            output=str(tmp_path / "out"),
            data={"validation": 4, "max_length": 64, "shuffle_buffer": 0},
            training={"per_device_train_batch_size": 7, "max_steps": 1},
        )
        events: list[Event] = []
        report = run(recipe, events)
        told = "2 of the first 16 training rows are longer than 64 tokens and left out"
        assert any(isinstance(e, Message) and told in e.text for e in events)
        # Seven rows a step, and a step is read ahead.
        assert (report.rows.total, report.rows.truncated, report.rows.used) == (20, 2, 7)

    def test_a_maximum_that_leaves_nothing_is_refused(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        source = write(tmp_path / "a.jsonl", rows_of(20))
        data = {"validation": 4, "max_length": 8}
        with pytest.raises(DataError, match="every training row that was read is longer than"):
            run(recipe_of(source, base=str(tiny_base), output=str(tmp_path / "o"), data=data))

    def test_a_json_list_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text(json.dumps(rows_of(3)), encoding="utf-8")
        with pytest.raises(DataError, match=r"a JSON list has to be read as a whole; write one"):
            load_examples(recipe_of(str(path)))

    def test_more_validation_rows_than_there_are_is_refused(self, tmp_path: Path) -> None:
        source = write(tmp_path / "a.jsonl", rows_of(10))
        with pytest.raises(DataError, match=r"has no rows behind the first 200, which data.valida"):
            load_examples(recipe_of(source))


class TestTraining:
    def recipes(self, tmp_path: Path, tiny_base: Path, **stream: Any) -> tuple[TrainRecipe, ...]:
        """The same run on rows that are held, and on a stream of them."""
        source = write(tmp_path / "rows.jsonl", rows_of(40))
        held_out = write(tmp_path / "validation.jsonl", rows_of(8, 100))
        whole = {"streaming": False, "validation": held_out}
        return tuple(
            recipe_of(
                source,
                base=str(tiny_base),
                output=str(tmp_path / name),
                data={"validation": held_out, **data},
                training={"max_steps": 20, "save_steps": 5},
            )
            for name, data in (("whole", whole), ("stream", stream))
        )

    def test_a_buffer_that_holds_all_rows_makes_the_run_of_held_rows(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        whole, streamed = self.recipes(tmp_path, tiny_base)
        one, two = run(whole), run(streamed)
        assert two.loss_curve == one.loss_curve
        assert two.metrics == one.metrics
        assert two.labels == one.labels == ("off", "on")
        assert two.max_new_tokens == one.max_new_tokens
        assert adapter_bytes(streamed) == adapter_bytes(whole)
        assert two.rows.used == 80  # two passes

    def test_without_shuffling_rows_come_in_the_order_of_the_file(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        from edgekit.training.prepare import prepare
        from edgekit.training.sequence_stream import SequenceStream

        whole, streamed = self.recipes(tmp_path, tiny_base, shuffle_buffer=0)
        expected = prepare(whole, lambda _: None).train.sequences
        prepared = prepare(streamed, lambda _: None)
        assert prepared.examples.stream is not None
        sequences = SequenceStream(prepared, prepared.examples.stream, batch_size=4)
        assert tuple(islice(sequences, 80)) == (*expected, *expected)

    def test_rows_in_the_order_of_held_ones_give_their_losses(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        from edgekit.training.prepare import prepare
        from edgekit.training.trainer import LengthGroupedSampler

        whole, streamed = self.recipes(tmp_path, tiny_base, shuffle_buffer=0)
        steps = {"training": whole.training | {"max_steps": 10}}  # one pass
        lengths = [len(s.input_ids) for s in prepare(whole, lambda _: None).train.sequences]
        order = [*LengthGroupedSampler(lengths, batch_size=4, seed=whole.seed)]
        one = run(whole.model_copy(update=steps))
        write(tmp_path / "rows.jsonl", [rows_of(40)[index] for index in order])
        two = run(streamed.model_copy(update=steps))
        assert two.loss_curve == one.loss_curve
        assert adapter_bytes(streamed) == adapter_bytes(whole)

    def test_a_small_buffer_mixes_neighbours_and_loses_no_row(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        from edgekit.training.prepare import prepare
        from edgekit.training.sequence_stream import SequenceStream

        _, streamed = self.recipes(tmp_path, tiny_base, shuffle_buffer=16)
        prepared = prepare(streamed, lambda _: None)
        assert prepared.examples.stream is not None
        stream = SequenceStream(prepared, prepared.examples.stream, batch_size=4)
        first, second = ([*islice(stream, 40)] for _ in range(2))
        assert first == second  # an iterator begins anew
        expected = prepared.train.sequences
        assert Counter(first) == Counter(expected)
        assert Counter(first[:16]) == Counter(expected[:16])
        assert first[:16] != [*expected[:16]]
        next_pass = [*islice(stream, 80)][40:]
        assert Counter(next_pass) == Counter(expected)
        assert next_pass != first
        assert stream.seen.n_rows == 80

    def test_no_more_is_read_than_is_trained_on_and_held(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        source = write(tmp_path / "rows.jsonl", rows_of(20_000))
        recipe = recipe_of(
            source,
            base=str(tiny_base),
            output=str(tmp_path / "out"),
            data={"validation": 10, "shuffle_buffer": 64},
        )
        report = run(recipe)
        assert report.rows.used == 16  # four steps of four rows
        assert report.rows.total == 10 + 64

    def test_weights_by_label_weigh_the_rows_of_a_stream(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        weights = {"class_weights": {"on": 3.0}}
        whole, streamed = (
            recipe.model_copy(update=weights) for recipe in self.recipes(tmp_path, tiny_base)
        )
        one, two = run(whole), run(streamed)
        assert two.loss_curve == one.loss_curve
        assert dict(two.class_weights or {}) == dict(one.class_weights or {}) == {"off": 1, "on": 3}

    def test_a_weight_for_a_label_that_is_not_seen_is_told(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        from edgekit.training.prepare import prepare

        _, streamed = self.recipes(tmp_path, tiny_base)
        recipe = streamed.model_copy(update={"class_weights": {"onn": 3.0}})
        assert prepare(recipe, lambda _: None).warnings == (
            "class_weights name labels that none of the first 40 training rows has: 'onn'",
        )

    def test_a_finished_stream_is_known_until_a_byte_of_it_changes(
        self, tmp_path: Path, tiny_base: Path
    ) -> None:
        from edgekit.training.identity import is_finished

        source = tmp_path / "rows.jsonl"
        recipe = recipe_of(
            write(source, rows_of(N_FIRST + 50)),
            base=str(tiny_base),
            output=str(tmp_path / "out"),
            data={"validation": 4},
        )
        run(recipe)
        assert is_finished(recipe)
        source.write_bytes(source.read_bytes().replace(b"light 1049", b"light 1048"))
        assert not is_finished(recipe)


class TestRecipe:
    def problems_of(self, values: dict[str, Any]) -> tuple[str, ...]:
        with pytest.raises(RecipeError) as caught:
            parse_recipe(values, TrainRecipe)
        return caught.value.problems

    def test_what_does_not_go_with_a_stream_is_told_at_once(self) -> None:
        values = values_of(
            "a.csv",
            task="generation",
            data={
                "split": "train[:10%]",
                "validation": 0.2,
                "test": "test[:10]",
                "stratify": "label",
                "group": "who",
                "packing": True,
                "augment": "f.py:f",
            },
            training={
                "max_steps": -1,
                "num_train_epochs": 3,
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
                "dataloader_num_workers": 2,
                "accelerator_config": {"split_batches": True},
            },
        )
        assert self.problems_of(values) == (
            "data.stratify: not with data.streaming: validation is its first rows, or a file",
            "data.group: not with data.streaming: validation is its first rows, or a file",
            "data.packing: not with data.streaming: which looks for rows that fill each other "
            "among all of them",
            "data.augment: not with data.streaming: which is a function of all training rows",
            "data.split: with data.streaming the name of a split, without a slice, got "
            "'train[:10%]'",
            "data.validation: with data.streaming a number of rows, taken from the start, or a "
            "file, got 0.2",
            "data.test: with data.streaming give a file, got 'test[:10]'",
            "training.max_steps: missing; a stream has no known end",
            "training.num_train_epochs: not with data.streaming: a stream has no known end, so "
            "training.max_steps alone says how long a run is",
            "training.eval_strategy: epoch does not go with data.streaming; take steps",
            "training.save_strategy: epoch does not go with data.streaming; take steps",
            "training.dataloader_num_workers: not with data.streaming: each would read all rows",
            "training.accelerator_config: not with data.streaming, which decides how several "
            "processes share the rows",
        )
        assert self.problems_of(values_of("a.csv", class_weights="balanced")) == (
            "class_weights: balanced counts all rows, which data.streaming does not hold; give a "
            "weight by label",
        )

    def test_what_only_a_stream_has_is_refused_without_one(self) -> None:
        data = {"streaming": False, "shuffle_buffer": 16, "validation": 30}
        assert self.problems_of(values_of("a.csv", data=data)) == (
            "data.shuffle_buffer: goes with data.streaming; else all rows are shuffled",
            "data.validation: expected a share from 0 to below 1, a file, or a slice such as "
            "train[90%:], got 30; a number of rows goes with data.streaming",
        )

    def test_a_split_of_a_hub_set_has_a_name_only(self) -> None:
        recipe_of("org/name", data={"split": "train_sft", "subset": "en"})
        train = [{"path": "org/name", "split": "train[:5]"}]
        assert self.problems_of(values_of(train)) == (
            "data.train.0.split: with data.streaming the name of a split, without a slice, got "
            "'train[:5]'",
        )

    def test_validation_is_200_rows_unless_told_otherwise(self) -> None:
        assert recipe_of("a.csv").data.validation == 200
        assert recipe_of("a.csv", data={"validation": 0}).data.validation == 0
        again = parse_recipe(recipe_of("a.csv").model_dump(mode="json"), TrainRecipe)
        assert again == recipe_of("a.csv")


class TestCommand:
    def test_data_check_says_what_it_did_not_look_at(
        self, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = rows_of(N_FIRST + 50)
        rows[7]["text"] = "light " * 200
        source = write(tmp_path / "a.jsonl", rows)
        data = {"validation": 5, "max_length": 64}
        path = tmp_path / "r.yaml"
        path.write_text(json.dumps(values_of(source, base=str(tiny_base), data=data)))
        assert main(["data", "check", str(path), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["rows"] == {"train": N_FIRST, "validation": 5, "test": 0}
        by_check = {one["check"]: one["text"] for one in report["findings"]}
        assert by_check["length"].startswith(
            f"1 of the first {N_FIRST} train rows are longer than 64 tokens"
        )
        assert "only the first" in by_check["streaming"]

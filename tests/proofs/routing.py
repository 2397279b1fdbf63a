"""How well routing knows banking, four intents of SNIPS, and chat apart.

``python -m tests.proofs.routing BUNDLE DATA`` prints the table of docs/how-to/route-requests.md.
The base of the bundle routes; the skills need no adapters for that, so their names are made up.
"""

import argparse
import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import mean, stdev
from unittest.mock import patch

from edgekit_runtime import Bundle, Engine, Router

INTENTS = ("BookRestaurant", "GetWeather", "PlayMusic", "RateBook")
CHAT = Path(__file__).with_name("chat_requests.txt")
NONE = "none"


def read_skills(data: Path, n_texts: int, random: Random) -> dict[str, list[str]]:
    """Some texts of each skill: of Banking77's test set, of SNIPS's validation, and chat."""
    with (data / "banking77" / "test.csv").open(encoding="utf-8", newline="") as file:
        skills = {"banking": [row["text"] for row in csv.DictReader(file)]}
    for intent in INTENTS:
        path = data / "snips" / f"validate_{intent}.json"
        rows = json.loads(path.read_text(encoding="latin-1"))[intent]
        skills[intent] = ["".join(part["text"] for part in row["data"]).strip() for row in rows]
    chosen = {name: random.sample(texts, n_texts) for name, texts in skills.items()}
    return chosen | {NONE: CHAT.read_text(encoding="utf-8").splitlines()}


def measure(
    engine: Engine, skills: Mapping[str, Sequence[str]], n_examples: int, random: Random
) -> tuple[float, float]:
    """Shares of the skills' other texts, and of chat, that go where they belong."""
    examples = {
        name: random.sample(texts, n_examples) for name, texts in skills.items() if name != NONE
    }
    with patch("edgekit_runtime.routing._check"):  # the skills are no adapters of this bundle
        router = engine.router(examples)
    right: dict[bool, list[bool]] = {True: [], False: []}
    for name, texts in skills.items():
        for text in texts:
            if text not in examples.get(name, ()):
                is_skill = name != NONE
                right[is_skill].append(router.route(text).adapter == (name if is_skill else None))
    return mean(right[True]), mean(right[False])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--texts", type=int, default=60, help="of each skill")
    parser.add_argument("--draws", type=int, default=5, help="of examples")
    given = parser.parse_args()
    skills = read_skills(given.data, given.texts, Random(0))
    with Bundle.open(given.bundle).engine() as engine:
        known: dict[str, object] = {}
        original = Router._logits

        def logits(router: Router, text: str) -> object:
            """Every text once, whatever the number of draws."""
            if text not in known:
                known[text] = original(router, text)
            return known[text]

        started = time.perf_counter()
        with patch.object(Router, "_logits", logits):
            print("| examples of each | skills right | chat left to the base |")
            print("|---|---|---|")
            for n_examples in (4, 8, 16, 32):
                draws = [
                    measure(engine, skills, n_examples, Random(seed)) for seed in range(given.draws)
                ]
                cells = [
                    f"{mean(column):.1%} ±{stdev(column) * 100:.1f}"
                    for column in zip(*draws, strict=True)
                ]
                print(f"| {n_examples} | {' | '.join(cells)} |")
        each_ms = (time.perf_counter() - started) / len(known) * 1e3
        print(f"\n{len(known)} texts, {each_ms:.0f} ms each")


if __name__ == "__main__":
    main()

"""A subject as lm-evaluation-harness sees a model.

What is tokenized how, and cut where, is as in the harness's own ``HFLM``, so that the figures of a
bundle can be held against published ones.

Source: EleutherAI, lm-evaluation-harness, ``lm_eval.models.huggingface`` (0.4.13).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from edgekit.errors import DataError, RecipeError
from edgekit.evaluating.subjects import Subject
from edgekit.training.tokens import Question

_MAX_NEW_TOKENS = 256  # HFLM's, for tasks that name none
_AT_ONCE = 64


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval is not typed
    """Answers the harness's requests by a torch model or a bundle.

    Args:
        subject: Who answers.
        on_progress: Called with the requests that are done and those of the same kind in all.

    Attributes:
        n_cut: Requests whose beginning was left out, since they are over the context.
    """

    def __init__(self, subject: Subject, on_progress: Callable[[int, int], None]) -> None:
        super().__init__()
        self.tokenizer = subject.tokenizer
        self.n_cut = 0
        self._subject = subject
        self._on_progress = on_progress

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's end of text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def max_length(self) -> int:
        """Tokens that the subject reads at once."""
        return self._subject.max_length

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells its caches of requests apart by; none are kept here."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """As the tokenizer does, but without special tokens where the text begins with the first.

        A rendered chat template does.
        """
        if add_special_tokens is None:
            first = self.tokenizer.decode(self.prefix_token_id)
            options = {"add_special_tokens": False} if string.startswith(first) else {}
        else:
            options = {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer(string, **options).input_ids)

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation; an assistant's turn that is begun stays open."""
        from jinja2 import TemplateError

        def render(turns: Sequence[Mapping[str, str]]) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    list(turns),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        try:
            return render(chat_history)
        except TemplateError as err:
            if any(turn["role"] == "system" for turn in chat_history):
                raise RecipeError(
                    f"the base's chat template refuses the conversation: {err}",
                    hint="It may take no system message: leave --system out.",
                ) from err
            raise RecipeError(f"the base's chat template refuses the conversation: {err}") from err

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[Any]:
        """Of continuations behind contexts: log-probability, and whether greedy writes them."""
        found: list[Any] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitted(head, tail) for _, head, tail in requests]
        found: list[tuple[float, bool]] = []
        for start in range(0, len(pairs), _AT_ONCE):
            found += self._subject.score_tokens(pairs[start : start + _AT_ONCE])
            self._on_progress(len(found), len(pairs))
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-probability of whole texts, by windows that score every token once."""
        found = []
        for done, request in enumerate(requests, start=1):
            (text,) = request.args
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            found.append(sum(score for score, _ in self._subject.score_tokens(pairs)))
            self._on_progress(done, len(requests))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy answers, each up to the first of its task's stop texts."""
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            options = normalize_gen_kwargs(request.args[1], _MAX_NEW_TOKENS)
            stops = tuple(stop for stop in options["until"] if stop)
            groups.setdefault((options["max_gen_toks"], stops), []).append(index)
        texts = [""] * len(requests)
        n_done = 0
        for (max_new_tokens, stops), indices in groups.items():
            questions = [self._asked(requests[i].args[0], max_new_tokens) for i in indices]
            answers = self._subject.answer(
                questions,
                max_new_tokens=max_new_tokens,
                stops=stops,
                done=partial(self._tell, n_done, len(requests)),
            )
            for index, answer in zip(indices, answers, strict=True):
                texts[index] = answer
            n_done += len(indices)
        return texts

    def _tell(self, n_before: int, n_in_all: int, count: int) -> None:
        self._on_progress(n_before + count, n_in_all)

    def _fitted(self, head: list[int], tail: list[int]) -> tuple[list[int], list[int]]:
        """Leave out the beginning of what is over the context; the last token is not run."""
        if not tail or len(tail) > self.max_length:
            raise DataError(
                f"a continuation has {len(tail)} tokens of its own; expected 1 to "
                f"{self.max_length}, the context",
                hint="Shorten what the task scores, or begin its choices with a space.",
            )
        n_over = max(0, len(head) + len(tail) - self.max_length - 1)
        self.n_cut += n_over > 0
        return head[n_over:], tail

    def _asked(self, context: str, max_new_tokens: int) -> Question:
        """A prompt that leaves room for the answer; its beginning is left out if need be."""
        room = self.max_length - max_new_tokens
        if room < 1:
            raise RecipeError(
                f"the task lets answers have {max_new_tokens} tokens, and the context is "
                f"{self.max_length}",
                hint="Give --max-new-tokens a smaller number.",
            )
        ids = self.tok_encode(context) or [self.prefix_token_id]
        if len(ids) > room or not context:
            self.n_cut += len(ids) > room
            ids = ids[-room:]
            context = self.tokenizer.decode(ids)
        return Question(prompt=context, prompt_ids=tuple(ids), reference="")

"""`Scorer` holds a model and what comes with it, and runs planned work through it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.checked_models import CheckedModels
from instsel.engine.execution import Execution, Output
from instsel.engine.hidden_states import mean_in_session
from instsel.engine.inference_lock import enter_process, inference_lock
from instsel.engine.loading import load_model, load_tokenizer, outline_model
from instsel.engine.model import CausalModel
from instsel.engine.model_session import ModelSession
from instsel.engine.model_source import ModelSource
from instsel.engine.process_memory import give_back_memory
from instsel.engine.requests import PreparedRequests, Requests
from instsel.engine.results import ScoreBatch
from instsel.engine.scoring import score_in_session
from instsel.engine.token_progress import ProgressLike, open_progress
from instsel.planning.layout import Layout
from instsel.planning.planned_tree import PlannedTree, plan_trees

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Scorer:
    """A causal language model ready to score, loaded when it is first used.

    model                 a hub id or local folder of a model, of one that reads images too, or of an adapter of peft; a
                          GGUF file as PATH/FILE.gguf or FOLDER:FILE.gguf, unpacked to dtype; or a loaded transformers
                          model: plain, adapted by peft, compiled, in a wrapper for data parallel training, quantised,
                          or spread over devices by a device_map
    tokenizer             a transformers tokenizer or where to load it from; by default the model's own
    device                "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
    dtype                 "auto" (as the checkpoint is stored, but float32 on a CPU for float16, and for bfloat16 where
                          an x86-64 processor has no arithmetic in it and memory suffices), "float32", "bfloat16",
                          "float16" or a torch dtype. A loaded model stays where and as it is with "auto", float16 on a
                          CPU too; another device or dtype moves it in place, and is refused for one quantised or spread
    backend               of the kernels: "auto", "reference", "cpu" or "triton"
    max_batch_tokens      tokens in one forward; "auto" is 4,096 on a CPU, where caches favour small packs, and 16,384
                          on a GPU. Halved for what follows where memory does not suffice. In bfloat16 a CPU may run up
                          to eight forwards at once, one to a core or to a few of them
    revision              of a hub model
    trust_remote_code     whether code that comes with a hub model may run
    context_length        longest sequence that the model takes, in place of what its configuration says, such as for
                          rotary scaling that its max_position_embeddings leaves out. ValueError where a table of
                          positions ends
    allow_unused_weights  whether a checkpoint may hold weights that the model does not read: a warning, not ValueError
    device_map            for a model larger than one device, how accelerate spreads its layers: "auto" over the GPUs,
                          the processor's memory and the disk, or the device of each part, as transformers takes it
    layer_products        "auto", in the model's dtype, or "float8", of a bfloat16 model on an NVIDIA GPU of compute
                          capability 8.9 or later: faster, and no longer exact. How far it moves a token's
                          log-probability is measured at load and said

    Raises ValueError or TypeError naming the parameter; what concerns the model itself when it is first used.

    What a scorer promises the program around it:

    - The model given is only read. Each call runs a replica of its modules that shares its tensors, in evaluation mode,
      and sees the model as it is when the call begins: weights trained, adapters switched, modules exchanged, plain
      attributes of modules and configurations edited, functions that their forwards call replaced. Modes,
      hooks, gradient flags, attention implementation, device, dtype, transformers' modules and the global random state
      stay as they were, after an exception or Ctrl-C too. Forward hooks of the decoder's modules fire, with the
      replica's module and whole packs; those of the head and the model itself only where its own logits are needed.
    - Threads may share a scorer, or a model between scorers, and load at the same time: every score has the bits of one
      thread alone. Packs take turns, loading too, while callbacks run outside a turn. `asyncio.to_thread(score_batch,
      scorer, requests)` is all that asynchronous programs need. Do not train a model while it is being scored.
    - A forked child scores, with one thread of PyTorch, which it keeps: thread pools do not survive a fork. A GPU that
      the parent used is refused there with RuntimeError; start such processes by spawn.
    - Pickling and copying: a copy loads its own weights where it is used; only a model given loaded travels along.
    - `close()`, or leaving a `with` block, gives the memory back. On Linux a first use on a CPU tells the C library to
      keep up to 1 GiB of what is freed for the next forward; `close()` returns that too.

    >>> with instsel.Scorer("stories260k") as scorer:  # doctest: +SKIP
    ...     batch = instsel.score_batch(scorer, [("Once upon a", " time")])
    """

    def __init__(
        self,
        model: object,
        *,
        tokenizer: object = None,
        device: str = "auto",
        dtype: object = "auto",
        backend: str = "auto",
        max_batch_tokens: int | str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        device_map: object = None,
        context_length: int | None = None,
        allow_unused_weights: bool = False,
        layer_products: str = "auto",
    ) -> None:
        self.source = ModelSource.checked(
            model=model,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            backend=backend,
            revision=revision,
            trust_remote_code=trust_remote_code,
            device_map=device_map,
            context_length=context_length,
            allow_unused_weights=allow_unused_weights,
            layer_products=layer_products,
        )
        if max_batch_tokens != "auto" and (
            isinstance(max_batch_tokens, bool) or not isinstance(max_batch_tokens, int) or max_batch_tokens < 1
        ):
            raise ValueError(f'max_batch_tokens: expected a positive integer or "auto", got {max_batch_tokens!r}')
        self.max_batch_tokens = max_batch_tokens
        self._model: CausalModel | None = None
        self._checked = CheckedModels()
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._tokenizer_loaded = False
        self._budget: int | None = None  # what memory allowed, once it ran out
        self._closed = False

    def close(self) -> None:
        """Lets go of the model and gives its memory back; using the scorer after that raises ValueError.

        A model that was given loaded stays the giver's. Calls that run in other threads end as they would have.
        """
        self._closed = True
        self._model = self._tokenizer = None
        self._checked = CheckedModels()
        self._tokenizer_loaded = False
        self.source = replace(self.source, model=self.source.name, tokenizer=None)
        gc.collect()  # transformers' objects hold on to each other in circles
        give_back_memory()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        return {
            **self.__dict__,
            "_model": None,
            "_checked": CheckedModels(),
            "_tokenizer": None,
            "_tokenizer_loaded": False,
        }

    def __repr__(self) -> str:
        return f"Scorer({self.source.name!r}, device={self.source.device!r}, dtype={self.source.dtype_name!r})"

    @property
    def model(self) -> CausalModel:
        """The model, loaded and checked when first asked for."""
        model = self._model
        if model is None:
            self._check_open()
            enter_process(None)
            with inference_lock():  # threads that come meanwhile find it loaded
                if self._model is None:
                    self._model = load_model(self.source)
                model = self._model
        return model

    @property
    def outline(self) -> CausalModel:
        """The model for planning: as loaded, or its shapes alone where it has not been."""
        model = self._model
        if model is None:
            self._check_open()
            model = outline_model(self.source)
        return model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer; None for a loaded model that came without one."""
        if not self._tokenizer_loaded:
            self._check_open()
            with inference_lock():
                if not self._tokenizer_loaded:
                    self._tokenizer = load_tokenizer(self.source)
                    self._tokenizer_loaded = True
        return self._tokenizer

    @property
    def max_length(self) -> int | None:
        """The model's context in tokens; None where its configuration states none."""
        return self.model.max_length

    @property
    def budget(self) -> int:
        """Tokens in one forward, as things stand."""
        if self._budget is not None:
            return self._budget
        if isinstance(self.max_batch_tokens, int):
            return self.max_batch_tokens
        return 4096 if self.source.resolved_device().type == "cpu" else 16_384

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"scorer: {self!r} has been closed")

    @contextmanager
    def session(self) -> Iterator[ModelSession]:
        """The model as it is now; checked again where it is another than the one that was checked."""
        self._check_open()
        model = self.model
        enter_process(model.device)
        session = ModelSession(model)
        try:
            if not session.as_checked:
                session.close()
                model = self._model = self._checked.as_now(model, session.replica, self.source)
                session = ModelSession(model)
            yield session
        finally:
            session.close()

    def score(
        self,
        requests: Requests,
        *,
        token_logprobs: bool = False,
        max_length: int | None = None,
        progress: ProgressLike = None,
    ) -> ScoreBatch:
        """What `score_batch` gives for this scorer."""
        began = time.perf_counter()
        with self.session() as session:
            return score_in_session(self, session, requests, token_logprobs, max_length, progress, began)

    def mean_hidden_states(self, texts: Sequence[str], *, progress: ProgressLike = None) -> np.ndarray:
        """Mean over a text's tokens of the model's final hidden states, float32 [n, hidden]; NaN for an empty text.

        A text longer than the model's context is cut at its end.
        """
        if self.tokenizer is None:
            raise ValueError("texts: there is no tokenizer to read them with; pass tokenizer to Scorer")
        with self.session() as session:
            return mean_in_session(self, session, texts, progress)

    @contextmanager
    def execute(
        self,
        session: ModelSession,
        prepared: PreparedRequests,
        output: Output,
        *,
        logits: bool,
        progress: ProgressLike,
    ) -> Iterator[tuple[Execution, Iterator[tuple[Layout, np.ndarray]]]]:
        """The execution of what was prepared, and its results, within a session; see `Execution`."""
        trees = self.plan(session.info, prepared)
        with open_progress(progress, sum(planned.num_tokens for planned in trees)) as advance:
            execution = Execution(session, trees, output, sequences=len(prepared), logits=logits, progress=advance)
            with closing(execution.results()) as results:
                yield execution, results
        if execution.budget is not None:
            self._budget = min(self.budget, execution.budget)  # half of an overlong sequence may be more

    def plan(self, model: CausalModel, prepared: PreparedRequests) -> list[PlannedTree]:
        """The work that this would be for a model, within the budget of now."""
        budget = self.budget if model.largest_pack is None else max(min(self.budget, model.largest_pack), 1)
        sequences = prepared.tokens, prepared.offsets, prepared.first_scored
        return plan_trees(*sequences, budget, model.shareable_length, model.state_tokens)

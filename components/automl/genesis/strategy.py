"""What a search tries first and who proposes what comes then: the user's word, what serves, the past, the portfolio.

The past steers only as long as it ranks today's pipelines as it did its own (`Transfer.agrees`); otherwise the search goes on as if
there were none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optuna.samplers import BaseSampler

from components.automl.genesis.board import Board
from components.automl.genesis.configuration import Configuration, PastStudy
from components.automl.genesis.dimensions import FOUND
from components.automl.genesis.portfolio import portfolio
from components.automl.genesis.proposing import Proposals
from components.automl.genesis.samplers import alone, rgpe, tpe, uniform
from components.automl.genesis.space import Space, completed, network_of, with_loss
from components.automl.genesis.surrogate import Learned, learn
from components.automl.genesis.transfer import Transfer
from components.automl.spec import Params
from components.core.params import Tabular, Task

__all__ = ["Strategy", "plan"]

_REPLAYED = 8
"""Old winners that are tried again, at most."""
_DOUBT = 4
"""Every fourth proposal does without the past, which may know a plateau and nothing better."""
_TURN = 2
"""So many of them for one pipeline of the portfolio."""


@dataclass(frozen=True)
class Strategy:
    """Everything that decides the order of pipelines.

    Attributes:
        space: The whole of it; proposals may come from a narrower one.
        known: Pipelines to try first.
        fresh: Proposes without the past.
        guided: Proposes with it; None: there is none.
        transfer: The past; None: it is not used.
        notes: What was taken over and why.
    """

    space: Space
    known: tuple[Configuration, ...]
    fresh: Proposals
    guided: Proposals | None = None
    transfer: Transfer | None = None
    notes: tuple[str, ...] = ()

    def propose(self, board: Board, learners: Sequence[str]) -> Configuration | None:
        """Propose a pipeline of one of the learners; a function of the board alone."""
        trusted = self.guided is not None and board.started % _DOUBT and self._verdict(board)[0]
        use = self.guided if trusted and self.guided is not None else self.fresh
        return use(board, learners)

    def verdict(self, board: Board) -> tuple[str, ...]:
        """Return what became of the past, for the report."""
        return (self._verdict(board)[1],) if self.guided is not None else ()

    def _verdict(self, board: Board) -> tuple[bool, str]:
        if self.transfer is None:
            return False, ""
        tried = [(entry.job.configuration, entry.value) for entry in board.done(0) if entry.value is not None]
        found = self.transfer.agrees(tried, higher_is_better=board.maximize)
        return found.agrees, found.note


def plan(
    task: Task,
    params: Params,
    learners: Sequence[str],
    offered: Sequence[Configuration],
    serving: Sequence[Configuration],
    history: Sequence[PastStudy],
    meta: Mapping[str, float],
    rungs: int,
    *,
    tail: bool = False,
) -> Strategy:
    """Decide what to try first and who proposes.

    Args:
        task: What is learned.
        params: The scenario's section.
        learners: Those that may be used.
        offered: The pipelines that another search found; how their networks are trained varies.
        serving: The pipelines of the model that serves now.
        history: Earlier searches.
        meta: Today's meta-features.
        rungs: How many there are.
        tail: Whether labels are `long_tailed`.
    """
    classes = len(task.classes) if isinstance(task, Tabular) else 0
    # Without a network that another search found, its learner is tried only where a recipe of the user's or of the past names it.
    varied = [name for name in learners if name not in FOUND]
    fixed = {entry.learner: network_of(entry) for entry in offered}
    space = Space((*varied, *fixed), classes=classes, tail=tail, fixed=fixed)
    own = [completed(entry.learner, entry.features, entry.params, "expert") for entry in params.expert]
    static = portfolio(task, varied, tail=tail)
    usual = params.sampler if params.sampler in ("random", "gp") else "tpe"
    fresh = Proposals(space, lambda today, seed, place: _usual(usual, today, seed, place), usual, params.seed, rungs)
    problem = task.problem if isinstance(task, Tabular) else task.kind
    serving = [*offered, *(with_loss(entry, tail=tail) for entry in serving)]  # labels may have become negative
    transfer = Transfer(history, meta, problem, params.scenario, params.parents)
    if not params.transfer or not transfer.nearest:
        return Strategy(space, _distinct([*own, *static[:1], *serving, *static[1:]]), fresh)
    replayed = transfer.replay(_REPLAYED, learners)
    before = [with_loss(entry, tail=tail) for entry in replayed.configurations]
    known = _distinct([*own, *_in_turn([*serving, *before], static)])
    locked = transfer.locked(space)
    notes = (replayed.note, *locked.notes)
    learned = learn(space, *(list(part) for part in zip(*transfer.studies, strict=True)))
    if params.sampler not in ("auto", "rgpe") or not learned.surrogates:
        return Strategy(space, known, fresh, transfer=transfer, notes=notes)
    narrow = replace(space, learners=locked.learners, bounds=locked.bounds)
    guided = Proposals(narrow, lambda today, seed, place: _from_past(today, learned, seed, place), "rgpe", params.seed, rungs)
    return Strategy(space, known, fresh, guided, transfer, notes)


def _usual(name: str, space: Space, seed: int, place: int) -> BaseSampler:
    if name == "gp":
        return alone(space, seed, place)
    return uniform(seed, place) if name == "random" else tpe(seed, place)


def _from_past(space: Space, learned: Learned, seed: int, place: int) -> BaseSampler:
    return rgpe(space, learned, seed, place)


def _in_turn(old: Sequence[Configuration], static: Sequence[Configuration]) -> list[Configuration]:
    """Mix old winners with the portfolio: should the past mislead, the present is not far."""
    found: list[Configuration] = []
    rest = list(static)
    for number, entry in enumerate(old):
        found.append(entry)
        if number % _TURN == _TURN - 1 and rest:
            found.append(rest.pop(0))
    return [*found, *rest]


def _distinct(configurations: Sequence[Configuration]) -> tuple[Configuration, ...]:
    distinct: dict[str, Configuration] = {}
    for entry in configurations:
        distinct.setdefault(entry.identity, entry)
    return tuple(distinct.values())

"""The desk's bookkeeping, without Ray: whatever dies when, each chunk ends, and one living worker at a time has it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.batch.ray_desk import (
    FINISHED_SECONDS,
    MAX_DEATHS_ALONE,
    MAX_DEATHS_TOGETHER,
    RESEND_SECONDS,
    Desk,
    Entry,
    RowState,
    Trouble,
)

NOBODY: frozenset[str] = frozenset()


def desk_with(*chunks: int, actors: int = 2) -> Desk:
    """Chunks put and sent at time 0; workers a0 in its life "a0.0" on node "n0", and so on."""
    desk = Desk()
    for chunk in chunks:
        desk.put(chunk, b"rows of %d" % chunk)
    for place, chunk in enumerate(chunks):
        assert desk.entry(place, 0.0) == Entry(chunk, b"rows of %d" % chunk)
    for actor in range(actors):
        desk.enter(f"a{actor}", f"a{actor}.0", f"n{actor}")
    return desk


def test_a_reader_that_starts_again_reads_the_same_places_and_the_done_ones_empty() -> None:
    desk = desk_with(7, 3)
    desk.receive(7, "a0.0")
    desk.deliver(7)
    assert [desk.entry(place, 1.0) for place in range(3)] == [Entry(7, None), Entry(3, b"rows of 3"), None]
    assert not desk.is_at_end(2)
    desk.close()
    assert desk.is_at_end(2)
    assert not desk.is_at_end(1)


def test_of_two_workers_the_first_has_the_chunk_and_a_done_one_nobody() -> None:
    desk = desk_with(0)
    assert desk.receive(0, "a0.0")
    assert not desk.receive(0, "a1.0")
    desk.deliver(0)
    assert not desk.receive(0, "a1.0")


def test_a_chunk_of_a_dead_node_is_sent_again_to_a_living_worker() -> None:
    desk = desk_with(0, 1)
    desk.receive(0, "a0.0")
    desk.receive(1, "a1.0")
    assert desk.tend(frozenset({"n0"}), RESEND_SECONDS + 0.1).n_workers == 1
    assert desk.entry(2, 6.0) == Entry(0, b"rows of 0")
    assert desk.entry(3, 6.0) is None  # the other's owner lives
    assert not desk.receive(0, "a0.0")  # it is given up, though it may be heard
    assert desk.receive(0, "a1.0")


def test_a_chunk_that_no_worker_received_is_sent_again_only_after_a_loss_and_ever_more_rarely() -> None:
    desk = desk_with(0, actors=1)
    desk.tend(NOBODY, 1000.0)
    assert desk.entry(1, 1000.0) is None  # it waits for its turn
    desk.suspect()
    sent = []
    for now in range(1000, 1100):
        desk.tend(NOBODY, float(now))
        if desk.entry(1 + len(sent), float(now)) is not None:
            sent.append(now)
    assert sent == [1000, 1011, 1032, 1073]  # after 5, 10, 20, 40 seconds


def test_results_that_do_not_arrive_are_computed_again() -> None:
    desk = desk_with(0, actors=1)
    desk.receive(0, "a0.0")
    desk.begin(0, "a0.0")
    desk.finish(0, "a0.0", 10.0)
    desk.suspect()
    desk.tend(NOBODY, 10.0 + FINISHED_SECONDS)
    assert desk.entry(1, 70.0) is None
    desk.tend(NOBODY, 10.1 + FINISHED_SECONDS)
    assert desk.entry(1, 71.0) == Entry(0, b"rows of 0")
    assert desk.receive(0, "a0.0")


def test_a_chunk_that_two_workers_died_with_runs_alone_and_the_row_that_kills_is_named() -> None:
    desk = desk_with(0, actors=1)
    for death in range(MAX_DEATHS_TOGETHER):
        life = f"a0.{death}"
        assert desk.receive(0, life)
        assert not desk.begin(0, life)
        desk.enter("a0", f"a0.{death + 1}", "n0")
    for death in range(MAX_DEATHS_ALONE):
        life = f"a0.{MAX_DEATHS_TOGETHER + death}"
        assert desk.receive(0, life)
        assert desk.begin(0, life)
        assert desk.begin_row(0, 0, life) == RowState(b"first" if death else None, 0)
        desk.end_row(0, 0, life, b"first")
        assert desk.begin_row(0, 1, life) == RowState(None, death)
        desk.enter("a0", f"a0.{MAX_DEATHS_TOGETHER + death + 1}", "n0")
    life = f"a0.{MAX_DEATHS_TOGETHER + MAX_DEATHS_ALONE}"
    assert desk.receive(0, life)
    assert desk.begin(0, life)
    assert desk.begin_row(0, 0, life) == RowState(b"first", 0)
    assert desk.begin_row(0, 1, life) == RowState(None, MAX_DEATHS_ALONE)
    assert desk.begin_row(0, 2, life) == RowState(None, 0)
    assert desk.tend(NOBODY, 0.0).n_deaths == MAX_DEATHS_TOGETHER + MAX_DEATHS_ALONE


def test_a_chunk_that_only_waited_at_a_worker_is_not_to_blame_for_its_death() -> None:
    desk = desk_with(0, 1, actors=1)
    for death in range(5):
        life = f"a0.{death}"
        desk.receive(0, life)
        desk.receive(1, life)
        desk.begin(0, life)
        desk.enter("a0", f"a0.{death + 1}", "n0")
    desk.receive(0, "a0.5")
    desk.receive(1, "a0.5")
    assert desk.begin(0, "a0.5")
    assert not desk.begin(1, "a0.5")


def test_the_first_trouble_is_reported() -> None:
    desk = desk_with()
    desk.refuse("n1", "ModelNotFound", "no such file")
    desk.refuse("n0", "OptionError", "later")
    assert desk.tend(NOBODY, 0.0).trouble == Trouble("n1", "ModelNotFound", "no such file")


class World:
    """A Ray without Ray: a stream, actors with inboxes, deaths. Calls of an actor are repeated when it starts again, if it does."""

    def __init__(self, n_chunks: int, n_actors: int) -> None:
        self.desk, self.now, self.place = Desk(), 0.0, 0
        self.stream: list[int] = []
        self.inboxes: dict[str, list[int]] = {}
        self.working: dict[str, set[int]] = {}
        self.lives: dict[str, int] = {}
        self.lost: set[str] = set()
        self.delivered: list[int] = []
        for chunk in range(n_chunks):
            self.desk.put(chunk, b"x")
        for i in range(n_actors):
            self.inboxes[f"a{i}"], self.lives[f"a{i}"], self.working[f"a{i}"] = [], 0, set()
            self.desk.enter(f"a{i}", self.life(f"a{i}"), f"node of a{i}")

    def life(self, actor: str) -> str:
        return f"{actor}.{self.lives[actor]}"

    def read(self) -> None:
        entry = self.desk.entry(self.place, self.now)
        if entry is not None:
            self.place += 1
            self.stream.append(entry.chunk)

    def assign(self, actor: str) -> None:  # to a lost one too, of whose death Ray does not know yet
        if self.stream and len(self.inboxes[actor]) < 3:
            self.inboxes[actor].append(self.stream.pop(0))

    def receive(self, actor: str) -> None:
        for chunk in [c for c in self.inboxes[actor] if c not in self.working[actor]]:
            if actor not in self.lost and self.desk.receive(chunk, self.life(actor)):
                others = [a for a, held in self.working.items() if chunk in held and a not in self.lost]
                assert not others, f"{actor} and {others} have chunk {chunk}"
                self.working[actor].add(chunk)
                self.desk.begin(chunk, self.life(actor))
            elif actor not in self.lost:
                self.inboxes[actor].remove(chunk)

    def finish(self, actor: str) -> None:
        if actor not in self.lost and self.working[actor]:
            chunk = self.working[actor].pop()
            self.inboxes[actor].remove(chunk)
            self.desk.finish(chunk, self.life(actor), self.now)
            if chunk not in self.delivered:
                self.delivered.append(chunk)
            self.desk.deliver(chunk)

    def crash(self, actor: str) -> None:
        if actor not in self.lost:
            self.working[actor].clear()
            self.lives[actor] += 1
            self.desk.enter(actor, self.life(actor), f"node of {actor}")

    def lose(self, actor: str) -> None:
        if len(self.lost) < len(self.inboxes) - 1:
            self.lost.add(actor)

    def tend(self, actor: str = "") -> None:
        self.now += 3.0
        self.desk.tend(frozenset(f"node of {a}" for a in self.lost), self.now)


@settings(max_examples=200, deadline=None)
@given(
    n_chunks=st.integers(0, 7),
    n_actors=st.integers(1, 3),
    moves=st.lists(
        st.tuples(st.sampled_from(["read", "assign", "receive", "finish", "crash", "lose", "tend"]), st.integers(0, 2)),
        max_size=60,
    ),
)
def test_whatever_dies_every_chunk_is_delivered_and_one_living_worker_at_a_time_has_it(
    n_chunks: int, n_actors: int, moves: list[tuple[str, int]]
) -> None:
    world = World(n_chunks, n_actors)
    actors = list(world.inboxes)
    for move, number in moves:
        world.read() if move == "read" else getattr(world, move)(actors[number % n_actors])
    for _ in range(200):  # from here on nothing dies
        world.tend()
        for _ in range(3):
            world.read()
        for actor in actors:
            if actor not in world.lost:
                world.assign(actor)
                world.receive(actor)
                world.finish(actor)
    assert sorted(world.delivered) == list(range(n_chunks))

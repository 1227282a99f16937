"""Which processors share what, and so who takes turns: pure."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunefarm_device.topology import (
    Topology,
    Turn,
    parse_cpus,
    read_topology,
    spell_cpus,
    turns,
)

CPUS = st.frozensets(st.integers(0, 40))


@given(CPUS, st.sampled_from([",", "+"]))
def test_what_is_spelled_is_read_again(cpus: frozenset[int], separator: str) -> None:
    if cpus:
        assert parse_cpus(spell_cpus(cpus, separator), separator) == cpus


@pytest.mark.parametrize("text", ["", "x", "1,", "3-1", "-1", "1-", "99999", "1--2", " 1", "٣"])
def test_what_is_no_list_of_processors(text: str) -> None:
    with pytest.raises(ValueError, match=r"processor|range"):
        parse_cpus(text)


def written(root: Path, cpu: int, siblings: str, *caches: tuple[int, str]) -> None:
    folder = root / f"sys/devices/system/cpu/cpu{cpu}"
    (folder / "topology").mkdir(parents=True)
    (folder / "topology/thread_siblings_list").write_text(siblings + "\n")
    for index, (level, shared) in enumerate(caches):
        cache = folder / f"cache/index{index}"
        cache.mkdir(parents=True)
        (cache / "level").write_text(f"{level}\n")
        (cache / "shared_cpu_list").write_text(shared + "\n")


def test_the_last_level_is_the_highest(tmp_path: Path) -> None:
    written(tmp_path, 0, "0,8", (1, "0,8"), (3, "0-3,8-11"), (2, "0,8"))
    written(tmp_path, 1, "1", (10, "1"), (9, "0-1"))
    written(tmp_path, 2, "2")
    topology = read_topology([0, 1, 2, 3], tmp_path)
    assert topology.siblings == {0: {0, 8}, 1: {1}, 2: {2}}
    assert topology.caches == {0: {0, 1, 2, 3, 8, 9, 10, 11}, 1: {1}}


def two_sockets() -> Topology:
    """Processors 0 to 7 on two sockets of two cores with two threads: n and n + 4 are siblings."""
    siblings = {cpu: frozenset({cpu % 4, cpu % 4 + 4}) for cpu in range(8)}
    caches = {cpu: frozenset({0, 1, 4, 5} if cpu % 4 < 2 else {2, 3, 6, 7}) for cpu in range(8)}
    return Topology(siblings, caches)


def sets(*words: str) -> list[frozenset[int]]:
    return [parse_cpus(word) for word in words]


@pytest.mark.parametrize(
    ("words", "together", "expected"),
    [
        (("0", "1"), False, [(0,), (0,)]),  # one cache
        (("0", "1"), True, [(0,), (1,)]),
        (("0", "4"), True, [(0,), (0,)]),  # one core
        (("0", "2"), False, [(0,), (2,)]),  # two sockets
        (("0-3", "4-7"), False, [(0, 2), (0, 2)]),
        (("0,4", "1-2,5-6", "3"), False, [(0,), (0, 2), (2,)]),
        (("0,4", "1-2,5-6", "3"), True, [(0,), (1,), (3,)]),
        (("0-7",), True, [(0,)]),
        (("0-1", "0-1"), True, [(0, 1), (0, 1)]),  # both on what is left
    ],
)
def test_who_takes_turns(
    words: tuple[str, ...], together: bool, expected: list[tuple[int, ...]]
) -> None:
    assert turns(sets(*words), two_sockets(), together) == expected


@pytest.mark.parametrize("together", [False, True])
def test_where_the_system_tells_nothing_all_take_turns(together: bool) -> None:
    known = two_sockets()
    unknown = Topology({c: s for c, s in known.siblings.items() if c != 2}, known.caches)
    for topology in (unknown, Topology({}, {})):
        first, second, third = turns(sets("0", "2", "3"), topology, together)
        assert first == second == third


def test_without_caches_cores_alone_may_still_be_timed_together() -> None:
    bare = Topology(two_sockets().siblings, {})
    assert turns(sets("0", "2"), bare) == [(0,), (0,)]
    assert turns(sets("0", "2"), bare, together=True) == [(0,), (2,)]


@st.composite
def machines(draw: st.DrawFn) -> tuple[Topology, list[frozenset[int]]]:
    """Cores of one or two threads, caches over whole cores, devices that may even overlap."""
    threads = draw(st.sampled_from([1, 2]))
    cores = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))  # the cache of each core
    siblings, caches = {}, {}
    for core, cache in enumerate(cores):
        for cpu in range(core * threads, (core + 1) * threads):
            siblings[cpu] = frozenset(range(core * threads, (core + 1) * threads))
            caches[cpu] = frozenset(
                c * threads + t for c, at in enumerate(cores) if at == cache for t in range(threads)
            )
    some = st.frozensets(st.sampled_from(sorted(siblings)), min_size=1)
    return Topology(siblings, caches), draw(st.lists(some, min_size=1, max_size=5))


@given(machines(), st.booleans(), st.frozensets(st.integers(0, 4)))
def test_a_lock_in_common_is_what_sharing_means(
    machine: tuple[Topology, list[frozenset[int]]], together: bool, gpus: frozenset[int]
) -> None:
    topology, devices = machine
    shared = topology.siblings if together else topology.caches
    locks = turns(devices, topology, together, gpus)
    for n, (a, mine) in enumerate(zip(devices, locks, strict=True)):
        assert list(mine) == sorted(set(mine)) and mine
        for m, (b, theirs) in enumerate(zip(devices, locks, strict=True)):
            common = set(mine) & set(theirs)
            if n == m or not {n, m} <= gpus:
                assert any(shared[cpu] & b for cpu in a) == bool(common)
            else:  # two GPUs share what a processor that is a device takes, too
                assert common <= {
                    name for h, them in enumerate(locks) for name in them if h not in gpus
                }


def test_whoever_is_cut_off_while_waiting_gives_back_what_it_had() -> None:
    async def run() -> None:
        locks = [asyncio.Lock(), asyncio.Lock()]
        async with Turn(locks[1:]):
            waiting = asyncio.ensure_future(Turn(locks).__aenter__())
            await asyncio.sleep(0)
            assert locks[0].locked()
            waiting.cancel()
            await asyncio.wait([waiting])
            assert not locks[0].locked()

    asyncio.run(run())


@given(machines(), st.randoms(use_true_random=False))
def test_turns_never_meet_and_never_wait_for_ever(machine, random) -> None:
    topology, devices = machine
    order = turns(devices, topology)

    async def run() -> None:
        locks = {name: asyncio.Lock() for names in order for name in names}
        inside: list[tuple[int, ...]] = []

        async def device(names: tuple[int, ...]) -> None:
            for _ in range(4):
                async with Turn([locks[name] for name in names]):
                    assert all(set(names).isdisjoint(other) for other in inside)
                    inside.append(names)
                    for _ in range(random.randrange(4)):
                        await asyncio.sleep(0)
                    inside.remove(names)
                if random.random() < 0.3:  # one that is cut off while it waits leaves no lock taken
                    waiting = asyncio.ensure_future(hold(names))
                    await asyncio.sleep(0)
                    waiting.cancel()

        async def hold(names: tuple[int, ...]) -> None:
            async with Turn([locks[name] for name in names]):
                await asyncio.sleep(0)

        async with asyncio.timeout(30):
            await asyncio.gather(*(device(names) for names in order))
            await asyncio.sleep(0)
        assert not any(lock.locked() for lock in locks.values())

    asyncio.run(run())

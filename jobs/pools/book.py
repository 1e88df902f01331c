"""Pools in the object store."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

from pydantic import ValidationError

from jobs.documents import read_document
from jobs.errors import UsageError
from jobs.store import open_store
from jobs.store.base import ObjectStore
from jobs.text import did_you_mean, quoted
from schemas.pools import POOL_NAME, POOLS, Placement, PoolDown, PoolSpec, PoolState, down_key, spec_key, state_key


class PoolBook:
    """Records of the pools under one root. Every method may raise `StoreError`.

    Args:
        store: the root.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def names(self) -> Iterator[str]:
        """Yield the names of all pools that ever were, in order."""
        last = ""
        for info in self._store.list(POOLS):
            name = info.key.removeprefix(POOLS).partition("/")[0]
            if name != last and POOL_NAME.fullmatch(name):
                yield name
            last = name

    def newest(self, name: str) -> PoolSpec | None:
        """Read the newest generation of a pool; None if there never was one.

        Raises:
            UsageError: this is no name of a pool, or a newer version wrote the record.
            Damaged: the record is damaged.
        """
        check_name(name)
        keys = [info.key for info in self._store.list(f"{POOLS}{name}/specs/")]
        if not keys:
            return None
        key = max(keys)
        data = self._store.get(key)
        return None if data is None else read_document(data, f"{self._store.uri}/{key}", PoolSpec.from_json)

    def in_force(self, name: str) -> PoolSpec | None:
        """Read the newest generation of a pool that is not taken down."""
        spec = self.newest(name)
        return spec if spec is not None and self.down(name, spec.generation) is None else None

    def standing(self, name: str) -> PoolSpec:
        """Read the pool that jobs may use.

        Raises:
            UsageError: there is none of this name, or it is taken down.
        """
        spec = self.newest(name)
        if spec is None:
            up = [each for each in self.names() if self.in_force(each) is not None]
            near = did_you_mean(name, up)
            raise UsageError(
                f"There is no pool {quoted(name)} under {self._store.uri}{f'; {near}' if near else '.'}",
                f"Pools are: {', '.join(up)}." if up else f"Start it: jobs pool up {name} --model DIR",
            )
        if (down := self.down(name, spec.generation)) is not None:
            raise UsageError(
                f"Pool {name} was taken down by {down.by}.",
                f"Start it again: jobs pool up {name} --model {spec.model.path}",
            )
        return spec

    def create(self, spec: PoolSpec) -> bool:
        """Write one generation, once; return False if somebody else has written it."""
        return self._store.put_new(spec_key(spec.name, spec.generation), spec.to_json(), writer=f"pool/{uuid4().hex}")

    def down(self, name: str, generation: int) -> PoolDown | None:
        """Read who took this generation down; None if nobody did."""
        key = down_key(name, generation)
        data = self._store.get(key)
        return None if data is None else read_document(data, f"{self._store.uri}/{key}", PoolDown.from_json)

    def take_down(self, name: str, generation: int, record: PoolDown) -> bool:
        """End a generation; return False if somebody else did before."""
        return self._store.put_new(down_key(name, generation), record.to_json(), writer=f"pool/{uuid4().hex}")

    def state(self, name: str) -> PoolState | None:
        """Read what the pool's driver has last said; None if there is nothing that this version can read."""
        data = self._store.get(state_key(name))
        try:
            return None if data is None else PoolState.from_json(data)
        except ValidationError:
            return None

    def state_age_s(self, name: str) -> float | None:
        """Return the seconds since then, by the store's own clock; None if unknown."""
        return self._store.age_s(state_key(name))

    def write_state(self, state: PoolState) -> None:
        """Overwrite the advisory state."""
        self._store.put(state_key(state.pool), state.to_json())


def check_name(name: str) -> str:
    """Return the name if it is one that a pool may have.

    Raises:
        UsageError: it is not.
    """
    if not POOL_NAME.fullmatch(name):
        raise UsageError(
            f"{quoted(name)} is not a name of a pool.",
            "Use at most 40 lower-case letters, digits and dashes, with a letter or digit at both ends.",
        )
    return name


def pool_of(root: str, placement: Placement | None) -> PoolSpec | None:
    """Read the pool that a claim names; None without one.

    Raises:
        UsageError: there is none of this name, or it is taken down.
    """
    return None if placement is None else PoolBook(open_store(root)).standing(placement.pool)

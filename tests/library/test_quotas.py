"""How much of the library one browser may fill, one address and all together, and whose trash goes
first."""

from functools import partial

import pytest
from test_kept import ME, WRITERS, YOU, all_at_once, parcel  # noqa: F401
from test_library import contents

from motion_app.errors import MotionFileError
from motion_app.library.library import Library
from motion_app.library.owners import LibraryUser
from motion_app.library.trash import TRASH
from motion_app.settings import Limits

HERE, THERE = "198.51.100.7", "203.0.113.9"


def sized(megabytes: float) -> float:
    """As a limit in gigabytes."""
    return megabytes / 1024


def test_one_browser_may_keep_so_many_motions_and_so_many_bytes(tmp_path, parcel):  # noqa: F811
    size = parcel.stat().st_size / 2**20
    few = Limits(motions_per_owner=2)
    library = Library([tmp_path / "own"])

    def bring_one(owner: LibraryUser, limits: Limits, **how: bool) -> None:
        library.import_file(parcel, owner=owner.owner, yielding=True, limits=limits, **how)

    for _ in range(2):
        bring_one(ME, few, counted=True)
    before = contents(tmp_path / "own")
    with pytest.raises(MotionFileError, match="you have 2 motions in this library"):
        bring_one(ME, few, counted=True)
    assert contents(tmp_path / "own") == before
    bring_one(YOU, few, counted=True)  # each has a place of one's own
    bring_one(ME, few)  # what was learned is never lost
    bring_one(LibraryUser(local=True), few, counted=True)
    for limits, whose in (
        (Limits(motion_gigabytes_per_owner=sized(3.5 * size)), "your motions would fill"),
        (Limits(library_gigabytes=sized(4.5 * size)), "of all who use this server would fill"),
    ):
        with pytest.raises(MotionFileError, match=whose):
            bring_one(ME, limits, counted=True)
        assert len(library.list()) == 5
    bring_one(YOU, Limits(motion_gigabytes_per_owner=sized(3.5 * size)), counted=True)


def test_sixteen_at_once_do_not_pass_the_quota(tmp_path, parcel):  # noqa: F811
    few = Limits(motions_per_owner=5)
    library = Library([tmp_path / "own"])
    bring_one = partial(
        library.import_file, parcel, owner=ME.owner, yielding=True, counted=True, limits=few
    )
    done = all_at_once(*[bring_one] * WRITERS)
    assert sum(isinstance(one, MotionFileError) for one in done) == WRITERS - 5
    assert len(library.list()) == 5


def test_a_full_trash_lets_the_owners_oldest_go_first(tmp_path, parcel):  # noqa: F811
    folder = tmp_path / "own"

    def deleted(library: Library, owner: LibraryUser) -> str:
        name = library.import_file(parcel, owner=owner.owner, yielding=True).name
        return library.delete(name, by=owner).token

    def left() -> set[str]:
        return {place.name.partition("-")[2] for place in (folder / TRASH).iterdir()}

    roomy = Library([folder])
    yours, *mine = deleted(roomy, YOU), *(deleted(roomy, ME) for _ in range(3))
    few = Library([folder], limits=Limits(trash_per_owner=2))
    newest = deleted(few, ME)
    assert len(left()) == 3 and {yours, newest} <= left() and len(left() & set(mine)) == 1
    (place,) = (folder / TRASH).glob(f"*-{newest}")
    size = sum(file.stat().st_size for file in place.iterdir()) / 2**20
    small = Library([folder], limits=Limits(trash_gigabytes=sized(2.5 * size)))
    last = deleted(small, ME)
    assert left() == {yours, last}
    assert roomy.restore(last, by=ME).name and left() == {yours}
    tiny = Library([folder], limits=Limits(trash_gigabytes=sized(size / 2)))
    alone = deleted(tiny, ME)
    assert left() == {alone}  # the one that was just deleted can be brought back


def somebody(number: int, address: str = HERE) -> LibraryUser:
    """Who calls oneself something new each time."""
    return LibraryUser(f"{number:032d}", address=address)


def test_names_are_free_and_an_address_has_its_own_quota(tmp_path, parcel):  # noqa: F811
    size = parcel.stat().st_size / 2**20
    library = Library([tmp_path / "own"])

    def bring_one(user: LibraryUser, limits: Limits, name: str = "jump") -> str:
        how = {"name": name, "yielding": True, "counted": True, "limits": limits}
        view = library.seen_by(user)  # every call sees the library as somebody
        return view.import_file(parcel, owner=user.owner, address=user.address, **how).name

    few = Limits(motions_per_address=3)
    brought = [bring_one(somebody(number), few) for number in range(3)]
    before = contents(tmp_path / "own")
    for newcomer in (somebody(9), LibraryUser(address=HERE)):
        with pytest.raises(MotionFileError, match="from your address there are 3 motions"):
            bring_one(newcomer, few)
    small = Limits(motion_gigabytes_per_address=3.5 * size / 1024)
    with pytest.raises(MotionFileError, match="the motions from your address would fill"):
        bring_one(somebody(9), small)
    assert contents(tmp_path / "own") == before
    assert HERE not in "".join(str(before))  # written nowhere
    bring_one(somebody(9, THERE), few)
    bring_one(LibraryUser(local=True), few)
    library.rename(brought[1], "another", by=somebody(1))
    token = library.delete(brought[0], by=somebody(0)).token
    assert bring_one(somebody(8), few, name="later")
    library.restore(token, by=somebody(0))  # which is no less of the address's than before
    with pytest.raises(MotionFileError, match="there are 4 motions"):
        bring_one(somebody(9), few)


def test_sixteen_names_of_one_address_at_once_do_not_pass_its_quota(tmp_path, parcel):  # noqa: F811
    few = Limits(motions_per_address=5)
    library = Library([tmp_path / "own"])
    how = {"address": HERE, "yielding": True, "counted": True, "limits": few}
    calls = [
        partial(library.import_file, parcel, owner=somebody(number).owner, **how)
        for number in range(WRITERS)
    ]
    done = all_at_once(*calls)
    assert sum(isinstance(one, MotionFileError) for one in done) == WRITERS - 5
    assert len(library.list()) == 5


def test_many_names_of_one_address_push_out_its_own_trash_first(tmp_path, parcel):  # noqa: F811
    folder = tmp_path / "own"
    library = Library([folder], limits=Limits(trash_per_address=2))

    def deleted(library: Library, user: LibraryUser) -> str:
        name = library.import_file(parcel, owner=user.owner, yielding=True).name
        return library.delete(name, by=user).token

    def left() -> set[str]:
        return {place.name.partition("-")[2] for place in (folder / TRASH).iterdir()}

    neighbours = deleted(library, somebody(0, THERE))
    own = [deleted(library, somebody(number)) for number in range(1, 5)]
    assert left() == {neighbours, *own[-2:]}
    (place,) = (folder / TRASH).glob(f"*-{own[-1]}")
    size = sum(file.stat().st_size for file in place.iterdir()) / 2**30
    library.limits = Limits(trash_gigabytes=2.5 * size)
    last = deleted(library, somebody(9))
    assert left() == {neighbours, last}

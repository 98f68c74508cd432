"""What the library has acknowledged is there, whole and its owner's, whatever comes between: other
writers, other programs, a full disk, a kill."""

import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from daily import some_daily
from disk_faults import KILLED, FullFrom, fill, small_disk, without_rights
from test_library import METADATA, contents, write_whole

from motion_app.errors import MotionAppError, MotionFileError
from motion_app.library.library import MODEL_FILE, Library
from motion_app.library.motion_file import check_motion_file, numbers_digest
from motion_app.library.owners import LibraryUser
from motion_app.library.trash import TRASH

WRITERS = 16
ME, YOU = LibraryUser("1" * 32), LibraryUser("2" * 32)
CLIP = b"a clip of some bytes"


@pytest.fixture
def parcel(tmp_path: Path) -> Path:
    """An exported motion "jump" with its preview inside."""
    folder = tmp_path / "from"
    folder.mkdir()
    write_whole(folder, preview=CLIP)
    library = Library([folder])
    return library.export_file(library.find("jump"), tmp_path / "parcels")


def all_at_once(*calls: Callable[[], object]) -> list[object]:
    """What each call gave, or the MotionAppError that it raised."""

    def tried(call: Callable[[], object]) -> object:
        try:
            return call()
        except MotionAppError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(tried, calls))


def bring(folder: Path, parcel: Path, name: str, writer: int, yielding: bool = False) -> str:
    """The name under which a writer's motion was acknowledged, "" for a refusal."""
    try:
        owner = f"{writer:032d}"
        library = Library([folder])
        return library.import_file(parcel, name=name, owner=owner, yielding=yielding).name
    except MotionFileError as error:
        assert "already" in str(error)
        return ""


def bring_all(write: Callable[[int], str], writers: Iterable[int]) -> list[object]:
    """What they were acknowledged under who write at once in this program."""
    return all_at_once(*(partial(write, writer) for writer in writers))


def check_all(folder: Path, parcel: Path, acknowledged: dict[str, int]) -> None:
    """The library holds just those motions, each whole and its writer's."""
    motions = Library([folder]).list()
    assert sorted(motion.name for motion in motions) == sorted(acknowledged)
    assert len({motion.path for motion in motions}) == len(acknowledged)
    for motion in motions:
        assert check_motion_file(motion.path).name == motion.name
        assert numbers_digest(motion.path) == numbers_digest(parcel)
        assert motion.preview is not None and motion.preview.read_bytes() == CLIP
        assert LibraryUser(f"{acknowledged[motion.name]:032d}").may_change(motion.path)
        assert not YOU.may_change(motion.path)
    assert Library([folder]).problems() == []
    assert not list(folder.glob(".new-*"))


@pytest.mark.parametrize("programs", ["one program", "two programs"])
def test_sixteen_writers_of_one_name_keep_sixteen_motions(tmp_path, parcel, programs):
    folder = tmp_path / "own"
    write = partial(bring, folder, parcel, "jump", yielding=True)
    if programs == "one program":
        names = bring_all(write, range(WRITERS))
    else:
        halves = [range(WRITERS // 2), range(WRITERS // 2, WRITERS)]
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            names = [name for half in pool.map(partial(bring_all, write), halves) for name in half]
    assert set(names) == {"jump", *(f"jump {number}" for number in range(2, WRITERS + 1))}
    check_all(folder, parcel, dict(zip(names, range(WRITERS), strict=True)))


def test_of_sixteen_who_insist_on_a_name_one_gets_it(tmp_path, parcel):
    folder = tmp_path / "own"
    names = all_at_once(*(partial(bring, folder, parcel, "jump", n) for n in range(WRITERS)))
    assert sorted(names) == [""] * (WRITERS - 1) + ["jump"]
    check_all(folder, parcel, {"jump": names.index("jump")})


def test_sixteen_names_that_make_one_file_name_do_not_meet(tmp_path, parcel):
    signs = "!?/\\:;,+*=|<>&%#"
    folder = tmp_path / "own"
    named = [f"jump{sign}" for sign in signs]
    names = all_at_once(*(partial(bring, folder, parcel, named[n], n) for n in range(WRITERS)))
    assert names == named
    check_all(folder, parcel, dict(zip(names, range(WRITERS), strict=True)))


def test_a_name_that_is_full_makes_room_for_its_number(tmp_path, parcel):
    longest = "j" * 80
    library = Library([tmp_path / "own"])
    names = [library.import_file(parcel, name=longest, yielding=True).name for _ in range(3)]
    assert names == [longest, "j" * 78 + " 2", "j" * 78 + " 3"]


def test_a_motion_is_deleted_once_and_brought_back_once(tmp_path, parcel):
    folder = tmp_path / "own"
    Library([folder]).import_file(parcel, owner=ME.owner)
    before = contents(folder)
    gone = all_at_once(*(lambda: Library([folder]).delete("jump", by=ME) for _ in range(WRITERS)))
    (token,) = [done.token for done in gone if not isinstance(done, MotionAppError)]
    assert Library([folder]).list() == []
    back = all_at_once(*(lambda: Library([folder]).restore(token, by=ME) for _ in range(WRITERS)))
    assert sum(not isinstance(done, MotionAppError) for done in back) == 1
    assert contents(folder) == before


def test_a_motion_deleted_while_it_is_listed_keeps_its_preview(tmp_path, parcel):
    """The listing used to remember a motion without its clip, from between the two renames."""
    library = Library([tmp_path / "own"])
    library.import_file(parcel)

    def in_and_out() -> None:
        for _ in range(20):
            library.restore(library.delete("jump").token)

    def look() -> list[bool]:
        return [m.preview is not None for _ in range(300) for m in library.list()]

    seen = all_at_once(in_and_out, look, look, look)[1:]
    assert all(with_preview for some in seen for with_preview in some)
    assert library.find("jump").preview is not None


def test_a_motion_is_renamed_by_its_owner_alone_and_nothing_else_of_it_changes(tmp_path, parcel):
    library = Library([tmp_path / "own"])
    motion = library.import_file(parcel, owner=ME.owner)
    library.import_file(parcel, name="taken")
    before = contents(tmp_path / "own")
    for user, name, told in ((YOU, "hop", "not yours"), (ME, "taken", "already"), (ME, "", "no")):
        with pytest.raises(MotionFileError, match=told):
            library.rename("jump", name, by=user)
    assert contents(tmp_path / "own") == before
    renamed = library.rename("jump", " 跳 ", by=ME)
    assert (renamed.name, renamed.path, renamed.preview) == ("跳", motion.path, motion.preview)
    assert numbers_digest(renamed.path) == numbers_digest(parcel)
    assert check_motion_file(renamed.path).phrase == METADATA["phrase"]
    assert ME.may_change(renamed.path) and library.find("跳") == renamed
    assert library.rename("跳", "跳").digest == renamed.digest  # the command line, to the same
    tries = [lambda name=name: library.rename(name, "one") for name in ("跳", "taken")] * 8
    done = [motion for motion in all_at_once(*tries) if not isinstance(motion, MotionAppError)]
    assert len({motion.path for motion in done}) == 1
    assert len(library.list()) == 2


def test_whose_a_motion_is_depends_on_who_asks(tmp_path, parcel):
    shipped, here = tmp_path / "model" / "motions", LibraryUser(local=True)
    shipped.mkdir(parents=True)
    (shipped.parent / MODEL_FILE).write_text("{}")
    shutil.copy(parcel, shipped / "jump.safetensors")
    library = Library([tmp_path / "own", shipped])
    library.import_file(parcel, name="mine", owner=ME.owner)
    library.import_file(parcel, name="found")  # nobody's in particular
    names = {
        user: {m.name: library.seen_by(user).whose(m) for m in library.list()}
        for user in (ME, YOU, here)
    }
    assert names[ME] == {"jump": "shipped", "mine": "mine", "found": "shared"}
    assert names[YOU] == {"jump": "shipped", "mine": "shared", "found": "shared"}
    assert names[here] == {"jump": "shipped", "mine": "shared", "found": "mine"}


def test_a_private_motion_is_its_owners_alone_until_it_is_shared(tmp_path, parcel):
    library = Library([tmp_path / "own"])
    library.import_file(parcel, owner=ME.owner, private=True)
    here = LibraryUser(local=True)

    def seen(user: LibraryUser) -> bool:
        view = library.seen_by(user)
        if not view.list():
            with pytest.raises(MotionFileError, match='there is no motion "jump"'):
                view.find("jump")
            assert view.preview_of("jump") is None
        return bool(view.list())

    assert [seen(user) for user in (ME, YOU, LibraryUser(), here)] == [True, False, False, True]
    with pytest.raises(MotionFileError, match="already"):
        library.seen_by(YOU).import_file(parcel)
    with pytest.raises(MotionFileError, match="not yours"):
        library.share("jump", by=YOU)
    library.restore(library.delete("jump", by=ME).token, by=ME)
    assert not seen(YOU)
    library.share("jump", by=ME)
    assert seen(YOU) and ME.may_change(library.find("jump").path)
    library.share("jump", False, by=ME)
    assert not seen(YOU) and seen(ME)
    library.import_file(parcel, name="nobody's")
    with pytest.raises(MotionFileError, match="nobody in particular"):
        library.share("nobody's", False)


def test_a_full_disk_takes_no_half_motion_and_a_motion_can_still_be_deleted(tmp_path, parcel):
    with small_disk(tmp_path / "small", 128) as folder:
        library = Library([folder])
        kept = [library.import_file(parcel, name=f"jump {n}", owner=ME.owner) for n in range(2)]
        ballast = fill(folder)
        before = contents(folder)
        for change in (
            lambda: library.import_file(parcel, name="one more"),
            lambda: library.rename(kept[0].name, "another", by=ME),
        ):
            with pytest.raises(MotionFileError, match="No space left on device") as told:
                change()
            assert str(folder.parent) not in str(told.value)
        assert contents(folder) == before
        deleted = library.delete(kept[0].name, by=ME)
        assert [motion.name for motion in library.list()] == [kept[1].name]
        ballast.unlink()
        if deleted.token:
            library.restore(deleted.token, by=ME)
        library.import_file(parcel, name="one more")


def test_a_full_disk_at_any_moment_leaves_what_there_was_or_what_was_asked(tmp_path, parcel):
    changes = {
        "import": lambda library: library.import_file(parcel, name="new", owner=ME.owner),
        "rename": lambda library: library.rename("jump", "new", by=ME),
        "share": lambda library: library.share("jump", False, by=ME),
        "delete": lambda library: library.delete("jump", by=ME),
    }
    for what, change in changes.items():
        for moment in range(50):
            folder = tmp_path / f"{what} {moment}"
            library = Library([folder])
            library.import_file(parcel, owner=ME.owner)
            before = contents(folder)
            with FullFrom(folder, moment) as disk:
                try:
                    change(library)
                except MotionFileError as error:
                    assert re.search("No space left", str(error)), error
                    assert what != "delete" and str(folder.parent) not in str(error)
                    assert contents(folder) == before
                else:
                    assert what == "delete" or contents(folder) != before
                    assert library.problems() == []
            if disk.asked <= moment:
                break
        assert 0 < disk.asked <= moment, what


def test_a_trash_without_room_lets_a_motion_go_for_good(tmp_path, parcel):
    folder = tmp_path / "own"
    library = Library([folder])
    for name in ("first", "second"):
        library.import_file(parcel, name=name)
    library.delete("first")
    with FullFrom(folder, 0):
        assert library.delete("second").token == ""
    assert library.list() == [] and not any((folder / TRASH).iterdir())
    assert [file for file in folder.iterdir() if file.is_file()] == []


def make_change(what: str, folder: Path, parcel: Path, token: str, moment: int) -> None:
    """Make a change of the library that kills its program at that moment."""
    with FullFrom(folder, moment, kill=True):
        library = Library([folder])
        if what == "import":
            library.import_file(parcel, name="new", owner=ME.owner)
        elif what == "rename":
            library.rename("jump", "new", by=ME)
        elif what == "delete":
            library.delete("jump", by=ME)
        else:
            library.restore(token, by=ME)


def killed(*of_change: object) -> bool:
    """Whether a program that makes a change was killed before its end. It is forked of a
    small one: a program that runs tests may be too large to be copied."""
    small = multiprocessing.get_context("forkserver")
    small.set_forkserver_preload([__name__])
    child = small.Process(target=make_change, args=of_change)
    child.start()
    child.join()
    assert child.exitcode in (0, KILLED)
    return child.exitcode == KILLED


@pytest.mark.parametrize("what", some_daily(["import", "rename", "delete", "restore"], "delete"))
def test_a_program_killed_at_any_moment_leaves_no_half_motion(tmp_path, parcel, what):
    for moment in range(60):
        folder = tmp_path / str(moment)
        library = Library([folder])
        library.import_file(parcel, owner=ME.owner)
        token = library.delete("jump", by=ME).token if what == "restore" else ""
        ended = not killed(what, folder, parcel, token, moment)
        assert library.problems() == []
        for motion in library.list():  # whole, with its clip, and nobody else's
            check_motion_file(motion.path)
            assert motion.preview is not None and ME.may_change(motion.path)
        for place in (folder / TRASH).glob("*"):
            if list(place.glob("*.safetensors")):  # it was deleted, and comes back to its owner
                with pytest.raises(MotionFileError, match="not yours"):
                    library.restore(place.name.split("-")[1], by=YOU)
                library.restore(place.name.split("-")[1], by=ME)
        assert library.names() & {"jump", "new"}
        library.import_file(parcel, name="next", owner=YOU.owner)  # nobody holds the library
        if ended:
            break
    assert ended and moment > 1


def test_a_folder_that_may_not_be_written_refuses_in_a_sentence(parcel):
    with TemporaryDirectory() as place:
        folder, source = Path(place) / "own", Path(place) / parcel.name
        shutil.copy(parcel, source)
        Library([folder]).import_file(parcel, owner=ME.owner)
        Path(place).chmod(0o755)
        folder.chmod(0o555)
        before = contents(folder)

        with without_rights():
            library = Library([folder])
            assert [motion.name for motion in library.list()] == ["jump"]
            for change in (
                lambda: library.import_file(source, name="new"),
                lambda: library.delete("jump"),
                lambda: library.rename("jump", "hop"),
                lambda: library.share("jump"),
            ):
                with pytest.raises(MotionFileError, match="Permission denied") as told:
                    change()
                assert place not in str(told.value)
        assert contents(folder) == before


def test_a_broken_file_hides_no_other(tmp_path, parcel):
    folder = tmp_path / "own"
    library = Library([folder])
    library.import_file(parcel)
    (folder / "half.safetensors").write_bytes(parcel.read_bytes()[:100])
    (folder / "folder.safetensors").mkdir()
    (folder / "gone.safetensors").symlink_to(folder / "nothing")
    (folder / "jump.owner").write_bytes(b"\xff\xfe")
    assert [motion.name for motion in library.list()] == ["jump"]
    assert len(library.problems()) == 3
    assert not ME.may_change(folder / "jump.safetensors")  # somebody's, who cannot prove it
    assert library.delete("jump").name == "jump"

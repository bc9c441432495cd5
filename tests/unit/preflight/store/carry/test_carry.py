"""Which files are copied, kept or refused. The tests use the real verifier."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from preflight.commands.bundle import bundle, choose, judge, load_source
from preflight.errors import BundleError
from preflight.store import carry, medium
from preflight.store.cache_layout import CacheLayout
from takeoff import keys


def files(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def flip(path):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    status = path.stat()
    path.write_bytes(data)
    # Restore the times: the comparison must not depend on them.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(0o444)


def test_a_generation_is_copied_completely(scene):
    source = scene.generation(1)
    plan = scene.copy(source)
    assert set(plan.copied) == set(files(source))
    assert scene.state() == 1
    assert {name: path.read_bytes() for name, path in files(scene.current.resolve()).items()} == {
        name: path.read_bytes() for name, path in files(source).items()
    }
    assert sorted(path.name for path in scene.card.iterdir()) == ["current", "gen"]
    assert os.fspath(scene.current.readlink()) == f"gen/{source.name}"
    assert not any(path.stat().st_mode & 0o222 for path in files(scene.current.resolve()).values())


def test_the_manifest_and_its_envelope_are_written_last(scene):
    generation = load_source(scene.generation(1))
    assert generation.order[-3:] == ["manifest.json.sha256", "manifest.json", "manifest.dsse.json"]
    assert sorted(generation.order) == sorted(generation.files)


def test_nothing_is_written_if_nothing_differs(scene):
    source = scene.generation(1)
    scene.copy(source)
    before = {name: path.stat() for name, path in files(scene.current.resolve()).items()}
    plan = scene.copy(source)
    assert plan.complete
    assert plan.copied == ()
    assert {name: path.stat() for name, path in files(scene.current.resolve()).items()} == before


def test_only_changed_files_are_copied_for_the_next_generation(scene):
    scene.copy(scene.generation(1))
    plan = scene.copy(scene.generation(2, {"camera.json": b'{"fx": 1300}'}))
    assert scene.state() == 2
    assert "camera.json" in plan.copied
    assert {"index.faiss", "index.faiss.sha256"} <= plan.linked.keys()
    assert scene.card.joinpath("previous").readlink().name.startswith("000001-")


@pytest.mark.parametrize("name", ["index.faiss", "manifest.json", "manifest.dsse.json", "SHA256SUMS"])
def test_a_changed_byte_on_the_card_is_found_and_repaired(scene, name):
    source = scene.generation(1)
    scene.copy(source)
    flip(scene.current.resolve() / name)
    assert scene.state() == "refused"
    plan = scene.copy(source)
    assert plan.copied == (name,)
    assert scene.state() == 1
    # The damaged folder was removed. Only the repaired copy is left.
    assert [path.name for path in scene.card.joinpath("gen").iterdir()] == [f"{source.name}-repair1"]
    assert scene.copy(source).complete
    assert not os.path.lexists(scene.card / "previous")


def test_two_repairs_are_followed_by_the_next_generation(scene):
    source = scene.generation(1)
    scene.copy(source)
    for _ in range(2):
        flip(scene.current.resolve() / "camera.json")
        scene.copy(source)
        assert scene.state() == 1
    scene.copy(scene.generation(2, {"index.faiss": b"other"}))
    assert scene.state() == 2
    assert len(list(scene.card.joinpath("gen").iterdir())) == 2


@pytest.mark.parametrize("wrong", ["extra file", "extra folder", "link", "missing", "folder for a file"])
def test_a_folder_that_differs_from_the_cache_is_copied_again(scene, wrong):
    source = scene.generation(1)
    scene.copy(source)
    home = scene.current.resolve()
    name = home / "camera.json"
    if wrong == "extra file":
        (home / "notes.txt").write_text("x")
    elif wrong == "extra folder":
        (home / "empty").mkdir()
    else:
        name.unlink()
        if wrong == "link":
            name.symlink_to(source / "camera.json")
        if wrong == "folder for a file":
            name.mkdir()
    assert scene.state() == "refused"
    scene.copy(source)
    assert scene.state() == 1


def test_another_cache_of_the_same_name_is_kept_until_the_new_one_is_current(scene):
    """Two workstations can publish equal content with one number: the manifests differ, the folder names do not."""
    first, second = scene.generation(1), scene.generation(1, salt=1)
    assert first.name == second.name
    scene.copy(first)
    scene.judge = lambda folder: (_ for _ in ()).throw(BundleError("refused"))
    with pytest.raises(BundleError, match="refused"):
        scene.copy(second)
    assert scene.state() == 1
    assert (scene.current / "manifest.json").read_bytes() == (first / "manifest.json").read_bytes()
    del scene.judge
    scene.copy(second)
    assert (scene.current / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()
    assert scene.state() == 1


def test_a_copy_that_the_verifier_refuses_does_not_become_current(scene):
    scene.copy(scene.generation(1))
    (scene.trust / "revoked").write_text(keys.fingerprint(scene.private.public_key().public_bytes_raw()) + "\n")
    with pytest.raises(BundleError, match="revoked"):
        scene.copy(scene.generation(2))
    assert scene.current.readlink().name.startswith("000001-")
    assert sorted(path.name for path in scene.card.iterdir()) == ["current", "gen"]


def test_a_damaged_source_is_named_and_not_copied(scene):
    source = scene.generation(1)
    flip(source / "index.faiss")
    with pytest.raises(BundleError, match=r"index\.faiss differs from its manifest"):
        scene.copy(source)
    assert scene.state() == "none"


def test_too_little_space_is_reported_with_both_sizes_before_anything_is_written(scene):
    with pytest.raises(BundleError, match=r"has 0\.1 MB free, but this copy needs 1\.1 MB"):
        scene.copy(scene.generation(1), free=100_000)
    assert list(scene.card.iterdir()) == []


def test_generations_older_than_the_previous_are_removed(scene):
    for number in (1, 2, 3):
        scene.copy(scene.generation(number, {"camera.json": b"%d" % number}))
    assert [path.name[:6] for path in sorted(scene.card.joinpath("gen").iterdir())] == ["000002", "000003"]


def test_other_files_on_the_card_are_not_changed(scene):
    others = [scene.card / "photos" / "a.jpg", scene.card / "gen" / "mine" / "b.txt", scene.card / "staging" / "c.txt"]
    for path in others:
        path.parent.mkdir(parents=True)
        path.write_text("x")
    scene.copy(scene.generation(1))
    assert scene.state() == 1
    assert all(path.read_text() == "x" for path in others)


@pytest.mark.parametrize("name", ["gen", "current", "previous", "work", ".c10.lock"])
def test_a_target_that_holds_something_else_is_refused(scene, name):
    scene.card.mkdir()
    (scene.card / name).write_text("mine")
    with pytest.raises(BundleError, match=r"name another"):
        scene.copy(scene.generation(1))
    assert (scene.card / name).read_text() == "mine"


def test_a_concurrent_copy_is_refused(scene):
    with carry.open_target(scene.card), pytest.raises(BundleError, match="another doit bundle"):
        scene.copy(scene.generation(1))


def test_files_of_a_killed_copy_are_removed(scene):
    source = scene.generation(1)
    (scene.card / ".preflight-abc" / "x").mkdir(parents=True)
    (scene.card / ".preflight-current-1").symlink_to("nowhere")
    scene.copy(source)
    assert sorted(path.name for path in scene.card.iterdir()) == ["current", "gen"]


def test_a_copy_is_read_from_the_medium(scene):
    source = scene.generation(1, {"index.faiss": os.urandom(1 << 20)})
    scene.copy(source)
    path = scene.current.resolve() / "index.faiss"
    os.sync()
    assert path.read_bytes()  # now the file is in the page cache
    if not _is_cached(path):
        pytest.skip("this file system does not report what is cached")
    medium.drop_cached(path)
    assert not _is_cached(path)


def _is_cached(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(handle, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    finally:
        os.close(handle)


def test_a_generation_is_chosen_by_number_or_name(scene):
    first, second = scene.generation(1), scene.generation(2)
    layout = CacheLayout(scene.folder / "cache")
    with pytest.raises(BundleError, match="no current generation"):
        choose(layout, "")
    layout.current.symlink_to(f"gen/{second.name}")
    assert choose(layout, "").path == layout.root / "gen" / second.name
    assert {choose(layout, name).path.name for name in ("1", "000001", first.name)} == {first.name}
    with pytest.raises(BundleError, match="there are: 000001"):
        choose(layout, "3")
    (second / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="repair=1"):
        load_source(second)


@pytest.mark.parametrize("place", ["cache", "cache/sub", ".", "trust"])
def test_a_target_inside_or_around_the_cache_root_is_refused(scene, place):
    source = scene.generation(1)
    layout = CacheLayout(scene.folder / "cache")
    layout.current.symlink_to(f"gen/{source.name}")
    with pytest.raises(BundleError, match="overlaps"):
        bundle(layout, "", scene.folder / place, scene.trust)


def test_the_verifier_runs_in_a_separate_process(scene):
    with pytest.raises(BundleError, match=r"status 19"):
        judge(scene.folder / "nothing", scene.trust)


# File systems that do not keep names.


def _run(*command):
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(params=["vfat", "exfat"])
def fat(request, tmp_path):
    """A memory card with the file system of a camera, mounted by the kernel or by FUSE."""
    maker = f"mkfs.{request.param}"
    if os.geteuid() != 0 or shutil.which(maker) is None or shutil.which("losetup") is None:
        pytest.skip(f"mounting a {request.param} image needs root, losetup and {maker}")
    image, folder = tmp_path / "card.img", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    assert _run(maker, str(image)).returncode == 0
    folder.mkdir()
    found = _run("losetup", "-f", "--show", str(image))
    if found.returncode:
        pytest.skip(f"no loop device is available: {found.stderr.strip()}")
    device = found.stdout.strip()
    try:
        mounted = _run("mount", "-t", request.param, device, str(folder))
        if mounted.returncode and request.param == "exfat" and shutil.which("mount.exfat-fuse"):
            mounted = _run("mount.exfat-fuse", device, str(folder))
        if mounted.returncode:
            pytest.skip(f"no {request.param} can be mounted here: {mounted.stderr.splitlines()[0]}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_fat_is_refused_and_left_empty(scene, fat):
    scene.card = fat
    with pytest.raises(BundleError, match="differ only in case"):
        scene.copy(scene.generation(1))
    assert list(fat.iterdir()) == []


def no_links(monkeypatch):
    def refuse(self, target, **more):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    monkeypatch.setattr(Path, "symlink_to", refuse)


def no_long_names(monkeypatch):
    real = Path.touch

    def short(self, **more):
        if len(self.name) > 40:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(self))
        real(self, **more)

    monkeypatch.setattr(Path, "touch", short)


def capitals(monkeypatch):
    real = Path.touch
    monkeypatch.setattr(Path, "touch", lambda self, **more: real(self.with_name(self.name.upper()), **more))


def folding(monkeypatch):
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: real(str(path).replace("cASE", "Case")))


@pytest.mark.parametrize(
    ("break_names", "why"),
    [
        (no_links, "no symbolic links"),
        (no_long_names, "refuses the name"),
        (capitals, "changes the name"),
        (folding, "differ only in case"),
    ],
)
def test_a_file_system_that_does_not_keep_names_is_refused(scene, monkeypatch, break_names, why):
    """Simulates one fault of vfat, exFAT or SMB at a time. The tests above use real vfat and exFAT if possible."""
    source = scene.generation(1)
    break_names(monkeypatch)
    with pytest.raises(BundleError, match=why) as caught:
        scene.copy(source)
    assert str(scene.card) in str(caught.value)
    assert list(scene.card.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_medium_is_not_called_unsuitable(scene, monkeypatch, code):
    source = scene.generation(1)

    def fail(self, **more):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "touch", fail)
    with pytest.raises(BundleError, match=os.strerror(code)) as caught:
        scene.copy(source)
    assert "not suitable" not in str(caught.value)


def test_another_user_can_read_the_copy_for_any_umask(scene):
    source = scene.generation(1)
    before = os.umask(0o077)
    try:
        scene.copy(source)
    finally:
        os.umask(before)
    folders = {path.parent for path in files(scene.current.resolve()).values()} | {scene.card / "gen"}
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o755}

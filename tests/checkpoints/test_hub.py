"""Fetching against a hub on this machine: once, again, interrupted, refused, deceived."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from fakes.hub import Repo
from fanlight.checkpoints import hub as real
from fanlight.checkpoints.hub_cache import cache_folder, find_cached, repo_folder
from fanlight.checkpoints.hub_names import HubName
from fanlight.errors import CheckpointError, DownloadError, ModelNotFound, OptionError

if TYPE_CHECKING:
    from fakes.hub import FakeHub

TINY = HubName("org/tiny")
WEIGHTS = "model.safetensors"
READ = ["config.json", "generation_config.json", "vocab.json", "merges.txt", WEIGHTS]
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture(autouse=True)
def tiny(hub: FakeHub) -> Repo:
    others = {
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"onnx",
        "README.md": b"# tiny",
        "tf_model.h5": b"keras",
    }
    files = {name: name.encode() * 7 for name in READ} | {WEIGHTS: Random(0).randbytes(33_333)}
    hub.repos["org/tiny"] = Repo(files | others)
    return hub.repos["org/tiny"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_only_what_is_read_is_fetched_in_one_request_each(hub: FakeHub, tiny: Repo) -> None:
    fetched = real.fetch(TINY)
    assert hub.fetched() == list(fetched.files) == READ
    assert len(hub.asked) == 1 + len(READ)
    assert content(fetched.path) == {name: tiny.files[name] for name in READ}
    assert fetched.received_bytes == fetched.total_bytes == sum(len(tiny.files[name]) for name in READ)
    assert fetched.commit == tiny.commit


def test_the_cache_is_one_that_huggingface_hub_reads(tiny: Repo) -> None:
    from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache

    fetched = real.fetch(TINY)
    found = try_to_load_from_cache("org/tiny", WEIGHTS, cache_dir=cache_folder())
    assert found == str(fetched.path / WEIGHTS)
    assert Path(str(found)).resolve() == (repo_folder("org/tiny") / "blobs" / tiny.etag(WEIGHTS)).resolve()
    assert snapshot_download("org/tiny", cache_dir=cache_folder(), local_files_only=True) == str(fetched.path)
    (repo,) = scan_cache_dir(cache_folder()).repos
    assert (repo.repo_id, repo.nb_files) == ("org/tiny", len(READ))


def test_what_huggingface_hub_fetched_is_used(hub: FakeHub) -> None:
    from huggingface_hub import snapshot_download

    folder = snapshot_download("org/tiny", cache_dir=cache_folder(), endpoint=hub.url)
    hub.asked.clear()
    assert find_cached(TINY) == Path(folder)
    assert real.fetch(TINY).received_bytes == 0
    assert len(hub.asked) == 1


def test_a_second_fetch_asks_once_and_moves_nothing(hub: FakeHub) -> None:
    first = real.fetch(TINY)
    hub.asked.clear()
    again = real.fetch(TINY)
    assert (again.path, again.files, again.received_bytes) == (first.path, first.files, 0)
    assert len(hub.asked) == 1


def test_a_new_commit_fetches_what_changed(hub: FakeHub, tiny: Repo) -> None:
    old = real.fetch(TINY).path
    tiny.files["generation_config.json"] += b"\n"
    hub.asked.clear()
    fresh = real.fetch(TINY)
    assert hub.fetched() == ["generation_config.json"]
    assert find_cached(TINY) == fresh.path != old
    assert content(fresh.path)["generation_config.json"] == tiny.files["generation_config.json"]


def test_a_refresh_that_breaks_off_leaves_the_model_that_was_there(hub: FakeHub, tiny: Repo) -> None:
    old = real.fetch(TINY).path
    tiny.files[WEIGHTS] = bytes(reversed(tiny.files[WEIGHTS]))
    hub.breaks[WEIGHTS] = [100, 0, 0]
    with pytest.raises(real.NoConnection):
        real.fetch(TINY)
    assert find_cached(TINY) == old


def test_shards_that_the_index_names_are_fetched(hub: FakeHub) -> None:
    shards = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    index = {"metadata": {}, "weight_map": {f"tensor.{i}": shards[i % 3] for i in range(7)}}
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    files |= {name: name.encode() * 99 for name in shards}
    hub.repos["org/sharded"] = Repo({**files, "model-00001-of-00001.fp16.safetensors": b"another variant"})
    fetched = real.fetch(HubName("org/sharded"))
    assert hub.fetched()[-len(shards) - 1 :] == ["model.safetensors.index.json", *shards]
    assert content(fetched.path) == files
    assert find_cached(HubName("org/sharded")) == fetched.path
    (fetched.path / shards[0]).unlink()
    assert find_cached(HubName("org/sharded")) is None


def test_a_revision_is_pinned(hub: FakeHub, tiny: Repo) -> None:
    tiny.revision = "v1.5"
    fetched = real.fetch(HubName("org/tiny", "v1.5"))
    assert find_cached(HubName("org/tiny", "v1.5")) == fetched.path
    assert find_cached(TINY) is None
    assert real.fetch(HubName("org/tiny", tiny.commit)).path == fetched.path
    assert find_cached(HubName("org/tiny", tiny.commit)) == fetched.path
    with pytest.raises(ModelNotFound, match="no revision 'main'"):
        real.fetch(TINY)


def test_a_hub_that_lists_no_hashes_is_asked_for_each_file(hub: FakeHub) -> None:
    hub.lists_hashes = False
    fetched = real.fetch(TINY)
    assert hub.fetched("HEAD") == hub.fetched() == READ
    assert find_cached(TINY) == fetched.path


def test_an_empty_file_is_a_file(hub: FakeHub, tiny: Repo) -> None:
    tiny.files["added_tokens.json"] = b""
    assert content(real.fetch(TINY).path)["added_tokens.json"] == b""


def test_a_gguf_file_is_picked_by_its_quantisation(hub: FakeHub) -> None:
    hub.repos["org/ggufs"] = Repo({"sub/a-Q4_K_M.gguf": b"GGUF four", "a-Q8_0.gguf": b"GGUF eight"})
    name = HubName("org/ggufs", file="q4_k_m")
    fetched = real.fetch(name)
    assert fetched.path.read_bytes() == b"GGUF four"
    assert hub.fetched() == ["sub/a-Q4_K_M.gguf"]
    assert find_cached(name) == find_cached(HubName("org/ggufs")) == fetched.path
    with pytest.raises(OptionError, match="2 GGUF files"):
        real.fetch(HubName("org/ggufs"))


def test_progress_never_goes_back_and_ends_at_the_whole() -> None:
    seen: list[tuple[str, int, int]] = []
    fetched = real.fetch(TINY, lambda *progress: seen.append(progress))
    here = [done for _, done, _ in seen]
    assert here == sorted(here)
    assert seen[-1] == (WEIGHTS, fetched.total_bytes, fetched.total_bytes)


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_goes_on_with_a_range(hub: FakeHub, tiny: Repo) -> None:
    hub.breaks[WEIGHTS] = [1001, 2003]
    fetched = real.fetch(TINY)
    assert [a.range for a in hub.asked if a.path.endswith(WEIGHTS)] == ["", "bytes=1001-", "bytes=3004-"]
    assert content(fetched.path)[WEIGHTS] == tiny.files[WEIGHTS]
    assert fetched.received_bytes == fetched.total_bytes


def test_an_interrupted_fetch_goes_on_at_its_byte_later(hub: FakeHub, tiny: Repo) -> None:
    hub.breaks[WEIGHTS] = [5003, 0, 0]
    with pytest.raises(real.NoConnection):
        real.fetch(TINY)
    assert find_cached(TINY) is None
    hub.asked.clear()
    fetched = real.fetch(TINY)
    assert [(a.path.rpartition("/")[2], a.range) for a in hub.asked[1:]] == [(WEIGHTS, "bytes=5003-")]
    assert fetched.received_bytes == len(tiny.files[WEIGHTS]) - 5003
    assert content(fetched.path)[WEIGHTS] == tiny.files[WEIGHTS]
    assert list((repo_folder("org/tiny") / "blobs").glob("*.incomplete")) == []


def test_a_part_without_any_rest_needs_no_request(hub: FakeHub, tiny: Repo) -> None:
    part = repo_folder("org/tiny") / "blobs" / f"{tiny.etag(WEIGHTS)}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(tiny.files[WEIGHTS])
    real.fetch(TINY)
    assert WEIGHTS not in hub.fetched()


@pytest.mark.parametrize("extra", [0, 1])
def test_a_part_that_is_no_part_of_the_file_is_noticed(hub: FakeHub, tiny: Repo, extra: int) -> None:
    data = tiny.files[WEIGHTS]
    part = repo_folder("org/tiny") / "blobs" / f"{tiny.etag(WEIGHTS)}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (len(data) + 1 if extra else 777))
    if not extra:  # of a size that could be: only the hash tells
        with pytest.raises(DownloadError, match="hash"):
            real.fetch(TINY)
        assert not part.exists()
    assert content(real.fetch(TINY).path)[WEIGHTS] == data


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(hub: FakeHub, tiny: Repo) -> None:
    hub.knows_ranges = False
    hub.breaks[WEIGHTS] = [4001]
    fetched = real.fetch(TINY)
    assert content(fetched.path)[WEIGHTS] == tiny.files[WEIGHTS]
    assert fetched.received_bytes == fetched.total_bytes + 4001


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_gated_repository_names_the_token(hub: FakeHub, tiny: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.is_gated, hub.token = True, "hf_right"
    with pytest.raises(DownloadError, match=r"HTTP 401.*terms.*set HF_TOKEN"):
        real.fetch(TINY)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match=r"HTTP 403.*has no access: check HF_TOKEN") as caught:
        real.fetch(TINY)
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert real.fetch(TINY).files[-1] == WEIGHTS


def test_a_token_stays_with_the_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.redirects_to = "localhost"
    real.fetch(TINY)
    told = {a.host.partition(":")[0]: a.authorization for a in hub.asked}
    assert told == {"127.0.0.1": "Bearer hf_secret", "localhost": ""}


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, ModelNotFound, "no such model on the hub"),
        (401, {}, ModelNotFound, "check the name; if the model is private, set HF_TOKEN"),
        (403, {}, DownloadError, "access is restricted"),
        (404, {}, ModelNotFound, "no such model"),
        (429, {}, DownloadError, "try again in some minutes"),
        (500, {}, DownloadError, "HTTP 500"),
        (503, {}, DownloadError, "try again later"),
    ],
)
def test_a_refused_listing_is_asked_for_once(
    hub: FakeHub, status: int, headers: dict[str, str], error: type[Exception], words: str
) -> None:
    hub.answers["/api/"] = (status, headers, b"")
    with pytest.raises(error, match=words) as caught:
        real.fetch(TINY)
    assert "\n" not in str(caught.value)
    assert len(hub.asked) == 1


def test_a_refused_file_is_asked_for_once(hub: FakeHub) -> None:
    hub.answers["/resolve/"] = (500, {}, b"")
    with pytest.raises(DownloadError, match="HTTP 500"):
        real.fetch(TINY)
    assert len(hub.asked) == 2


def test_nobody_at_the_address_is_said_at_once(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(real.NoConnection, match=r"no connection to http://127\.0\.0\.1:9"):
        real.fetch(TINY)
    assert hub.asked == []


@pytest.mark.parametrize("address", ["", "hub", "ftp://hub", "http://", "http://h:port"])
def test_an_endpoint_that_is_no_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(OptionError, match="HF_ENDPOINT"):
        real.fetch(TINY)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    with pytest.raises(DownloadError, match=r"file.*HF_HUB_CACHE"):
        real.fetch(TINY)


def test_a_disk_without_room_is_noticed_before_anything_is_fetched(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fanlight.checkpoints import hub_download

    monkeypatch.setattr(hub_download.shutil, "disk_usage", lambda _: SimpleNamespace(free=500))
    with pytest.raises(DownloadError, match=r"are to be fetched.*HF_HUB_CACHE"):
        real.fetch(TINY)
    assert hub.fetched() == []


# -- deceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"<!doctype html><p>Log in", b"[]", b"{}", b'{"sha": 5}', b'{"sha": "x", "siblings": [{}]}', b"[" * 100_000],
)
def test_a_page_in_place_of_the_listing(hub: FakeHub, body: bytes) -> None:
    hub.answers["/api/"] = (200, HTML, body)
    with pytest.raises(DownloadError, match=r"does not answer as a hub does.*HF_ENDPOINT"):
        real.fetch(TINY)


def test_a_page_in_place_of_a_file_is_not_kept(hub: FakeHub, tiny: Repo) -> None:
    hub.answers[f"/{WEIGHTS}"] = (200, HTML, b"<html>Log in</html>")
    with pytest.raises(DownloadError, match=r"model.safetensors: the answer has 19 bytes of a web page, expected"):
        real.fetch(TINY)
    hub.answers.clear()
    assert content(real.fetch(TINY).path)[WEIGHTS] == tiny.files[WEIGHTS]


@pytest.mark.parametrize("file", ["config.json", WEIGHTS])
def test_content_of_the_right_size_and_another_hash_is_not_kept(hub: FakeHub, tiny: Repo, file: str) -> None:
    hub.answers[f"/{file}"] = (200, {}, b"x" * len(tiny.files[file]))
    with pytest.raises(DownloadError, match=f"{file}: its content has the hash"):
        real.fetch(TINY)
    assert find_cached(TINY) is None
    assert tiny.etag(file) not in {path.name for path in (repo_folder("org/tiny") / "blobs").iterdir()}


def test_more_bytes_than_listed_do_not_fill_the_disk(hub: FakeHub, tiny: Repo) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (1 << 20, b"x" * (1 << 20))
    hub.answers[f"/{WEIGHTS}"] = (200, {"Transfer-Encoding": "chunked"}, body)
    with pytest.raises(DownloadError, match="more bytes come than"):
        real.fetch(TINY)
    assert sum(path.stat().st_size for path in (repo_folder("org/tiny") / "blobs").iterdir()) < len(body) // 2


@pytest.mark.parametrize("name", ["../../../evil.gguf", "/tmp/evil.gguf", "..\\evil.gguf"])
def test_a_listed_name_that_leads_elsewhere_is_refused(hub: FakeHub, tiny: Repo, name: str) -> None:
    tiny.extra_names = (name,)
    with pytest.raises(CheckpointError, match="inside the repository"):
        real.fetch(TINY)
    assert hub.fetched() == []


@pytest.mark.parametrize("commit", ["../../evil", "main", "A" * 40, ""])
def test_a_commit_that_is_none_is_refused(tiny: Repo, commit: str) -> None:
    tiny.listing = {"sha": commit}
    with pytest.raises(DownloadError, match="40 hexadecimal digits"):
        real.fetch(TINY)


@pytest.mark.parametrize(("etag", "size"), [("../../evil", 5), ("a/b", 5), ("a" * 40, -1), ("a" * 40, "many"), ("", 5)])
def test_a_hash_or_size_that_is_none_is_refused(tiny: Repo, etag: str, size: object, tmp_path: Path) -> None:
    tiny.listing = {"siblings": [{"rfilename": n, "size": size, "blobId": etag} for n in ("config.json", WEIGHTS)]}
    with pytest.raises(DownloadError, match="hash"):
        real.fetch(TINY)
    assert list(tmp_path.rglob("*evil*")) == []


@pytest.mark.parametrize(
    "index",
    [
        b"{}",
        b"<html>",
        b'{"weight_map": {}}',
        json.dumps({"weight_map": {"a": "../../x.safetensors"}}).encode(),
        json.dumps({"weight_map": {"a": "pytorch_model.bin"}}).encode(),
        json.dumps({"weight_map": {"a": "not-there.safetensors"}}).encode(),
        json.dumps({"weight_map": {"a": 5}}).encode(),
    ],
)
def test_an_index_that_names_no_shards_of_the_repository(hub: FakeHub, tiny: Repo, index: bytes) -> None:
    del tiny.files[WEIGHTS]
    tiny.files["model.safetensors.index.json"] = index
    with pytest.raises(CheckpointError, match=r"org/tiny: .*model\.safetensors\.index\.json"):
        real.fetch(TINY)
    assert hub.fetched()[-1] == "model.safetensors.index.json"

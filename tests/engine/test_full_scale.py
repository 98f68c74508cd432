"""Full size without its weights: configs on the meta device, published files, downloads, layers."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from safetensors.torch import save_file
from tiny_models import tiny_pipeline

from motion_app.engine.footprint import GIGABYTE, footprint_of, training_bytes
from motion_app.engine.memory import LADDER, PLACEMENTS, RESERVE
from motion_app.engine.motion_tokens import MotionMetadata, MotionTokens
from motion_app.errors import CheckpointError, MotionFileError, RequestError
from motion_app.geometry import GenerationDefaults, ModelGeometry
from motion_app.host import ModelHost
from motion_app.models import hub
from motion_app.models.checkpoint import Checkpoint, PartWeights
from motion_app.settings import Settings
from motion_app.speed.caches import CACHED_STEPS, SETTLED_AT, forced_shares
from motion_app.speed.layers import bench_layers
from motion_app.speed.rivals import SHAPES

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
PUBLISHED = "transformer_blocks.{}.attn1.processor.motion_inversion_tokens"


def config(name: str) -> dict:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def geometry_of(name: str, tmp_path: Path) -> ModelGeometry:
    parts = config(name)
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(parts[part]))
    return Checkpoint.read(tmp_path).geometry


def meta_transformer(name: str) -> CogVideoXTransformer3DModel:
    with torch.device("meta"):
        return CogVideoXTransformer3DModel.from_config(config(name)["transformer"])


def test_the_sizes_of_5b_are_those_of_the_paper(tmp_path):
    g = geometry_of("cogvideox-5b-i2v", tmp_path)
    assert (g.width, g.height, g.frames, g.fps) == (720, 480, 49, 8.0)
    assert g.grid == (13, 30, 45) and g.video_tokens == 17_550
    assert (g.layers, g.heads, g.head_dim, g.width_tokens) == (42, 48, 64, 3072)
    assert (g.text_tokens, g.latent_channels, g.patch_size_t) == (226, 16, None)


def test_the_sizes_of_1_5_are_its_own_and_not_its_configs_square(tmp_path):
    g = geometry_of("cogvideox1.5-5b-i2v", tmp_path)
    assert (g.width, g.height, g.frames, g.fps) == (1360, 768, 81, 16.0)
    assert (g.latent_frames, g.padded_latent_frames, g.grid) == (21, 22, (11, 48, 85))
    assert g.video_tokens == 44_880 and g.patch_size_t == 2


@pytest.mark.parametrize("size", [(768, 768), (768, 1024), (480, 720), (1360, 768)])
def test_1_5_takes_any_size_of_whole_tokens(size):
    parts = config("cogvideox1.5-5b-i2v")
    height, width = size
    sizes = {"height": height, "width": width, "frames": 81}
    g = ModelGeometry.from_configs(parts["transformer"], parts["vae"], **sizes)
    assert g.grid == (11, height // 16, width // 16)
    with pytest.raises(CheckpointError, match="multiples of 16"):
        ModelGeometry.from_configs(parts["transformer"], parts["vae"], height=770, width=768)


@pytest.mark.parametrize("name", ["cogvideox-5b-i2v", "cogvideox1.5-5b-i2v"])
def test_the_model_built_from_a_config_has_the_sizes_we_derive(name, tmp_path):
    g = geometry_of(name, tmp_path)
    transformer = meta_transformer(name)
    assert len(transformer.transformer_blocks) == g.layers
    attention = transformer.transformer_blocks[0].attn1
    assert attention.heads == g.heads and attention.to_k.in_features == g.width_tokens
    step = g.patch_size_t or 1
    patch = transformer.patch_embed.proj
    pixels = patch.weight.numel() // g.width_tokens
    assert pixels == transformer.config.in_channels * g.patch_size**2 * step
    if g.patch_size_t is None:
        assert transformer.patch_embed.pos_embedding.shape[1] == g.text_tokens + g.video_tokens
    noisy = (1, g.padded_latent_frames, 32, g.height // 8, g.width // 8)
    with torch.device("meta"):
        tokens = transformer.patch_embed(torch.empty(1, g.text_tokens, 4096), torch.empty(noisy))
    assert tokens.shape == (1, g.text_tokens + g.video_tokens, g.width_tokens)


def test_a_copy_in_the_hubs_cache_goes_by_its_hub_id(tmp_path):
    folder = tmp_path / "models--zai-org--CogVideoX-5b-I2V" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    assert GenerationDefaults.read(folder).name == "zai-org/CogVideoX-5b-I2V"


def full_footprint(name: str, tmp_path: Path):
    parts = config(name)
    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX.from_config(parts["vae"])
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        text = T5EncoderModel(T5Config(**parts["text_encoder"]))
    models = {"transformer": meta_transformer(name), "vae": vae, "text_encoder": text}
    counts = {
        part: PartWeights.count({key: value.numel() for key, value in model.named_parameters()})
        for part, model in models.items()
    }
    return footprint_of(geometry_of(name, tmp_path), parts["vae"], counts, item=2)


def test_5b_is_estimated_to_fit_into_12_and_24_gigabytes(tmp_path):
    needs = full_footprint("cogvideox-5b-i2v", tmp_path)
    assert needs.bytes_of("transformer") == pytest.approx(11.1 * GIGABYTE, rel=0.03)
    assert needs.bytes_of("text_encoder") == pytest.approx(9.5 * GIGABYTE, rel=0.03)

    def chosen(gigabytes: int) -> str:
        room = (1 - RESERVE) * gigabytes * GIGABYTE
        return next(p.name for p in LADDER if p.device_bytes(needs) <= room)

    assert chosen(80) == "resident"
    assert chosen(24) == "model-offload"
    assert chosen(12) == "group-offload"
    assert PLACEMENTS["model-offload-int8"].device_bytes(needs) <= 12 * GIGABYTE


def test_learning_a_motion_at_5b_is_estimated_to_fit_into_24_gigabytes(tmp_path):
    needs = full_footprint("cogvideox-5b-i2v", tmp_path)
    g = Checkpoint.read(tmp_path).geometry
    assert training_bytes(g, needs, tokens=226, batch=1) < (1 - RESERVE) * 24 * GIGABYTE


def published(dtype: torch.dtype = torch.bfloat16, **changes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(42, 1, 226, 3072, generator=generator).to(dtype)
    return {PUBLISHED.format(layer): tokens for layer, tokens in enumerate(whole)} | changes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_published_file_of_full_size_comes_in_number_by_number(tmp_path, dtype):
    entries = published(dtype)
    torch.save(entries, tmp_path / "pytorch_model.pt")
    tokens = MotionTokens.import_published(tmp_path / "pytorch_model.pt")
    assert sum(layer.numel() for layer in tokens.layers) == 29_159_424
    assert (tokens.tokens, tokens.width, len(tokens.layers)) == (226, 3072, 42)
    for layer in (0, 9, 10, 41):
        assert torch.equal(tokens.layers[layer].data, entries[PUBLISHED.format(layer)][0].float())
    # Names sort 0, 1, 10 …: layers must come by number, and stand a round trip.
    path = tmp_path / "motion.safetensors"
    tokens.save(path, MotionMetadata("m", "is moving", "b" * 64), dtype=torch.float32)
    again = MotionTokens.load(path, layers=42, width=3072, base="b" * 64)
    assert torch.equal(again.layers[10].data, tokens.layers[10].data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({PUBLISHED.format(43): torch.zeros(1, 226, 3072)}, "lacks layers.42"),
        ({PUBLISHED.format(7): torch.zeros(1, 225, 3072)}, r"\(225, 3072\)"),
        ({PUBLISHED.format(7): torch.zeros(226, 3072)}, r"expected only"),
        ({PUBLISHED.format(7): torch.full((1, 226, 3072), torch.nan)}, "NaN"),
        ({PUBLISHED.format(7): torch.zeros(1, 226, 3072, dtype=torch.int8)}, "floating point"),
        ({"transformer_blocks.0.attn1.to_q.weight": torch.zeros(1, 2, 2)}, "to_q"),
    ],
)
def test_a_published_file_that_is_not_exactly_so_is_refused(tmp_path, changes, words):
    torch.save(published(**changes), tmp_path / "pytorch_model.pt")
    with pytest.raises(MotionFileError, match=words):
        MotionTokens.import_published(tmp_path / "pytorch_model.pt")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {}])
def test_a_pickle_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.pt")
    with pytest.raises(MotionFileError):
        MotionTokens.import_published(tmp_path / "pytorch_model.pt")


def test_every_rival_of_the_layer_benchmark_is_timed_and_scaled_to_a_step():
    figures = bench_layers("tiny", layers=2, motions=(1, 2))
    sizes = SHAPES["tiny"]
    for name in ("stock", "motions_1", "motions_2", "dense_2"):
        step = figures[f"{name}.step_extrapolated"]
        assert step == pytest.approx(2 * sizes.layers * figures[f"{name}.layer"])
        assert figures[f"{name}.peak_gb"] > 0
        assert 0 < figures[f"{name}.attention"] < figures[f"{name}.layer"]
    assert figures["stock.over_stock"] == 1 and 0 < figures["rmpm.share_of_step"] < 1
    ratio = figures["dense_2.layer"] / figures["motions_2.layer"]
    assert figures["dense_over_ours"] == pytest.approx(ratio)
    own = 2 * 2 * sizes.motion * sizes.width * sizes.layers * 4 / 1e9  # keys and values of two
    assert figures["motions_2.own_keys_and_values_gb"] == pytest.approx(own)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": "7b"}, "tiny"),
        ({"layers": 0}, "at least 1"),
        ({"motions": ()}, "one number of motions"),
        ({"dtype": "int8"}, "float32, bfloat16"),
    ],
)
def test_a_layer_benchmark_that_cannot_be_is_refused(options, words):
    with pytest.raises(RequestError, match=words):
        bench_layers(**{"shape": "tiny", **options})


def test_a_layer_benchmark_goes_on_where_it_was_stopped(tmp_path):
    file = tmp_path / "runs.json"
    heard = []

    def stop(name, case):
        heard.append(name)
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_layers("tiny", motions=(2,), out=file, on_case=stop)
    kept = json.loads(file.read_text())["cases"]
    assert list(kept) == heard == ["stock", "motions_2"]
    figures = bench_layers("tiny", motions=(2,), out=file, on_case=lambda *news: heard.append(news))
    assert [name for name, _ in heard[2:]] == ["dense_2", "rmpm"]
    assert figures["stock.layer"] == kept["stock"][0]["seconds"]
    again = bench_layers("tiny", motions=(2,), out=file, on_case=lambda *_: pytest.fail("ran"))
    assert again == figures


def test_runs_of_two_settings_are_not_compared(tmp_path):
    file = tmp_path / "runs.json"
    bench_layers("tiny", motions=(1,), out=file)
    with pytest.raises(RequestError, match="begun with dtype 'float32', and this is .*bfloat16"):
        bench_layers("tiny", motions=(1,), out=file, dtype="bfloat16")
    file.write_text('{"cases": 3}')
    with pytest.raises(RequestError, match="no record of a measurement"):
        bench_layers("tiny", motions=(1,), out=file)


def test_a_cache_at_its_most_leaves_out_what_its_rule_says():
    layers, steps = 4, CACHED_STEPS
    shares = forced_shares(layers)
    full = SETTLED_AT + 1  # the first pass with a cache fills it
    first = (full + (steps - full) / layers) / steps  # the first layer alone is always computed
    assert shares["first-block"].attention == pytest.approx(first)
    assert shares["first-block"].rest == pytest.approx(first)
    for kind in ("pab", "taylorseer"):  # both keep attention alone
        assert shares[kind].rest == pytest.approx(1) and shares[kind].attention < 0.6
    assert shares["mag"].attention == shares["mag"].rest < 0.5
    assert 0.5 < shares["faster"].rest < 1  # half of the batch, in part of the steps


def entry_of(name: str, content: bytes, digest: str) -> dict:
    """A file in the hub's list, which has two words for a name and for a digest."""
    stored = {"size": len(content), "sha256": digest, "oid": digest, "pointerSize": 100}
    named = {"type": "file", "path": name, "rfilename": name}
    return {**named, "size": len(content), "oid": digest, "lfs": stored}


class _Hub(BaseHTTPRequestHandler):
    """The two questions a snapshot asks: what is there, and a file (or what is left of it)."""

    files: dict[str, bytes]
    asked: list[tuple[str, str]]
    promised: Mapping[str, str] = MappingProxyType({})  # digests that are not the content's own
    cut: str = ""  # the file in whose middle the connection breaks, and which is then refused
    broken: bool = False

    @classmethod
    def digest(cls, name: str) -> str:
        return cls.promised.get(name) or hashlib.sha256(cls.files[name]).hexdigest()

    def log_message(self, *arguments) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        cls = type(self)
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            listed = [
                entry_of(name, content, cls.digest(name)) for name, content in cls.files.items()
            ]
            whole = {"id": "someone/tiny", "sha": "c" * 40, "siblings": listed}
            answer = listed if "/tree/" in path else whole
            self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"})
            return
        name = path.split("/resolve/")[1].split("/", 1)[1]
        content = cls.files[name]
        headers = {"ETag": f'"{cls.digest(name)}"', "X-Repo-Commit": "c" * 40}
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            cls.asked.append((name, self.headers.get("Range") or ""))
            if name == cls.cut and cls.broken:
                self._send(b"", {}, 500)
                return
        self._send(content[start:], headers, 206 if start else 200, cut=name == cls.cut)

    def _send(
        self, body: bytes, headers: dict[str, str], status: int = 200, *, cut: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
            type(self).broken = type(self).broken or cut


@pytest.fixture
def model_hub(tmp_path, monkeypatch):
    """A hub on this machine with one small pipeline, whose weights count as large."""
    monkeypatch.setattr("motion_app.models.downloads.LARGE", 20_000)
    monkeypatch.setattr("motion_app.models.downloads.time.sleep", lambda seconds: None)
    source = tmp_path / "source"
    tiny_pipeline().save_pretrained(source)
    files = {
        str(path.relative_to(source)): path.read_bytes()
        for path in sorted(source.rglob("*"))
        if path.is_file()
    }
    handler = type("Hub", (_Hub,), {"files": files | {"notes.bin": b"x" * 99}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_once_whole_and_with_news_of_its_bytes(model_hub, tmp_path):
    handler, endpoint = model_hub
    repository = hub.Repository("someone/tiny", "c" * 40)
    where = {"cache": tmp_path / "cache", "endpoint": endpoint}
    heard = []
    folder = hub.fetch(
        repository, hub.PIPELINE_FILES, on_bytes=lambda *news: heard.append(news), **where
    )
    assert (folder / "transformer" / "config.json").is_file()
    assert not (folder / "notes.bin").exists()  # nobody uses it
    weights = sum(len(c) for name, c in handler.files.items() if name.endswith(".safetensors"))
    assert max(done for done, _ in heard) >= weights
    before = len(handler.asked)
    assert hub.fetch(repository, hub.PIPELINE_FILES, **where) == folder
    assert len(handler.asked) == before
    lost = next((folder / "vae").glob("*.safetensors"))
    lost.unlink()
    hub.fetch(repository, hub.PIPELINE_FILES, **where)
    assert lost.is_file()


def test_a_download_that_broke_off_goes_on_where_it_stopped(model_hub, tmp_path):
    handler, endpoint = model_hub
    repository = hub.Repository("someone/tiny", "c" * 40)
    where = {"cache": tmp_path / "cache", "endpoint": endpoint}
    handler.cut = "transformer/diffusion_pytorch_model.safetensors"
    whole = len(handler.files[handler.cut])
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        hub.fetch(repository, hub.PIPELINE_FILES, **where)
    handler.cut = ""
    handler.asked.clear()
    heard = []
    folder = hub.fetch(
        repository, hub.PIPELINE_FILES, on_bytes=lambda *news: heard.append(news), **where
    )
    (resumed,) = [
        wanted for name, wanted in handler.asked if name.startswith("transformer/") and wanted
    ]
    start = int(resumed.removeprefix("bytes=").rstrip("-"))
    assert start == whole // 2
    assert [name for name, _ in handler.asked].count("transformer/config.json") <= 1
    found = (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert found == handler.files["transformer/diffusion_pytorch_model.safetensors"]
    counts = [done for done, _ in heard]
    assert counts == sorted(counts) and counts[-1] == heard[-1][1] > whole


def test_a_line_that_stays_broken_is_one_readable_line(model_hub, tmp_path, monkeypatch):
    handler, endpoint = model_hub
    monkeypatch.setattr(handler, "_send", lambda self, *_, **__: self.connection.close())
    with pytest.raises(CheckpointError) as caught:
        hub.fetch(
            hub.Repository("someone/tiny", "c" * 40), ["*"], cache=tmp_path, endpoint=endpoint
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resumed", [False, True])
def test_content_that_is_not_what_was_promised_is_refused_and_removed(model_hub, tmp_path, resumed):
    handler, endpoint = model_hub
    repository = hub.Repository("someone/tiny", "c" * 40)
    where = {"cache": tmp_path / "cache", "endpoint": endpoint}
    name = "vae/diffusion_pytorch_model.safetensors"
    if resumed:
        handler.cut = name
        with pytest.raises(CheckpointError):
            hub.fetch(repository, hub.PIPELINE_FILES, **where)
        handler.cut = ""
    right = handler.files[name]
    promised = hashlib.sha256(right).hexdigest()
    handler.promised = {name: promised}
    handler.files[name] = right[:-4] + b"\0\1\2\3"  # a number of the last weight
    with pytest.raises(CheckpointError, match="not the file the hub promised"):
        hub.fetch(repository, hub.PIPELINE_FILES, **where)
    handler.files[name] = right
    folder = hub.fetch(repository, hub.PIPELINE_FILES, **where)
    assert (folder / name).read_bytes() == right


def test_the_sizes_of_a_model_come_before_its_weights(model_hub, tmp_path):
    handler, endpoint = model_hub
    repository = hub.Repository("someone/tiny", "c" * 40)
    where = {"cache": tmp_path / "cache", "endpoint": endpoint}
    folder = hub.fetch_configs(repository, **where)
    assert Checkpoint.read(folder).geometry.frames == 13
    assert not [name for name, _ in handler.asked if name.endswith(".safetensors")]
    before = len(handler.asked)
    assert hub.fetch_configs(repository, **where) == folder and len(handler.asked) == before
    assert hub.fetch(repository, hub.PIPELINE_FILES, **where) == folder
    assert list(folder.rglob("*.safetensors"))
    del handler.files["vae/config.json"]
    with pytest.raises(CheckpointError, match="no CogVideoX pipeline"):
        hub.fetch_configs(repository, cache=tmp_path / "other", endpoint=endpoint)


def test_a_page_for_a_model_of_the_hub_is_built_before_its_weights_are_there(
    tiny_checkpoint, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        "motion_app.models.hub.fetch_configs",
        lambda repository: asked.append(str(repository)) or tiny_checkpoint,
    )
    host = ModelHost(Settings(model="someone/tiny", outputs=tmp_path))
    assert host.geometry().frames == 13 and host.defaults().name == "tiny"
    assert asked == ["someone/tiny"] and host.status().state == "loading"
    missing = ModelHost(Settings(model=str(tmp_path / "none"), outputs=tmp_path))
    with pytest.raises(CheckpointError, match="model_index"):
        missing.geometry()


def test_a_hub_that_cannot_be_reached_is_one_readable_line(tmp_path):
    with pytest.raises(CheckpointError, match="not on this machine") as caught:
        hub.fetch(
            hub.Repository("someone/tiny", "c" * 40),
            ["*"],
            cache=tmp_path,
            endpoint="http://127.0.0.1:9",
        )
    assert "\n" not in str(caught.value)


def test_names_mean_a_pinned_revision_unless_they_say_another():
    pinned = hub.Repository.parse("zai-org/CogVideoX-5b-I2V")
    assert pinned.revision == hub.PINNED[pinned.name] and len(pinned.revision) == 40
    assert hub.Repository.parse("zai-org/CogVideoX-5b-I2V@main").revision == "main"
    for text in ("folder", "./a/b", "a/b/c", "/a/b"):
        assert hub.Repository.parse(text) is None


def test_a_cut_off_or_missing_weight_file_is_found_before_it_is_loaded(tmp_path):
    file = tmp_path / "transformer" / "model.safetensors"
    file.parent.mkdir()
    save_file({"a": torch.zeros(100)}, file)
    hub.check_complete(tmp_path)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut off"):
        hub.check_complete(tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (file.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="lacks 1 of 1"):
        hub.check_complete(tmp_path)

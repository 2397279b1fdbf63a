"""A base's licence: read from the model card or the GGUF's metadata, its limits in a line each."""

import shutil
from pathlib import Path

import pytest

from edgekit.licenses import read_license, write_gguf_license


def card(directory: Path, front: str) -> Path:
    (directory / "README.md").write_text(f"---\n{front}\n---\n# A model\n", encoding="utf-8")
    return directory


@pytest.mark.parametrize("identifier", ["apache-2.0", "mit", "bsd-3-clause"])
def test_a_permissive_licence_limits_nothing(identifier: str, tmp_path: Path) -> None:
    found = read_license(card(tmp_path, f"license: {identifier}\nlanguage: [en]"))
    assert (found.id, found.limits, found.title) == (identifier, (), identifier)


@pytest.mark.parametrize(
    ("front", "limit"),
    [
        ("license: gemma", "Gemma Prohibited Use Policy"),
        ("license: llama3.2", "Built with Llama"),
        ("license: llama2", "700 million monthly users"),
        ("license: cc-by-nc-4.0", "no commercial use"),
        ("license: cc-by-nc-sa-4.0", "no commercial use"),
        ("license: cc-by-sa-4.0", "under the same licence"),
        ("license: bigscience-openrail-m", "its attachment lists"),
        ("license: agpl-3.0", "ship or serve"),
        ("license: other\nlicense_name: qwen-research", "no commercial use"),
        ("license: other\nlicense_name: deepmind", "read it before you ship"),
        ("license: mit\nextra_gated_prompt: Please agree", "asks for agreement"),
        ("language: en", "declares no licence"),
    ],
)
def test_a_limit_is_told(front: str, limit: str, tmp_path: Path) -> None:
    assert any(limit in line for line in read_license(card(tmp_path, front)).limits)


def test_name_link_and_files_are_read(tmp_path: Path) -> None:
    card(tmp_path, "license: other\nlicense_name: acme-1\nlicense_link: https://acme.example/l")
    (tmp_path / "LICENSE.txt").write_text("do what you want")
    (tmp_path / "USE_POLICY.md").write_text("but not this")
    found = read_license(tmp_path)
    assert found.title == "other, acme-1, https://acme.example/l"
    assert found.files == ("LICENSE.txt", "USE_POLICY.md")


@pytest.mark.parametrize("text", ["# no front matter\nlicense: mit", "---\nlicense: [\n---\n", ""])
def test_a_card_that_says_nothing_readable(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert read_license(tmp_path).id is None


def test_the_metadata_of_a_gguf(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_license("gemma")
    writer.add_license_link("https://ai.google.dev/gemma/terms")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    write_gguf_license(tmp_path / "a.gguf", tmp_path)
    found = read_license(tmp_path)
    assert (found.id, found.link) == ("gemma", "https://ai.google.dev/gemma/terms")
    assert found.limits


@pytest.mark.parametrize(
    ("front", "own", "expected"),
    [
        ("license: other\nlicense_name: acme-non-commercial\nlicense_link: https://a.example", None,
         ("other", "acme-non-commercial", "https://a.example")),
        ("license: gemma", "apache-2.0", ("gemma", None, None)),
        ("license: mit", "apache-2.0", ("apache-2.0", None, None)),
        ("license: mit", None, ("mit", None, None)),
        ("language: en", "apache-2.0", ("apache-2.0", None, None)),
    ],
)  # fmt: skip
def test_what_is_made_from_a_base_keeps_its_limits(
    front: str,
    own: str | None,
    expected: tuple[str | None, ...],
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    from edgekit.base_files import write_base_files
    from edgekit.bases import resolve_base

    origin = tmp_path / "origin"
    shutil.copytree(tiny_base, origin)
    card(origin, front)
    model = AutoModelForCausalLM.from_pretrained(origin)
    base = resolve_base(str(origin))
    write_base_files(tmp_path / "made", model, base, license=own, how="Made by a test.")
    found = read_license(tmp_path / "made")
    assert (found.id, found.name, found.link) == expected
    if found.id == base.license:
        assert found.limits == read_license(origin).limits


@pytest.mark.real
def test_the_embedded_base() -> None:
    from edgekit.bases import resolve_base

    base = resolve_base("smollm2-135m")
    found = read_license(base.path)
    assert (found.id, found.limits) == ("apache-2.0", ())

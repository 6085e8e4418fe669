"""Behind `forescale data`: the packs there are, fetching them, and a look into one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from forescale.core.documents import Document, Image, Text
from forescale.data import curriculum
from forescale.data.packs import fetch_packs, list_packs
from forescale.data.prepare import sample as sample_documents


def show(fetch: Sequence[str], sample: str | None, n: int, as_json: bool) -> str:
    """What the verb prints. Raises UserError for a name that is neither a pack nor a family."""
    if fetch:
        names = fetch_packs([] if "all" in fetch else fetch)
        return json.dumps(names) if as_json else "in the cache: " + ", ".join(names)
    if sample is not None:
        documents = [_plain(document) for document in sample_documents(sample, max(1, n))]
        return (
            json.dumps(documents, indent=1) if as_json else "\n\n".join(f"[{d['id']}]\n{d['text']}" for d in documents)
        )
    packs = list_packs()
    families = [
        {"name": f, "modality": curriculum.modality(f), "summary": curriculum.describe(f)} for f in curriculum.FAMILIES
    ]
    if as_json:
        return json.dumps({"packs": packs, "curriculum": families}, indent=1)
    lines = [f"{'pack':14} {'':6} {'licence':34} {'here':5} summary"]
    for pack in packs:
        lines.append(
            f"{pack['name']:14} {pack['modality']:6} {pack['licence'][:34]:34} "
            f"{'yes' if pack['cached'] else 'no':5} {pack['summary']}"
        )
    lines += ["", "curriculum (generated, Apache-2.0)"]
    lines += [f"{family['name']:14} {family['modality']:6} {family['summary']}" for family in families]
    return "\n".join(lines)


def _plain(document: Document) -> dict[str, Any]:
    """Pictures by their size only."""

    def spell(part: Text | Image) -> str:
        return part.text if isinstance(part, Text) else f"[picture {part.pixels.shape[1]} x {part.pixels.shape[0]}]"

    return {"id": document.id, "source": document.source, "text": "".join(spell(part) for part in document.parts)}

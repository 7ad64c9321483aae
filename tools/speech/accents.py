"""How people whose first language is not English say the digits: as that language would spell what they say.

espeak-ng, or a voice of festival, reads these spellings with the language's own sounds. They are ours, written by ear;
they stand for an accent, not for everybody who has it.
"""

from __future__ import annotations

# Voice of espeak-ng: zero to nine.
ACCENTED = {
    "de": "siro uann tuh thrie foor faif sicks säwen äit nain",
    "el": "ζίροου ουάν του θρι φορ φάιβ σιξ σέβεν έιτ νάιν",
    "es": "sirou uan tu tri for faif siks seven eit nain",
    "fr": "zirau ouane tou srie fore faïve sixe sèvène éïte naïne",
    "hi": "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन",
    "it": "ziro uan tu tri foor faiv sics seven eit nain",
    "nl": "ziero wan toe srie foor faaif siks seven eet nain",
    "pl": "ziro łan tu fri for fajw syks sewen ejt najn",
    "pt": "zirou uan tu tri for faiv sixe séven eite naine",
    "ru": "зи́роу уа́н ту сри фор файв сикс сэ́вен эйт найн",
    "sv": "siro oann tou trii får fajv sicks sevven ejt najn",
    "tr": "ziro van tu tri for fayv siks sevin eyt nayn",
}

# The same for languages in which festival has voices.
FESTIVAL = {
    "cs": "zírou uan tú srí fór fajv siks sevn ejt najn",
    "fi": "siirou van tuu trii foor faiv siks seven eit nain",
    "it": ACCENTED["it"],
}

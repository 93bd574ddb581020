"""The world's words: topics and counted things tabled here, places, months and units named by CLDR.

A slot value has one identity (an index) and a form in each language. CLDR names are citation forms, so the
frames (frames.py) only have slots that take them: nominative, label, or cases that look the same.
German topics are feminine or neuter on purpose: with their article, accusative and nominative coincide.
"""

from collections.abc import Sequence
from functools import cache

from babel import Locale
from babel.numbers import format_decimal
from babel.units import format_unit

LANGUAGES = ("de", "en", "es", "ru", "tr", "vi")
SLOTS = ("T", "P", "M", "N", "U")  # topic, place, month, number, unit

TOPICS: tuple[tuple[str, ...], ...] = (  # de, en, es, ru, tr, vi
    ("eine Überschwemmung", "a flood", "una inundación", "наводнение", "sel", "lũ lụt"),
    ("ein Festival", "a festival", "un festival", "фестиваль", "festival", "lễ hội"),
    ("eine Abstimmung", "a vote", "una votación", "голосование", "oylama", "cuộc bỏ phiếu"),
    ("eine Ausstellung", "an exhibition", "una exposición", "выставка", "sergi", "triển lãm"),
    ("ein Erdbeben", "an earthquake", "un terremoto", "землетрясение", "deprem", "động đất"),
    ("ein Unwetter", "a storm", "una tormenta", "буря", "fırtına", "bão"),
    ("eine Dürre", "a drought", "una sequía", "засуха", "kuraklık", "hạn hán"),
    ("eine Ernte", "a harvest", "una cosecha", "жатва", "hasat", "vụ thu hoạch"),
    ("ein Konzert", "a concert", "un concierto", "концерт", "konser", "buổi hòa nhạc"),
    ("eine Demonstration", "a protest", "una protesta", "демонстрация", "gösteri", "cuộc biểu tình"),
    ("eine Konferenz", "a conference", "una conferencia", "конференция", "konferans", "hội nghị"),
    ("ein Rennen", "a race", "una carrera", "гонка", "yarış", "cuộc đua"),
    ("ein Feuer", "a fire", "un incendio", "пожар", "yangın", "hỏa hoạn"),
    ("eine Messe", "a fair", "una feria", "ярмарка", "fuar", "hội chợ"),
    ("eine Parade", "a parade", "un desfile", "парад", "geçit töreni", "cuộc diễu hành"),
    ("eine Hochzeit", "a wedding", "una boda", "свадьба", "düğün", "đám cưới"),
    ("eine Lawine", "an avalanche", "una avalancha", "лавина", "çığ", "tuyết lở"),
    ("eine Meisterschaft", "a championship", "un campeonato", "чемпионат", "şampiyona", "giải vô địch"),
    ("eine Auktion", "an auction", "una subasta", "аукцион", "müzayede", "cuộc đấu giá"),
    ("ein Seminar", "a seminar", "un seminario", "семинар", "seminer", "hội thảo"),
    ("eine Entdeckung", "a discovery", "un descubrimiento", "открытие", "keşif", "phát hiện"),
    ("eine Explosion", "an explosion", "una explosión", "взрыв", "patlama", "vụ nổ"),
    ("ein Treffen", "a meeting", "una reunión", "встреча", "toplantı", "cuộc họp"),
    ("ein Experiment", "an experiment", "un experimento", "эксперимент", "deney", "thí nghiệm"),
)

# Territories whose names need no article in German, English and Spanish, are singular in Russian, and have
# one or two words everywhere.
PLACES = tuple(
    code
    for row in (
        "AL AM AO AR AT AU AZ BE BG BO BR BW CA CL CO CU DK DZ EC EE EG ES ET FI FR GE GH GR GT HN HR",
        "HU ID IE IN IS IT JM JP KE KH KZ LV LY MA MG MX MY NA NG NO NP PE PL PT RO RW SE SN SO TH TN",
        "UG UY VN ZM",
    )
    for code in row.split()
)

CLDR_UNITS = (
    "length-kilometer",
    "length-meter",
    "mass-tonne",
    "mass-kilogram",
    "volume-liter",
    "area-hectare",
)

# Counted things by CLDR plural category: one/other, Russian one/few/many, Turkish and Vietnamese one form.
_THINGS = (  # de, en, es, ru, tr, vi
    "Haus/Häuser, house/houses, casa/casas, дом/дома/домов, ev, ngôi nhà",
    "Schiff/Schiffe, ship/ships, barco/barcos, корабль/корабля/кораблей, gemi, con tàu",
    "Baum/Bäume, tree/trees, árbol/árboles, дерево/дерева/деревьев, ağaç, cây xanh",
    "Buch/Bücher, book/books, libro/libros, книга/книги/книг, kitap, cuốn sách",
    "Schule/Schulen, school/schools, escuela/escuelas, школа/школы/школ, okul, trường học",
    "Brücke/Brücken, bridge/bridges, puente/puentes, мост/моста/мостов, köprü, cây cầu",
    "Dorf/Dörfer, village/villages, pueblo/pueblos, деревня/деревни/деревень, köy, ngôi làng",
    "Karte/Karten, ticket/tickets, entrada/entradas, билет/билета/билетов, bilet, tấm vé",
    "Lampe/Lampen, lamp/lamps, lámpara/lámparas, лампа/лампы/ламп, lamba, chiếc đèn",
)
THINGS = tuple(tuple(tuple(forms.split("/")) for forms in line.split(", ")) for line in _THINGS)
_CATEGORIES = {1: ("other",), 2: ("one", "other"), 3: ("one", "few", "many")}

# A closed set, so that a small vocabulary covers it; every number takes plural forms of all Russian kinds.
NUMBERS = (*range(13, 100), *range(100, 1000, 10))

SIZES = {"T": len(TOPICS), "P": len(PLACES), "M": 12, "U": len(CLDR_UNITS) + len(THINGS)}

_ARTICLES = {"de": ("ein", "eine"), "en": ("a", "an"), "es": ("un", "una")}


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u202f", " ")


@cache
def plural(lang: str, number: int) -> str:
    """CLDR plural category of `number` in `lang`."""
    return str(Locale.parse(lang).plural_form(number))


@cache
def unit(lang: str, index: int, number: int) -> str:
    """The unit's or thing's form beside `number`: "kilometres", "дома"."""
    if index < len(CLDR_UNITS):
        text = _plain(format_unit(number, CLDR_UNITS[index], length="long", locale=lang))
        return text.removeprefix(format_decimal(number, locale=lang)).strip()
    forms = THINGS[index - len(CLDR_UNITS)][LANGUAGES.index(lang)]
    by_category = dict(zip(_CATEGORIES[len(forms)], forms, strict=True))
    return by_category.get(plural(lang, number), forms[-1])


@cache
def name(lang: str, slot: str, index: int) -> str:
    """The right form of a topic, place, month or number, as it stands inside a sentence."""
    if slot == "T":
        return TOPICS[index][LANGUAGES.index(lang)]
    locale = Locale.parse(lang)
    if slot == "P":
        return _plain(locale.territories[PLACES[index]])
    if slot == "M":
        month = _plain(locale.months["stand-alone"]["wide"][index + 1])
        return month.lower() if lang == "vi" else month
    return format_decimal(index, locale=lang)


def _turkish_plural(word: str) -> str:
    last = [letter for letter in word if letter in "aıoueiöü"][-1]
    return word + ("lar" if last in "aıou" else "ler")


@cache
def wrong_units(lang: str, index: int, number: int) -> tuple[str, ...]:
    """Forms of the unit that do not agree with `number`; Vietnamese has none."""
    right = unit(lang, index, number)
    forms = {unit(lang, index, n) for n in (1, 3, 14)} - {right}
    if lang == "tr":
        forms.add(_turkish_plural(right))
    return tuple(sorted(forms))


@cache
def wrong_topics(lang: str, index: int) -> tuple[str, ...]:
    """The topic with the other article, and without one, where the language has articles."""
    if lang not in _ARTICLES:
        return ()
    article, noun = name(lang, "T", index).split(" ", 1)
    other = next(a for a in _ARTICLES[lang] if a != article)
    return (f"{other} {noun}", noun)


def names(lang: str, slot: str) -> Sequence[str]:
    """All right forms of a slot in a language; units in all their plural forms."""
    if slot == "U":
        return sorted({unit(lang, i, n) for i in range(SIZES["U"]) for n in (13, 14, 21, 23)})
    values = NUMBERS if slot == "N" else range(SIZES[slot])
    return [name(lang, slot, i) for i in values]

"""The embedded world's language: its words, the frames of its sentences, and how both are read back from a text.

A word's meaning is an index, with a form in each of de, en, es, ru, tr and vi. Topics and counted things are tabled
here; places, months and units are named by CLDR. CLDR names are citation forms, so the frames only have slots that
take them: nominative, label, or cases that look the same. German topics are feminine or neuter on purpose: with their
article, accusative and nominative coincide.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

from babel import Locale
from babel.numbers import format_decimal
from babel.units import format_unit

# --- words --------------------------------------------------------------------------------------------------

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


# --- frames of sentences, written by us ---------------------------------------------------------------------

# {T} topic, {P} place, {M} month, {N} number, {U} unit or counted thing. In SUMMARY, [ ] marks a phrase that can be
# left out or repeated, | where a sentence can switch to another language: the i-th frames of all languages have the
# same slots on each side of it. No frame begins with {T}, so no topic is capitalised.

CUE = {  # asks for the summary in the language, which is named in itself
    "de": "Zusammenfassung auf Deutsch:",
    "en": "Summary in English:",
    "es": "Resumen en español:",
    "ru": "Резюме на русском:",
    "tr": "Türkçe özet:",
    "vi": "Tóm tắt tiếng Việt:",
}

SUBJECT = {  # the line of a document that names its main topic
    "de": ("Thema: {T}.", "In diesem Bericht geht es um {T}.", "Hauptthema: {T}."),
    "en": ("Subject: {T}.", "This report is about {T}.", "Main topic: {T}."),
    "es": ("Tema: {T}.", "Este informe trata de {T}.", "Asunto principal: {T}."),
    "ru": ("Тема: {T}.", "Предмет этого сообщения — {T}.", "Главное событие: {T}."),
    "tr": ("Konu: {T}.", "Bu haberin konusu {T}.", "Ana olay: {T}."),
    "vi": ("Chủ đề: {T}.", "Bản tin này nói về {T}.", "Sự kiện chính: {T}."),
}

# The topic comes before its values: a reader of a million parameters ties them together in one step.
DOCUMENT = {
    "de": (
        "Es gab {T} in {P} im {M}, insgesamt {N} {U}.",
        "Nachricht: {T}, {N} {U}, im {M} in {P}.",
        "Gemeldet wird {T}: {P}, {M}, {N} {U}.",
        "Der Bericht nennt {T} im {M} sowie {P} und {N} {U}.",
        "Bekannt wurde {T}: {N} {U}, {P}, {M}.",
    ),
    "en": (
        "There was {T} in {P} in {M}, {N} {U} in all.",
        "News: {T}, {N} {U}, in {M} in {P}.",
        "Reported: {T}, {P}, {M}, {N} {U}.",
        "The report names {T} in {M}, {P} and {N} {U}.",
        "Known so far: {T}, {N} {U}, {P}, {M}.",
    ),
    "es": (
        "Hubo {T} en {P} en {M}, en total {N} {U}.",
        "Noticia: {T}, {N} {U}, en {M} en {P}.",
        "Se informa de {T}: {P}, {M}, {N} {U}.",
        "El informe cita {T} en {M}, {P} y {N} {U}.",
        "Se conoce {T}: {N} {U}, {P}, {M}.",
    ),
    "ru": (
        "Отмечается {T} в стране {P} за {M}, всего {N} {U}.",
        "Новость: {T}, {N} {U}, за {M} в стране {P}.",
        "Событие — {T}: {P}, {M}, {N} {U}.",
        "В отчёте есть {T} за {M}, {P} и {N} {U}.",
        "Сообщается: {T}, {N} {U}, {P}, {M}.",
    ),
    "tr": (
        "Haberde {T} var: {P} ülkesinde, {M} ayında, toplam {N} {U}.",
        "Haber: {T}, {N} {U}, {M} ayında {P} ülkesinde.",
        "Bildirilen olay {T}: {P}, {M}, {N} {U}.",
        "Raporda {T} var, ay {M}, ülke {P} ve {N} {U}.",
        "Duyurulan olay {T}: {N} {U}, {P}, {M}.",
    ),
    "vi": (
        "Có {T} tại {P} vào {M}, tổng cộng {N} {U}.",
        "Tin tức: {T}, {N} {U}, vào {M} tại {P}.",
        "Sự kiện là {T}: {P}, {M}, {N} {U}.",
        "Báo cáo nêu {T} trong {M}, {P} và {N} {U}.",
        "Được biết có {T}: {N} {U}, {P}, {M}.",
    ),
}

SUMMARY = {
    "de": (
        "{P} erlebte [im {M}] {T} | [, zusammen {N} {U}].",
        "Die wichtigste Nachricht ist {T} [in {P}] | [im {M}] [, zusammen {N} {U}].",
        "Es geht um {T} [in {P}] | [und um {N} {U}].",
        "Im {M} sah {P} {T} | [, alles in allem {N} {U}].",
        "Ganze {N} {U} brachte | {T} [in {P}] [im {M}].",
        "Kurz gesagt: {T} [in {P}] | [, {N} {U}].",
    ),
    "en": (
        "{P} had {T} [in {M}] | [with {N} {U}].",
        "The main news is {T} [in {P}] | [in {M}] [with {N} {U}].",
        "This is about {T} [in {P}] | [and about {N} {U}].",
        "In {M} {P} saw {T} | [, all in all {N} {U}].",
        "A total of {N} {U} came | with {T} [in {P}] [in {M}].",
        "In short: {T} [in {P}] | [, {N} {U}].",
    ),
    "es": (
        "{P} vivió {T} [en {M}] | [con {N} {U}].",
        "La noticia principal es {T} [en {P}] | [en {M}] [con {N} {U}].",
        "Se trata de {T} [en {P}] | [y de {N} {U}].",
        "En {M} {P} registró {T} | [, en total {N} {U}].",
        "Un total de {N} {U} llegó | con {T} [en {P}] [en {M}].",
        "En resumen: {T} [en {P}] | [, {N} {U}].",
    ),
    "ru": (
        "В стране {P} [за {M}] происходит {T} | [, всего {N} {U}].",
        "Главная новость — {T} [, место — {P}] | [, месяц — {M}] [, итог — {N} {U}].",
        "Главное здесь — {T} [в стране {P}] | [и {N} {U}].",
        "За {M} {P} сообщает: {T} | [, а всего {N} {U}].",
        "Всего {N} {U} — такой итог даёт | {T} [в стране {P}] [за {M}].",
        "Кратко: {T} [в стране {P}] | [, {N} {U}].",
    ),
    "tr": (
        "{P} ülkesinde [{M} ayında] {T} yaşandı | [, toplam {N} {U}].",
        "Bu metnin ana haberi {T} [, yer {P}] | [, ay {M}] [, sonuç olarak {N} {U}].",
        "Asıl konu {T} [, ülke {P}] | [ve {N} {U}].",
        "{M} ayında {P} için {T} haberi var | [, toplam {N} {U}].",
        "Tam {N} {U} getiren olay | {T} [, yer {P}] [, ay {M}].",
        "Kısaca [{P} ülkesinde] {T} | [, {N} {U}].",
    ),
    "vi": (
        "{P} có {T} [vào {M}] | [với {N} {U}].",
        "Tin chính là {T} [ở {P}] | [vào {M}] [với {N} {U}].",
        "Bài này nói về {T} [ở {P}] | [và {N} {U}].",
        "Trong {M} {P} ghi nhận {T} | [, tổng cộng {N} {U}].",
        "Con số {N} {U} đến | từ {T} [ở {P}] [vào {M}].",
        "Tóm lại: {T} [ở {P}] | [, {N} {U}].",
    ),
}

# What makes a summary less concise: empty words, or a detail of another fact (with that fact's own topic).
FILLERS = {
    "de": (", wie man so sagt", ", wie allgemein bekannt", ", das sei gesagt", ", jedenfalls"),
    "en": (", as they say", ", as is well known", ", it must be said", ", anyway"),
    "es": (", como se suele decir", ", como es sabido", ", dicho sea de paso", ", desde luego"),
    "ru": (", как говорится", ", как хорошо известно", ", надо сказать", ", впрочем"),
    "tr": (", söylendiği gibi", ", herkesin bildiği üzere", ", belirtmek gerekir", ", zaten"),
    "vi": (", như người ta nói", ", như ai cũng biết", ", phải nói thêm", ", dù sao"),
}
ADDITIONS = {
    "de": (", dazu {T} in {P}", ", ferner {T}"),
    "en": (", also {T} in {P}", ", besides {T}"),
    "es": (", además {T} en {P}", ", también {T}"),
    "ru": (", ещё {T} в стране {P}", ", также {T}"),
    "tr": (", ayrıca {P} için {T}", ", bir de {T}"),
    "vi": (", thêm {T} ở {P}", ", còn có {T}"),
}

_MARKS = re.compile(r"\{[TPMNU]\}|[\[\]|]|\w+|[^\w\s]")
_SLOT_SYMBOLS = frozenset(f"{{{slot}}}" for slot in SLOTS)

Symbols = tuple[str, ...]  # slots, words and marks


def is_slot(symbol: str) -> bool:
    """Whether the symbol stands for a name or number."""
    return symbol in _SLOT_SYMBOLS


def is_word(symbol: str) -> bool:
    """Whether the symbol is a word, not a slot or mark."""
    return symbol[0].isalnum() or symbol[0] == "_"


def is_mark(symbol: str) -> bool:
    """Whether the symbol is a punctuation mark."""
    return not (is_slot(symbol) or is_word(symbol))


def slots_of(symbols: Iterable[str]) -> frozenset[str]:
    """The slots among some symbols."""
    return frozenset(filter(is_slot, symbols))


class Chunk(NamedTuple):
    """A phrase of a frame. Parts are slots ("{T}"), words and punctuation marks."""

    parts: Symbols
    lang: str
    optional: bool = False
    tail: bool = False


def parts_of(frame: str) -> Symbols:
    """Slots, words and punctuation of a frame, without the marks of SUMMARY."""
    return tuple(part for part in _MARKS.findall(frame) if part not in "[]|")


@cache
def chunks_of(lang: str, index: int) -> tuple[Chunk, ...]:
    """SUMMARY[lang][index], cut at its marks."""
    chunks: list[Chunk] = []
    parts: list[str] = []
    tail = False

    def close(optional: bool) -> None:
        if parts:
            chunks.append(Chunk(tuple(parts), lang, optional, tail))
            parts.clear()

    for mark in _MARKS.findall(SUMMARY[lang][index]):
        if mark in ("[", "|", "]"):
            close(optional=mark == "]")
            tail = tail or mark == "|"
        else:
            parts.append(mark)
    close(optional=False)
    return tuple(chunks)


def text_of(parts: list[str]) -> str:
    """Words and marks in ordinary spacing."""
    return re.sub(r" ([,.:])", r"\1", " ".join(parts))


# --- the sentences that there can be ------------------------------------------------------------------------

SENTENCES: Mapping[str, Mapping[str, Sequence[str]]] = {"document": DOCUMENT, "subject": SUBJECT}
SAME = {lang: lang for lang in LANGUAGES}


class Build(NamedTuple):
    """A frame that a sentence is made of. A summary may start in one language and end in another."""

    table: str  # summary, document, subject
    frame: int
    head: str
    tail: str
    left_out: tuple[frozenset[str], ...] = ()  # slots of the optional phrases that a summary does without

    def chunks(self, change: Mapping[str, str] = SAME) -> list[Chunk]:
        """Its phrases, its languages changed; documents are one phrase."""
        head, tail = change[self.head], change[self.tail]
        if self.table != "summary":
            return [Chunk(parts_of(SENTENCES[self.table][head][self.frame]), head)]
        both = [chunk for chunk in chunks_of(head, self.frame) if not chunk.tail]
        both += [chunk for chunk in chunks_of(tail, self.frame) if chunk.tail]
        return [chunk for chunk in both if not (chunk.optional and slots_of(chunk.parts) in self.left_out)]

    def symbols(self) -> Symbols:
        """The parts of all its phrases."""
        return tuple(part for chunk in self.chunks() for part in chunk.parts)


def builds(head: str, tail: str) -> Iterator[Build]:
    """Every acceptable sentence that starts in one language and ends in another: summaries with or without their
    optional phrases; within one language document and subject sentences too."""
    for index in range(len(SUMMARY[head])):
        optional = [slots_of(chunk.parts) for chunk in Build("summary", index, head, tail).chunks() if chunk.optional]
        for count in range(len(optional) + 1):
            yield from (Build("summary", index, head, tail, out) for out in combinations(optional, count))
    if head == tail:
        for table, frames in SENTENCES.items():
            yield from (Build(table, index, head, tail) for index in range(len(frames[head])))


class Aside(NamedTuple):
    """A filler or an addition."""

    symbols: Symbols
    table: str  # filler, addition
    frame: int
    lang: str


@cache
def _asides() -> dict[str, list[Aside]]:
    """Second symbol, after the comma -> the asides, longest first."""
    found: dict[str, list[Aside]] = {}
    for table, phrases in (("filler", FILLERS), ("addition", ADDITIONS)):
        for lang in LANGUAGES:
            for index, phrase in enumerate(phrases[lang]):
                aside = Aside(parts_of(phrase), table, index, lang)
                found.setdefault(aside.symbols[1], []).append(aside)
    return {second: sorted(some, key=lambda aside: -len(aside.symbols)) for second, some in found.items()}


def asides_in(symbols: Symbols) -> tuple[list[int], list[tuple[Aside, range]]]:
    """(positions of the sentence itself, the asides in it with their positions)."""
    kept: list[int] = []
    found: list[tuple[Aside, range]] = []
    at = 0
    while at < len(symbols):
        likely = _asides().get(symbols[at + 1], ()) if symbols[at] == "," and at + 1 < len(symbols) else ()
        aside = next((one for one in likely if symbols[at : at + len(one.symbols)] == one.symbols), None)
        end = at + (1 if aside is None else len(aside.symbols))
        if aside is None:
            kept.append(at)
        else:
            found.append((aside, range(at, end)))
        at = end
    return kept, found


# --- reading text back --------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\w+|[^\w\s]")


class Form(NamedTuple):
    """A name of the world. Languages are bit masks; `wrong` ones have it, but not as a right form."""

    tokens: tuple[str, ...]
    slot: str  # "{T}" ...
    value: int
    right: int
    wrong: int


class Item(NamedTuple):
    """A name, word or punctuation mark met in a text. `symbol` is a slot or the token itself."""

    symbol: str
    value: int
    langs: int  # bit mask of the languages that have it
    text: str
    right: int = -1  # bit mask of the languages where it is a right form


def bit(lang: str) -> int:
    """The language's bit in masks."""
    return 1 << LANGUAGES.index(lang)


def _forms_of(lang: str, slot: str) -> list[tuple[str, int, bool]]:
    """(text, value, right?) of a slot in a language; a unit's agreement is checked where it stands."""
    if slot == "N":
        return []
    indices = range(SIZES[slot])
    if slot == "U":
        sample = (13, 14, 21, 23)
        agreeing = [(unit(lang, i, n), i, True) for i in indices for n in sample]
        return agreeing + [(f, i, True) for i in indices for n in sample for f in wrong_units(lang, i, n)]
    forms = [(name(lang, slot, i), i, True) for i in indices]
    if slot == "T":
        forms += [(form, i, False) for i in indices for form in wrong_topics(lang, i)]
    return forms


@cache
def forms() -> dict[str, tuple[Form, ...]]:
    """First token -> the forms that begin with it, longest first."""
    masks: dict[tuple[tuple[str, ...], str, int], list[int]] = {}
    for lang in LANGUAGES:
        for slot in SLOTS:
            for text, value, right in _forms_of(lang, slot):
                entry = masks.setdefault((tuple(_TOKEN.findall(text)), f"{{{slot}}}", value), [0, 0])
                entry[0 if right else 1] |= bit(lang)
    table: dict[str, list[Form]] = {}
    for (tokens, slot, value), (good, bad) in masks.items():
        table.setdefault(tokens[0], []).append(Form(tokens, slot, value, good, bad & ~good))
    return {first: tuple(sorted(found, key=lambda f: -len(f.tokens))) for first, found in table.items()}


@cache
def vocabulary() -> dict[str, int]:
    """Word of the frames -> mask of its languages."""
    masks: dict[str, int] = {}
    for lang in LANGUAGES:
        frames = [frame for table in (SUBJECT, DOCUMENT, SUMMARY, FILLERS, ADDITIONS) for frame in table[lang]]
        for word in {part for frame in [*frames, CUE[lang]] for part in parts_of(frame) if part[0].isalpha()}:
            masks[word] = masks.get(word, 0) | bit(lang)
    return masks


def _name_at(tokens: list[str], at: int) -> Form | None:
    for form in forms().get(tokens[at], ()):
        if len(form.tokens) == 1 or tuple(tokens[at : at + len(form.tokens)]) == form.tokens:
            return form
    return None


def read(text: str) -> list[Item]:
    """The items of a text: names by longest match, numbers, words, marks."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    tokens: list[str] = _TOKEN.findall(text)
    known = vocabulary()
    items: list[Item] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        form = _name_at(tokens, at)
        if form is not None:
            length = len(form.tokens)
            joined = token if length == 1 else " ".join(form.tokens)
            items.append(Item(form.slot, form.value, form.right | form.wrong, joined, form.right))
            at += length
            continue
        if token.isdecimal():
            items.append(Item("{N}", int(token[:9]), 0, token))
        else:
            items.append(Item(token, 0, known.get(token, 0), token))
        at += 1
    return items
